"""What training on a set of faces would meet: files that cannot be read, copies, wrong labels, and people who are also in the test set."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from facenet.data.files.annotation import read_annotation
from facenet.data.files.decode import Decode
from facenet.data.files.duplicates import Indices, near_groups, same_groups
from facenet.data.files.inventory import Inventory, take_inventory
from facenet.data.identities import Faces, FolderFaces
from facenet.errors import UserError, check_least, shown
from facenet.files.home import expand_home
from facenet.tasks.progress import image_bar
from facenet.tools.overlap import Comparison, further, near_identities, same_names

NAMED = 5  # examples of a finding in the text; the JSON has all


@dataclass(frozen=True)
class Finding:
    """matters: whether to train before it is dealt with would be a mistake. rows: one line per case."""

    title: str
    matters: bool
    rows: list[str]

    def __str__(self) -> str:
        rest = [f"... {len(self.rows) - NAMED:,} more"] if len(self.rows) > NAMED else []
        mark = "!" if self.matters else "-"
        return "\n      ".join([f"  {mark} {len(self.rows):,} {self.title}", *self.rows[:NAMED], *rest])


@dataclass(frozen=True)
class Audit:
    """`against` is the test set, where one is given. Numbers above those of `train` are of its images where both are joined. `shared`: what was
    looked for in both sets, and how many were found."""

    train: Inventory
    against: Inventory | None
    findings: list[Finding] = field(default_factory=list)
    shared: dict[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return not any(finding.matters for finding in self.findings)

    def name(self, index: int) -> str:
        side, number = self.place(index)
        return shown(side.faces.name(number))

    def place(self, index: int) -> tuple[Inventory, int]:
        own = len(self.train.faces)
        if index < own or self.against is None:
            return self.train, index
        return self.against, index - own

    def note(self, title: str, rows: Iterable[str], *, matters: bool) -> int:
        """Returns how many there are."""
        listed = list(rows)
        if listed:
            self.findings.append(Finding(title, matters, listed))
        return len(listed)


def run_audit(
    root: str,
    *,
    depth: int = 1,
    against: str | None,
    comparison: Comparison,
    max_pixels: int,
    num_workers: int,
    as_json: bool,
) -> tuple[str, bool]:
    """The report, and whether it found nothing that matters. Raises UserError for folders and networks that cannot be opened."""
    if (comparison.weights or comparison.checkpoint) and against is None:
        raise UserError("--weights and --checkpoint compare with another set; name it with --against")
    check_least("--num-workers", num_workers)
    device, network, decode = comparison.device(), comparison.network(), Decode(max_pixels=max_pixels)
    sets = [open_faces(root, decode, depth), *([] if against is None else [open_faces(against, decode)])]
    total, taken = sum(map(len, sets)), list[Inventory]()
    with image_bar(total, lines=True) as progress:
        for faces in sets:
            told = further(progress, sum(len(each.faces) for each in taken), total)
            taken.append(take_inventory(faces, decode, num_workers=num_workers, progress=told))
    audit = Audit(taken[0], taken[1] if against else None)
    examine_files(audit)
    examine_copies(audit)
    examine_spellings(audit)
    if audit.against is not None:
        left, right, threshold = audit.train, audit.against, comparison.threshold
        audit.shared["names"] = examine_names(left.faces, right.faces, audit)
        if network is not None:
            near = near_identities(
                network, left, right, accelerator=device, threshold=threshold, num_workers=num_workers
            )
            pairs = [
                f"{shown(left.faces.identities[a])} ~ {shown(right.faces.identities[b])} ({cosine:.3f})"
                for a, b, cosine in near
            ]
            title = f"pairs of identities with a cosine of {threshold:g} or more"
            audit.shared["faces"] = audit.note(title, pairs, matters=True)
    return json.dumps(as_dict(audit), indent=1) if as_json else text(audit, root, against), audit.clean


def open_faces(place: str, decode: Decode, depth: int = 1) -> Faces:
    """A folder of identities, or an annotation file."""
    if os.path.isfile(expand_home(place)):
        return read_annotation(place, decode=decode)
    return FolderFaces(place, decode, depth)


def examine_files(audit: Audit) -> None:
    train, faces = audit.train, audit.train.faces
    rows = (f"{audit.name(index)}: {problem}" for index, problem in train.problems.items())
    audit.note("images cannot be read", rows, matters=True)
    for note, indices in sorted(train.notes.items()):
        audit.note(f"images {note}", map(audit.name, indices), matters=False)
    counts = np.bincount(faces.labels[train.readable], minlength=len(faces.identities))
    single = (shown(faces.identities[label]) for label in np.flatnonzero(counts == 1))
    audit.note("identities with one image, which make no pair", single, matters=False)
    none = (shown(faces.identities[label]) for label in np.flatnonzero(counts == 0))
    audit.note("identities without a readable image", none, matters=True)
    if isinstance(faces, FolderFaces):
        kinds = [f"{count:,} {shown(kind)}" for kind, count in sorted(faces.index.left_out.items())]
        audit.note("kinds of other files beside the images, which are left out", kinds, matters=False)


def examine_copies(audit: Audit) -> None:
    """Each group is told once, by the worst that it is: in both sets, under two labels, or a copy; and if not the same file, then alike."""
    sides = [side for side in (audit.train, audit.against) if side is not None]
    content = np.concatenate([side.content for side in sides])
    appearance = np.concatenate([side.appearance for side in sides])
    readable = np.concatenate([side.readable for side in sides])
    patterned = readable & appearance.any(axis=1)
    same, told = same_groups(content, readable), set[int]()
    for group in same:
        told.update(group.tolist())
    near = [group for group in near_groups(appearance, patterned) if not told.issuperset(group.tolist())]
    for groups, kind, matters in ((same, "the same file", True), (near, "pictures that look the same", False)):
        kinds: dict[str, list[str]] = {"both": [], "labels": [], "copies": []}
        for group in groups:
            if found := kind_of(group, audit):
                kinds[found].append(" = ".join(audit.name(index) for index in group[:4].tolist()))
        both = audit.note(f"groups of {kind} in training and test", kinds["both"], matters=True)
        if audit.against is not None:
            audit.shared["images"] = audit.shared.get("images", 0) + both
        audit.note(f"groups of {kind} under two labels", kinds["labels"], matters=matters)
        audit.note(f"groups of {kind} within an identity", kinds["copies"], matters=False)


def kind_of(group: Indices, audit: Audit) -> str | None:
    own = group[group < len(audit.train.faces)]
    if not len(own):
        return None  # of the test set alone
    if len(own) < len(group):
        return "both"
    return "labels" if len(np.unique(audit.train.faces.labels[own])) > 1 else "copies"


def examine_spellings(audit: Audit) -> None:
    """A person under two spellings is two identities, which training pushes apart; disks without case even mix their folders."""
    names = audit.train.faces.identities
    spelled: dict[str, list[str]] = {}
    for name in names:
        spelled.setdefault(unicodedata.normalize("NFKC", name).casefold().strip(), []).append(name)
    rows = (" = ".join(map(shown, alike)) for alike in spelled.values() if len(alike) > 1)
    audit.note("names of identities differ in capitals, blanks or the code of an accent only", rows, matters=True)


def examine_names(train: Faces, test: Faces, audit: Audit) -> int:
    pairs = same_names(train.identities, test.identities)
    rows = (f"{shown(train.identities[a])} = {shown(test.identities[b])}" for a, b in pairs)
    return audit.note("identities of training and test have one name", rows, matters=True)


def as_dict(audit: Audit) -> dict[str, Any]:
    sides = {"train": audit.train, "against": audit.against}
    findings = [
        {"title": found.title, "matters": found.matters, "count": len(found.rows), "rows": found.rows}
        for found in audit.findings
    ]
    return {
        "clean": audit.clean,
        "shared": audit.shared,
        **{name: None if side is None else summary(side) for name, side in sides.items()},
        "findings": findings,
    }


def summary(side: Inventory) -> dict[str, Any]:
    counts = np.bincount(side.faces.labels, minlength=len(side.faces.identities))
    return {
        "images": len(side.faces),
        "identities": len(side.faces.identities),
        "unreadable": len(side.problems),
        "formats": dict(side.kinds.most_common()),
        "sizes": {f"{width}x{height}": count for (width, height), count in side.sizes.most_common(20)},
        "num_sizes": len(side.sizes),
        "images_per_identity": {"min": int(counts.min()), "median": float(np.median(counts)), "max": int(counts.max())},
    }


def text(audit: Audit, root: str, against: str | None) -> str:
    lines = []
    for place, side in ((root, audit.train), (against, audit.against)):
        if side is None:
            continue
        told = summary(side)
        per = told["images_per_identity"]
        lines += [
            f"{place}: {told['images']:,} images of {told['identities']:,} identities",
            f"  formats  {list_counts(told['formats'], len(told['formats']))}",
            f"  sizes    {list_counts(told['sizes'], told['num_sizes'])}",
            f"  images of an identity: {per['min']} to {per['max']}, median {per['median']:g}",
        ]
    if (both := audit.shared) and against is not None:
        by_face = f"{both['faces']:,} by face" if "faces" in both else "by face not compared (--checkpoint FILE)"
        lines.append(f"in both sets: people {both['names']:,} by name, {by_face}; groups of images {both['images']:,}")
    verdict = "nothing that matters was found" if audit.clean else "deal with what is marked ! before training"
    return "\n".join([*lines, "findings", *map(str, audit.findings), verdict])


def list_counts(counts: dict[str, int], num_kinds: int) -> str:
    first = [f"{name} {count:,}" for name, count in list(counts.items())[:NAMED]]
    return ", ".join([*first, *([f"{num_kinds - NAMED} more kinds"] if num_kinds > NAMED else [])]) or "none"
