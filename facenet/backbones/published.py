"""Weight files that people have and what they were made for: no file of weights says how its images were prepared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Published:
    """`sha256` of the file; `layout`: of its tensors' names and shapes, which its fine-tunes share. `preprocess`: values of Preprocess, and the
    `overrides` that give them."""

    name: str
    sha256: str
    layout: str
    preprocess: dict[str, Any]
    overrides: str


KNOWN = (
    Published(  # 98.67 % on LFW so, 98.03 % by the defaults
        "arcface_mobilefacenet.pth of bubbliiiing/arcface-pytorch",
        "4c08e11a0a2bbf299910210da647c7d8105c348f4c533868e1710dbcf7b22480",
        "40d50ffc895c986cfc89ac637cc6ee04d2aee1cc0c726eae03cb0516f51c2eb3",
        {"size": [112, 112], "fit": "resize", "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3},
        "preprocess=resize data.image_size=112 preprocess.interpolation=bilinear",
    ),
    Published(  # 99.17 % on LFW with benchmark/protocol=flip_mean
        "068.ckpt of Xiaoccer/MobileFaceNet_Pytorch",
        "e839247cdbdfc023fb7cadeaf53a4549d50c8fc24ad154c02e35920ea8910d99",
        "77931832eda4f0fc1bee0a5dc2d49db9312c085731024db0eaa1c1a92b50f1bb",
        {
            "size": [112, 96],
            "fit": "centre_crop",
            "interpolation": "bilinear",
            "mean": [0.5] * 3,
            "std": [128 / 255] * 3,
        },
        "preprocess=centre_crop 'preprocess.size=[112,96]' preprocess.interpolation=bilinear 'preprocess.std=[0.50196,0.50196,0.50196]'",
    ),
)


def layout_of(tensors: Mapping[str, torch.Tensor]) -> str:
    return hashlib.sha256(
        "\n".join(f"{name} {tuple(tensors[name].shape)}" for name in sorted(tensors)).encode()
    ).hexdigest()


def advice(path: Path, layout: str, preprocess: dict[str, Any]) -> str | None:
    """What to say where a known file, or one with its names and shapes, meets another preprocessing than its own; None where there is nothing."""
    known = next((each for each in KNOWN if each.layout == layout), None)
    if known is None or all(alike(preprocess[key], value) for key, value in known.preprocess.items()):
        return None
    same = hashlib.sha256(path.read_bytes()).hexdigest() == known.sha256
    what = f"is {known.name}" if same else f"has the names and shapes of {known.name}, and may have its preprocessing"
    differ = ", ".join(f"{key} {value}" for key, value in known.preprocess.items() if not alike(preprocess[key], value))
    return f"{path.name} {what}, made for {differ}; use {known.overrides}"


def made_for(layout: str) -> str:
    """What to add to the refusal of a file that is known by its names and shapes; nothing where it is not."""
    known = next((each for each in KNOWN if each.layout == layout), None)
    return "" if known is None else f". It has those of {known.name}: use backbone=mobilefacenet {known.overrides}"


def alike(own: Any, known: Any) -> bool:
    if isinstance(known, list):
        return len(own) == len(known) and all(abs(a - b) < 1e-3 for a, b in zip(own, known, strict=True))
    return bool(own == known)
