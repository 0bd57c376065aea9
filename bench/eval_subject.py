"""Testing on pairs against the reference: the metric part, embeddings, and the whole. Goal 6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench.allocation import as_peers
from bench.context import NO_BF16, Context, Outcome, require
from bench.goals import Goal
from bench.rounds import Candidate, Table, measure
from facenet.backbones.embedder import FaceNet
from facenet.backbones.mobilenet_v1 import MobileNetV1
from facenet.data.identities import FolderFaces, Subset, read_image
from facenet.data.transforms import Preprocess
from facenet.devices.accelerator import Accelerator
from facenet.devices.host_memory import keep_freed_memory
from facenet.devices.table import Precision
from facenet.evaluation.embed import embed
from facenet.evaluation.protocol import Protocol, verify
from facenet.evaluation.verification import evaluate_pairs

PAIRS, FOLDS = 6_000, 10
LFW_IMAGES = 7_701  # unique images of the 6,000 pairs
PREPROCESS = Preprocess(size=[160, 160])


def run(context: Context) -> Outcome:
    torch.set_num_threads(1)
    metric = metric_part(context)
    whole, forwards = whole_evaluation(context)
    ours, ratio = metric.row("facenet, reference's thresholds").cpu_s, {row.name: row.ratio for row in whole.rows}
    goals = [
        Goal(
            "6.1",
            "metric part of 6,000 pairs, ms of CPU",
            1.5,
            ours * 1e3,
            at_most=True,
            limit="three passes over 6,000 numbers in NumPy",
        ),
        Goal(
            "6.2",
            "metric part against the reference, CPU",
            1000,
            metric.row("facenet, reference's thresholds").ratio,
            limit="NumPy's calls",
        ),
        Goal(
            "6.3",
            "whole evaluation, mobilenet bf16, CPU",
            4,
            ratio.get("facenet, bf16"),
            limit="convolutions, then decoding" if whole.has("facenet, bf16") else NO_BF16,
        ),
        Goal(
            "6.4",
            "whole evaluation, mobilenet fp32, CPU",
            1.9,
            ratio["facenet, fp32"],
            limit="convolutions, then decoding",
        ),
    ]
    return Outcome([metric, whole], goals, {"forwards per unique image": forwards})


def drawn_pairs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    same = np.arange(PAIRS) % (PAIRS // FOLDS) < PAIRS // FOLDS // 2
    distances = np.where(same, rng.normal(0.9, 0.18, PAIRS), rng.normal(1.35, 0.08, PAIRS)).clip(0, 2)
    return distances, same, np.arange(PAIRS) // (PAIRS // FOLDS)


def metric_part(context: Context) -> Table:
    distances, same, folds = drawn_pairs()
    candidates, notes = [], []
    theirs = reference_metrics(context)
    if theirs is not None:
        notes.append(check_metrics(theirs, distances, same, folds))
        candidates.append(Candidate("reference", lambda: theirs(distances, same), 1))
    for name, rule in (("reference's", "reference"), ("exact", "exact")):
        work = metric_work(distances, same, folds, rule)
        candidates.append(Candidate(f"facenet, {name} thresholds", work, 20))
    return measure("eval", "Metrics of 6,000 pairs", "evaluation", candidates, rounds=context.rounds, notes=notes)


def metric_work(distances: np.ndarray, same: np.ndarray, folds: np.ndarray, rule: Any) -> Callable[[], Any]:
    return lambda: [evaluate_pairs(distances, same, folds, thresholds=rule) for _ in range(20)]


def reference_metrics(context: Context) -> Callable[..., Any] | None:
    """Its `evaluate`; current SciPy refuses the repeated rates of its interpolation, so NumPy's takes that one place."""
    module = context.peers.reference("utils.utils_metrics")
    if module is None:
        return None

    class Interpolate:
        @staticmethod
        def interp1d(x: np.ndarray, y: np.ndarray, kind: str) -> Callable[[float], Any]:
            return lambda at: np.interp(at, x, y)

    module.interpolate = Interpolate
    return module.evaluate  # type: ignore[no-any-return]


def check_metrics(theirs: Callable[..., Any], distances: np.ndarray, same: np.ndarray, folds: np.ndarray) -> str:
    _, _, accuracy, tar, _, far, _ = theirs(distances, same)
    ours = evaluate_pairs(distances, same, folds, thresholds="reference")
    apart = max(
        np.abs(accuracy - ours.fold_accuracies).max(),
        abs(tar - ours.tar_at_far[1e-3].tar),
        abs(far - ours.tar_at_far[1e-3].far),
    )
    require(apart < 1e-9, f"metrics differ from the reference's by {apart}")
    return f"accuracy of each fold, TAR and FAR equal to the reference's within {apart:.0e}"


