"""Watchdogs fire on what they are for and on nothing else."""

import functools
import logging
import math
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from facenet.data.feed.loader import Batch
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DeviceChoice, Precision
from facenet.devices.updates import step_where
from facenet.engine.observer import FinishedEpoch, LogPoint
from facenet.engine.progress import Average
from facenet.engine.watch import signs
from facenet.engine.watch.alarm import TRY, Alarm, way_out_of_collapse
from facenet.engine.watch.choice import WATCHDOGS, Watch
from facenet.engine.watch.hang import Hang
from facenet.engine.watch.nonfinite import shortened
from facenet.engine.watch.repeats import Repeats
from facenet.engine.watch.watcher import Watcher
from facenet.errors import FAILURE, Halted, UserError
from facenet.launch.failure import Failure, noted_failures
from facenet.losses.heads import SoftmaxHead
from facenet.losses.mix import LossMix
from facenet.losses.triplet import TripletLoss
from facenet.tracking.tracker import NullTracker


class Tags(NullTracker):
    def __init__(self):
        self.found = {}

    def tag(self, name, value):
        self.found[name] = value


@pytest.fixture
def device():
    with Accelerator.start(DeviceChoice(name="cpu"), Precision()) as accelerator:
        yield accelerator


@pytest.fixture
def watching(device, tmp_path):
    """watching(**options of Watch): a watcher and the tags it writes."""

    def make(**options):
        tags = Tags()
        return Watcher(Watch(**options), tags, device, run_dir=tmp_path, name="face {}".format), tags.found

    return make


MIX = LossMix(
    terms={
        "triplet": {"weight": 1.0, "loss": TripletLoss(margin=0.2)},
        "ce": {"weight": 1.0, "loss": SoftmaxHead()},
    }
)
GOOD = {"loss": 1.0, "triplet": 0.15, "triplet/active": 0.5, "ce": 2.0, "ce/accuracy": 0.1}


def batch(*indices):
    images = torch.zeros(len(indices), 2, 2, 3, dtype=torch.uint8)
    return Batch(images, torch.zeros(len(indices), dtype=torch.int64), np.array(indices))


class Seen(nn.Module):
    """A train step that has seen a batch: its features, loss and weights."""

    def __init__(self, features):
        super().__init__()
        self.embedder, self.loss = nn.Linear(2, 2), MIX
        self.features = torch.eye(6) if features is None else features


def look(watcher, figures=GOOD, features=None, step=20, steps=20):
    sizes = {"epoch": 0, "samples_seen": 6 * step, "images_per_s": 1.0, "lr": 0.1, "recent": Average()}
    return watcher.on_log(LogPoint(step=step, steps=steps, figures=figures, module=Seen(features), **sizes))


def epoch_of(row, tested):
    return FinishedEpoch(epoch=1, step=20, row=row, tested=() if tested is None else (tested,))


def test_variance_and_rank_of_rows_placed_by_hand():
    # +-x and +-y: mean 0, so the variance is 1; two equal eigenvalues.
    assert signs.spread(torch.tensor([[2.0, 0], [-3, 0], [0, 1], [0, -1]])).tolist() == pytest.approx([1, 2])
    assert signs.spread(torch.tensor([[1.0, 0], [-1, 0], [1, 0], [-1, 0]])).tolist() == pytest.approx([1, 1])
    assert signs.spread(torch.ones(5, 3)).tolist() == pytest.approx([0, 1], abs=1e-6)
    assert signs.spread(torch.eye(8)).tolist() == pytest.approx([7 / 8, 7])
    one_off = torch.tensor([[1.0, 0]] * 3 + [[0, 1.0]])  # mean (3/4, 1/4): 1 - 10/16
    assert signs.spread(one_off).tolist() == pytest.approx([6 / 16, 1])


def test_signs_in_the_figures_of_a_loss():
    stuck = {**GOOD, "triplet": 0.2, "triplet/active": 1.0}
    assert signs.at_margin(stuck, {"triplet": 0.2, "ce": 0.0}) == "triplet"
    assert signs.at_margin({**stuck, "triplet": 0.21}, {"triplet": 0.2}) is None
    assert signs.at_margin({**stuck, "triplet/active": 0.9}, {"triplet": 0.2}) is None
    assert signs.at_margin(GOOD, {"triplet": 0.2}) is None
    assert signs.dead({**GOOD, "triplet/active": 0.0}) == ["triplet"] and signs.dead(GOOD) == []


