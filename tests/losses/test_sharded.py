"""Heads whose identities are spread over processes, against the heads that every process has whole; real processes over gloo."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.nn import functional

from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DeviceChoice, Precision
from facenet.distributed.spread_rows import rows_of_whole, share
from facenet.engine.muon import Muon
from facenet.errors import UserError
from facenet.losses.heads import MarginHead, SoftmaxHead
from facenet.losses.sharded import CHUNK, ShardedMarginHead, ShardedSoftmaxHead

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
    loss, figures = head(features, functional.normalize(features), labels)
    return loss, figures


def test_shares_are_in_order_and_of_nearly_one_size() -> None:
    for num_rows, world_size in ((11, 3), (3, 3), (1_000_000, 7)):
        shares = [share(num_rows, rank, world_size) for rank in range(world_size)]
        assert shares[0].start == 0 and shares[-1].stop == num_rows
        assert all(one.stop == other.start for one, other in itertools.pairwise(shares))
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


def sampled_softmax(sample: float = 0.4, **options: Any) -> Any:
    return started(ShardedSoftmaxHead(sample=sample), **options)


def sampled_margin(sample: float = 0.4, **options: Any) -> Any:
    return started(ShardedMarginHead(kind="arcface", scale=8.0, sample=sample), **options)


def drawn_by(head: Any, labels: torch.Tensor) -> list[int]:
    places, _ = head.rows.of_step(labels)
    return places.tolist()


def test_a_step_draws_the_identities_of_the_batch_and_others_up_to_a_fixed_number() -> None:
    labels = torch.tensor([3, 700, 3, 999])
    head = sampled_margin(0.1, num_identities=1000)
    draws = [drawn_by(head, labels) for _ in range(200)]
    assert all(len(places) == 100 and {3, 700, 999} <= set(places) for places in draws)
    assert all(places == sorted(set(places)) for places in draws)
    counts = torch.bincount(torch.tensor(draws).flatten(), minlength=1000)
    others = counts[[i for i in range(1000) if i not in (3, 700, 999)]].float()
    # 97 of 997, 200 times: 19.5 on average, and a spread of 4.2 if the draws know nothing of each other
    assert others.mean().item() == pytest.approx(200 * 97 / 997) and others.std().item() == pytest.approx(4.2, rel=0.1)
    overlaps = [len(set(one) & set(other)) for one, other in itertools.pairwise(draws)]
    assert sum(overlaps) / len(overlaps) == pytest.approx(3 + 97 * 97 / 997, rel=0.1)


def test_a_draw_is_a_function_of_seed_and_step() -> None:
    labels = torch.tensor([1])
    first, second = (sampled_margin(0.1, num_identities=500, seed=5) for _ in range(2))
    draws = [drawn_by(first, labels) for _ in range(4)]
    assert [drawn_by(second, labels) for _ in range(4)] == draws and len(set(map(tuple, draws))) == 4
    third = sampled_margin(0.1, num_identities=500, seed=6)
    assert drawn_by(third, labels) != draws[0]
    third.load_state_dict({**third.state_dict(), "rows.key": first.rows.key, "rows.num_draws": torch.tensor(2)})
    assert [drawn_by(third, labels) for _ in range(2)] == draws[2:]
    third.eval()
    assert third.rows.of_step(labels)[0] is None and third.rows.num_draws == 4


def test_a_batch_of_more_identities_than_the_share_has_all_of_them() -> None:
    labels = torch.arange(40) % 25
    assert set(drawn_by(sampled_margin(0.1, num_identities=50), labels)) >= set(range(25))
    assert len(drawn_by(sampled_margin(0.1, num_identities=50), labels)) == 40
    assert drawn_by(sampled_margin(0.1, num_identities=30), labels) == list(range(30))


@pytest.mark.parametrize("make", [sampled_softmax, sampled_margin])
def test_the_loss_and_its_gradients_are_those_of_a_head_with_the_drawn_identities_alone(make: Any) -> None:
    features, labels = batch()
    twin, head = make(num_identities=40), make(num_identities=40)
    places = drawn_by(twin, labels)
    alone: Any = SoftmaxHead() if make is sampled_softmax else MarginHead(kind="arcface", scale=8.0)
    started(alone, num_identities=len(places))
    alone.load_state_dict({name: value[places] for name, value in head.named_parameters()}, strict=False)
    own, other = features.clone().requires_grad_(), features.clone().requires_grad_()
    expected, figures = ended(alone, other, torch.tensor([places.index(label) for label in labels]))
    loss, found = ended(head, own, labels)
    expected.backward(), loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6) and found["accuracy"] == figures["accuracy"]
    assert own.grad is not None and other.grad is not None
    torch.testing.assert_close(own.grad, other.grad)
    assert head.weight.grad is None and head.weight.drawn.places.tolist() == places
    torch.testing.assert_close(head.weight.drawn.rows.grad, alone.weight.grad)
    head.eval()  # all identities
    assert ended(head, own, labels)[0] > loss


OPTIMIZERS: dict[str, Any] = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.2),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.2),
    "muon": lambda parameters: Muon(parameters, adamw_lr=0.1, weight_decay=0.2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_that_are_not_drawn_rest_with_their_state(name: str) -> None:
    head = sampled_softmax(num_identities=30)
    make = OPTIMIZERS[name]
    optimizer = make(list(head.parameters()))
    with Accelerator.start(DeviceChoice(name="cpu"), Precision()) as device:
        for step in range(5):
            features, labels = batch()
            before = {key: value.clone() for key, value in head.named_parameters()}
            states = {
                key: {
                    each: value.clone() for each, value in optimizer.state[p].items() if isinstance(value, torch.Tensor)
                }
                for key, p in head.named_parameters()
            }
            ended(head, features, labels)[0].backward()
            places = head.weight.drawn.places
            rest = [i for i in range(30) if i not in places.tolist()]
            # What an optimizer that has only ever known these rows would do, from the state that they have.
            small = {key: torch.nn.Parameter(value[places]) for key, value in before.items()}
            for key, parameter in head.named_parameters():
                small[key].grad = parameter.drawn.rows.grad.clone()
                small[key].num_rows = 30
            by_hand = make(list(small.values()))
            if step:
                for key, parameter in small.items():
                    by_hand.state[parameter].update(
                        {
                            each: v[places] if len(v.shape) and len(v) == 30 else v.clone()
                            for each, v in states[key].items()
                        }
                    )
                    if name == "muon":
                        by_hand.state[parameter]["step"] = step
            by_hand.step()
            device.step(optimizer, guard=step % 2 == 0)
            for key, parameter in head.named_parameters():
                torch.testing.assert_close(parameter[places], small[key], rtol=0, atol=0)
                assert parameter.grad is None and parameter.drawn is None
                assert torch.equal(parameter[rest], before[key][rest])
                tables = {
                    each: v
                    for each, v in optimizer.state[parameter].items()
                    if getattr(v, "shape", ()) == parameter.shape
                }
                assert tables and (
                    step == 0 or all(torch.equal(v[rest], states[key][each][rest]) for each, v in tables.items())
                )


def test_a_step_left_out_changes_no_row() -> None:
    head = sampled_margin(num_identities=30)
    optimizer = torch.optim.AdamW(head.parameters())
    features, labels = batch()
    before = head.weight.detach().clone()
    with Accelerator.start(DeviceChoice(name="cpu"), Precision()) as device:
        ended(head, features * torch.nan, labels)[0].backward()
        assert not device.step(optimizer, guard=True, clip_grad_norm=1.0)
    assert torch.equal(head.weight, before)


def test_the_margin_rises_here_too() -> None:
    features, labels = batch()
    seen = [
        [ended(head, features, labels)[0].item() for _ in range(5)]
        for head in (
            started(make(kind="cosface", scale=4.0, margin=0.4, warmup_steps=3))
            for make in (MarginHead, ShardedMarginHead)
        )
    ]
    assert seen[1] == pytest.approx(seen[0]) and len(set(seen[0])) == 4


def test_rows_stay_marked_where_a_move_makes_new_parameters() -> None:
    head = sampled_softmax()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        before = head.weight
        head.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    assert head.weight is not before
    assert [rows_of_whole(parameter) for parameter in head.parameters()] == [NUM_IDENTITIES] * 2


def test_options_that_make_no_sense() -> None:
    for sample in (0.0, 1.1, -1.0):
        with pytest.raises(UserError, match="sample is a share"):
            ShardedMarginHead(kind="arcface", sample=sample)
    with pytest.raises(UserError, match="label_smoothing spreads over all identities"):
        ShardedSoftmaxHead(label_smoothing=0.1, sample=0.5)


SETUP = """
import contextlib
import torch
from torch import nn
from torch.nn import functional
from facenet.distributed import collectives
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DeviceChoice, Precision
from facenet.distributed.choice import Distributed
from facenet.engine import run_state
from facenet.engine.muon import Muon
from facenet.errors import UserError
from facenet.losses import sharded
from facenet.losses.heads import MarginHead, SoftmaxHead
from facenet.losses.mix import LossMix
from facenet.losses.sharded import ShardedMarginHead, ShardedSoftmaxHead
from facenet.losses.triplet import TripletLoss

