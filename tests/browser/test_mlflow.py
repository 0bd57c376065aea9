"""MLflow's own pages of a sweep show learning rate, batch size and LFW accuracy, with the numbers that were recorded."""

from __future__ import annotations

import json

import pytest

from facenet.tracking import reading

pytestmark = pytest.mark.slow
PARAMS, ACCURACY = ("optimizer.lr", "data.batch_size"), "lfw/accuracy"
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


def test_runs_table(page, sweep, screenshot):
    page.goto(f"/#/experiments/{sweep.experiment}/runs")
    page.get_by_text("matching runs").wait_for()
    page.locator(f'[row-id="{sweep.runs[0].id}"]').first.wait_for()
    page.get_by_role("button", name="Columns").click()
    for column in ("Source", "Dataset", "Models", *PARAMS, f"best/{ACCURACY}"):  # the first three are shown at first
        turn(page, column)
    page.keyboard.press("Escape")
    columns = [*(f"params.`{name}`" for name in PARAMS), f"metrics.`best/{ACCURACY}`"]
    for run in sweep.runs:
        expected = [float(run.params[name]) for name in PARAMS] + [run.metrics[f"best/{ACCURACY}"]]
        cells = [page.locator(f'[row-id="{run.id}"] [role=gridcell][col-id="{column}"]') for column in columns]
        assert [float(cell.inner_text()) for cell in cells] == pytest.approx(expected)
    screenshot(page, "sweep-runs")


def turn(page, column):
    """Shows a column, or hides it. Its group is closed where MLflow got the runs after the list was opened."""
    page.get_by_placeholder("Search columns").fill(column)
    tree = page.get_by_test_id("column-selector-tree")
    name, closed = tree.get_by_text(column, exact=True).first, tree.locator("[class*=switcher_close]").first
    name.or_(closed).first.wait_for()
    if name.count() == 0:
        closed.click()
    name.click()


def test_chart_view(page, sweep, screenshot):
    page.goto(f"/#/experiments/{sweep.experiment}/runs?compareRunsMode=CHART")
    page.get_by_placeholder("Search metric charts").fill(f"^{ACCURACY}$")
    page.get_by_test_id("experiment-view-compare-runs-card").first.wait_for()
    expected = {run.name: reading.history(sweep.uri, run.id, ACCURACY) for run in sweep.runs}
    page.wait_for_function(
        f"() => ({PLOTS})().flat().filter(trace => trace.y && trace.y.length).length >= {len(expected)}"
    )
    (plot,) = page.evaluate(PLOTS)
    for name, points in expected.items():
        drawn = next(trace for trace in plot if trace["name"].startswith(name[:60]) and trace["y"])
        assert drawn["x"] == [step for step, _ in points]
        assert drawn["y"] == pytest.approx([value for _, value in points])
    screenshot(page, "sweep-charts")


def test_compare_page(page, sweep, screenshot):
    ids = json.dumps([run.id for run in sweep.runs], separators=(",", ":"))
    page.goto(f'/#/compare-runs?runs={ids}&experiments=["{sweep.experiment}"]')
    page.locator(".js-plotly-plot").wait_for()
    page.get_by_role("combobox").nth(1).click()  # the metrics of the axes
    page.keyboard.press("Backspace")  # the one that MLflow chose
    page.keyboard.type(ACCURACY)
    page.locator(f'[title="{ACCURACY}"]').last.click()
    page.keyboard.press("Escape")
    page.wait_for_function(f"() => ({PLOTS})().flat().some(trace => trace.axes.some(axis => axis[0] === '{ACCURACY}'))")
    ((trace,),) = page.evaluate(PLOTS)
    axes = dict(trace["axes"])
    for name in PARAMS:
        assert sorted(axes[name]) == pytest.approx(sorted(float(run.params[name]) for run in sweep.runs))
    rows = sorted(zip(*(axes[name] for name in (*PARAMS, ACCURACY)), strict=True))
    expected = sorted((*(float(run.params[name]) for name in PARAMS), run.metrics[ACCURACY]) for run in sweep.runs)
    assert [value for row in rows for value in row] == pytest.approx([value for row in expected for value in row])
    screenshot(page, "sweep-compare")
