"""What a report shows, and that no name can run or break anything in it. How it looks in a browser: tests/browser."""

from __future__ import annotations

import base64
import hashlib
import itertools
import random
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from facenet.reports.figures import effect, fold_differences, heat_map, heights, learning_curves, thinned
from facenet.reports.page import page
from facenet.reports.ranking import rank
from facenet.reports.study import Job, Ran, Study
from facenet.reports.svg import SVG, styled

EVIL = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</title></svg><script>alert(1)</script>",
    "<!--<script>",
    '"><img src=x onerror=alert(1)>',
    "<a href='javascript:alert(1)'>x</a>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt; & 'quotes' $x$ $",
    "名前 — é",
]
TAGS = "html head meta title style body h1 h2 p table thead tbody tr th td button a div details summary pre"
DRAWN = "figure svg g path defs use text clippath rect style title script"


class Reader(HTMLParser):
    """Elements with their attributes, and all text but that of scripts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += "" if self.lasttag == "script" else data

    def cells(self, label):
        return [each for tag, each in self.elements if tag == "td" and each["data-label"] == label]


def told(source):
    """Heading of each picture -> what lies under the pointer there."""
    drawn = [ElementTree.fromstring(each) for each in re.findall(r"<svg.*?</svg>", source, re.DOTALL)]
    return {each.get("aria-label"): [title.text for title in each.iter(f"{{{SVG}}}title")] for each in drawn}


def job(number, lr, batch_size, value, *, status="FINISHED", error="", folds=(0.8, 0.9), interval="", **more):
    return Job(
        number=number,
        run_id=f"{number:032x}",
        name="",
        status=status,
        axes={"optimizer.lr": lr, "data.batch_size": batch_size} | more.pop("axes", {}),
        value=value,
        folds=folds,
        pairs="lfw",
        interval=interval,
        error=error,
        ran=Ran(
            lr=more.get("effective", float(lr)),
            images_per_step=int(batch_size),
            command=f"facenet-train optimizer.lr={lr} data.batch_size={batch_size}",
            **more.get("ran", {}),
        ),
    )


def study(*jobs, metric="lfw/accuracy", sweep_id="s"):
    return Study(sweep_id=sweep_id, metric=metric, jobs=jobs)


RAN = {
    "images": 24000,
    "seconds": 754.0,
    "device": "cpu",
    "code": "git 0123abc",
    "experiment_id": "7",
    "directory": "/runs/a b/2",
}
GRID = study(
    job(0, "1e-4", "30", 0.80),
    job(1, "1e-4", "96", 0.85, folds=(0.84, 0.86)),
    job(2, "1e-3", "30", 0.95, folds=(0.94, 0.96), interval="0.93 – 0.97", ran=RAN),
    job(3, "1e-3", "96", None, status="FAILED", error="Traceback\nRuntimeError: <b>no memory</b>"),
)
CURVES = {
    "lfw/accuracy": {0: [(10, 0.7), (20, 0.8)], 1: [(5, 0.85)], 2: [(10, float("nan")), (20, 0.95)]},
    "train/loss": {0: [(2, 3.0)], 3: [(2, 1.7976931348623157e308)]},
    "val/loss": {},
}


@pytest.fixture(scope="module")
def source():
    return page(GRID, CURVES, ("mlflow server --port 5000", "http://127.0.0.1:5000"))


@pytest.fixture(scope="module")
def grid(source):
    return Reader(source)


def test_the_answer_comes_first(grid):
    said = "optimizer.lr=1e-3, data.batch_size=30 has the highest lfw/accuracy, 0.9500, 0.1000 above optimizer.lr=1e-4, data.batch_size=96"
    assert said in grid.text and grid.text.index(said) < grid.text.index("Ranked settings")
    assert "not significantly different" in grid.text and "4 jobs, 1 of them without a rank" in grid.text


def test_the_table_holds_what_it_sorts_by(grid):
    assert [float(cell["data-key"]) for cell in grid.cells("lfw/accuracy")[:3]] == [0.95, 0.85, 0.80]
    assert [cell["data-key"] for cell in grid.cells("runs, by job number")] == ["2", "1", "0"]
    assert [cell["data-key"] for cell in grid.cells("optimizer.lr")] == ["1e-3", "1e-4", "1e-4"]
    assert [cell["data-key"] for cell in grid.cells("setting")] == [
        "lr 1e-3 · bs 30",
        "lr 1e-4 · bs 96",
        "lr 1e-4 · bs 30",
    ]
    assert [cell["data-key"] for cell in grid.cells("95 % interval")[:3]] == ["0.93 – 0.97", "", ""]
    assert len(grid.cells("effective lr")) == 4  # in the table of runs alone: nobody asked for another


def test_each_run_says_what_it_took_and_links_to_mlflow(grid):
    best = [cell["data-key"] for label in ("images seen", "time", "device", "code") for cell in grid.cells(label)][2::4]
    assert best == ["24000", "754.0", "cpu", "git 0123abc"]
    assert "24,000" in grid.text and "13 min" in grid.text and "mlflow server --port 5000" in grid.text
    links = [attributes["href"] for tag, attributes in grid.elements if tag == "a"]
    assert (
        len(links) == 3 + 4
        and links[0] == f"http://127.0.0.1:5000/#/experiments/7/runs/{2:032x}?workflowType=machine_learning"
    )


def test_an_effective_lr_that_is_another_has_a_column():
    read = Reader(page(study(job(0, "1e-5", "30", 0.8, effective=3e-4), job(1, "3e-4", "30", 0.8)), {}))
    assert [cell["data-key"] for cell in read.cells("effective lr")[:2]] == ["0.0003", "3e-4"]
    assert [tag for tag, _ in read.elements if tag == "a"] == []  # no address, no links


def test_the_heat_map_has_a_cell_per_setting(source):
    with styled():
        drawn = heat_map(rank(GRID))
    cells = {patch.get_xy(): drawn.told[patch.get_gid()] for patch in drawn.axes.patches}
    assert cells == {
        (0, 1): "lr 1e-3 · bs 30: 0.9500",
        (0, 0): "lr 1e-4 · bs 30: 0.8000",
        (1, 0): "lr 1e-4 · bs 96: 0.8500",
    }
    assert [each.get_text() for each in drawn.axes.get_xticklabels()] == ["30", "96"]
    assert [each.get_text() for each in drawn.axes.get_yticklabels()] == ["1e-4", "1e-3"]  # by size
    assert sorted(told(source)["lfw/accuracy by optimizer.lr and data.batch_size"]) == sorted(cells.values())


def test_learning_curves_are_over_images(source):
    with styled():
        drawn = learning_curves(rank(GRID), "lfw/accuracy", CURVES["lfw/accuracy"])
        lost = learning_curves(rank(GRID), "train/loss", CURVES["train/loss"]).axes.lines
    lines = {line.get_label(): line for line in drawn.axes.lines}
    assert lines["lr 1e-4 · bs 96"].get_xydata().tolist() == [[480, 0.85]]
    assert lines["lr 1e-4 · bs 30"].get_xydata().tolist() == [[300, 0.7], [600, 0.8]]
    x, y = lines["lr 1e-3 · bs 30"].get_data()
    assert list(x) == [300, 600] and y[0] != y[0] and y[1] == 0.95  # NaN is a gap
    assert (
        lost[2].get_label() == "lr 1e-3 · bs 96" and lost[2].get_linestyle() == ":" and lost[2].get_ydata()[0] != 1e308
    )
    assert "lr 1e-4 · bs 30: 0.7000 after 300" in told(source)["Learning curves: lfw/accuracy"]


def test_long_curves_are_thinned_and_keep_their_ends():
    points = [(step, float(step)) for step in range(2001)]
    assert thinned(points[:100], 9) == points[:100]
    few = thinned(points, 9)
    assert few[0] == points[0] and few[-1] == points[-1] and 500 < len(few) < 670
    assert [b[0] - a[0] for a, b in itertools.pairwise(few)][:-1] == [4] * (len(few) - 2)


def test_folds_are_drawn_for_each_comparison(grid):
    with styled():
        dots = fold_differences(rank(GRID)).axes.lines[::2]
    assert [list(each.get_xdata()) for each in dots[:2]] == [pytest.approx([0.1, 0.1]), pytest.approx([0.14, 0.06])]
    assert "2 folds cannot give less than 0.5" in grid.text


def test_failures_and_commands_are_there(grid):
    assert "job 3: optimizer.lr=1e-3, data.batch_size=96: failed: RuntimeError: <b>no memory</b>" in grid.text
    assert all(f"facenet-train {' '.join(f'{k}={v}' for k, v in job.axes.items())}" in grid.text for job in GRID.jobs)


def test_the_best_has_its_next_commands(grid):
    for line in (
        "facenet-evaluate 'checkpoint=\"/runs/a b/2/checkpoints/best.pt\"' benchmark=lfw benchmark.root=LFW",
        "facenet-train 'resume=\"/runs/a b/2\"' trainer.epochs=N resume_changed=true",
        "facenet-report s --faces FOLDER",
    ):
        assert line in grid.text
    assert "Go on with the best" not in Reader(page(study(job(0, "1e-4", "30", 0.8)), {})).text


def test_the_page_needs_nothing_else_and_is_small(grid, source):
    loaded = [
        value
        for tag, each in grid.elements
        for name, value in each.items()
        if name == "src" or (tag, name) == ("link", "href")
    ]
    assert loaded == [] and len(source) < 100_000
    assert dict(grid.elements).keys() & {"link", "img", "iframe"} == set()
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [each for _, each in grid.elements]
    assert len(told(source)) == 5


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
def test_small_and_odd_sweeps(jobs):
    assert "Learning curves: val/loss" in told(page(study(*jobs, metric="val/loss"), {"val/loss": {0: [(1, 0.5)]}}))


def test_of_more_axes_the_heat_map_shows_the_best():
    three = [("1e-3", "ce", 0.6), ("1e-3", "arcface", 0.9), ("1e-3", "arcface", 0.8), ("1e-4", "arcface", 0.7)]
    jobs = [
        job(n, lr, "30", value, axes={"loss": loss, "model": str(n % 2)}) for n, (lr, loss, value) in enumerate(three)
    ]
    with styled():
        drawn = heat_map(rank(study(*jobs)))
    texts = {each.get_text() for each in drawn.axes.texts}
    assert texts == {"0.9000 ★", "0.7000", "0.6000"} and "lr 1e-3 · bs 30 · arcface · 1: 0.9000" in drawn.told.values()


def test_one_axis_is_drawn_as_a_line_of_means():
    jobs = [
        job(n, lr, "30", value, axes={"seed": str(n)})
        for n, (lr, value) in enumerate([("1e-3", 0.9), ("1e-4", 0.7), ("1e-3", 0.8)])
    ]
    ranking = rank(study(*jobs))
    with styled():
        line, *dots = effect(ranking).axes.lines
        assert heat_map(ranking) is None
    assert list(line.get_ydata()) == pytest.approx([0.7, 0.85])
    assert sorted((*each.get_xdata(), *each.get_ydata()) for each in dots) == [(0, 0.7), (1, 0.8), (1, 0.9)]
    assert line.get_linestyle() == "-" and ranking.settings[0].value == "0.8500 ± 0.0707 (2 seeds)"


def test_no_line_joins_two_losses():
    jobs = [job(n, "1e-3", "30", 0.7 + n / 10, axes={"loss": loss}) for n, loss in enumerate(["ce", "arcface"])]
    with styled():
        drawn = effect(rank(study(*jobs)))
    means, *dots = drawn.axes.lines
    assert (means.get_linestyle(), means.get_marker(), len(dots)) == ("None", "_", 2)
    assert list(means.get_ydata()) == pytest.approx([0.8, 0.7])
    assert [each.get_text() for each in drawn.axes.get_xticklabels()] == ["arcface", "ce"]


def test_curves_of_one_epoch_are_seen():
    with styled():
        drawn = learning_curves(rank(GRID), "lfw/accuracy", {0: [(10, 0.7)], 1: [(10, 0.8), (20, 0.9)]})
    assert [each.get_marker() for each in drawn.axes.lines if "bs" in each.get_label()] == ["o", "None"]


def assert_harmless(names):
    """Every name in every place that a stranger's store fills."""
    jobs = [
        Job(
            number=number,
            run_id=name,
            name=name,
            status="FAILED" if number % 3 == 2 else name if number % 3 == 1 else "FINISHED",
            axes={"optimizer.lr": str(number), name: name},
            value=0.5,
            folds=(0.5, 0.6),
            interval=name,
            error=f"x\n{name}",
            ran=Ran(command=name, device=name, code=name, experiment_id=name, images_per_step=3),
        )
        for number, name in enumerate(names)
    ]
    jobs = [
        Job(**{**vars(each), "axes": {key: each.axes.get(key, "x") for key in ("optimizer.lr", *names)}})
        for each in jobs
    ]
    curves = {name: {number: [(1, 0.5)] for number in range(len(jobs))} for name in names[:2]}
    source = page(study(*jobs, sweep_id=names[0], metric=names[-1]), curves, ("serve", "http://127.0.0.1:5000"))
    read = Reader(source)
    assert [tag for tag, _ in read.elements].count("script") == 1 and source.rstrip().endswith("</body></html>")
    assert {tag for tag, _ in read.elements} <= {*f"{TAGS} {DRAWN}".split()}
    attributes = [(key, value or "") for _, each in read.elements for key, value in each.items()]
    assert not [key for key, _ in attributes if key.startswith("on") or key == "src"]
    assert all(value.startswith("http://127.0.0.1:5000/#/experiments/") for key, value in attributes if key == "href")
    assert all(re.fullmatch("#[a-z0-9]+", value) for key, value in attributes if key == "xlink:href")
    assert all(name in read.text for name in names)  # shown as they are
    return read


def test_names_cannot_run():
    read = assert_harmless(EVIL)
    assert "49" not in read.text.replace("0.49", "")  # no template runs in a value


def test_no_name_can_run():
    draw = random.Random(29)
    letters = "<>&'\"/!-={}%$#:; scriptonerror "
    assert_harmless([f"x{''.join(draw.choices(letters, k=draw.randint(1, 30)))}x" for _ in range(12)])


def test_only_the_script_of_the_page_may_run(source):
    script = source.rsplit("<script>", 1)[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "th button" in script and "default-src &#39;none&#39;" in source
    assert f"script-src &#39;sha256-{digest}&#39;; style-src" in source


def test_heights():
    assert heights(["30", "96", "30"]) == {"30": 0.0, "96": 1.0}
    assert heights(["b", "a", "c"]) == {"a": 0.0, "b": 0.5, "c": 1.0}
    many = heights([f"{10.0**-power}" for power in range(11)])
    assert many["1e-05"] == pytest.approx(0.5)  # the logarithm of a wide range
    assert heights([str(number) for number in range(11)])["5"] == pytest.approx(0.5)