started = Accelerator.start(DeviceChoice(name="cpu"), Precision(), timeout_s=300)
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
        value = self.loss(features, labels, gather=gather)
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
"""

# In every process: what one process with the whole head computes on the whole batch. `options` are of both heads.
EQUAL = """
for kind, (options, whole_head, spread_head) in KINDS.items():
    for optimizer_name, clip, parts, static in (("adamw", None, 1, False), ("sgd", 0.05, 1, True), ("sgd", 0.05, 2, False)):
        case = (kind, optimizer_name, clip, parts)
        reference, bare = Step(whole_head(**options)), Step(spread_head(**options))
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
        together = run_state.module_state(bare.loss, everywhere=True)
        for name, value in reference.loss.state_dict().items():
            near(together[name], value, (case, name))
        near(bare.network.weight, reference.network.weight, (case, "network"))
        ours.eval(), reference.eval()
        with torch.no_grad():
            near(ours(images[mine], labels[mine], collectives.gather_batch)[0], reference(images, labels)[0], (case, "validation"))

        # The file of the whole: what one process would have written, and what each takes its rows from.
        state, expected_state = run_state.optimizer_state(optimizer), theirs_optimizer.state_dict()
        if rank == 0:
            for index, entry in expected_state["state"].items():
                for name, value in entry.items():
                    near(state["state"][index][name], value, (case, index, name))
        again = Step(spread_head(**options))
        run_state.load_module_state(again.loss, together)
        assert all(torch.equal(a, b) for a, b in zip(again.loss.state_dict().values(), bare.loss.state_dict().values(), strict=True))
        fresh = OPTIMIZERS[optimizer_name](list(again.parameters()))
        run_state.load_optimizer_state(fresh, expected_state)
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
    figures = head(rows, functional.normalize(rows), torch.full((2,), label))[1]
    assert figures["accuracy"].item() == hits
