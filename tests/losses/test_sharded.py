"""Heads whose identities are spread over processes, against the heads that every process has whole; real processes over gloo."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from facenet.accelerator import Accelerator, DeviceChoice, Precision
from facenet.errors import UserError
from facenet.losses.heads import MarginHead, SoftmaxHead
from facenet.losses.sharded import CHUNK, Rows, ShardedMarginHead, ShardedSoftmaxHead
from facenet.spread_rows import share

NUM_IDENTITIES = 11


def started(head: Any, size: int = 16, num_identities: int = NUM_IDENTITIES, seed: int = 3) -> Any:
    torch.manual_seed(seed)
    head.start(embedding_size=size, num_identities=num_identities)
    return head


def batch(num_images: int = 8, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(num_images, size, generator=generator)
    return features, torch.randint(0, NUM_IDENTITIES, (num_images,), generator=generator)


def ended(head: Any, features: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss, figures = head(features, functional.normalize(features), labels, triplets=False)
    return loss, figures


def test_shares_are_in_order_and_of_nearly_one_size() -> None:
    for num_rows, world_size in ((11, 3), (3, 3), (1_000_000, 7)):
        shares = [share(num_rows, rank, world_size) for rank in range(world_size)]
        assert shares[0].start == 0 and shares[-1].stop == num_rows
        assert all(one.stop == other.start for one, other in zip(shares, shares[1:], strict=False))
        assert len({each.stop - each.start for each in shares}) <= 2


@pytest.mark.parametrize(
    ("dense", "sharded"),
    [
        (SoftmaxHead, ShardedSoftmaxHead),
        (lambda: MarginHead(kind="cosface"), lambda: ShardedMarginHead(kind="cosface")),
    ],
)
def test_the_first_weights_are_those_of_the_whole_head_to_the_bit(dense: Any, sharded: Any) -> None:
    expected, found = (started(make(), num_identities=CHUNK + 37).state_dict() for make in (dense, sharded))
    assert expected.keys() == found.keys()  # so a file of either is a file of the other
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# In every process: what one process with the whole head computes on the whole batch. `options` are of both heads.
EQUAL = """
import torch
from torch import nn
from torch.nn import functional
from facenet import collectives
from facenet.accelerator import Accelerator, DeviceChoice, Precision
from facenet.distributed import Distributed
from facenet.engine import whole
from facenet.engine.muon import Muon
from facenet.losses.heads import MarginHead, SoftmaxHead
from facenet.losses.mix import LossMix
from facenet.losses.sharded import ShardedMarginHead, ShardedSoftmaxHead
from facenet.losses.triplet import TripletLoss

started = Accelerator.start(DeviceChoice(name="cpu"), Precision(), timeout_s=60)
device = started.__enter__()
rank, world = device.rank, device.world_size
LOCAL, SIZE, NUM_IDENTITIES = 6, 4, 11  # which neither 2 nor 3 divides
generator = torch.Generator().manual_seed(0)
steps = [
    (torch.randn(world * LOCAL, 5, generator=generator), torch.randint(0, NUM_IDENTITIES, (world * LOCAL,), generator=generator))
    for _ in range(8)
]
mine = slice(rank * LOCAL, (rank + 1) * LOCAL)


class Step(nn.Module):
    def __init__(self, head):
        super().__init__()
        torch.manual_seed(1)
        self.network = nn.Linear(5, SIZE)
        terms = {"head": {"weight": 0.7, "loss": head}, "triplet": {"weight": 0.3, "loss": TripletLoss(mining="batch_hard", gather=True)}}
        self.loss = LossMix(terms=terms)
        self.loss.start(embedding_size=SIZE, num_identities=NUM_IDENTITIES)

    def forward(self, images, labels, gather=None):
        features = self.network(images)
        self.features = features
        value = self.loss(features, labels, triplets=False, gather=gather)
        return value.total, value.scalars


def near(found, expected, what, tolerance=1e-5):
    gap = ((found - expected).abs().max() / expected.abs().max().clamp_min(1)).item()
    assert gap < tolerance, (what, gap)


