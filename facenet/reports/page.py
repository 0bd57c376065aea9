"""A sweep as one HTML page that needs nothing else: no network, no file beside it, no width but the reader's.

Names, values and commands come from whoever trained, so the template escapes whatever it is given; should one slip through, the page's own policy
runs no script but the one whose hash it names, and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from facenet.errors import printable
from facenet.evaluation.report import digits, duration
from facenet.files.run_dir import RunDir
from facenet.files.typed import command, naming, override
from facenet.reports.figures import Curves, all_figures
from facenet.reports.pairwise import NOTHING, Found, data_address
from facenet.reports.ranking import (
    ALPHA,
    Comparison,
    Ranking,
    Setting,
    add_sign,
    least_p,
    rank,
    verdict,
    why_untested,
)
from facenet.reports.study import Job, Study
from facenet.tracking.store import address


@dataclass(frozen=True)
class Cell:
    """What is shown, what it is sorted by, and the address that it opens."""

    text: str
    key: str
    link: str = ""


@dataclass(frozen=True)
class Row:
    cells: Sequence[Cell]
    best: bool = False


@dataclass(frozen=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Row]


def page(study: Study, curves: Mapping[str, Curves], served: tuple[str, str] = ("", ""), found: Found = NOTHING) -> str:
    """The whole file as text. `curves`: metric -> points of each job. `served`: the command that serves the store and the address of MLflow's pages,
    as `store.served` returns them; without an address nothing links there. `found`: what the best runs hold beside figures."""
    ranking = rank(study)
    template, style, script = (
        files("facenet.reports").joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=printed)
    return environment.from_string(template).render(
        study=study,
        answer=verdict(ranking),
        counts=count_jobs(ranking),
        ranked=show_ranking(ranking, served[1]),
        unranked=[(summary_of(job, job.why_unranked), whole_error(job)) for job in ranking.unranked],
        charts={heading: Markup(svg) for heading, svg in all_figures(ranking, curves).items()},
        pictures={name: data_address("image/png", data) for name, data in found.pictures.items()},
        pairwise=found.pairwise,
        faces=found.faces,
        digits=digits,
        tests=tests(ranking),
        served=served,
        runs=show_runs(ranking, served[1]),
        following=go_on(ranking),
        commands=[command_of(job) for job in study.jobs],
        policy=policy(script),
        style=Markup(style),
        script=Markup(script),
        zip=zip,
    )


def printed(value: object) -> object:
    """A text without what steers a terminal or turns the direction of writing; it is escaped afterwards."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def policy(script: str) -> str:
    """Loads nothing and runs only this script. The pictures set styles."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"


def link_to(job: Job, root: str) -> str:
    """The address of a run's page in MLflow; its ids are a store's word."""
    if not root:
        return ""
    return address(root, f"#/experiments/{quote(job.ran.experiment_id, safe='')}/runs/{quote(job.run_id, safe='')}")


def count_jobs(ranking: Ranking) -> str:
    direction = "lower" if ranking.study.lower_is_better else "higher"
    jobs, unranked = len(ranking.study.jobs), len(ranking.unranked)
    missing = f", {unranked} of them without a rank" if unranked else ""
    unfinished = "".join(f" {line}." for line in ranking.study.left_out)
    return f"{jobs} jobs{missing}; {ranking.study.metric} of the best epoch, {direction} is better.{unfinished}"


def show_ranking(ranking: Ranking, root: str) -> Table:
    """A row per setting. Asked-for and effective learning rate both have a column where they differ."""
    axes = [key for key in ranking.study.axes if key != "seed"]
    clipped = any(effective_lr(setting) not in ("", setting.axes.get("optimizer.lr")) for setting in ranking.settings)
    spans = any(setting.interval for setting in ranking.settings)
    head = ["rank", "setting", *axes, *(["effective lr"] if clipped else []), ranking.study.metric]
    head += [*(["95 % interval"] if spans else []), "to the best", "p", "runs, by job number"]
    rows = []
    for setting, comparison in zip(ranking.settings, ranking.comparisons, strict=True):
        first, gap = setting.jobs[0], setting.mean - ranking.settings[0].mean
        cells = [
            Cell(str(setting.rank), str(setting.rank)),
            Cell(setting.name, setting.name, link_to(first, root)),
            *(Cell(setting.axes[key], setting.axes[key]) for key in axes),
            *([Cell(effective_lr(setting), effective_lr(setting))] if clipped else []),
            Cell(setting.value, repr(setting.mean)),
            *([Cell(setting.interval, setting.interval)] if spans else []),
            Cell(add_sign(gap) if setting is not ranking.settings[0] else "", repr(gap)),
            Cell(judge(comparison), "2" if comparison is None else repr(comparison.p)),
            Cell(", ".join(str(job.number) for job in setting.jobs), str(first.number)),
        ]
        rows.append(Row(cells, setting.rank == 1))
    return Table(head, rows)


def show_runs(ranking: Ranking, root: str) -> Table:
    """A row per run: what it took, on what, and where MLflow has it."""
    study = ranking.study
    head = [
        "job",
        "run",
        "state",
        study.metric,
        "95 % interval",
        "effective lr",
        "images seen",
        "time",
        "device",
        "code",
    ]
    rows = []
    for job in study.jobs:
        ran, value = job.ran, "" if job.value is None else digits(job.value)
        texts = [job.status.lower(), value, job.interval, "" if ran.lr is None else f"{ran.lr:g}"]
        cells = [
            Cell(str(job.number), str(job.number)),
            Cell(job.name or job.label, job.name or job.label, link_to(job, root)),
            *(Cell(text, text) for text in texts),
            Cell("" if ran.images is None else f"{ran.images:,}", str(ran.images or 0)),
            Cell("" if ran.seconds is None else duration(ran.seconds), str(ran.seconds or 0)),
            *(Cell(text, text) for text in (ran.device, ran.code)),
        ]
        rows.append(Row(cells, bool(ranking.settings) and job in ranking.settings[0].jobs))
    return Table(head, rows)


def effective_lr(setting: Setting) -> str:
    """Returns the effective learning rate, as it was asked for where that is the same number."""
    asked, found = setting.axes.get("optimizer.lr", ""), setting.jobs[0].ran.lr
    if found is None:
        return ""
    try:
        return asked if float(asked) == found else f"{found:g}"
    except ValueError:
        return f"{found:g}" if asked else ""


def judge(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    return f"{comparison.p:.2g}, " + ("significantly different" if comparison.apart else "not significantly different")


def summary_of(job: Job, state: str) -> str:
    values = ", ".join(f"{key}={value}" for key, value in job.axes.items())
    return f"job {job.number}: {values}: {state}"


def whole_error(job: Job) -> str:
    return job.error if "\n" in job.error.strip() else ""


def command_of(job: Job) -> tuple[str, str, str]:
    """What a job is called, the command that repeats it, and where MLflow has it."""
    value = "" if job.value is None else f", {digits(job.value)}"
    return summary_of(job, f"{job.status.lower()}{value}"), job.ran.command, f"MLflow run {job.run_id}"


def go_on(ranking: Ranking) -> str:
    """What to type for the best network, and to see its faces here; empty where no run says where it lies."""
    place = ranking.settings[0].jobs[0].ran.directory if ranking.settings else ""
    if not place:
        return ""
    best = override("checkpoint", RunDir(Path(place)).checkpoints.best)
    return "\n".join(
        [
            command("facenet-evaluate", best, "benchmark=lfw", "benchmark.root=LFW"),
            command("facenet-train", override("resume", place), "trainer.epochs=N", "resume_changed=true"),
            naming("facenet-report", ranking.study.sweep_id, "--faces", "FOLDER"),
        ]
    )


def tests(ranking: Ranking) -> list[str]:
    """How the p of the table came about and what it does not say, or why there is none."""
    if len(ranking.settings) < 2:
        return []
    compared = [comparison for comparison in ranking.comparisons if comparison is not None]
    if not compared:
        why = why_untested(ranking.settings[0], ranking.study.metric)
        return [f"Whether differences are more than chance cannot be told, since {why}."]
    folds, left = compared[0].num_folds, len(ranking.settings) - 1 - len(compared)
    others = f"{'the next ' if left else ''}{len(compared)} other{'s' if len(compared) > 1 else ''}"
    how = (
        f"The best setting against {others}, by Fisher's randomisation test on the accuracies of {folds} folds, averaged over seeds: p is the "
        f"share of the choices of signs that give a difference as large, times Holm's factor, {len(compared)} for the least p. {folds} folds "
        f"cannot give less than {least_p(folds):.2g}, here times {len(compared)}. The test is of the same pairs, so that it may tell settings apart "
        f"whose intervals overlap. Significantly different means p below {ALPHA:g} and, where seeds were swept, a difference of more than twice its "
        "standard error over seeds."
    )
    limits = (
        "The folds share the pairs that chose their thresholds, which makes p slightly too small. Without several seeds the test is about "
        "these trained networks and not about what another seed would give."
    )
    return [how, limits]
