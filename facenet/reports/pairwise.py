"""Two settings pair by pair: which pairs only one of them judges rightly, and whether that is more than chance."""

from __future__ import annotations

import base64
import contextlib
import io
import math
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from facenet.errors import UserError
from facenet.evaluation.judged import JudgedPair, read_pairs
from facenet.files.run_dir import RunDir
from facenet.reports.ranking import ALPHA, Ranking, Setting, too_few
from facenet.reports.study import Job
from facenet.tracking import reading

SHOWN = 24  # pairs
SIDE = 64  # pixels of a face
PICTURES = ("scores-{}.png", "det-{}.png", RunDir.roc, "projection-{}.png")
LARGEST_PICTURE = 300_000  # bytes; ours have some 40,000
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Disagreement:
    """A pair that one of two networks judges rightly: as each of them has it."""

    first: JudgedPair
    second: JudgedPair


@dataclass(frozen=True)
class Pairwise:
    """Pairs by who is right: both, the first or the second alone, neither. `listed`: the SHOWN that one gets right and the other misses furthest."""

    settings: tuple[str, str]
    both: int
    first: int
    second: int
    neither: int
    listed: tuple[Disagreement, ...]
    judged: bool = True  # whether people enough are in the pairs for a word on chance

    @property
    def p(self) -> float:
        return mcnemar(self.first, self.second)

    @property
    def told(self) -> str:
        """The outcome in three sentences."""
        one, other = self.settings
        total, alone = self.both + self.first + self.second + self.neither, self.first + self.second
        head = f"Of {total:,} pairs {self.both:,} are judged rightly by both and {self.neither:,} by neither; {self.first:,} by {one} alone and "
        head += f"{self.second:,} by {other} alone. McNemar's exact test on these {alone:,}: p = {self.p:.2g}, "
        if not self.judged:
            return f"{head}but these are pairs of so few people that it says nothing of others."
        head += "significantly different." if self.p < ALPHA else "not significantly different."
        return f"{head} It takes pairs for independent, and is about these two trained networks, not about other seeds."


def mcnemar(first: int, second: int) -> float:
    """Two-sided p of two counts that would be equally likely for each pair by chance (McNemar 1947), exact: twice the smaller tail."""
    total = first + second
    tail = sum(math.comb(total, wrong) for wrong in range(min(first, second) + 1))
    return min(1.0, float(2 * tail / 2**total))


def compared(settings: tuple[str, str], one: Sequence[JudgedPair], other: Sequence[JudgedPair]) -> Pairwise | None:
    """The pairs of two networks side by side; None where they were not tested on the same."""
    if [named(each) for each in one] != [named(each) for each in other] or not one:
        return None
    both = list(zip(one, other, strict=True))
    counts = Counter((mine.correct, theirs.correct) for mine, theirs in both)
    differing = [Disagreement(*each) for each in both if each[0].correct != each[1].correct]
    differing.sort(key=lambda each: -abs(each.first.distance - each.second.distance))
    alone = counts[True, False], counts[False, True]
    return Pairwise(settings, counts[True, True], *alone, counts[False, False], tuple(differing[:SHOWN]))


def named(pair: JudgedPair) -> tuple[str, str, bool]:
    return pair.left, pair.right, pair.same


@dataclass(frozen=True)
class Found:
    """What the runs of a ranking hold beside figures: pictures of the best one, name -> PNG, and its pairs beside those of the second. `faces`: of
    those pairs, where they are to be seen: name -> address with the picture in it."""

    pictures: Mapping[str, bytes]
    pairwise: Pairwise | None = None
    faces: Mapping[str, str] = field(default_factory=dict)


NOTHING = Found({})


def found_in(uri: str, ranking: Ranking) -> Found:
    """Reads what there is; runs of earlier versions have less, and those of a stranger may hold anything."""
    name = ranking.study.metric.partition("/")[0]
    if not ranking.settings or not re.fullmatch(r"\w[\w.-]*", name):
        return NOTHING
    jobs = [best_job(setting, lower=ranking.study.lower_is_better) for setting in ranking.settings[:2]]
    with tempfile.TemporaryDirectory() as folder:
        pictures = {}
        for file_name in (each.format(name) for each in PICTURES):
            with contextlib.suppress(UserError, OSError):
                data = reading.artifact(uri, jobs[0].run_id, f"curves/{file_name}", Path(folder)).read_bytes()
                if data.startswith(PNG) and len(data) <= LARGEST_PICTURE:
                    pictures[file_name] = data
        lists = []
        for number, job in enumerate(jobs):
            with contextlib.suppress(UserError, OSError, ValueError, EOFError):
                place = Path(folder, str(number))
                place.mkdir()
                lists.append(read_pairs(reading.artifact(uri, job.run_id, f"records/pairs-{name}.csv.gz", place)))
    two = tuple(setting.name for setting in ranking.settings[:2])
    found = compared((two[0], two[1]), *lists) if len(lists) == 2 else None
    return Found(pictures, found and replace(found, judged=not too_few(ranking.settings[0])))


def best_job(setting: Setting, *, lower: bool) -> Job:
    """Of several seeds the one with the best value."""
    return min(setting.jobs, key=lambda job: (job.value or 0.0) * (1 if lower else -1))


def faces_of(pairwise: Pairwise, folder: Path) -> dict[str, str]:
    """Name -> address with the picture in it, of the images of the listed pairs that lie in a folder; the names are a store's word, so none leads out
    of it. Raises UserError where it holds none of them."""
    root = folder.expanduser().resolve()
    names = sorted({name for each in pairwise.listed for name in (each.first.left, each.first.right)})
    found = {}
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            path = (root / name).resolve()
            if path.is_relative_to(root) and path.is_file():
                found[name] = thumbnail(path)
    if names and not found:
        raise UserError(
            f"--faces {folder}: holds none of the images of these pairs, first {names[0]}; give benchmark.root of the runs"
        )
    return found


def thumbnail(path: Path) -> str:
    from PIL import Image

    written = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").resize((SIDE, SIDE)).save(written, "JPEG", quality=85)
    return data_address("image/jpeg", written.getvalue())


def data_address(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
