"""Training steps against the reference's, both backbones; and a loader-fed step against one on a batch that lies ready. Goals 1 and 5."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from bench.allocation import as_peers
from bench.context import NO_BF16, Context, Outcome, require
from bench.data_subject import BATCH, our_batches, reference_batches
from bench.goals import Goal
from bench.rounds import Candidate, Table, measure, num_cores
from facenet.backbones.embedder import FaceNet
from facenet.backbones.inception_resnet_v1 import InceptionResNetV1
from facenet.backbones.mobilenet_v1 import MobileNetV1
from facenet.data.feed.loader import Batch, Loader
from facenet.data.identities import FolderFaces
from facenet.data.layout import Layout
from facenet.data.sampling.sampler import TripletSampler
from facenet.data.transforms import Augment, Preprocess
from facenet.devices.accelerator import Accelerator
from facenet.devices.host_memory import keep_freed_memory
from facenet.devices.table import Precision
from facenet.engine.progress import Progress
from facenet.engine.schedule import Constant
from facenet.engine.train_step import TrainStep
from facenet.engine.trainer import Settings, Trainer
from facenet.losses.heads import SoftmaxHead
from facenet.losses.mix import LossMix
from facenet.losses.triplet import TripletLoss

NUM_IDENTITIES = 10_575
NETWORKS = {"mobilenet": MobileNetV1, "inception_resnetv1": InceptionResNetV1}
FLOPS = {"mobilenet": 1.75e9, "inception_resnetv1": 8.5e9}  # forward and backward of one 160 px image
WANTED = {"mobilenet": (1.4, 2.7), "inception_resnetv1": (1.15, 2.7)}  # fp32, bf16
PREPROCESS = Preprocess(size=[160, 160])


def run(context: Context) -> Outcome:
    torch.set_num_threads(1 if context.quick else num_cores())
    size = 12 if context.quick else 96
    tables, goals = [], []
    for name in ["mobilenet"] if context.quick else NETWORKS:
        table = compared(context, name, size)
        tables.append(table)
        goals += step_goals(name, table)
    whole = None if context.quick else end_to_end(context)
    fed = feeding(context, size)
    goals.append(
        Goal(
            "1.1",
            "loader + step against the step alone, wall",
            0.9,
            fed.row("from files, 2 threads").wall_ratio,
            limit="decoding shares the cores with the convolutions",
        )
    )
    if whole is not None:
        tables.append(whole)
        for number, dtype in (("1.2", "fp32"), ("1.3", "bf16")):
            text = f"from files to updated weights against the reference, mobilenet {dtype}, wall"
            against = whole.has("reference, 2 workers")
            goals.append(ours_goal(number, text, 2.5, whole, dtype, "the step", against=against))
    bare = overhead(context, size)
    goals.append(
        Goal(
            "5.7",
            "trainer against a bare loop, CPU",
            1.02,
            None if bare.rows[1].ratio is None else 1 / bare.rows[1].ratio,
            at_most=True,
            limit="below the noise of this measurement",
        )
    )
    return Outcome([*tables, fed, bare], goals)


def compared(context: Context, name: str, size: int) -> Table:
    batch = ready_batch(size)
    peak = {dtype: FLOPS[name] / context.limits[f"conv_{dtype}_flops"] for dtype in context.dtypes}
    candidates, notes = [], ["limit: the network's multiply-adds at this machine's peak of a convolution"]
    theirs = reference_step(context, name, batch)
    if theirs is not None:
        notes.append(check_loss(context, name, batch))
        candidates.append(Candidate("reference, fp32", theirs, size, before=ready(as_peers, theirs)))
    for dtype in context.dtypes:
        ours = our_step(name, dtype, batch)
        candidates.append(
            Candidate(f"facenet, {dtype}", ours, size, peak[dtype], before=ready(keep_freed_memory, ours))
        )
    title = f"Training step, {name}, batch {size}, {torch.get_num_threads()} threads"
    return measure("step", title, "image", candidates, rounds=context.rounds, notes=notes)


def ready(memory: Callable[[], Any], step: Callable[[], Any]) -> Callable[[], None]:
    """Memory as the project has it, and one step: the other project's turn left the heap in its own state."""

    def work() -> None:
        memory()
        step()

    return work