def whole_evaluation(context: Context) -> tuple[Table, float]:
    """A slice of LFW's shape: 1.558 images of pairs to each unique image, as in its list."""
    unique = 24 if context.quick else 120
    num_pairs = round(unique * PAIRS / LFW_IMAGES)
    faces = FolderFaces(context.faces)
    used = np.arange(unique)
    rng = np.random.default_rng(0)
    both = np.concatenate([used, rng.integers(unique, size=2 * num_pairs - unique)])
    left, right = rng.permutation(both).reshape(2, -1)
    same, folds = np.arange(num_pairs) % 2 == 0, np.arange(num_pairs) // 2 % 2
    network = FaceNet(trunk=MobileNetV1(init="kaiming")).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    settle(network)
    counted = Counted(network.Bottleneck)  # folding keeps this layer
    candidates, notes = [], []
    theirs = reference_evaluation(context, network, [faces.name(i) for i in left], [faces.name(i) for i in right])
    if theirs is not None:
        candidates.append(Candidate("reference, both images of each pair", theirs, num_pairs, before=as_peers))
    for dtype in context.dtypes:
        device = Accelerator("cpu", Precision(dtype=dtype), rank=0, local_rank=0, world_size=1)
        device.start_precision()

        def work(device: Accelerator = device) -> Any:
            rows = embed(
                network, Subset(faces, used, keep_labels=True), PREPROCESS, device, batch_size=32, num_workers=0
            )
            return rows, verify(rows, left, right, same, folds, Protocol(thresholds="reference"))

        counted.images = 0
        rows = work()[0]
        if dtype == "fp32":
            once, plain = counted.images / unique, rows
            if theirs is not None:
                apart = np.abs(np.linalg.norm(rows[left] - rows[right], axis=1) - theirs()).max()
                require(apart < 1e-3, f"distances differ from the reference's by {apart}")
                notes.append(f"distances within {apart:.0e} of the reference's")
        else:
            notes.append(f"bf16: smallest cosine to fp32 {(rows * plain).sum(axis=1).min():.5f}")
        candidates.append(Candidate(f"facenet, {dtype}", work, num_pairs, before=keep_freed_memory))
    require(once == 1, f"{once} forwards per unique image")
    title = "Evaluation from files to metrics, mobilenet, one thread"
    return measure("eval", title, "pair", candidates, rounds=context.rounds, notes=notes), once


def settle(network: FaceNet) -> None:
    """Batch statistics near those of data, so that embeddings differ."""
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.rand(16, 3, 160, 160))
    network.eval()


class Counted:
    """The images that pass a layer."""

    def __init__(self, layer: torch.nn.Module) -> None:
        self.images = 0
        layer.register_forward_hook(self.count)

    def count(self, module: Any, given: tuple[Any, ...], result: Any) -> None:
        self.images += len(given[0])


def reference_evaluation(
    context: Context, network: FaceNet, left: list[str], right: list[str]
) -> Callable[[], np.ndarray] | None:
    """Its loader's pixels, its network and its two forwards per pair, in its batches of 32; the metric part is timed apart."""
    module, tools = context.peers.reference("nets.facenet"), context.peers.reference("utils.utils")
    if module is None or tools is None:
        return None
    from PIL import Image

    theirs = module.Facenet(backbone="mobilenet", mode="predict").eval()
    theirs.load_state_dict({key: value.clone().contiguous() for key, value in network.state_dict().items()})

    def pixels(path: str) -> np.ndarray:
        image = tools.resize_image(Image.open(path), [160, 160], letterbox_image=True)
        return np.transpose(tools.preprocess_input(np.array(image, np.float32)), [2, 0, 1])

    def work() -> np.ndarray:
        found = []
        with torch.no_grad():
            for start in range(0, len(left), 32):
                one, two = (
                    theirs(torch.from_numpy(np.stack([pixels(path) for path in paths[start : start + 32]])))
                    for paths in (left, right)
                )
                found.append(torch.sqrt(torch.sum((one - two) ** 2, 1)))
        return torch.cat(found).numpy()

    require(
        pixels(left[0]).shape == PREPROCESS(read_image(left[0])).transpose(2, 0, 1).shape, "shapes of pixels differ"
    )
    return work
