"""Pictures of judged pairs: scores with the threshold, DET, the pairs that are hardest to judge, and a projection of identities. Each is one small
PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facenet.data.identities import Faces, Pixels, UnreadableImage
from facenet.errors import in_picture, shown
from facenet.evaluation.report import digits, percent, summarize, thin
from facenet.evaluation.verification import Bools, Floats, Integers, Roc, Verification
from facenet.files.picture import drawn, save_pixels, tile

HARDEST = 24  # pairs of each kind
SIDE = 64  # pixels of a face among the hardest pairs
COLUMNS = 4  # pairs side by side
DRAWN, MOST_IMAGES = 10, 40  # identities in a projection, and images of each
LINE = 11  # pixels of a line of text
RATES = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8)  # marked on the axes of a DET curve


class Hardest(NamedTuple):
    """Pairs of images by index: `rejected` are of one identity, farthest first; `accepted` are of two, nearest first."""

    rejected: Integers
    accepted: Integers


def hardest(distances: Floats, same: Bools, count: int = HARDEST) -> Hardest:
    """Finds the pairs that a threshold gets wrong first: the `count` farthest of one identity and the nearest of two."""
    order = np.argsort(distances, kind="stable")
    return Hardest(order[same[order]][::-1][:count], order[~same[order]][:count])


def save_scores(path: Path, name: str, distances: Floats, same: Bools, result: Verification) -> None:
    """Draws how many pairs of one identity and of two have which distance, with the threshold that is stored."""
    edges = np.linspace(distances.min(), distances.max(), 61).tolist()
    threshold = result.threshold
    with drawn(path) as (axes,):
        for kind, rows in (("one identity", same), ("two identities", ~same)):
            said = f"{kind}: {int(rows.sum()):,} pairs"
            axes.hist(distances[rows], edges, histtype="stepfilled", alpha=0.6, label=said)  # not sixty patches
        axes.axvline(threshold.value, color="black", label=f"threshold {digits(threshold.value)}")
        axes.set(
            xlabel=f"{threshold.distance} distance", ylabel="pairs", title=in_picture(f"{name}: {summarize(result)}")
        )
        axes.legend(fontsize=8)


def save_det(path: Path, name: str, result: Verification) -> None:
    """Draws the false-reject rate by the false-accept rate, both on normal deviates, where scores that are normal give a straight line."""
    fpr, fnr = det_points(result.roc)
    ticks, labels = deviates(np.array(RATES)), [f"{100 * rate:g} %" for rate in RATES]
    with drawn(path) as (axes,):
        axes.plot(deviates(fpr), deviates(fnr), label=in_picture(f"{name}: EER {percent(result.eer)}"))
        axes.plot(ticks[[0, -1]], ticks[[0, -1]], color="grey", linestyle=":", linewidth=1, label="equal rates")
        limits = (float(ticks[0]), float(ticks[-1]))
        axes.set(xlabel="false-accept rate", ylabel="false-reject rate", xlim=limits, ylim=limits)
        axes.set_xticks(ticks, labels)
        axes.set_yticks(ticks, labels)
        axes.legend(fontsize=8)


def det_points(roc: Roc) -> tuple[Floats, Floats]:
    """False-accept and false-reject rates of the thinned curve, without the ends that have no deviate."""
    roc = thin(roc)
    fpr, fnr = roc.fpr, 1 - roc.tpr
    inside = (fpr > 0) & (fpr < 1) & (fnr > 0) & (fnr < 1)
    return fpr[inside], fnr[inside]


def deviates(rates: Floats) -> Floats:
    """Normal deviates of rates in (0, 1)."""
    return np.array([NormalDist().inv_cdf(float(rate)) for rate in rates])


def save_projection(path: Path, name: str, embeddings: NDArray[np.float32], labels: Integers) -> bool:
    """Draws embeddings (N, D) of the DRAWN identities that have most images, in the plane in which their means lie furthest apart. Returns False
    where fewer than three have three images. Identities are shown by number, in the order of their names: the picture goes to any store.

    Principal components (Pearson 1901) by NumPy: 0.05 s for 320 embeddings of 512 numbers, where t-SNE took 3 s of a processor with its import, and
    unlike its islands the distances mean something: the axes say which share of the means' spread they show."""
    counts = np.bincount(labels)
    chosen = np.argsort(-counts, kind="stable")[:DRAWN]
    chosen = chosen[counts[chosen] >= 3]
    if len(chosen) < 3:
        return False
    rows = [embeddings[np.flatnonzero(labels == label)[:MOST_IMAGES]].astype(np.float64) for label in chosen]
    axes_of, shares, centre = plane([each.mean(axis=0) for each in rows])
    with drawn(path, right=1.2) as (axes,):
        for label, each in zip(chosen, rows, strict=True):
            points = (each - centre) @ axes_of.T
            axes.plot(points[:, 0], points[:, 1], "o", markersize=4, label=f"identity {label + 1}")
        told = [f"{100 * share:.0f} % of the spread of the identities' means" for share in shares]
        axes.set(xlabel=told[0], ylabel=told[1], title=in_picture(f"{name}: {len(chosen)} identities"))
        axes.set_aspect("equal", adjustable="datalim")
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return True