def step_goals(name: str, table: Table) -> list[Goal]:
    fp32, bf16 = WANTED[name]
    short, number = ("inception", "5.3") if name.startswith("inception") else ("mobilenet", "5.1")
    after = f"{float(number) + 0.1:.1f}"
    limit = "depthwise convolutions backward and batch norm" if short == "mobilenet" else "convolutions backward"
    found = [
        ours_goal(number, f"{short} fp32, wall", fp32, table, "fp32", limit),
        ours_goal(after, f"{short} bf16, wall", bf16, table, "bf16", limit),
    ]
    if short == "inception":
        share = table.row("facenet, bf16").of_limit if table.has("facenet, bf16") else None
        found.append(
            Goal("5.5", "inception bf16, share of the convolution peak", 0.6, share, limit=limit if share else NO_BF16)
        )
    return found


def ours_goal(
    number: str, text: str, wanted: float, table: Table, dtype: str, limit: str, *, against: bool = True
) -> Goal:
    """Wall ratio of our row in this precision, where there is one to take."""
    if not table.has(f"facenet, {dtype}"):
        return Goal(number, text, wanted, None, limit=NO_BF16)
    return Goal(number, text, wanted, table.row(f"facenet, {dtype}").wall_ratio if against else None, limit=limit)


def ready_batch(size: int) -> Batch:
    rng = np.random.default_rng(0)
    third = rng.integers(NUM_IDENTITIES, size=size // 3)
    labels = np.concatenate([third, third, (third + 1) % NUM_IDENTITIES])
    images = rng.integers(0, 256, (size, 160, 160, 3)).astype(np.uint8)
    return Batch(torch.from_numpy(images), torch.from_numpy(labels), np.arange(size))


def our_trainer(name: str, dtype: Any, size: int, *, dropout: float = 0.5) -> Trainer:
    torch.manual_seed(0)
    device = Accelerator("cpu", Precision(dtype=dtype), rank=0, local_rank=0, world_size=1)
    device.start_precision()
    loss = LossMix(
        terms={"triplet": {"weight": 1.0, "loss": TripletLoss()}, "ce": {"weight": 1.0, "loss": SoftmaxHead()}}
    )
    loss.start(embedding_size=128, num_identities=NUM_IDENTITIES, layout=Layout("triplet"))
    module = TrainStep(FaceNet(trunk=NETWORKS[name](), dropout=dropout), loss, PREPROCESS, device)
    schedule = Constant()
    trainer = Trainer(
        device.prepare(module),
        device.optimizer(torch.optim.Adam, list(module.parameters()), lr=1e-3),
        schedule,
        device,
        Settings(log_every=20),
        total_steps=10**9,
    )
    schedule.start(trainer.optimizer, batch_size=size, steps_per_epoch=1000, epochs=1)
    return trainer


def our_step(name: str, dtype: str, batch: Batch, steps: int = 1) -> Callable[[], Any]:
    trainer = our_trainer(name, dtype, len(batch.labels))
    return lambda: trainer.train_epoch(iter_of(batch, steps), Progress())


def iter_of(batch: Batch, steps: int) -> Iterator[Batch]:
    yield from itertools.repeat(batch, steps)


def reference_network(context: Context, name: str, num_identities: int = NUM_IDENTITIES) -> Any | None:
    module = context.peers.reference("nets.facenet")
    if module is None:
        return None
    torch.manual_seed(0)
    return module.Facenet(backbone=name, num_classes=num_identities, mode="train").train()


def reference_loss(context: Context, network: Any, images: torch.Tensor, labels: torch.Tensor) -> tuple[Any, ...]:
    """Of the reference's own network and triplet loss, put together as its `fit_one_epoch` does."""
    outputs, logits = network(images, "train")
    triplet = context.peers.reference("nets.facenet_training").triplet_loss()(outputs, len(labels) // 3)
    return triplet, torch.nn.NLLLoss()(functional.log_softmax(logits, dim=-1), labels), logits


def reference_step(context: Context, name: str, batch: Batch) -> Callable[[], Any] | None:
    trained = reference_training(context, name)
    images, labels = as_float(batch), batch.labels
    return None if trained is None else lambda: trained(images, labels)


def reference_training(
    context: Context, name: str, num_identities: int = NUM_IDENTITIES
) -> Callable[[torch.Tensor, torch.Tensor], None] | None:
    """One step of its `fit_one_epoch` on images (N, 3, H, W) and labels (N,)."""
    network = reference_network(context, name, num_identities)
    if network is None:
        return None
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        triplet, entropy, logits = reference_loss(context, network, images, labels)
        (triplet + entropy).backward()
        optimizer.step()
        with torch.no_grad():
            right = (functional.softmax(logits, dim=-1).argmax(dim=-1) == labels).type(torch.FloatTensor).mean()
        triplet.item(), entropy.item(), right.item()

    return step


def as_float(batch: Batch) -> torch.Tensor:
    return batch.images.permute(0, 3, 1, 2).contiguous().float() / 255


def check_loss(context: Context, name: str, batch: Batch) -> str:
    """The same weights and images give the same loss, without dropout."""
    network = reference_network(context, name)
    network.Dropout.p = 0.0
    trainer = our_trainer(name, "fp32", len(batch.labels), dropout=0.0)
    state = network.state_dict()
    trainer.embedder.load_state_dict({key: value for key, value in state.items() if not key.startswith("classifier")})
    head = trainer.loss.terms["ce"]
    with torch.no_grad():
        head.weight.copy_(state["classifier.weight"])
        head.bias.copy_(state["classifier.bias"])
        triplet, entropy, _ = reference_loss(context, network, as_float(batch), batch.labels)
        trainer.step_module.train()
        ours = float(trainer.step_module(batch.images, batch.labels)[0])
    apart = abs(ours - float(triplet + entropy)) / float(triplet + entropy)
    require(apart < 1e-4, f"{name}: loss {ours} against the reference's {float(triplet + entropy)}")
    return f"loss within {apart:.1e} of the reference's"


def feeding(context: Context, size: int) -> Table:
    """mobilenet in the fastest precision: the same trainer on a batch that lies ready and on batches from files."""
    keep_freed_memory()
    batch, steps, dtype = ready_batch(size), 2 if context.quick else 3, context.dtypes[-1]
    trainer = our_trainer("mobilenet", dtype, size)
    faces = FolderFaces(context.faces)
    loader = Loader(faces, PREPROCESS, Augment(flip=0.5), num_workers=2)

    def fed() -> None:
        indices = TripletSampler().batches(
            faces.labels, batch_size=size, num_batches=steps, epoch=0, seed=0, rank=0, world_size=1
        )
        trainer.train_epoch(loader.epoch(indices), Progress())

    ready = Candidate(
        "a batch that lies ready", lambda: trainer.train_epoch(iter_of(batch, steps), Progress()), size * steps
    )
    return measure(
        "step",
        f"Step fed from files, mobilenet {dtype}, batch {size}",
        "image",
        [ready, Candidate("from files, 2 threads", fed, size * steps)],
        rounds=context.rounds,
    )


def reference_end_to_end(
    context: Context,
    faces: FolderFaces,
    trained: Callable[[torch.Tensor, torch.Tensor], None] | None,
    default_steps: int,
) -> list[Candidate]:
    """The reference's loader with 2 workers and its training; empty where one of them is absent."""
    if trained is None or context.peers.reference("utils.dataloader") is None:
        return []

    def theirs(steps: int = default_steps) -> None:
        for images, labels in itertools.islice(reference_batches(context, faces, 2), steps):
            trained(images, labels)

    before = ready(as_peers, functools.partial(theirs, 1))
    return [Candidate("reference, 2 workers", theirs, BATCH * default_steps, before=before)]


def end_to_end(context: Context) -> Table:
    """mobilenet, batch 96: files to updated weights on all cores, each project's loader with 2 workers. Each round starts its loader anew."""
    steps, faces = 4, FolderFaces(context.faces)
    candidates = reference_end_to_end(context, faces, reference_training(context, "mobilenet"), steps)
    for dtype in context.dtypes:
        trainer = our_trainer("mobilenet", dtype, BATCH)

        def ours(steps: int = steps, trainer: Trainer = trainer) -> None:
            trainer.train_epoch(our_batches(faces, 2, steps), Progress())

        before = ready(keep_freed_memory, functools.partial(ours, 1))
        candidates.append(Candidate(f"facenet, {dtype}", ours, BATCH * steps, before=before))
    title = f"From files to updated weights, mobilenet, batch {BATCH}, {torch.get_num_threads()} threads"
    return measure("step", title, "image", candidates, rounds=context.rounds)


def overhead(context: Context, size: int) -> Table:
    """mobilenet, one batch: forward, backward and optimizer alone against the trainer's epoch with its figures, schedule and averages."""
    keep_freed_memory()
    batch, steps, dtype = ready_batch(size), 2, context.dtypes[-1]
    bare, whole = (our_trainer("mobilenet", dtype, size) for _ in range(2))
    bare.step_module.train()

    def loop() -> None:
        for _ in range(steps):
            loss, _ = bare.step_module(batch.images, batch.labels)
            loss.backward()
            bare.optimizer.step()
            bare.optimizer.zero_grad(set_to_none=True)

    return measure(
        "step",
        f"The trainer around a step, mobilenet {dtype}, batch {size}",
        "image",
        [
            Candidate("forward, backward, optimizer", loop, size * steps),
            Candidate("trainer", lambda: whole.train_epoch(iter_of(batch, steps), Progress()), size * steps),
        ],
        rounds=context.rounds,
    )
