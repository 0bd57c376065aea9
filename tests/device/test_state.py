"""Random streams, memory and checkpoints of a device."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.devices.accelerator import Accelerator, host_copy
from facenet.engine import checkpoint
from facenet.engine.progress import Progress
from facenet.errors import UserError
from facenet.evaluation.embed import embed
from facenet.evaluation.protocol import Protocol, verify

from .job import BATCH, PREPROCESS, SIZE, batches, losses_of, make_trainer, network, start

MIB = 2**20


@pytest.fixture
def device(device_name):
    with start(device_name) as accelerator:
        yield accelerator


@pytest.fixture
def memory_of(device, request):
    """memory_of(bytes): how large the device shall seem from here on."""
    if device.name == "cpu":
        pytest.skip("the memory of a cpu is the machine's")
    if device.name == "cuda":
        yield lambda size: torch.cuda.set_per_process_memory_fraction(min(1.0, size / device.memory().total))
        torch.cuda.set_per_process_memory_fraction(1.0)
    else:
        yield request.getfixturevalue("simulated").limit_memory


def draw(device):
    return torch.rand(1000, device=device.device).cpu()


def test_the_device_draws_by_seed_and_rank(device):
    drawn = []
    for seed, rank in ((0, 0), (0, 1), (1, 0), (0, 0)):
        Accelerator(device.name, device.precision, rank=rank, local_rank=0, world_size=4).seed(seed)
        drawn.append(draw(device))
    assert torch.equal(drawn[0], drawn[3])
    assert not any(torch.equal(drawn[a], drawn[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_a_saved_random_state_repeats_dropout(device):
    trainer = make_trainer(device, dropout=0.5)
    (batch,) = batches(1)

    def features():
        with torch.no_grad():
            return trainer.embedder(PREPROCESS.normalize(device.to_device(batch.images))).cpu()

    trainer.embedder.train()
    device.seed(3)
    features()
    (state,) = device.rng_states()
    first, second = features(), features()
    host = torch.rand(3)
    assert all(value.device.type == "cpu" for value in state.values()) and not torch.equal(first, second)
    device.set_rng_state(state)
    assert torch.equal(features(), first) and torch.equal(features(), second)
    assert torch.equal(torch.rand(3), host)


def test_the_peak_of_memory_grows_and_starts_anew(device):
    if device.name == "cpu":
        pytest.skip("the peak of a process cannot be set back")
    device.reset_peak_memory()
    before = device.memory()
    assert before.total >= before.peak >= before.allocated
    block = torch.zeros(64 * MIB, dtype=torch.uint8, device=device.device)
    during = device.memory()
    del block
    after = device.memory()
    assert during.allocated - before.allocated == 64 * MIB == during.peak - before.allocated
    assert after.peak == during.peak and after.allocated == before.allocated
    device.reset_peak_memory()
    assert device.memory().peak == before.allocated


def test_too_large_a_batch_is_told_with_one_that_fits(device, memory_of):
    size = 32 * BATCH
    trainer = make_trainer(device)
    trainer.train_epoch(batches(1), Progress())  # gradients and momentum are there
    device.reset_peak_memory()
    allocated = device.memory().allocated
    trainer.train_epoch(batches(1, size=size), Progress())
    device.free_cache()
    memory_of((allocated + device.memory().peak) // 2)
    words = "CUDA out of memory" if device.name == "cuda" else "sdaa out of memory. Tried to allocate"
    with pytest.raises(UserError, match=f"(?i)ran out of memory with {size} images at once.*{words}") as raised:
        trainer.train_epoch(batches(1, size=size), Progress())
    fitting = int(re.search(r"data\.batch_size=(\d+)", str(raised.value)).group(1))
    smallest, largest = (
        (1, size - 1) if device.name == "cuda" else (size / 4, size * 3 / 4)
    )  # a GPU hands memory out in large pieces
    assert smallest <= fitting <= largest and "\n" not in str(raised.value)
    again = make_trainer(device)
    again.train_epoch(batches(2, size=fitting), Progress())
    assert np.isfinite(losses_of(again)[-1])


def test_the_type_that_torch_has_for_it_is_told_too(device, simulated):
    trainer = make_trainer(device)
    simulated.limit_memory(device.memory().allocated + MIB, torch_error=True)
    with pytest.raises(UserError, match=f"ran out of memory with {BATCH} images at once"):
        trainer.train_epoch(batches(1), Progress())


def test_no_memory_for_the_state_of_the_optimizer_is_told_too(device, simulated):
    """Adam makes its averages in its first step, when the activations are gone again: two copies of all weights."""
    trainer = make_trainer(device, optimizer="adam", width=1.0)
    trainer.train_epoch(batches(1, size=2), Progress())
    weights = sum(parameter.numel() * 4 for parameter in trainer.bare_module.parameters())
    again = make_trainer(device, optimizer="adam", width=1.0)
    del trainer
    simulated.limit_memory(device.memory().allocated + int(2.5 * weights))
    with pytest.raises(UserError, match="out of memory"):
        again.train_epoch(batches(1, size=2), Progress())


@pytest.fixture
def faces():
    return SyntheticFaces(num_identities=4, images_per_identity=4, size=SIZE)


def judged(rows):
    """Accuracy over two folds of all pairs of sixteen images."""
    left, right = np.triu_indices(len(rows), 1)
    same = left // 4 == right // 4
    return verify(rows, left, right, same, np.arange(len(left)) % 2, Protocol()).accuracy


@pytest.mark.usefixtures("exact_products")
@pytest.mark.parametrize("there", [True, False], ids=["device to cpu", "cpu to device"])
def test_a_checkpoint_gives_the_same_embeddings_and_goes_on_elsewhere(device, faces, tmp_path, there):
    with start("cpu") as cpu:
        here, elsewhere = (device, cpu) if there else (cpu, device)
        trainer, progress = make_trainer(here, optimizer="adam"), Progress()
        trainer.train_epoch(batches(3), progress)
        content = {"config": {}, "identities": [], "epoch": 1, "step": 3, "metrics": {}}
        content |= {"embedder": host_copy(trainer.embedder.state_dict()), "loss": host_copy(trainer.loss.state_dict())}
        checkpoint.save({**content, "training": trainer.state(progress)}, tmp_path / "last.pt")
        rows = embed(trainer.embedder, faces, PREPROCESS, here, batch_size=5)

        read = checkpoint.load(tmp_path / "last.pt")
        assert all(value.device.type == "cpu" for value in read["embedder"].values())
        embedder = network()
        embedder.load_state_dict(read["embedder"])
        moved = embed(embedder.to(elsewhere.device), faces, PREPROCESS, elsewhere, batch_size=5)
        tolerance = 5e-3 if device.name == "cuda" else 0
        np.testing.assert_allclose(moved, rows, rtol=0, atol=tolerance)
        assert judged(moved) == pytest.approx(judged(rows), abs=0.05 if tolerance else 0)

        again = make_trainer(elsewhere, optimizer="adam")
        resumed = again.load_state(read["training"], read["loss"])
        again.train_epoch(batches(1), resumed)
        trainer.train_epoch(batches(1), progress)
        for name, value in trainer.bare_module.state_dict().items():
            found = again.bare_module.state_dict()[name].cpu()
            torch.testing.assert_close(
                found, value.cpu(), rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
            )