def test_a_warning_is_one_line_and_a_tag_and_a_stop_is_halted(watching, caplog):
    watcher, tags = watching(scaler="warn", hang="off")
    for _ in range(2):
        watcher.look_at_scale(0.5)
    watcher.look_at_scale(1.0)
    reason = "the loss scale fell to 0.5: gradients overflow whatever it is"
    assert tags == {"watch.scaler": reason}
    assert [record.getMessage() for record in caplog.records] == [f"watch.scaler: {reason}; {TRY['scaler']}"]
    watcher, tags = watching(scaler="stop")
    with pytest.raises(Halted, match="stopped by watch.scaler: the loss scale fell to 0.5.*lower optimizer.lr.*resume"):
        watcher.look_at_scale(0.5)
    assert tags == {"watch.scaler": reason}


def test_the_reason_of_a_halted_run_has_no_traceback():
    failure = Failure.of(0, Halted("stopped by watch.x: y"))
    assert failure.text == "stopped by watch.x: y" and not failure.user and not failure.induced
    assert set(TRY) == set(WATCHDOGS)


@pytest.mark.parametrize("key", ["nonfinite_in_row", "patience", "hang_s", "max_repeats"])
def test_limits_are_numbers_above_zero(key):
    with pytest.raises(UserError, match=rf"watch.{key}: expected a number above 0, got 0"):
        Watch(**{key: 0})


