"""Running statistics of networks that begin untrained, and of those that do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facenet.engine.fresh_norms import FreshNorms


def after(batches, norm):
    fresh = FreshNorms(norm)
    for seen, batch in enumerate(batches):
        fresh.before(seen)
        norm(batch)
    return norm


@pytest.fixture
def batches():
    return [torch.randn(8, 4, generator=torch.Generator().manual_seed(number)) * 0.01 + 5 for number in range(30)]


def test_first_statistics_are_the_plain_average(batches):
    norm = after(batches[:6], nn.BatchNorm1d(4))
    torch.testing.assert_close(norm.running_mean, torch.stack(batches[:6]).mean(dim=(0, 1)))
    torch.testing.assert_close(norm.running_var, torch.stack([batch.var(dim=0) for batch in batches[:6]]).mean(dim=0))


def test_from_the_tenth_batch_on_it_is_torchs_rule(batches):
    norm, momentum = after(batches, nn.BatchNorm1d(4)), 0.1
    expected = torch.stack(batches[:10]).mean(dim=(0, 1))
    for batch in batches[10:]:
        expected = expected + momentum * (batch.mean(dim=0) - expected)
    torch.testing.assert_close(norm.running_mean, expected)
    assert norm.momentum == momentum


def test_statistics_of_a_trained_network_stay(batches):
    trained = nn.BatchNorm1d(4)
    trained(batches[0])
    plain = nn.BatchNorm1d(4)
    plain.load_state_dict(trained.state_dict())
    plain(batches[1])
    torch.testing.assert_close(after(batches[1:2], trained).running_mean, plain.running_mean)


@pytest.mark.parametrize("options", [{"momentum": None}, {"track_running_stats": False}])
def test_norms_with_a_rule_of_their_own_keep_it(batches, options):
    norm, plain = after(batches[:3], nn.BatchNorm1d(4, **options)), nn.BatchNorm1d(4, **options)
    for batch in batches[:3]:
        plain(batch)
    assert all(torch.equal(norm.state_dict()[key], plain.state_dict()[key]) for key in plain.state_dict())


def test_a_run_that_goes_on_counts_from_where_it_was(batches):
    whole, first = after(batches[:8], nn.BatchNorm1d(4)), after(batches[:5], nn.BatchNorm1d(4))
    rest, fresh = nn.BatchNorm1d(4), None
    fresh = FreshNorms(rest)  # before its state is loaded
    rest.load_state_dict(first.state_dict())
    for seen, batch in enumerate(batches[5:8], start=5):
        fresh.before(seen)
        rest(batch)
    assert torch.equal(rest.running_mean, whole.running_mean) and torch.equal(rest.running_var, whole.running_var)
