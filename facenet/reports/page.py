"""A sweep as one HTML page that needs nothing else: no network, no file beside it, no width but the reader's.

Names, values and commands come from whoever trained, so all of them are escaped; should one slip through, the page's own policy runs
no script but the three whose hashes it names, and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

from plotly.offline import get_plotlyjs

from facenet.errors import printable
from facenet.evaluation.report import digits
from facenet.reports.figures import Curves, all_figures
from facenet.reports.ranking import ALPHA, COMPARED, Comparison, Ranking, Setting, add_sign, least_p, rank, verdict
from facenet.reports.study import Job, Study

Cell = tuple[str, str]  # what is shown, what it is sorted by


def page(study: Study, curves: Mapping[str, Curves]) -> str:
    """The whole file as text. `curves`: metric -> points of each job."""
    ranking = rank(study)
    figures = {f"chart{number}": each for number, each in enumerate(all_figures(ranking, curves).items())}
    charts = [
        f'<h2>{escape(heading)}</h2><div class="chart" id="{id_}"></div>' for id_, (heading, _) in figures.items()
    ]
    drawn = {id_: json.loads(figure.to_json()) for id_, (_, figure) in figures.items()}
    body = [
        f"<h1>Sweep {escape(study.sweep_id)}</h1>",
        f'<p class="answer">{escape(verdict(ranking))}</p>',
        f'<p class="soft">{escape(count_jobs(ranking))}</p>',
        show_ranking(ranking),
        without_rank(ranking.unranked),
        *charts,
        tests(ranking),
        commands(study.jobs),
    ]
    # "<" would let a name end the element; in JSON it may as well be written by its number.
    data = json.dumps(drawn).replace("<", "\\u003c")
    scripts = [
        get_plotlyjs().replace("</script", "<\\/script"),
        files("facenet.reports").joinpath("page.js").read_text(),
    ]
    style = files("facenet.reports").joinpath("page.css").read_text()
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy(scripts)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Sweep {escape(study.sweep_id)}</title>",
            f"<style>{style}</style></head><body>",
            *body,
            f'<script type="application/json" id="figures">{data}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body></html>\n",
        ]
    )


def policy(scripts: Iterable[str]) -> str:
    """Loads nothing and runs only these scripts. Plotly sets styles, and makes its pictures to save from data."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"


def escape(value: object) -> str:
    return html.escape(printable(str(value)))


def count_jobs(ranking: Ranking) -> str:
    direction = "lower" if ranking.study.lower_is_better else "higher"
    jobs, unranked = len(ranking.study.jobs), len(ranking.unranked)
    missing = f", {unranked} of them without a rank" if unranked else ""
    unfinished = f" {ranking.study.incomplete}." if ranking.study.incomplete else ""
    return f"{jobs} jobs{missing}; {ranking.study.metric} of the best epoch, {direction} is better.{unfinished}"


def show_ranking(ranking: Ranking) -> str:
    """A row per setting. Asked-for and effective learning rate both have a column where they differ."""
    if not ranking.settings:
        return ""
    axes = [key for key in ranking.study.axes if key != "seed"]
    clipped = any(effective_lr(setting) not in ("", setting.axes.get("optimizer.lr")) for setting in ranking.settings)
    head = ["rank", *axes, *(["effective lr"] if clipped else []), ranking.study.metric, "to the best", "p", "jobs"]
    rows = []
    for setting, comparison in zip(ranking.settings, ranking.comparisons, strict=True):
        gap = setting.mean - ranking.settings[0].mean
        jobs = ", ".join(str(job.number) for job in setting.jobs)
        cells: list[Cell] = [
            (str(setting.rank), str(setting.rank)),
            *((setting.axes[key], setting.axes[key]) for key in axes),
            *([(effective_lr(setting), effective_lr(setting))] if clipped else []),
            (setting.value, repr(setting.mean)),
            (add_sign(gap) if setting is not ranking.settings[0] else "", repr(gap)),
            (judge(comparison), "2" if comparison is None else repr(comparison.p)),
            (jobs, str(setting.jobs[0].number)),
        ]
        rows.append((cells, setting.rank == 1))
    return table("Ranked settings", head, rows)


def effective_lr(setting: Setting) -> str:
    """Returns the effective learning rate, as it was asked for where that is the same number."""
    asked, found = setting.axes.get("optimizer.lr", ""), setting.jobs[0].lr
    if found is None:
        return ""
    try:
        return asked if float(asked) == found else f"{found:g}"
    except ValueError:
        return f"{found:g}" if asked else ""


def judge(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    return f"{comparison.p:.2g}, " + ("told apart" if comparison.apart else "not told apart")


def table(heading: str, head: Sequence[str], rows: Iterable[tuple[Sequence[Cell], bool]]) -> str:
    """Returns an HTML table with a heading to click on for each order; on a narrow screen one block per row."""
    titles = "".join(f'<th><button type="button">{escape(name)}</button></th>' for name in head)
    lines = []
    for cells, best in rows:
        line = "".join(
            f'<td data-label="{escape(name)}" data-key="{escape(key)}">{escape(shown)}</td>'
            for name, (shown, key) in zip(head, cells, strict=True)
        )
        lines.append(f"<tr{' class=best' if best else ''}>{line}</tr>")
    return f"<h2>{escape(heading)}</h2><table><thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def without_rank(jobs: Sequence[Job]) -> str:
    if not jobs:
        return ""
    items = []
    for job in jobs:
        values = ", ".join(f"{key}={value}" for key, value in job.axes.items())
        whole = f"<pre>{escape(job.error)}</pre>" if "\n" in job.error.strip() else ""
        items.append(
            f"<details><summary>job {job.number}: {escape(values)}: {escape(job.why_unranked)}</summary>{whole}</details>"
        )
    return f"<h2>Without a rank</h2>{''.join(items)}"


def tests(ranking: Ranking) -> str:
    """How the p of the table came about and what it does not say, or why there is none."""
    if len(ranking.settings) < 2:
        return ""
    compared = [comparison for comparison in ranking.comparisons if comparison is not None]
    if not compared:
        reason = (
            f"{ranking.study.metric} was not measured on folds that these jobs share, so differences cannot be tested."
        )
        return f"<h2>Paired tests</h2><p>{escape(reason)}</p>"
    folds = compared[0].num_folds
    how = (
        f"The best setting against {len(compared)} other(s), at most {COMPARED - 1}, by Fisher's randomisation test on the accuracies of "
        f"{folds} folds, averaged over seeds: p is the share of the choices of signs that give a difference as large, times Holm's factor "
        f"for several comparisons. {folds} folds cannot give less than {least_p(folds):.2g}. Told apart means p below {ALPHA:g} and, where "
        "seeds were swept, a difference of more than twice its standard error over seeds."
    )
    limits = (
        "The folds share the pairs that chose their thresholds, which makes p slightly too small. Without several seeds the test is about "
        "these trained networks and not about what another seed would give."
    )
    return f"<h2>Paired tests</h2><p>{escape(how)}</p><p class=soft>{escape(limits)}</p>"


def commands(jobs: Sequence[Job]) -> str:
    items = []
    for job in jobs:
        values = ", ".join(f"{key}={value}" for key, value in job.axes.items())
        value = "" if job.value is None else f", {digits(job.value)}"
        items.append(
            f"<details><summary>job {job.number}: {escape(values)} ({escape(job.status.lower())}{value})</summary>"
            f"<pre>{escape(job.command)}</pre><p class=soft>MLflow run {escape(job.run_id)}</p></details>"
        )
    return f"<h2>Commands</h2>{''.join(items)}"
