"""facenet-report in a browser: as wide as a desk's screen and as a phone's, with no network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from facenet.reports.page import page as report_page
from facenet.reports.ranking import rank, verdict
from facenet.reports.report import name_of
from facenet.reports.study import Job, Ran, Study

pytestmark = pytest.mark.slow
SIZES = {"report": (1280, 1500), "report-phone": (390, 1800)}
CELLS = """() => [...document.querySelectorAll('.chart svg')[0].querySelectorAll('.tip > title')].map(title => title.textContent)"""


@pytest.fixture(scope="module")
def written(sweep, tmp_path_factory):
    """The page of the sweep, as the command wrote it."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    command = [str(Path(sys.executable).parent / "facenet-report"), sweep.study.sweep_id, "--uri", sweep.uri]
    done = subprocess.run([*command, "--out", str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"{path} (0." in done.stdout
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
        return page, trouble

    yield open_page
    for page in pages:
        page.close()


@pytest.mark.parametrize("name", SIZES)
def test_it_fits_and_is_quiet(opened, written, screenshot, name):
    width, height = SIZES[name]
    page, trouble = opened(written, width, height)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    charts = page.locator(".chart").evaluate_all("charts => charts.map(chart => chart.getBoundingClientRect())")
    assert len(charts) >= 5 and all(chart["left"] >= 0 and chart["right"] <= width for chart in charts)
    screenshot(page, name)
    for details in page.locator("details").all():
        details.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 700, "height": 900})  # a phone is turned
    assert page.locator(".chart svg").first.bounding_box()["width"] > 300
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    assert trouble == []


def test_it_shows_what_was_measured(opened, written, sweep):
    page, _ = opened(written)
    settings = rank(sweep.study).settings
    drawn = dict(each.split(": ") for each in page.evaluate(CELLS))
    assert {name: float(value) for name, value in drawn.items()} == pytest.approx(
        {each.name: each.mean for each in settings}, abs=1e-4
    )
    best = next(run for run in sweep.runs if run.id == settings[0].jobs[0].run_id)
    assert best.name == settings[0].name and best.tags["interval.lfw"] in page.locator("tbody tr").first.inner_text()
    assert {run.metrics["best/lfw/accuracy"] for run in sweep.runs} >= {each.mean for each in settings}
    assert settings[0].label in page.locator(".answer").inner_text()
    page.locator("summary").last.click()
    assert page.locator("pre").last.inner_text() == sweep.study.jobs[-1].ran.command


def test_the_table_can_be_sorted(opened, written, sweep):
    page, _ = opened(written)
    column = page.locator("table").first.locator("thead th").all_inner_texts().index("data.batch_size")
    page.locator("table").first.get_by_role("button", name="data.batch_size").click()
    cells = page.locator("table").first.locator(f"tbody tr td:nth-child({column + 1})")
    rising = [float(text) for text in cells.all_inner_texts()]
    assert rising == sorted(float(each.axes["data.batch_size"]) for each in rank(sweep.study).settings)
    page.locator("table").first.get_by_role("button", name="data.batch_size").click()
    assert [float(text) for text in cells.all_inner_texts()] == rising[::-1]


def test_names_do_not_run(opened, tmp_path):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    jobs = [
        Job(
            number=number,
            run_id=evil,
            name=evil,
            status="FINISHED",
            axes={"loss": value},
            value=0.5 + number,
            ran=Ran(command=evil, experiment_id=evil),
        )
        for number, value in enumerate([evil, "triplet"])
    ]
    path = tmp_path / "evil.html"
    curves = {evil: {0: [(1, 0.5)], 1: [(1, 0.5)]}}
    path.write_text(
        report_page(Study(sweep_id=evil, metric=evil, jobs=tuple(jobs)), curves, ("", "http://127.0.0.1:1")),
        encoding="utf-8",
    )
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
    page.goto(f"/#/experiments/{sweep.experiment}/runs/{run_id}/artifacts/report/{name_of(sweep.study.sweep_id)}")
    inside = page.frame_locator("iframe")
    inside.locator(".answer").wait_for(timeout=120_000)
    assert inside.locator(".answer").inner_text() == verdict(rank(sweep.study))
    inside.locator(".chart svg").first.wait_for(timeout=120_000)
    page.close()