OPTIMIZERS = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "fused sgd": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True),
    "adam": functools.partial(torch.optim.Adam, lr=0.1),
    "fused adam": functools.partial(torch.optim.Adam, lr=0.1, fused=True),
    "fused adamw": functools.partial(torch.optim.AdamW, lr=0.1, fused=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_left_out_leaves_weights_and_state_as_if_it_had_not_been(device, name, bad):
    def trained(values):
        weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        optimizer = OPTIMIZERS[name]([weight])
        finite = []
        for value in values:
            weight.grad = torch.tensor([value, 1.0])
            finite.append(bool(device.step(optimizer, guard=True)))
            assert weight.grad is None
        return weight, optimizer.state_dict()["state"], finite

    weight, state, finite = trained([bad, 0.5, bad, bad, -0.25, 3.0])  # the first step is one of those
    straight, straight_state, _ = trained([0.5, -0.25, 3.0])
    assert finite == [False, True, False, False, True, True]
    assert torch.equal(weight, straight)
    assert state.keys() == straight_state.keys()
    assert all(torch.equal(state[0][key], value) for key, value in straight_state[0].items())


def test_fused_optimizers_decide_on_the_device():
    weight = nn.Parameter(torch.ones(2))
    optimizer = OPTIMIZERS["fused adam"]([weight])
    weight.grad = torch.ones(2)
    step_where(optimizer, torch.tensor(True))

    class Unread(torch.Tensor):
        def __bool__(self):
            raise AssertionError("the host waits for the device")

    before = weight.detach().clone()
    step_where(optimizer, torch.tensor(False).as_subclass(Unread))
    assert torch.equal(weight, before) and not hasattr(optimizer, "found_inf")


def test_guarded_steps_are_those_without_a_guard(device):
    def trained(guard, clip):
        torch.manual_seed(0)
        layer = nn.Linear(4, 3)
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
        for _ in range(3):
            layer(torch.randn(5, 4)).square().sum().backward()
            finite = device.step(optimizer, guard=guard, clip_grad_norm=clip)
            assert (finite is None) == (not guard)
        return layer.weight

    for clip in (None, 0.5):
        assert torch.equal(trained(True, clip), trained(False, clip))


def run_steps(watcher, finite):
    with watcher.watching(iter([batch(2 * i, 2 * i + 1) for i in range(len(finite))])) as seen:
        for good, _ in zip(finite, seen, strict=False):
            watcher.on_step(torch.tensor(good), torch.tensor(1.0 if good else math.nan))


def test_steps_left_out_are_counted_and_so_many_in_a_row_end_the_run(watching, tmp_path, caplog):
    watcher, tags = watching(nonfinite_in_row=3, hang="off")
    run_steps(watcher, [True, False, False, False, True])
    assert look(watcher)["train/skipped_steps"] == 3 and tags == {}  # it went on
    assert "3 steps left out, their gradients were not finite (3 in all)" in caplog.text
    run_steps(watcher, [True, False, False, False])
    assert watcher.state() == [6, 3]
    with pytest.raises(
        Halted, match=r"3 steps in a row up to step 40 .* \(its loss was not finite\) is face 6, face 7;"
    ):
        look(watcher, step=40)
    found = torch.load(tmp_path / "nonfinite-0.pt", weights_only=True)
    assert found["names"] == ["face 6", "face 7"] and found["step"] == 40 and found["loss_finite"] is False
    assert [part["indices"].tolist() for part in found["batches"]] == [[6, 7]]
    assert found["batches"][0]["images"].dtype == torch.uint8
    assert shortened([str(n) for n in range(9)]) == "0, 1, 2, 3, 4, 5 and 3 more"


def test_a_resumed_run_goes_on_counting(watching):
    watcher, _ = watching(nonfinite_in_row=3)
    watcher.load_state([5, 2])
    assert look(watcher)["train/skipped_steps"] == 5
    run_steps(watcher, [False])
    with pytest.raises(Halted, match="3 steps in a row"):
        look(watcher)


def test_all_parts_of_a_step_are_kept(watching):
    watcher, _ = watching(hang="off")
    with watcher.watching(iter([batch(1), batch(2), batch(3), batch(4)])) as seen:
        for number, _ in enumerate(seen):
            if number % 2:
                watcher.on_step(torch.tensor(True), torch.tensor(1.0))
                assert [part.indices.tolist() for part in watcher.parts] == [[number], [number + 1]]


@pytest.mark.parametrize(
    ("backbone", "key"),
    [
        ({"trunk": {"init": "reference"}}, "backbone.trunk.init=kaiming"),
        ({"init": "reference"}, "backbone.init=kaiming"),
        ({"trunk": {"init": "kaiming"}}, ""),
        ({"trunk": {"width": 1}}, ""),
        ({}, ""),
    ],
)
def test_the_way_out_of_a_collapse_names_what_the_network_has(backbone, key):
    way = way_out_of_collapse(["ce/accuracy"], backbone)
    assert way == f"lower optimizer.lr{key and f', or set {key}'}; more than one identity has to be in a batch"
    assert way_out_of_collapse([], backbone) == f"add a classification term (loss=triplet_ce), {way}"


def test_collapsed_embeddings_fire_after_patience_in_a_row(watching):
    one = torch.ones(6, 4) + 1e-4 * torch.randn(6, 4)
    line = torch.tensor([[1.0, 0], [-1, 0], [1, 0], [-1, 0]])
    for features, said in ((one, "variance is"), (line, "effective rank 1 ")):
        watcher, tags = watching(patience=3)
        for bad in (one, one, torch.eye(6), features, features):
            look(watcher, features=bad)
        assert tags == {}
        found = look(watcher, features=features)
        assert list(tags) == ["watch.collapse"] and said in tags["watch.collapse"] + " "
    assert found["train/embedding_variance"] == pytest.approx(1) and found["train/embedding_rank"] == pytest.approx(1)
    watcher, tags = watching(patience=1)
    look(watcher, {**GOOD, "triplet": 0.1999, "triplet/active": 1.0})
    assert "the loss of triplet sits at its margin 0.2" in tags["watch.collapse"]


def test_only_a_run_that_does_not_classify_is_told_to(watching, caplog):
    """A run of loss=arcface that collapsed was told to add a classification term."""
    for figures, told in ((GOOD, False), ({"triplet": 0.2, "triplet/active": 1.0}, True)):
        caplog.clear()
        look(watching(patience=1)[0], figures, features=torch.ones(6, 4))
        assert ("add a classification term" in caplog.text) == told and "lower optimizer.lr" in caplog.text
        caplog.clear()
        watcher, _ = watching()
        for _ in range(2):
            row = {f"train/{name}": value for name, value in figures.items()}
            watcher.on_epoch(FinishedEpoch(epoch=1, step=1, row=row, tested=("lfw",), collapsed="embeddings collapsed"))
        assert ("add a classification term" in caplog.text) == told and "lower optimizer.lr" in caplog.text


def test_weights_that_do_not_change_fire(watching):
    watcher, tags = watching(patience=2)
    weights = [torch.tensor(pair) for pair in ([1.0, 2.0], [1.0, 2.5], [1.0, 2.5], [1.5, 2.5], [1.5, 2.5])]
    for step, norms in enumerate(weights):
        watcher.look_at_weights(norms, step)
    assert tags == {}
    watcher.look_at_weights(weights[-1].clone(), 5)
    assert tags == {"watch.frozen": "no weight of the network has changed for 2 log points up to step 5"}
    parameters = [nn.Parameter(torch.tensor(2.0)), *nn.Linear(3, 9).parameters()]
    before = signs.weights_norms(parameters)
    assert before.shape == (3,) and before[0] == 2
    with torch.no_grad():
        parameters[1][0, 1] += 1
    assert (signs.weights_norms(parameters) == before).tolist() == [True, False, True]


def test_dead_triplets_fire_after_so_many_steps_in_a_row(watching):
    watcher, tags = watching(dead_steps=60)
    dead = {**GOOD, "triplet/active": 0.0}
    for figures in (dead, dead, GOOD, dead, dead):
        look(watcher, figures)
    assert tags == {}
    look(watcher, dead)
    assert tags == {"watch.dead_triplets": "triplet had no active triplet in 60 steps, so it teaches nothing"}


def test_repeated_batches_by_share_of_an_epoch_and_from_the_last_one():
    repeats = Repeats()
    for indices in ([1, 2], [2, 1], [3, 4], [1, 2]):
        repeats.add(np.array(indices))
    assert repeats.share == 0.25 and repeats.repeated == 1
    repeats.start()
    repeats.add(np.array([3, 4]))
    repeats.add(np.array([5, 6]))
    assert repeats.share == 0.5
    repeats.start()
    repeats.add(np.array([2, 1]))  # two epochs ago
    assert repeats.share == 0


def test_repeats_fire_at_a_log_point(watching):
    watcher, tags = watching(max_repeats=0.3, hang="off")
    for given, fires in (([1, 2, 3, 1, 4], False), ([5, 5, 6, 6, 7], True)):
        with watcher.watching(iter([batch(index) for index in given])) as seen:
            list(seen)
            look(watcher)
        assert bool(tags) == fires
    assert tags == {"watch.repeats": "40% of the batches of this epoch were there before, image by image"}


def test_waiting_for_the_loader_is_a_share_of_the_time(watching):
    def slow():
        for index in range(3):
            time.sleep(0.03)
            yield batch(index)

    for action, fires in (("warn", True), ("off", False)):
        watcher, tags = watching(loader=action, patience=2, hang="off")
        shares = []
        with watcher.watching(slow()) as seen:
            for _ in seen:
                shares.append(look(watcher).get("system/loader_share"))
        assert (list(tags) == ["watch.loader"]) == fires
        assert all(share > 0.5 for share in shares if fires) and (shares == [None] * 3) == (not fires)
    watcher, tags = watching(patience=1, hang="off")
    with watcher.watching(iter([batch(1), batch(2)])) as seen:
        for _ in seen:
            time.sleep(0.02)
            assert look(watcher)["system/loader_share"] < 0.2
    assert tags == {}


def test_training_accuracy_without_benchmark_accuracy(watching):
    watcher, tags = watching()
    apart, good = {"train/ce/accuracy": 0.95, "lfw/accuracy": 0.55}, {"train/ce/accuracy": 0.95, "lfw/accuracy": 0.8}
    for row, name in ((apart, "lfw"), (good, "lfw"), (apart, "lfw"), (apart, None)):
        watcher.on_epoch(epoch_of(row, name))
    assert tags == {}
    watcher.on_epoch(epoch_of(apart, "lfw"))
    assert tags == {"watch.generalisation": "accuracy is 0.950 on training identities and 0.550 on lfw"}


def looking():
    return [thread for thread in threading.enumerate() if thread.name == "watch-hang"]


def until(reached):
    end = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_hang_writes_stacks_and_a_note_and_ends_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr("facenet.engine.watch.hang.OTHERS_S", 0.05)
    for action, left in (("warn", []), ("stop", [FAILURE])):
        tags, codes = Tags(), []
        monkeypatch.setattr(logging, "shutdown", lambda: None)
        alarm = Alarm(Watch(hang=action, hang_s=0.2), tags)
        hang = Hang(alarm, run_dir=tmp_path / action, rank=1, leave=codes.append)
        with hang.watching():
            until(lambda: not looking())
        assert codes == left and "no batch done in 0.2 s" in tags.found["watch.hang"]
        assert "test_a_hang_writes_stacks" in (tmp_path / action / "ranks" / "hang-1.txt").read_text()
        assert [failure.rank for failure in noted_failures(tmp_path / action)] == [1] * len(left)
    assert noted_failures(tmp_path / "stop")[0].text.startswith("stopped by watch.hang: no batch done")
    assert not looking()


class Clock:
    """Goes on as a test says, and counts who looks."""

    now, looks = 0.0, 0

    def monotonic(self):
        self.looks += 1
        return self.now


def test_no_hang_while_batches_are_done_nor_between_epochs(tmp_path, monkeypatch):
    tags, clock = Tags(), Clock()
    monkeypatch.setattr("facenet.engine.watch.hang.time", clock)
    hang = Hang(Alarm(Watch(hang="warn", hang_s=0.04), tags), run_dir=tmp_path, rank=0)

    def looked_at():
        before = clock.looks
        until(lambda: clock.looks >= before + 2)  # one look may have begun before

    with hang.watching():
        for _ in range(6):
            clock.now += 0.03
            looked_at()
            hang.beat()
    clock.now += 1.0
    with hang.watching():
        looked_at()
    assert tags.found == {} and not (tmp_path / "ranks").exists()


def test_off_looks_at_nothing(watching):
    watcher, tags = watching(**dict.fromkeys(WATCHDOGS, "off"), patience=1, dead_steps=1)
    assert not watcher.guards
    with watcher.watching(iter([batch(1)] * 4)) as seen:
        list(seen)
        assert look(watcher, {**GOOD, "triplet/active": 0.0}, torch.ones(4, 4)) == {}
    watcher.on_epoch(epoch_of({"train/ce/accuracy": 1.0, "lfw/accuracy": 0.5}, "lfw"))
    assert tags == {} and Watch(hang=False).looks("hang") is False