KINDS = {
    "softmax": ({"label_smoothing": 0.1}, SoftmaxHead, ShardedSoftmaxHead),
    "arcface": ({"kind": "arcface", "scale": 8.0, "warmup_steps": 3}, MarginHead, ShardedMarginHead),
    "cosface": ({"kind": "cosface", "scale": 64.0, "margin": 0.35}, MarginHead, ShardedMarginHead),
}
OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
}
for kind, (options, dense, sharded) in KINDS.items():
    for optimizer_name, clip, parts, static in (("adamw", None, 1, False), ("sgd", 0.05, 1, True), ("sgd", 0.05, 2, False)):
        case = (kind, optimizer_name, clip, parts)
        reference, bare = Step(dense(**options)), Step(sharded(**options))
        ours = device.prepare(bare, Distributed(static_graph=static and world > 1))
        theirs_optimizer, optimizer = (OPTIMIZERS[optimizer_name](list(module.parameters())) for module in (reference, bare))
        for number in range(0, len(steps), parts):
            for part, (images, labels) in enumerate(steps[number : number + parts]):
                expected, expected_figures = reference(images, labels)
                (expected / parts).backward()
                sending = contextlib.nullcontext() if part == parts - 1 else collectives.local_gradients(ours)
                with sending:
                    loss, figures = ours(images[mine], labels[mine], collectives.gather_batch)
                    (loss / parts).backward()
                near(loss, expected, (case, "loss", number))
                for name, value in expected_figures.items():
                    near(figures[name], value, (case, name, number), 1e-6 if name.endswith("accuracy") else 1e-5)
            near(bare.network.weight.grad, reference.network.weight.grad, (case, "gradient", number))
            share = collectives.share(NUM_IDENTITIES)
            near(bare.loss.terms["head"].weight.grad, reference.loss.terms["head"].weight.grad[share], (case, "rows", number))
            device.step(optimizer, clip_grad_norm=clip, guard=True)
            if clip is not None:
                norm = nn.utils.clip_grad_norm_(reference.parameters(), clip)
                assert number or norm > clip  # else it shows nothing
            theirs_optimizer.step()
            theirs_optimizer.zero_grad()
        whole_head = whole.module_state(bare.loss, everywhere=True)
        for name, value in reference.loss.state_dict().items():
            near(whole_head[name], value, (case, name))
        near(bare.network.weight, reference.network.weight, (case, "network"))
        ours.eval(), reference.eval()
        with torch.no_grad():
            near(ours(images[mine], labels[mine], collectives.gather_batch)[0], reference(images, labels)[0], (case, "validation"))

        # The file of the whole: what one process would have written, and what each takes its rows from.
        state, expected_state = whole.optimizer_state(optimizer), theirs_optimizer.state_dict()
        if rank == 0:
            for index, entry in expected_state["state"].items():
                for name, value in entry.items():
                    near(state["state"][index][name], value, (case, index, name))
        again = Step(sharded(**options))
        whole.load_module_state(again.loss, whole_head)
        assert all(torch.equal(a, b) for a, b in zip(again.loss.state_dict().values(), bare.loss.state_dict().values(), strict=True))
        fresh = OPTIMIZERS[optimizer_name](list(again.parameters()))
        whole.load_optimizer_state(fresh, expected_state)
        for index, entry in optimizer.state_dict()["state"].items():
            for name, value in entry.items():
                near(fresh.state_dict()["state"][index][name], value, (case, index, name, "taken up"))

# Rows of a part are no matrix to turn: they go to the AdamW of Muon.
bare = Step(ShardedMarginHead(kind="arcface"))
groups = {group["muon"]: len(group["params"]) for group in Muon(list(bare.parameters())).param_groups}
assert groups == {True: 1, False: 2}, groups

# Of equal logits the lowest identity counts, in whichever process it is.
head = ShardedSoftmaxHead()
head.start(embedding_size=SIZE, num_identities=NUM_IDENTITIES)
nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
rows = torch.randn(2, SIZE)
for label, hits in ((0, 1.0), (NUM_IDENTITIES - 1, 0.0)):
    figures = head(rows, functional.normalize(rows), torch.full((2,), label), triplets=False)[1]
    assert figures["accuracy"].item() == hits
"""

END = """
started.__exit__(None, None, None)
"""


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_with_nothing_sampled_it_is_the_whole_head(together: Any, num_processes: int) -> None:
    together("import contextlib\n" + EQUAL + END, num_processes)
