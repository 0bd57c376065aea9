"""facenet-report in a browser: as wide as a desk's screen and as a phone's, with no network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from facenet.reports.page import page as report_page
from facenet.reports.ranking import rank, verdict
from facenet.reports.study import Job, Study

pytestmark = pytest.mark.slow
SIZES = {"report": (1280, 1500), "report-phone": (390, 1800)}
HEATMAP = """() => { const trace = document.querySelector('#chart0').data[0];
    return { rows: [...trace.y], columns: [...trace.x], z: trace.z.map(row => [...row]) } }"""


@pytest.fixture(scope="module")
def written(sweep, tmp_path_factory):
    """The page of the sweep, as the command wrote it."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    command = [str(Path(sys.executable).parent / "facenet-report"), sweep.study.sweep_id, "--uri", sweep.uri]
    done = subprocess.run([*command, "--out", str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"{path} (4." in done.stdout
    return path


@pytest.fixture
def opened(browser):
    """opened(path, width, height): the page, and what it complained of or asked the network for."""
    pages = []

    def open_page(path, width=1280, height=900):
        page, trouble = browser.new_page(viewport={"width": width, "height": height}), []
        page.set_default_timeout(300_000)
        pages.append(page)
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: trouble.append(request.url) if request.url != path.as_uri() else None)
        page.goto(path.as_uri())
        page.wait_for_function(
            "() => [...document.querySelectorAll('.chart')].every(chart => chart.querySelector('svg'))"
        )
        return page, trouble

    yield open_page
    for page in pages:
        page.close()


@pytest.mark.parametrize("name", SIZES)
def test_it_fits_and_is_quiet(opened, written, screenshot, name):
    width, height = SIZES[name]
    page, trouble = opened(written, width, height)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    charts = page.locator(".chart").evaluate_all(
        "charts => charts.map(chart => chart.querySelector('svg').getBoundingClientRect())"
    )
    assert len(charts) >= 5 and all(chart["left"] >= 0 and chart["right"] <= width for chart in charts)
    screenshot(page, name)
    for details in page.locator("details").all():
        details.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 700, "height": 900})  # a phone is turned
    page.wait_for_function("() => document.querySelector('#chart0 svg').getBoundingClientRect().right <= 700")
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    assert trouble == []


def test_it_shows_what_was_measured(opened, written, sweep):
    page, _ = opened(written)
    settings = rank(sweep.study).settings
    drawn = page.evaluate(HEATMAP)
    cells = {
        (row, column): value
        for row, values in zip(drawn["rows"], drawn["z"], strict=True)
        for column, value in zip(drawn["columns"], values, strict=True)
    }
    expected = {(each.axes["optimizer.lr"], each.axes["data.batch_size"]): each.mean for each in settings}
    assert cells == pytest.approx(expected)
    assert {run.metrics["best/lfw/accuracy"] for run in sweep.runs} >= set(expected.values())
    assert settings[0].label in page.locator(".answer").inner_text()
    page.locator("summary").last.click()
    assert page.locator("pre").last.inner_text() == sweep.study.jobs[-1].command


def test_the_table_can_be_sorted(opened, written, sweep):
    page, _ = opened(written)
    column = page.locator("thead th").all_inner_texts().index("data.batch_size")
    page.get_by_role("button", name="data.batch_size").click()
    cells = page.locator(f"tbody tr td:nth-child({column + 1})")
    rising = [float(text) for text in cells.all_inner_texts()]
    assert rising == sorted(float(each.axes["data.batch_size"]) for each in rank(sweep.study).settings)
    page.get_by_role("button", name="data.batch_size").click()
    assert [float(text) for text in cells.all_inner_texts()] == rising[::-1]


def test_names_do_not_run(opened, tmp_path):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    jobs = [
        Job(
            number=number,
            run_id="r",
            name=evil,
            status="FINISHED",
            axes={"loss": value},
            value=0.5 + number,
            command=evil,
        )
        for number, value in enumerate([evil, "triplet"])
    ]
    path = tmp_path / "evil.html"
    curves = {evil: {0: [(1, 0.5)], 1: [(1, 0.5)]}}
    path.write_text(report_page(Study(sweep_id=evil, metric=evil, jobs=tuple(jobs)), curves), encoding="utf-8")
    page, trouble = opened(path)
    page.wait_for_timeout(500)
    assert trouble == [] and evil in page.locator("h1").inner_text()
    injected = "() => { const script = document.createElement('script'); script.textContent = 'window.ran = 1'; document.body.append(script) }"
    page.evaluate(injected)
    assert page.evaluate("window.ran") is None  # the policy of the page runs nothing that is not its own
    assert "Content Security Policy" in trouble[0]


def test_mlflow_shows_it_among_the_artifacts_of_the_best_run(browser, server, sweep, written):
    run_id = rank(sweep.study).settings[0].jobs[0].run_id
    page = browser.new_page(base_url=server)
    page.set_default_timeout(300_000)  # ms; a page takes 5 s alone
    page.goto(f"/#/experiments/{sweep.experiment}/runs/{run_id}/artifacts/report/{written.name}")
    inside = page.frame_locator("iframe")
    inside.locator(".answer").wait_for(timeout=120_000)
    assert inside.locator(".answer").inner_text() == verdict(rank(sweep.study))
    inside.locator("#chart0 svg").first.wait_for(timeout=120_000)
    page.close()
