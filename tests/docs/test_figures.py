"""Figures on the pages are those of a record: the lab book, the benchmarks' file, or the section that says commit and machine itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from pages import ROOT, english, prose, tables

from facenet.data import transforms

assert transforms  # imported here, with torch and albumentations, so that no test is the one that does it
RECORDS = "\n".join(
    path.read_text(encoding="utf-8")
    for path in [*sorted(ROOT.glob("experiments/results/*.md")), ROOT / "docs/performance.md"]
)
UNIT = r"(?:%|±|(?:s|seconds|min|minutes|h|hours|[GMk]B|[GMK]iB|ms|µs|us|images/s|points)\b)"
FIGURE = re.compile(rf"(?<![\w.,-])(\d+(?:[.,]\d+)*)\s?{UNIT}")
# What follows from a size by arithmetic that the page shows, or is a count of files of packages.
COUNTED = {
    "docs/scale.md": {"76.8", "37.6", "37.7", "18.5", "255", "640", "384", "38", "70", "1.3", "7.4"},
    "docs/architecture.md": {"1.0", "0.53", "0.41"},
}
OWN_RECORD = re.compile(r"\bcommit [0-9a-f]{7}\b")  # beside figures that were measured for the page


def sections(text: str) -> Iterator[str]:
    yield from re.split(r"^#+ .*$", text, flags=re.MULTILINE)


def unrecorded(text: str, records: str) -> list[str]:
    """Numbers with a unit that no record has."""
    known = set(re.findall(r"\d+(?:[.,]\d+)*", records))
    found = []
    for section in sections(text):
        if not OWN_RECORD.search(section):
            plain = re.sub(r"`[^`]*`|\]\([^)]*\)", "", section)
            found += [figure for figure in FIGURE.findall(plain) if figure not in known]
    return found


@pytest.mark.parametrize("page", [page for page in english() if page != "docs/performance.md"])
def test_a_figure_stands_in_a_record(page: str):
    assert [each for each in unrecorded(prose(page), RECORDS) if each not in COUNTED.get(page, ())] == []


def test_a_figure_of_nobody_is_found():
    records = "It took 58 minutes and found 86.98 % in 1,407 s."
    assert unrecorded("## A\n58 minutes, 86.98 ± 1.49 %\n", records) == ["1.49"]
    assert unrecorded("## A\nin 1,408 s, `at 3 s`, [a page](b-5.md), batch-6 s\n", records) == ["1,408"]
    assert unrecorded("## A\n61 minutes\n## B\n62 minutes, commit 1285ff3\n", records) == ["61"]


def untold(rows: list[str], recipes: list[str]) -> list[str]:
    """Recipes without a row that has time, memory and disk, each as a number with its unit."""
    cells = {row.split("|")[1].strip(" `"): row for row in rows}
    units = (r"\d (s|minutes|hours)\b", r"\d [GM]B\b", r"\d [GM]B\b")
    found = []
    for recipe in recipes:
        told = [cell.strip() for cell in cells.get(recipe, "").strip("| ").split("|")[1:]]
        whole = len(told) == len(units) and all(map(re.search, units, told))
        found += [] if whole else [recipe]
    return found


def test_every_preset_and_sweep_says_what_it_takes():
    (rows,) = [rows for rows in tables("docs/training.md") if rows[0].startswith("| recipe |")]
    folders = [(kind, ROOT / "experiments" / kind) for kind in ("preset", "sweep")]
    recipes = [f"{kind}={path.stem}" for kind, folder in folders for path in sorted(folder.glob("*.yaml"))]
    assert len(recipes) >= 6 and untold(rows, ["facenet-train", *recipes]) == []


def test_a_recipe_that_says_less_is_found():
    rows = ["| `preset=a` | 20 s a step | 1.5 GB | 40 MB |", "| `preset=b` | 20 s | not measured | 40 MB |"]
    assert untold(rows, ["preset=a", "preset=b", "preset=c"]) == ["preset=b", "preset=c"]
