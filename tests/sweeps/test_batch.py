"""What the jobs of a sweep are, composed in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.types import RunMode

import facenet.commands.composed  # noqa: F401  the resolvers of conf
from facenet.errors import UserError
from facenet.sweeps.batch import arguments, jobs_of
from facenet.sweeps.plans import Job, Planner
from hydra_plugins.facenet_launcher import FacenetLauncher


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """jobs(override, ...): those of facenet-train -m override ..."""
    monkeypatch.chdir(tmp_path)
    Plugins.instance().register(FacenetLauncher)
    setup_globals()
    before = HydraConfig.instance().cfg

    def make(*overrides):
        GlobalHydra.instance().clear()
        with initialize_config_module("facenet.conf", version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            config = loader.load_configuration("train", ["hydra.sweep.dir=sw", *overrides], RunMode.MULTIRUN)
            parsed = OverridesParser.create(config_loader=loader).parse_overrides(arguments(config))
            return jobs_of(config, loader, BasicSweeper.split_arguments(parsed, None)[0], 0)

    yield make
    assert HydraConfig.instance().cfg is before
    GlobalHydra.instance().clear()


def test_hydras_own_values_are_those_of_each_job(jobs):
    chosen = "tracking.run_name=${hydra:runtime.choices.optimizer}-${hydra:sweep.subdir}"
    found = jobs("seed=${hydra:job.num}", chosen, "optimizer=adam,sgd", "weights=${hydra:runtime.output_dir}/w.pt")
    values = [(job.config["seed"], job.config["tracking"]["run_name"], job.config["weights"]) for job in found]
    assert values == [
        (num, f"{name}-{num}", f"{found[num].directory}/w.pt") for num, name in enumerate(("adam", "sgd"))
    ]
    assert [job.changed for job in found] == [{"optimizer": "adam"}, {"optimizer": "sgd"}]


@pytest.mark.parametrize("colon", ":.")
def test_a_directory_may_be_named_after_what_hydra_knows_of_its_job(jobs, colon):
    subdir = f"hydra.sweep.subdir=${{hydra{colon}job.num}}-${{hydra{colon}job.override_dirname}}"
    found = jobs(subdir, "optimizer.betas=[0.9,0.99],[0.8,0.9]")
    assert [job.directory.name for job in found] == ["0-optimizer.betas=[0.9,0.99]", "1-optimizer.betas=[0.8,0.9]"]


def test_what_was_given_is_not_what_it_refers_to(jobs, monkeypatch):
    monkeypatch.setenv("FACES", "/secret")
    found = jobs("data.root=${oc.env:FACES}", "data=folder", "++optimizer.eps=1e-8,1e-1")
    assert [job.changed for job in found] == [{"optimizer.eps": "1e-08"}, {"optimizer.eps": "0.1"}]
    assert [job.config["optimizer"]["eps"] for job in found] == [1e-8, 0.1]
    assert found[0].config["data"]["root"] == "/secret" and not any("/secret" in item for item in found[0].overrides)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("same", "same"), "same is also the directory of job 1"),
        (("x" * 256, "b"), "a name of 256 bytes, and a disk takes 255"),
        (("人" * 86, "b"), "a name of 258 bytes"),
        (("x" * 255, "b"), None),
    ],
    ids=["same", "long", "bytes", "fine"],
)
def test_directories_that_jobs_cannot_have_are_found_before_the_first(names, message):
    jobs = [
        Job(num=num, overrides=[], changed={}, config={}, directory=Path("/sw", name)) for num, name in enumerate(names)
    ]
    found = Planner().plan(jobs)[0].problem
    assert found.startswith(f"hydra.sweep.subdir: {message}") if message else "hydra.sweep.subdir" not in found


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed=range(0,0)", "^seed: a list or range without values, so the sweep has no jobs"),
        ("sweep.jobs_per_node=1,2", "^sweep.jobs_per_node: says how all jobs of a sweep run; give it one value"),
        ("sweep={jobs_per_node: 1},{jobs_per_node: 2}", "^sweep: says how"),
    ],
)
def test_axes_that_make_no_sweep_are_refused(jobs, override, told):
    """An IndexError of the table, and one of the values for all jobs without a word."""
    with pytest.raises(UserError, match=told):
        jobs(override)


def test_axes_of_a_range_and_one_value_for_all_jobs_make_a_sweep(jobs):
    assert [job.config["seed"] for job in jobs("seed=range(0,2)", "sweep.jobs_per_node=2")] == [0, 1]