def plane(points: Sequence[Floats]) -> tuple[Floats, Floats, Floats]:
    """Two orthogonal directions (2, D) along which points (D,) are spread most, the share of the spread on each, and the points' mean (D,). The
    largest number of a direction is positive, so that equal points give equal pictures."""
    rows = np.stack(points)
    centre = rows.mean(axis=0)
    _, lengths, directions = np.linalg.svd(rows - centre, full_matrices=False)
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])
    spread = np.square(lengths)
    return (directions * signs[:, None])[:2], spread[:2] / max(float(spread.sum()), 1e-30), centre


def save_hardest(
    path: Path, faces: Faces, left: Integers, right: Integers, distances: Floats, same: Bools
) -> list[dict[str, Any]]:
    """Draws the hardest pairs as faces with distance and names, those of one identity first, and returns them as plain values: `kind`,
    `distance`, `left` and `right`. An image that cannot be read is grey."""
    found, rows, panels = hardest(distances, same), [], []
    for kind, chosen in (("false reject", found.rejected), ("false accept", found.accepted)):
        for pair in chosen:
            names = [faces.name(int(side[pair])) for side in (left, right)]
            rows.append({"kind": kind, "distance": float(distances[pair]), "left": names[0], "right": names[1]})
            panels.append(panel(faces, (int(left[pair]), int(right[pair])), rows[-1]))
        panels += [np.full_like(panels[-1], 255)] * (-len(panels) % COLUMNS) if panels else []
    if panels:
        save_pixels(path, tile(panels, COLUMNS))
    return rows


def panel(faces: Faces, pair: tuple[int, int], row: Mapping[str, Any]) -> Pixels:
    """Two faces side by side (SIDE + 3 lines, 2 SIDE, 3), and below them what was measured and who they are."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (2 * SIDE, SIDE + 3 * LINE + 2), "white")
    for number, index in enumerate(pair):
        image.paste(Image.fromarray(thumbnail(faces, index)), (number * SIDE, 0))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(LINE - 2)
    texts = [
        f"{row['kind']} {digits(row['distance'])}",
        *("/".join(Path(row[side]).parts[-2:])[-26:] for side in ("left", "right")),
    ]
    for number, text in enumerate(texts):
        draw.text((1, SIDE + number * LINE), shown(text), "black", font)
    return np.asarray(image)


def thumbnail(faces: Faces, index: int) -> Pixels:
    from PIL import Image

    try:
        image = Image.fromarray(faces.load(index))
    except UnreadableImage:
        return np.full((SIDE, SIDE, 3), 128, np.uint8)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
