"""What a report shows, and that no name can run or break anything in it. How it looks in a browser: tests/browser."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs

from facenet.reports.figures import heights
from facenet.reports.page import page
from facenet.reports.study import Job, Study

PLOTLY = get_plotlyjs().strip()
EVIL = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    '"><img src=x onerror=alert(1)>',
    "<a href='javascript:alert(1)'>x</a>",
    "&lt;b&gt; & 'quotes'",
    "名前 — é",
]


class Reader(HTMLParser):
    """Elements with their attributes, the text of scripts, and all other text. Plotly's own megabytes are left out."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(source.replace(PLOTLY, PLOTLY[:50]))
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] == "script" and self.lasttag == "script" and self.cdata_elem:
            self.scripts[-1] += data
        else:
            self.text += data

    def ids(self):
        return {attributes["id"] for _, attributes in self.elements if "id" in attributes}

    def figures(self):
        return json.loads(self.scripts[0])


THREE = [("1e-3", "ce", 0.6), ("1e-3", "arcface", 0.9), ("1e-3", "arcface", 0.8), ("1e-4", "arcface", 0.7)]


def job(number, lr, batch_size, value, *, status="FINISHED", error="", folds=(0.8, 0.9), **more):
    return Job(
        number=number,
        run_id=f"{number:032x}",
        name="",
        status=status,
        axes={"optimizer.lr": lr, "data.batch_size": batch_size} | more.pop("axes", {}),
        value=value,
        folds=folds,
        pairs="lfw",
        lr=more.get("effective", float(lr)),
        batch_size=int(batch_size),
        images_per_step=int(batch_size),
        command=more.get("command", f"facenet-train optimizer.lr={lr} data.batch_size={batch_size}"),
        error=error,
    )


def study(*jobs, metric="lfw/accuracy", sweep_id="s"):
    return Study(sweep_id=sweep_id, metric=metric, jobs=jobs)


GRID = study(
    job(0, "1e-4", "30", 0.80),
    job(1, "1e-4", "96", 0.85, folds=(0.84, 0.86)),
    job(2, "1e-3", "30", 0.95, folds=(0.94, 0.96)),
    job(3, "1e-3", "96", None, status="FAILED", error="Traceback\nRuntimeError: <b>no memory</b>"),
)
CURVES = {
    "lfw/accuracy": {0: [(10, 0.7), (20, 0.8)], 1: [(5, 0.85)], 2: [(10, float("nan")), (20, 0.95)]},
    "train/loss": {0: [(2, 3.0)], 3: [(2, 1.7976931348623157e308)]},
    "val/loss": {},
}


@pytest.fixture(scope="module")
def grid():
    return Reader(page(GRID, CURVES))


def drawn(read, kind):
    return [trace for figure in read.figures().values() for trace in figure["data"] if trace["type"] == kind]


def test_the_answer_comes_first(grid):
    said = "optimizer.lr=1e-3, data.batch_size=30 has the highest lfw/accuracy, 0.9500, 0.1000 above optimizer.lr=1e-4, data.batch_size=96"
    assert said in grid.text and grid.text.index(said) < grid.text.index("Ranked settings")
    assert "4 jobs, 1 of them without a rank" in grid.text


def test_the_table_holds_what_it_sorts_by(grid):
    cells = [attributes for tag, attributes in grid.elements if tag == "td"]
    values = [float(cell["data-key"]) for cell in cells if cell["data-label"] == "lfw/accuracy"]
    assert values == [0.95, 0.85, 0.80]
    assert [cell["data-key"] for cell in cells if cell["data-label"] == "optimizer.lr"] == ["1e-3", "1e-4", "1e-4"]
    assert "effective lr" not in grid.text


def test_an_effective_lr_that_is_another_has_a_column():
    read = Reader(page(study(job(0, "1e-5", "30", 0.8, effective=3e-4), job(1, "3e-4", "30", 0.8)), {}))
    cells = [attributes for tag, attributes in read.elements if tag == "td"]
    assert [cell["data-key"] for cell in cells if cell["data-label"] == "effective lr"] == ["0.0003", "3e-4"]


def test_the_heat_map_has_a_cell_per_setting(grid):
    (trace,) = drawn(grid, "heatmap")
    assert (trace["y"], trace["x"]) == (["1e-4", "1e-3"], ["30", "96"])  # by size, not by the alphabet
    assert trace["z"] == [[0.80, 0.85], [0.95, None]]
    assert trace["text"] == [["0.8000", "0.8500"], ["0.9500 ★", ""]]
    assert "lfw/accuracy by optimizer.lr and data.batch_size" in grid.text


def test_learning_curves_are_over_images(grid):
    curves = [trace for trace in drawn(grid, "scatter") if trace.get("name") == "lr=1e-4, batch_size=96"]
    assert [(trace["x"], trace["y"]) for trace in curves] == [([480], [0.85])]
    broken = next(trace for trace in drawn(grid, "scatter") if trace.get("name") == "lr=1e-3, batch_size=30")
    assert broken["x"] == [300, 600] and broken["y"] == [None, 0.95]
    lost = next(trace for trace in drawn(grid, "scatter") if trace.get("name") == "lr=1e-3, batch_size=96")
    assert lost["y"] == [None] and lost["line"]["dash"] == "dot"


def test_folds_are_drawn_for_each_comparison(grid):
    boxes = {trace["name"]: trace["x"] for trace in drawn(grid, "box")}
    assert boxes["rank 2, job 1"] == pytest.approx([0.1, 0.1]) and boxes["rank 3, job 0"] == pytest.approx([0.14, 0.06])
    assert "2 folds cannot give less than 0.5" in grid.text


