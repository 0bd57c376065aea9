import contextlib
import copy
import logging

import numpy as np
import pytest
import torch
from torch import nn

from facenet.backbones.embedder import Embedder
from facenet.data.feed.loader import Batch
from facenet.data.layout import Layout
from facenet.data.transforms import Preprocess
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DeviceChoice, Precision
from facenet.engine.observer import Observer
from facenet.engine.progress import Average, Progress
from facenet.engine.schedule import Constant, WarmupCosine
from facenet.engine.train_step import TrainStep
from facenet.engine.trainer import Settings, Trainer
from facenet.errors import UserError
from facenet.losses.heads import SoftmaxHead
from facenet.losses.mix import LossMix
from facenet.losses.triplet import TripletLoss

SIZE, NUM_IDENTITIES = 8, 4
PREPROCESS = Preprocess(size=[SIZE, SIZE], fit="resize", mean=[0.5] * 3, std=[0.5] * 3)


class Tiny(Embedder):
    """Without batch norm and dropout, so that a batch in parts is the same sum as a whole one."""

    embedding_size = 6

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(6))
        self.body(torch.zeros(1, 3, SIZE, SIZE))

    def features(self, images):
        return self.body(images)


class Notes(Observer):
    """Remembers log points by their step."""

    def __init__(self):
        self.by_step = {}

    def on_log(self, point):
        self.by_step[point.step] = point
        return {}


@pytest.fixture
def device():
    with Accelerator.start(DeviceChoice(name="cpu"), Precision()) as accelerator:
        yield accelerator


def batches(count, size=6, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        images = torch.from_numpy(rng.integers(0, 256, (size, SIZE, SIZE, 3), dtype=np.uint8))
        yield Batch(images, torch.from_numpy(rng.integers(0, NUM_IDENTITIES, size)), np.arange(size))


def parts(device, *terms, seed=0, layout="shuffle"):
    torch.manual_seed(seed)
    loss = LossMix(terms={type(term).__name__: {"weight": 1.0, "loss": term} for term in terms or [SoftmaxHead()]})
    loss.start(embedding_size=Tiny.embedding_size, num_identities=NUM_IDENTITIES, layout=Layout(layout))
    return TrainStep(Tiny(), loss, PREPROCESS, device)


def make_trainer(device, module, *, optimizer=None, schedule=None, total_steps=100, observers=(), **options):
    stop, notes = options.pop("stop", lambda: False), Notes()
    schedule = schedule or Constant()
    trainer = Trainer(
        device.prepare(module),
        optimizer or torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9),
        schedule,
        device,
        Settings(**options),
        total_steps=total_steps,
        observers=[*observers, notes],
        stop=stop,
    )
    schedule.start(trainer.optimizer, batch_size=6, steps_per_epoch=5, epochs=2)
    return trainer, notes


def same(first, second):
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_steps_equal_a_loop_written_by_hand(device):
    module, by_hand = (parts(device, SoftmaxHead(), TripletLoss(), layout="triplet") for _ in range(2))
    make = WarmupCosine(warmup_epochs=0.4, min_lr_ratio=0.1)
    trainer, _ = make_trainer(
        device,
        module,
        optimizer=torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1),
        schedule=make,
        clip_grad_norm=0.5,
    )
    trainer.train_epoch(batches(5), Progress())

    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    embedder = by_hand.embedder.to(memory_format=torch.channels_last)
    for step, batch in enumerate(batches(5)):
        optimizer.param_groups[0]["lr"] = make.lr_at(step)
        images = batch.images.permute(0, 3, 1, 2).float() / 255
        features = embedder.body(((images - 0.5) / 0.5).contiguous(memory_format=torch.channels_last))
        head = by_hand.loss.terms["SoftmaxHead"]
        ce = nn.functional.cross_entropy(features @ head.weight.T + head.bias, batch.labels)
        triplet, _ = by_hand.loss.terms["TripletLoss"](features, nn.functional.normalize(features), batch.labels)
        (ce + triplet).backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    for (name, ours), expected in zip(module.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=2e-6, atol=2e-7, msg=name)
    assert make.lr_at(0) == pytest.approx(0.001) and trainer.optimizer.param_groups[0]["lr"] == make.lr_at(4)


