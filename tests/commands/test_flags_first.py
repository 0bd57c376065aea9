"""Where flags stand among the overrides makes no difference."""

from __future__ import annotations

import pytest

from facenet.config.overrides import flags_first


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("a=1 -m b=2", "-m a=1 b=2"),
        ("a=1 -m b=2 --resolve ~c", "-m --resolve a=1 b=2 ~c"),
        ("a=1 --cfg job +b=2 ++c=3", "--cfg job a=1 +b=2 ++c=3"),
        ("--config-dir x=y a=1 -m b=2", "--config-dir x=y -m a=1 b=2"),
        ("-m a=1 b=2", "-m a=1 b=2"),
        ("a=1 b=2 -m", "a=1 b=2 -m"),
        ("a=1 --config-dir DIR", "a=1 --config-dir DIR"),
        ("a=1 --no-such-flag b=2", "a=1 --no-such-flag b=2"),  # told by Hydra
        ("", ""),
    ],
)
def test_overrides_around_a_flag_stay_in_order(given, taken):
    assert flags_first(given.split()) == taken.split()
