from __future__ import annotations

import pytest
import torch
from torch import nn

from facenet.engine.ema import Ema
from facenet.errors import UserError


def model_at(value: float) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    move(model, value)
    return model


def move(model: nn.Sequential, value: float) -> None:
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(value)


def test_the_average_moves_as_the_formula_says() -> None:
    model = model_at(0.0)
    ema = Ema(model, decay=0.3)
    expected = 0.0
    for n, value in enumerate([10.0, -4.0, 7.0, 7.0, 2.0, 5.0]):
        move(model, value)
        ema.update(model)
        keep = min(0.3, (1 + n) / (10 + n))  # 0.1, 2/11, 3/12, 4/13 > 0.3, 0.3 …
        expected = keep * expected + (1 - keep) * value
        state = ema.model.state_dict()
        for name in ("0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
            assert state[name].item() == pytest.approx(expected, rel=1e-5), name
        assert state["1.num_batches_tracked"].item() == int(value)
    assert ema.num_updates == 6


def test_the_copy_is_for_evaluation_and_shares_nothing_with_the_model() -> None:
    model = model_at(1.0)
    ema = Ema(model, decay=0.9)
    assert model.training
    assert not ema.model.training
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in ema.model.parameters())
    move(model, 5.0)
    assert all(tensor.item() == 1.0 for tensor in ema.model.parameters())


def test_an_update_leaves_the_model_alone() -> None:
    model = model_at(3.0)
    ema = Ema(model_at(0.0), decay=0.9)
    ema.update(model)
    assert all(tensor.item() == 3.0 for tensor in [*model.parameters(), *model.buffers()])


def test_a_shared_weight_is_averaged_once() -> None:
    layer = nn.Linear(1, 1, bias=False)
    model = nn.Sequential(layer, layer)
    move(model, 0.0)
    ema = Ema(model, decay=0.9)
    move(model, 1.0)
    ema.update(model)
    assert ema.model.state_dict()["0.weight"].item() == pytest.approx(0.9)  # 1 - (1 + 0) / (10 + 0)


def test_mixed_float_types_and_layouts_are_averaged() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(2, 2).double())
    model[0].weight.data = model[0].weight.data.contiguous(memory_format=torch.channels_last)
    ema = Ema(model, decay=0.0)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(1.0)
    ema.update(model)
    for name, tensor in ema.model.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name])


def test_state_continues_the_average_exactly() -> None:
    model = model_at(1.0)
    first = Ema(model, decay=0.99)
    move(model, 2.0)
    first.update(model)
    second = Ema(model_at(0.0), decay=0.99)
    second.load_state_dict(first.state_dict())
    move(model, 8.0)
    first.update(model)
    second.update(model)
    assert second.num_updates == 2
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_is_no_share_is_refused(decay: float) -> None:
    with pytest.raises(UserError, match="decay"):
        Ema(model_at(0.0), decay=decay)