def test_one_step_is_bit_for_bit_what_its_parts_give(device):
    module, twin = parts(device), parts(device)
    trainer, _ = make_trainer(device, module)
    trainer.train_epoch(batches(1), Progress())
    (batch,) = batches(1)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    twin = twin.to(memory_format=torch.channels_last).train()
    features = twin.embedder(PREPROCESS.normalize(batch.images), normalize=False)
    twin.loss(features, batch.labels).total.backward()
    optimizer.step()
    assert same(module, twin)


def test_two_accumulated_parts_are_one_batch(device):
    whole, in_parts, before = parts(device), parts(device), parts(device)
    assert same(whole, in_parts)
    one, _ = make_trainer(device, whole)
    one.train_epoch(batches(3), Progress())
    halves = [
        Batch(batch.images[cut], batch.labels[cut], batch.indices[cut])
        for batch in batches(3)
        for cut in (slice(0, 3), slice(3, 6))
    ]
    progress = Progress()
    two, _ = make_trainer(device, in_parts, accumulate=2)
    two.train_epoch((half for half in halves), progress)
    assert progress.step == 3 and not same(before, whole)
    for (name, a), b in zip(whole.named_parameters(), in_parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def test_the_average_of_weights_is_what_is_tested(device):
    module = parts(device)
    trainer, _ = make_trainer(device, module, ema_decay=0.9)
    first = {name: value.clone() for name, value in module.embedder.state_dict().items()}
    seen = []
    for batch in batches(2):
        trainer.train_epoch((each for each in [batch]), Progress(step=len(seen)))
        seen.append({name: value.clone() for name, value in module.embedder.state_dict().items()})
    # the first keeps a share of (1 + n) / (10 + n): a tenth, then 2 / 11
    for name, value in trainer.tested().state_dict().items():
        after_one = 0.1 * first[name] + 0.9 * seen[0][name]
        torch.testing.assert_close(value, 2 / 11 * after_one + 9 / 11 * seen[1][name])
    assert trainer.tested() is not trainer.embedder and trainer.state(Progress())["ema"]["num_updates"] == 2


def test_without_an_average_the_network_itself_is_tested(device):
    trainer, _ = make_trainer(device, parts(device))
    assert trainer.tested() is trainer.embedder and trainer.state(Progress())["ema"] == {}


@pytest.mark.parametrize(("total_steps", "given", "taken"), [(3, 5, 3), (9, 5, 5), (5, 5, 5)])
def test_the_run_ends_at_its_last_step(device, total_steps, given, taken):
    closed = []

    def stream():
        try:
            yield from batches(given)
        finally:
            closed.append(True)

    progress = Progress()
    trainer, _ = make_trainer(device, parts(device), total_steps=total_steps)
    trainer.train_epoch(stream(), progress)
    assert progress.step == taken and closed == [True] and not trainer.stopped


def test_log_points_carry_means_since_the_last_one(device):
    class Losses(Observer):
        def on_step(self, finite, loss):
            assert finite is None
            losses.append(loss.item())

    losses = []
    trainer, notes = make_trainer(device, parts(device), log_every=2, total_steps=5, observers=[Losses()])
    row = trainer.train_epoch(batches(5), Progress())
    assert list(notes.by_step) == [2, 4, 5]  # the last step of the run is always logged
    for step, group in {2: losses[:2], 4: losses[2:4], 5: losses[4:]}.items():
        point = notes.by_step[step]
        assert point.figures["loss"] == pytest.approx(np.mean(group), rel=1e-6) and point.steps == len(group)
        assert point.lr == 0.1 and point.samples_seen == 6 * step and point.images_per_s > 0
    assert row["train/loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert set(row) == {"train/loss", "train/SoftmaxHead", "train/SoftmaxHead/accuracy"}


def test_observers_are_told_in_their_order_and_see_the_metrics_of_those_before(device):
    told = []

    class Each(Observer):
        def __init__(self, name, key=None):
            self.name, self.key = name, key

        @contextlib.contextmanager
        def watching(self, batches):
            told.append(f"{self.name} begins")
            yield batches
            told.append(f"{self.name} ends")

        def on_log(self, point):
            told.append((self.name, point.step, dict(point.metrics)))
            return {f"own/{self.name}": point.step}

        def state(self):
            return [self.name]

        def load_state(self, state):
            told.append(state)

    observers = [Each("first"), Each("second", key="second")]
    trainer, notes = make_trainer(device, parts(device), log_every=2, observers=observers)
    trainer.train_epoch(batches(2), Progress())
    own = {"own/first": 2, "own/second": 2}
    assert told == [
        *(
            "first begins",
            "second begins",
            ("first", 2, {}),
            ("second", 2, {"own/first": 2}),
            "second ends",
            "first ends",
        ),
    ]
    assert notes.by_step[2].metrics == own
    state = trainer.state(Progress())
    assert state["second"] == ["second"] and "first" not in state
    again, _ = make_trainer(device, parts(device), observers=observers)
    again.load_state(state, dict(trainer.loss.state_dict()))
    assert told[-1] == ["second"] and told.count(["second"]) == 1


def test_steps_count_on_over_epochs(device):
    trainer, notes = make_trainer(device, parts(device), log_every=2)
    progress = Progress()
    trainer.train_epoch(batches(3), progress)
    row = trainer.train_epoch(batches(3), progress)
    assert list(notes.by_step) == [2, 4, 6] and progress.step == 6 and np.isfinite(row["train/loss"])


def test_the_stop_flag_ends_the_epoch_after_a_whole_step(device):
    trainer, _ = make_trainer(device, parts(device), stop=lambda: progress.step >= 2, accumulate=2)
    progress = Progress()
    trainer.train_epoch(batches(10), progress)
    assert progress.step == 2 and trainer.stopped


class Greedy(Tiny):
    """Finds no memory for more than `limit` images, in the words of a vendor's device."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def features(self, images):
        if len(images) > self.limit:
            raise RuntimeError("sdaa out of memory. Tried to allocate 2.00 GiB\nand more words")
        return super().features(images)


@pytest.mark.parametrize(
    ("limit", "options", "told"),
    [
        (4, {}, "4 at once fit: set data.batch_size=4, or trainer.accumulate=2 to compute the same batch in parts"),
        (5, {"layout": "triplet"}, "3 at once fit: set data.batch_size=3, or trainer.accumulate=2 to"),
        (1, {"accumulate": 2}, "1 at once fit: set data.batch_size=2, or trainer.accumulate=12 to"),
        (0, {}, "not even the smallest batch fits; use a smaller data.image_size or backbone"),
    ],
)
def test_a_device_without_memory_is_told_with_the_batch_that_fits(device, limit, options, told):
    module = parts(device, layout=options.get("layout", "shuffle"))
    module.embedder = Greedy(limit)
    trainer, _ = make_trainer(device, module, **{key: value for key, value in options.items() if key != "layout"})
    with pytest.raises(UserError) as raised:
        trainer.train_epoch(batches(2), Progress())
    assert str(raised.value).startswith("cpu ran out of memory with 6 images at once, at a peak of ")
    assert f"(its words: sdaa out of memory. Tried to allocate 2.00 GiB); {told}" in str(raised.value)


def test_another_failure_of_a_step_stays_what_it_is(device):
    trainer, _ = make_trainer(device, parts(device))
    with pytest.raises(RuntimeError, match="shape|size"):
        trainer.train_epoch(
            iter_of(Batch(torch.zeros(6, 4, 4, 3, dtype=torch.uint8), torch.zeros(6).long(), np.arange(6))), Progress()
        )


def iter_of(*items):
    yield from items


def test_a_loss_that_is_not_finite_is_said_aloud(device, caplog):
    module = parts(device)
    with torch.no_grad():
        module.embedder.body[0].bias.fill_(float("nan"))
    trainer, notes = make_trainer(device, module, log_every=2)
    with caplog.at_level(logging.WARNING):
        trainer.train_epoch(batches(2), Progress())
    assert "step 2: the loss is not finite; lower optimizer.lr or set trainer.clip_grad_norm" in caplog.text
    assert np.isnan(notes.by_step[2].figures["loss"])


def test_validation_changes_nothing_and_averages(device):
    module, before = parts(device), parts(device)
    trainer, _ = make_trainer(device, module)
    validation = trainer.validate(batches(3))
    row = validation.figures
    losses = []
    with torch.no_grad():
        for batch in batches(3):
            features = before.embedder(PREPROCESS.normalize(batch.images), normalize=False)
            losses.append(before.loss(features, batch.labels).total.item())
    assert row["val/loss"] == pytest.approx(np.mean(losses), rel=1e-5) and same(module, before)
    assert set(row) == {"val/loss", "val/SoftmaxHead", "val/SoftmaxHead/accuracy"}
    assert validation.loss == row["val/loss"] and validation.num_batches == 3 and validation.images_per_s > 0
    assert not module.embedder.training
    trainer.train_epoch(batches(1), Progress())
    assert module.embedder.training


@pytest.mark.parametrize("stop_at", [1, 2, 4, 5, 7, 10])
def test_a_run_stopped_anywhere_goes_on_bit_for_bit(device, stop_at):
    """Two epochs of five steps in two parts each, with dropout, an average of weights and momentum; step 5 ends the first epoch."""
    options = {"ema_decay": 0.5, "log_every": 3, "accumulate": 2, "total_steps": 10}

    def network(seed):
        module = parts(device, seed=seed)
        module.embedder.body.insert(3, nn.Dropout(0.5))
        return module

    def run(trainer, progress, rows):
        while progress.step < 10 or progress.batches:
            stream = list(batches(10, seed=progress.epoch))[progress.batches :]
            row = trainer.train_epoch(iter_of(*stream), progress)
            if trainer.stopped:
                return
            rows.append(row)

    device.seed(1)
    straight, rows = network(0), []
    trainer, notes = make_trainer(device, straight, **options)
    run(trainer, Progress(), rows)

    device.seed(1)
    progress, rows_again = Progress(), []
    stopped, notes_before = make_trainer(device, network(0), stop=lambda: progress.step >= stop_at, **options)
    run(stopped, progress, rows_again)
    assert progress.step == stop_at and stopped.stopped
    state, heads = copy.deepcopy(stopped.state(progress)), copy.deepcopy(stopped.loss.state_dict())
    torch.rand(7)  # whatever the process does between
    resumed = network(9)
    again, notes_after = make_trainer(device, resumed, **options)
    run(again, again.load_state(state, heads), rows_again)

    assert same(straight, resumed) and same(trainer.tested(), again.tested()) and rows == rows_again
    seen = {**notes_before.by_step, **notes_after.by_step}
    assert sorted(seen) == sorted(notes.by_step) == [3, 6, 9, 10]
    assert not set(notes_before.by_step) & set(notes_after.by_step)
    assert all(seen[step].figures == point.figures for step, point in notes.by_step.items())


def test_average():
    first, second = Average(), Average()
    assert first.read() == {}
    first.add({"a": torch.tensor(1.0), "b": torch.tensor(10.0)})
    first.add({"a": torch.tensor(3.0), "b": torch.tensor(20.0)})
    second.add({"a": torch.tensor(8.0), "b": torch.tensor(0.0)})
    assert first.read() == {"a": 2.0, "b": 15.0}
    first.merge(second)
    assert first.read() == {"a": 4.0, "b": 10.0} and first.count == 3
    assert second.read() == {"a": 8.0, "b": 0.0}  # what was merged is left as it was


def test_average_does_not_alias_what_it_was_given():
    value, average = torch.tensor(1.0), Average()
    average.add({"a": value})
    value += 100
    average.add({"a": torch.tensor(3.0)})
    assert average.read() == {"a": 2.0} and value == 101


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("accumulate", 0),
        ("log_every", -1),
        ("evaluate_every", 0),
        ("max_steps", 0),
        ("ema_decay", 1.0),
        ("ema_decay", -0.1),
        ("clip_grad_norm", 0.0),
    ],
)
def test_settings_name_the_key(key, value):
    with pytest.raises(UserError, match=rf"trainer\.{key}: expected .*, got {value}"):
        Settings(**{key: value})


def test_nothing_reads_the_device_between_log_points(device, monkeypatch):
    """A read waits for the device; one per step would halve a small network's speed there."""
    trainer, _ = make_trainer(device, parts(device), log_every=4)

    def refuse(*_):
        raise AssertionError("read")

    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "cpu", "numpy"):
            patch.setattr(torch.Tensor, name, refuse)
        for batch in batches(3):
            trainer.step(batch, Progress())
