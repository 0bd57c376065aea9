"""What a class of somebody else's has to be at each place: the smallest that fits, and what is said of one that lacks something."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from facenet.backbones import Embedder
from facenet.config import near
from facenet.config.contracts import CONTRACTS, contract_at, lacking
from facenet.data import Data, Layout, Sampler
from facenet.engine import Schedule
from facenet.losses import Term
from facenet.tracking import NoTracking


def batches(self: Any, labels: Any, *, batch_size: Any, num_batches: Any, epoch: Any, **rest: Any) -> Any: ...


class SetsInside(Embedder):
    def __init__(self, *, width: int = 8) -> None:
        super().__init__()
        self.embedding_size = width

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images


PLACES: dict[str, tuple[type, dict[str, Any]]] = {
    "loss.terms.mine.loss": (Term, {"forward": lambda self, features, embedding, labels: None}),
    "loss.terms.mine.loss.inner": (nn.Module, {}),
    "backbone": (Embedder, {"features": lambda self, images: None, "embedding_size": 8}),
    "backbone.trunk": (nn.Module, {"forward": lambda self, images: None, "num_features": 8}),
    "backbone.trunk.block": (nn.Module, {"forward": lambda self, images: None}),
    "sampler": (Sampler, {"batches": batches, "layout": Layout("shuffle")}),
    "data": (Data, {"open": lambda self: None}),
    "benchmark": (
        object,
        {"open": lambda self, heldout=None: None, "name": "x", "key": "benchmark", "needs_heldout": False},
    ),
    "optimizer": (torch.optim.Optimizer, {"step": lambda self, closure=None: None}),
    "tracking": (NoTracking, {"tracker": lambda self, run_id, run_dir: None}),
    "schedule": (Schedule, {"rate": lambda self, base_lr, global_step: None}),
    "schedule.scheduler": (torch.optim.lr_scheduler.LRScheduler, {"get_lr": lambda self: None}),
}


def told(path: str, found: Any) -> str | None:
    contract = contract_at(path)
    assert contract is not None
    return lacking(found, contract, "my.Own")


@pytest.mark.parametrize("path", PLACES)
def test_the_smallest_that_fits_does_and_without_any_part_it_is_told_which(path: str) -> None:
    base, members = PLACES[path]
    assert told(path, type("Own", (base,), members)) is None
    for name in members:
        less = {key: value for key, value in members.items() if key != name}
        assert f" {name}" in str(told(path, type("Own", (base,), less)))
    if base is not object:
        assert "has to derive from" in str(told(path, type("Own", (), members)))


def test_every_place_is_tried() -> None:
    tried = {contract_at(path) for path in PLACES}
    assert [each.called for each in CONTRACTS.values() if each not in tried] == ["augmentation"]
    assert contract_at("benchmarks.mine") == contract_at("benchmark")
    for closed in (
        "loss",
        "preprocess",
        "augment",
        "watch",
        "precision",
        "trainer",
        "sweep",
        "trust",
        "a.loss",
        "x",
        "",
    ):
        assert contract_at(closed) is None, closed


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (lambda self, features, embedding: None, "has no parameter 'labels'"),
        (lambda self, features, embedding, labels, device: None, "asks for 'device', which nobody gives"),
        (lambda self, *rows: None, None),
        (lambda self, features, embedding, labels, extra=1: None, None),
    ],
)
def test_a_method_takes_what_it_is_called_with(method: Any, reason: str | None) -> None:
    said = told("loss.terms.mine.loss", type("Own", (Term,), {"forward": method}))
    assert (
        said is None if reason is None else reason in str(said) and "forward(features, embedding, labels)" in str(said)
    )


def test_what_a_method_sets_counts_and_what_only_a_base_says_does_not() -> None:
    assert told("backbone", SetsInside) is None
    assert told("backbone", type("Derived", (SetsInside,), {})) is None
    assert "embedding_size" in str(told("backbone", type("Own", (Embedder,), {"features": lambda self, images: None})))


def test_a_flag_is_told_as_the_word_that_it_is() -> None:
    assert near.overrides_for("trust", "mine", {}) == "trust=mine"
