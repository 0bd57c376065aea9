"""MLflow's own pages of a sweep show learning rate, batch size and LFW accuracy, with the numbers that were recorded."""

from __future__ import annotations

import math

import pytest

from facenet.tracking import reading, views
from facenet.tracking.store import open_client

pytestmark = pytest.mark.slow
PARAMS, ACCURACY = ("optimizer.lr", "data.batch_size"), "lfw/accuracy"
BEST = f"best/{ACCURACY}"
PLOTS = """() => [...document.querySelectorAll('.js-plotly-plot')].map(plot => plot.data.map(trace => ({
    name: trace.name, x: trace.x && [...trace.x], y: trace.y && [...trace.y],
    axes: trace.dimensions && trace.dimensions.map(axis => [axis.label, [...axis.values]]) })))"""
# The assistant opens by itself and takes a third of the window.
CLOSED = """localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"""


@pytest.fixture
def page(browser, server):
    opened = browser.new_page(viewport={"width": 1360, "height": 760}, base_url=server)
    opened.set_default_timeout(300_000)  # ms; a page takes 5 s alone
    opened.add_init_script(CLOSED)
    opened.set_default_timeout(120_000)  # milliseconds
    yield opened
    opened.close()


def printed(text):
    """The lines that have an address."""
    return [line for line in text.splitlines() if "#/" in line]


@pytest.fixture(scope="module")
def links(sweep):
    """What the end of a sweep prints, by name, without the address of the server."""
    view = views.View(
        name=f"sweep-{sweep.study.sweep_id}",
        condition=f"tags.sweep_id = '{sweep.study.sweep_id}'",
        select=ACCURACY,
        lower_is_better=False,
        axes=sweep.study.axes,
    )
    lines = printed(views.compare_pages(sweep.uri, sweep.runs, view))
    return {line.rsplit(maxsplit=1)[0].strip(): line.partition("#")[2] for line in lines}


def test_runs_table(page, sweep, links, screenshot):
    page.goto(f"/#{links['as a table']}")
    page.get_by_text("matching runs").wait_for()
    best = max(sweep.runs, key=lambda run: run.metrics[f"best/{ACCURACY}"])
    page.locator(f'[row-id="{best.id}"]').first.wait_for()
    columns = [*(f"params.`{name}`" for name in PARAMS), f"metrics.`best/{ACCURACY}`"]
    for run in sweep.runs:
        expected = [float(run.params[name]) for name in PARAMS] + [run.metrics[f"best/{ACCURACY}"]]
        cells = [page.locator(f'[row-id="{run.id}"] [role=gridcell][col-id="{column}"]') for column in columns]
        assert [float(cell.inner_text()) for cell in cells] == pytest.approx(expected)
        assert page.locator(f'[row-id="{run.id}"]').get_by_text(run.name, exact=True).count() == 1, "names are whole"
        interval = page.locator(f'[row-id="{run.id}"] [role=gridcell][col-id="tags.`interval.lfw`"]').inner_text()
        assert interval == run.tags["interval.lfw"]
    screenshot(page, "sweep-runs")


def test_chart_view(page, sweep, links, screenshot):
    page.goto(f"/#{links['as charts']}")
    page.get_by_test_id("experiment-view-compare-runs-card").first.wait_for()
    expected = {run.name: reading.history(sweep.uri, run.id, ACCURACY) for run in sweep.runs}
    page.wait_for_function(
        f"() => ({PLOTS})().flat().filter(trace => trace.y && trace.y.length).length >= {len(expected)}"
    )
    plot = next(
        each
        for each in page.evaluate(PLOTS)
        if {name for name in expected if any((trace["name"] or "").startswith(name) for trace in each)} == {*expected}
    )
    for name, points in expected.items():
        drawn = next(trace for trace in plot if trace["name"].startswith(name) and trace["y"])
        found = [(x, y) for x, y in zip(drawn["x"], drawn["y"], strict=True) if math.isfinite(y)]  # NaN is not drawn
        assert [step for step, _ in found] == [step for step, _ in points]
        assert [value for _, value in found] == pytest.approx([value for _, value in points])
    screenshot(page, "sweep-charts")


