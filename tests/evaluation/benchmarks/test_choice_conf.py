from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from facenet.evaluation.benchmarks.choice import Bin, HeldOut, Lfw, NoBenchmark
from facenet.evaluation.protocol import Protocol

CONF = Path(__file__).parents[3] / "conf"
PROTOCOLS = {
    "plain": Protocol(),
    "flip": Protocol(flip="concat"),
    "flip_mean": Protocol(flip="concat", subtract_mean=True),
    "reference": Protocol(thresholds="reference"),
}


def build(benchmark, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[f"+benchmark={benchmark}", *overrides])
    return instantiate(config.benchmark, _convert_="all")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("benchmark", "kind", "needed"),
    [("lfw", Lfw, ["benchmark.root=x"]), ("bin", Bin, ["benchmark.path=x.bin"]), ("heldout", HeldOut, [])],
)
def test_every_protocol_goes_with_every_benchmark(benchmark, kind, needed, protocol):
    built = build(benchmark, f"benchmark/protocol={protocol}", *needed)
    assert type(built) is kind and built.protocol == PROTOCOLS[protocol]


def test_protocol_settings_can_be_overridden_one_by_one():
    assert build("heldout", "benchmark.protocol.distance=cosine").protocol == Protocol(distance="cosine")


def test_no_benchmark():
    assert isinstance(build("none"), NoBenchmark)


def test_no_protocol_file_is_untested():
    assert {path.stem for path in (CONF / "benchmark" / "protocol").iterdir()} == set(PROTOCOLS)