"""

END = """
started.__exit__(None, None, None)
"""


@pytest.mark.parametrize("num_processes", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_with_nothing_sampled_it_is_the_whole_head(together: Any, num_processes: int) -> None:
    together(SETUP + EQUAL + END, num_processes)


SAMPLED = """
# The same first weights everywhere, and together again what they were, chunk by chunk.
sharded.CHUNK, collectives.CHUNK = 4, 2
torch.manual_seed(2)
head = ShardedMarginHead(kind="arcface")
head.start(embedding_size=16, num_identities=NUM_IDENTITIES)
torch.manual_seed(2)
first = torch.randn(NUM_IDENTITIES, 16) / 4
assert torch.equal(head.weight, first[collectives.share(NUM_IDENTITIES)])
for everywhere in (True, False):
    found = collectives.whole(head.weight.detach(), NUM_IDENTITIES, everywhere=everywhere)
    assert torch.equal(found, first if everywhere or rank == 0 else torch.empty(0))
sharded.CHUNK = 65536

# Sampled over processes: the loss of the whole batch over the rows that the processes drew, and its gradients.
head = ShardedMarginHead(kind="arcface", scale=8.0, sample=0.5)
torch.manual_seed(2)
head.start(embedding_size=SIZE, num_identities=NUM_IDENTITIES)
torch.manual_seed(2)
all_rows = torch.randn(NUM_IDENTITIES, SIZE) / SIZE**0.5
own = collectives.share(NUM_IDENTITIES)
assert torch.equal(head.weight, all_rows[own])
features, labels = torch.randn(world * 2, SIZE, generator=generator), torch.tensor([0, NUM_IDENTITIES - 1] * world)
here = slice(rank * 2, rank * 2 + 2)
mine = features[here].clone().requires_grad_()
loss, figures = head(mine, functional.normalize(mine), labels[here])
loss.backward()
places = head.weight.drawn.places
sizes = [int(part) for part in collectives.gather(torch.tensor([len(places)]), [1] * world)]
parts = collectives.gather(places + own.start, sizes)
everyone = torch.cat(parts)
assert {0, NUM_IDENTITIES - 1} <= set(everyone.tolist()) and len(set(everyone.tolist())) == len(everyone)
alone = MarginHead(kind="arcface", scale=8.0)
alone.weight = nn.Parameter(all_rows[everyone])
theirs = features.clone().requires_grad_()
expected, expected_figures = alone(theirs, functional.normalize(theirs), torch.searchsorted(everyone, labels))
expected.backward()
near(loss, expected, "sampled loss")
near(figures["accuracy"], expected_figures["accuracy"], "sampled accuracy")
near(mine.grad / world, theirs.grad[here], "sampled features")  # the processes' gradients are averaged afterwards
from_here = slice(sum(map(len, parts[:rank])), sum(map(len, parts[: rank + 1])))
near(head.weight.drawn.rows.grad, alone.weight.grad[from_here], "sampled rows")

# Under a loss scale all leave a step out, whoever has the inf.
optimizer = torch.optim.SGD([head.weight], lr=1.0)
before = head.weight.detach().clone()
device.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
for bad_rank, clip in ((world - 1, None), (world - 1, 1.0), (None, 1.0)):
    loss, _ = head(mine, functional.normalize(mine), labels[here])
    device.backward(loss)
    if rank == bad_rank:
        head.weight.drawn.rows.grad[0, 0] = torch.inf
    scale, finite = device.scaler.get_scale(), device.step(optimizer, clip_grad_norm=clip, guard=True)
    assert bool(finite) == (bad_rank is None) == (not torch.equal(head.weight, before))
    assert device.scaler.get_scale() == (scale if bad_rank is None else scale / 2)
device.scaler = None

# Fewer identities than processes.
if world > 1:
    try:
        ShardedSoftmaxHead().start(embedding_size=SIZE, num_identities=world - 1)
    except UserError as error:
        assert "lower distributed.num_processes" in str(error)
    else:
        raise AssertionError("one process would have no identity")
"""


@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_draw_and_step_as_one(together: Any, num_processes: int) -> None:
    together(SETUP + SAMPLED + END, num_processes)