def test_failures_and_commands_are_there(grid):
    assert "job 3: optimizer.lr=1e-3, data.batch_size=96: failed: RuntimeError: <b>no memory</b>" in grid.text
    assert all(f"facenet-train {' '.join(f'{k}={v}' for k, v in job.axes.items())}" in grid.text for job in GRID.jobs)


def test_every_picture_has_its_place(grid):
    assert set(grid.figures()) == grid.ids() - {"figures"} and len(grid.figures()) == 5


def test_the_page_needs_nothing_else(grid):
    loaded = [value for _, attributes in grid.elements for name, value in attributes.items() if name in ("src", "href")]
    assert loaded == []
    assert dict(grid.elements).keys() & {"link", "img", "iframe"} == set()
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [each for _, each in grid.elements]


@pytest.mark.parametrize("metric", ["lfw/accuracy", "val/loss"])
@pytest.mark.parametrize(
    "jobs",
    [
        (Job(number=0, run_id="r", name="", status="FINISHED", axes={}, value=0.5),),
        (Job(number=0, run_id="r", name="", status="FAILED", axes={}),),
        (job(0, "1e-3", "30", None), job(1, "1e-2", "30", None, status="KILLED")),
        (job(0, "1e-3", "30", 0.5, axes={"loss": ""}), job(1, "1e-3", "30", 0.5, axes={"loss": "arcface"})),
        tuple(job(n, str(0.001 * (n + 1)), "30", n / 20) for n in range(20)),
    ],
    ids=["one job", "one that failed", "no values", "a value that one job lacks", "many values"],
)
def test_small_and_odd_sweeps(jobs, metric):
    read = Reader(page(study(*jobs, metric=metric), {metric: {0: [(1, 0.5)]}}))
    assert set(read.figures()) == read.ids() - {"figures"}
    assert "Learning curves" in read.text


def test_of_more_axes_the_heat_map_shows_the_best():
    jobs = [
        job(n, lr, "30", value, axes={"loss": loss, "model": str(n % 2)}) for n, (lr, loss, value) in enumerate(THREE)
    ]
    read = Reader(page(study(*jobs), {}))
    (trace,) = drawn(read, "heatmap")
    assert (trace["y"], trace["x"], trace["z"]) == (["1e-4", "1e-3"], ["arcface", "ce"], [[0.7, None], [0.9, 0.6]])
    assert "lfw/accuracy by optimizer.lr and loss, the best of the others" in read.text
    assert trace["hovertext"][1][0] == "optimizer.lr=1e-3, data.batch_size=30, loss=arcface, model=1: 0.9000"


def test_one_axis_is_drawn_as_a_line_of_means():
    jobs = [
        job(n, lr, "30", value, axes={"seed": str(n)})
        for n, (lr, value) in enumerate([("1e-3", 0.9), ("1e-4", 0.7), ("1e-3", 0.8)])
    ]
    read = Reader(page(study(*jobs), {}))
    line = read.figures()["chart0"]["data"][0]
    assert (line["x"], line["y"]) == (["1e-4", "1e-3"], pytest.approx([0.7, 0.85]))
    assert "0.8500 ± 0.0707 (2 seeds)" in read.text and not drawn(read, "heatmap")


def assert_harmless(source, name):
    read = Reader(source)
    assert [tag for tag, _ in read.elements].count("script") == 3
    assert not [key for _, attributes in read.elements for key in attributes if key.startswith("on")]
    tags = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "p",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "button",
    }
    assert {tag for tag, _ in read.elements} <= tags | {"div", "details", "summary", "pre", "script"}
    assert name in read.text  # shown as it is
    labels = [trace["name"] for trace in drawn(read, "scatter") if "name" in trace]
    assert f"lr=1, loss={html.escape(name, quote=False)}" in labels


def test_only_the_scripts_of_the_page_may_run():
    source = page(GRID, CURVES)
    scripts = [source.rsplit("<script>", 2)[place].split("</script>")[0] for place in (1, 2)]
    assert PLOTLY in scripts[0] and "newPlot" in scripts[1]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    assert f"script-src {allowed}; style-src" in source and "default-src 'none'" in source


def evil_page(name):
    jobs = [
        job(0, "1", "30", 0.5, axes={"loss": name}, command=f"facenet-train loss={name}"),
        job(1, "2", "30", 0.6, axes={"loss": "b"}),
        job(2, "3", "30", None, axes={"loss": name}, status="FAILED", error=f"x\n{name}"),
    ]
    jobs = [
        Job(**{**vars(each), "axes": {key: value for key, value in each.axes.items() if key != "data.batch_size"}})
        for each in jobs
    ]
    return page(study(*jobs, sweep_id=name), {"lfw/accuracy": {0: [(1, 0.5)], 1: [(1, 0.5)], 2: [(1, 0.5)]}})


@pytest.mark.parametrize("name", EVIL)
def test_names_cannot_run(name):
    assert_harmless(evil_page(name), name)


@settings(max_examples=15, deadline=None)
@given(st.text(st.sampled_from("<>&'\"/!-=scriptonerror "), min_size=1, max_size=30).map(lambda name: f"x{name}x"))
def test_no_name_can_run(name):
    assert_harmless(evil_page(name), name)


def test_heights():
    assert heights(["30", "96", "30"]) == {"30": 0.0, "96": 1.0}
    assert heights(["b", "a", "c"]) == {"a": 0.0, "b": 0.5, "c": 1.0}
    many = heights([f"{10.0**-power}" for power in range(11)])
    assert many["1e-05"] == pytest.approx(0.5)  # the logarithm of a wide range
    assert heights([str(number) for number in range(11)])["5"] == pytest.approx(0.5)