def test_compare_page_opens_on_the_selected_metric_and_the_swept_params(page, sweep, links, screenshot):
    page.goto(f"/#{links['side by side']}")
    page.locator(".js-plotly-plot").wait_for()
    ((trace,),) = page.evaluate(PLOTS)
    axes = dict(trace["axes"])
    assert {*axes} == {*PARAMS, BEST}
    for name in PARAMS:
        assert sorted(axes[name]) == pytest.approx(sorted(float(run.params[name]) for run in sweep.runs))
    rows = sorted(zip(*(axes[name] for name in (*PARAMS, BEST)), strict=True))
    expected = sorted((*(float(run.params[name]) for name in PARAMS), run.metrics[BEST]) for run in sweep.runs)
    assert [value for row in rows for value in row] == pytest.approx([value for row in expected for value in row])
    screenshot(page, "sweep-compare")


def test_five_plain_runs(page, sweep, plain):
    view = views.View(name="by-lfw", condition="", select=ACCURACY)
    runs = [run for run, _, _ in plain]
    lines = printed(views.compare_pages(sweep.uri, runs, view))
    table, charts, side_by_side = (line.partition("#")[2] for line in lines)
    page.goto(f"/#{table}")
    page.locator(f'[row-id="{runs[-1].id}"]').first.wait_for()
    names = [run.name for run in runs]
    assert len(set(names)) == 5 and all(len(name) <= 40 for name in names)
    for run, changed, accuracies in plain:
        row = page.locator(f'[row-id="{run.id}"]')
        assert row.get_by_text(run.name, exact=True).count() == 1 and changed.split()[0].partition("=")[2] in run.name
        columns = [*(f"params.`{name}`" for name in PARAMS), f"metrics.`best/{ACCURACY}`"]
        cells = [row.locator(f'[role=gridcell][col-id="{column}"]').inner_text() for column in columns]
        expected = [*(float(run.params[name]) for name in PARAMS), accuracies[-1]]
        assert [float(cell) for cell in cells] == pytest.approx(expected)
    page.goto(f"/#{charts}")
    page.wait_for_function(f"() => ({PLOTS})().flat().filter(trace => trace.y && trace.y.length).length >= 5")
    drawn = {trace["name"]: trace for plot in page.evaluate(PLOTS) for trace in plot if trace["y"]}
    for run, _, accuracies in plain:
        line = next(trace for name, trace in drawn.items() if name.startswith(run.name))
        assert [value for value in line["y"] if math.isfinite(value)] == pytest.approx(list(accuracies))
    page.goto(f"/#{side_by_side}")
    page.locator(".js-plotly-plot").wait_for()
    ((trace,),) = page.evaluate(PLOTS)
    assert sorted(dict(trace["axes"])[BEST]) == pytest.approx(sorted(accuracies[-1] for _, _, accuracies in plain))


def test_run_page_says_what_came_of_it_and_what_to_type(page, sweep, screenshot):
    run = sweep.runs[0]
    page.goto(f"/#/experiments/{sweep.experiment}/runs/{run.id}")
    page.get_by_text("Train on:").wait_for()
    text = page.locator("body").inner_text()
    for told in (
        run.name,
        f"{ACCURACY} {run.metrics[f'best/{ACCURACY}']:.4f}",
        run.tags["interval.lfw"],
        "facenet-evaluate",
    ):
        assert told in text
    assert "Repeat it:" in text and "facenet-train" in text
    screenshot(page, "sweep-run")


def test_model_page_of_the_winner_has_the_metrics_of_its_checkpoint(page, sweep, screenshot):
    (model,) = open_client(sweep.uri).search_logged_models([sweep.experiment])
    winner = next(run for run in sweep.runs if run.id == model.source_run_id)
    assert winner.metrics[f"best/{ACCURACY}"] == max(run.metrics[f"best/{ACCURACY}"] for run in sweep.runs)
    page.goto(f"/#/experiments/{sweep.experiment}/models/{model.model_id}")
    page.get_by_text(winner.name).first.wait_for()
    page.get_by_text(f"Metrics ({len(model.metrics)})").wait_for()
    text = page.locator("body").inner_text()
    value = next(metric.value for metric in model.metrics if metric.key == ACCURACY)
    assert value == winner.metrics[f"best/{ACCURACY}"]
    for told in (model.model_id, winner.name, repr(value), "Register model"):
        assert told in text, text
    screenshot(page, "sweep-model")
    page.goto(f"/#/experiments/{sweep.experiment}/runs/{winner.id}")
    page.get_by_text("Logged models").first.wait_for()
