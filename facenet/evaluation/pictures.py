"""Pictures of judged pairs: scores with the threshold, DET, and the pairs that are hardest to judge. Each is one small PNG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from facenet.data.identities import Faces, Pixels, UnreadableImage
from facenet.errors import in_picture, shown
from facenet.evaluation.report import digits, percent, summarize, thin
from facenet.evaluation.verification import Bools, Floats, Integers, Roc, Verification
from facenet.files.picture import drawn, save_pixels, tile

HARDEST = 24  # pairs of each kind
SIDE = 64  # pixels of a face among the hardest pairs
COLUMNS = 4  # pairs side by side
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
            axes.hist(distances[rows], edges, alpha=0.6, label=f"{kind}: {int(rows.sum()):,} pairs")
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
