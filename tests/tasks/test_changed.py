"""A run that goes on under another config, or whose data have moved. In this process; `test_resume` has the commands."""

import contextlib
import json
import os
import random
import shutil
from collections import Counter
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from facenet import config as configs
from facenet.commands import composed as cli
from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.engine import checkpoint
from facenet.errors import UserError
from facenet.launch.local import RankFailed
from facenet.sweeps.state import state_of
from facenet.tasks import changed, evaluate, job, resume, run_store, train
from facenet.tasks.run import Run
from facenet.tracking.choice import NoTracking
from facenet.tracking.store import NOTE
from facenet.tracking.tracker import NullTracker

JOB = (  # a network of 30 thousand numbers: most of a run's time is in writing it
    *("backbone=mobilefacenet", "backbone.blocks=[[2,8,1,2],[2,8,1,2]]", "backbone.embedding_size=16"),
    *(
        "loss=triplet_ce",
        "sampler=triplet",
        "data.image_size=32",
        "data.batch_size=12",
        "accelerator=cpu",
        "tracking=none",
    ),
    *("benchmark=none", "data.val_identities=0.0", "data.val_images=0.0", "data.num_workers=0", "trainer.log_every=1"),
    *("trainer.epochs=2", "data.feed=files", "optimizer=adamw", "schedule=constant"),
)


class Stop:
    """Comes after so many steps; never: None."""

    def __init__(self, steps):
        self.left, self.signal = None if steps is None else steps + 1, None  # it is asked before the first step, too

    def __bool__(self):
        if self.left is not None:
            self.left -= 1
        return self.left is not None and self.left <= 0

    def set(self, number, frame=None):
        self.signal = number

    def expect(self, saving_s):
        pass


@pytest.fixture(autouse=True)
def streams():
    """A job in this process seeds it."""
    with torch.random.fork_rng():
        yield


def people(root, num_identities=4, seed=0):
    faces = SyntheticFaces(num_identities=num_identities, images_per_identity=6, size=32, seed=seed)
    for index, label in enumerate(faces.labels.tolist()):
        path = root / f"Person_{label}" / f"{index % 6}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(faces.load(index)).save(path)
    return root


@pytest.fixture(scope="module")
def run_of(compose_train):
    """run_of(run_dir, *overrides, steps=None, broken=None): the job as one command; it is stopped after `steps`."""

    def run(run_dir, *overrides, steps=None, broken=None):
        def start(directory, distributed, order):
            if broken is not None:
                raise broken
            settings = configs.of_job(directory)
            result = train.run(Run(directory, settings, None, Stop(steps)))
            (directory / "result.json").write_text(json.dumps(result))
            return result

        overrides = cli.going_on(list(overrides))
        config = compose_train(*overrides)
        return job.run_job(config, run_dir=run_dir, overrides=overrides, tags={}, start=start)

    return run


@pytest.fixture(scope="module")
def stopped(run_of, tmp_path_factory):
    """A run that was stopped after one of its four steps; tests copy it."""
    folder = tmp_path_factory.mktemp("stopped")
    people(folder / "people")
    with torch.random.fork_rng():
        run_of(folder / "run", *JOB, "data=folder", f"data.root={folder}/people", steps=1)
    return folder


@pytest.fixture
def place(stopped, tmp_path):
    """A copy of the run beside its data, which lie where they were."""
    shutil.copytree(stopped / "run", tmp_path / "run")
    return tmp_path


def last(run_dir):
    return checkpoint.load(run_dir / "checkpoints" / "last.pt")


def written(run_dir):
    return configs.read(run_dir / "resolved.yaml")


def test_it_goes_on_and_remembers_the_images(run_of, place, stopped):
    before = last(place / "run")
    assert before["step"] == 1 and len(before["samples"]["data"]["images"]) == 24
    run_of(place / "none", f"resume={place}/run")
    after = last(place / "run")
    assert after["step"] == 4 and after["samples"] == before["samples"] and after["config"] == written(place / "run")


@pytest.mark.parametrize("broken", [RankFailed("rank 0: out of memory"), UserError("refused"), KeyboardInterrupt()])
def test_a_resume_that_comes_to_nothing_leaves_the_config_of_the_run(run_of, place, broken):
    before = (place / "run" / "resolved.yaml").read_bytes()
    overrides = (f"resume={place}/run", "optimizer.weight_decay=0.5", "resume_changed=true")
    with pytest.raises(type(broken)):
        run_of(place / "none", *overrides, broken=broken)
    assert (place / "run" / "resolved.yaml").read_bytes() == before
    assert not (place / "run" / "resolved.pending.yaml").exists()
    run_of(place / "none", *overrides, steps=1)  # its twin that goes well
    assert written(place / "run")["optimizer"]["weight_decay"] == 0.5
    assert written(place / "run") == last(place / "run")["config"]


def test_the_config_changes_with_the_first_checkpoint_not_before(run_of, place, monkeypatch):
    seen, tags = [], {}

    class Tags(NullTracker):
        def tag(self, name, value):
            tags[name] = value

    def save(keeper, content, **options):
        seen.append((written(place / "run")["optimizer"]["weight_decay"], dict(tags)))
        return original(keeper, content, **options)

    original = checkpoint.Keeper.save
    monkeypatch.setattr(checkpoint.Keeper, "save", save)
    monkeypatch.setattr(NoTracking, "tracker", lambda self, run_id, run_dir: Tags())
    run_of(place / "none", f"resume={place}/run", "optimizer.weight_decay=0.5", "resume_changed=true")
    told = {"resumed_changed": "optimizer.weight_decay: was 0.05, is 0.5"}
    assert seen == [(0.05, {}), (0.5, told)]
    assert {name: text for name, text in tags.items() if name != NOTE} == told


def test_what_a_killed_resume_left_counts_for_nothing(run_of, place):
    """Killed before its first checkpoint, and between that and the config."""
    run = place / "run"
    left = written(run)
    left["optimizer"]["weight_decay"] = 0.9
    configs.write(left, run / "resolved.pending.yaml")
    run_of(place / "none", f"resume={run}", steps=1)
    assert last(run)["config"]["optimizer"]["weight_decay"] == 0.05 == written(run)["optimizer"]["weight_decay"]
    configs.write(left, run / "resolved.yaml")  # older or newer than last.pt, which has its own
    run_of(place / "none", f"resume={run}")
    assert last(run)["config"]["optimizer"]["weight_decay"] == 0.05 == written(run)["optimizer"]["weight_decay"]


def test_a_new_run_over_an_old_one_that_fails_at_once_leaves_the_old_one(run_of, place, stopped):
    new = (*JOB, "data=folder", f"data.root={stopped}/people", "seed=7")
    with pytest.raises(UserError, match="refused"):
        run_of(place / "run", *new, broken=UserError("refused"))
    assert written(place / "run")["seed"] == 0
    run_of(place / "none", f"resume={place}/run", steps=1)
    assert last(place / "run")["step"] == 2
    run_of(place / "run", *new, steps=1)
    assert written(place / "run")["seed"] == 7


def test_moved_data_and_another_machine_are_free(run_of, place, stopped):
    shutil.copytree(stopped / "people", place / "moved")
    free = (f"data.root={place}/moved", "data.num_workers=1", "trainer.log_every=2", "accelerator=auto", "watch=none")
    run_of(place / "none", f"resume={place}/run", *free, steps=1)
    content = last(place / "run")
    assert content["step"] == 2 and content["config"]["data"]["root"] == f"{place}/moved"
    assert content["config"]["data"]["batch_size"] == 12 and content["config"]["accelerator"]["name"] == "auto"


def test_moved_data_are_free_in_a_repeated_command(run_of, place, stopped):
    shutil.copytree(stopped / "people", place / "moved")
    repeated = (*JOB, "data=folder", f"data.root={place}/moved", "resume=auto")
    run_of(place / "run", *repeated, steps=1)
    assert last(place / "run")["step"] == 2 and written(place / "run")["data"]["root"] == f"{place}/moved"


def test_moved_data_with_other_contents_are_refused_unless_asked_for(run_of, place, stopped, caplog):
    shutil.copytree(stopped / "people", place / "moved")
    shutil.copy(place / "moved" / "Person_0" / "0.png", place / "moved" / "Person_3" / "5.png")
    resuming = (f"resume={place}/run", f"data.root={place}/moved")
    said = f"data: 1 of 24 sampled images have other contents, first {place}/moved/Person_3/5.png"
    with pytest.raises(UserError, match=f"{said}; restore them, or set resume_changed=true"):
        run_of(place / "none", *resuming)
    run_of(place / "none", *resuming, "resume_changed=true", steps=1)
    assert said in caplog.text and last(place / "run")["step"] == 2
    run_of(place / "none", f"resume={place}/run", steps=1)  # they are the run's now


def test_a_run_of_an_earlier_facenet_goes_on(run_of, place, stopped):
    content = last(place / "run")
    del content["samples"]
    checkpoint.save(content, place / "run" / "checkpoints" / "last.pt")
    shutil.copytree(stopped / "people", place / "moved")
    run_of(place / "none", f"resume={place}/run", f"data.root={place}/moved", steps=1)
    assert last(place / "run")["step"] == 2 and len(last(place / "run")["samples"]["data"]["images"]) == 24


def test_changed_values_of_the_optimizer_are_those_that_train(run_of, place):
    values = {"lr": 0.01, "weight_decay": 0.5, "betas": [0.5, 0.6], "eps": 1e-3}
    given = [f"optimizer.{name}={value}".replace(" ", "") for name, value in values.items()]
    run_of(place / "none", f"resume={place}/run", *given, "resume_changed=true", steps=1)
    (group,) = last(place / "run")["training"]["optimizer"]["param_groups"]
    assert {name: list(group[name]) if name == "betas" else group[name] for name in values} == values
    state = last(place / "run")["training"]["optimizer"]["state"]
    assert {float(each["step"]) for each in state.values()} == {2.0}  # moments of the run, not new ones


def test_another_optimizer_begins_and_the_rest_goes_on(run_of, place, caplog):
    run_of(place / "none", f"resume={place}/run", "optimizer=sgd", "resume_changed=true", steps=1)
    said = "optimizer: starts anew, the rest goes on (torch.optim.AdamW left no state for torch.optim.SGD)"
    content = last(place / "run")
    assert said in caplog.text and content["step"] == 2
    assert content["config"]["optimizer"]["_target_"] == "torch.optim.SGD" and content["config"]["data"]["root"]
    assert all(each.keys() == {"momentum_buffer"} for each in content["training"]["optimizer"]["state"].values())


def test_an_option_that_needs_a_state_the_run_has_not(run_of, place, caplog):
    run_of(place / "none", f"resume={place}/run", "optimizer.amsgrad=true", "resume_changed=true", steps=1)
    assert "optimizer: starts anew, the rest goes on (the run's has no max_exp_avg_sq)" in caplog.text
    assert last(place / "run")["step"] == 2


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["backbone=mobilenet_v1"], "backbone: another network than the run's .*; leave it as it was"),
        (
            ["backbone.embedding_size=64"],
            r"backbone: another network than the run's \(\w.* is \[64, 512, 1, 1\], was \[16, 512, 1, 1\]\)",
        ),
        (["loss=arcface"], r"loss: other parameters than the run's \(terms.arcface.weight is new\)"),
        (["data.min_images=6"], "the loss has learned 4 identities, which are not the 3 of these data"),
    ],
)
def test_another_training_is_refused_with_the_way(run_of, place, stopped, overrides, said):
    if "data.min_images=6" in overrides:
        shutil.copytree(stopped / "people", place / "moved")
        (place / "moved" / "Person_2" / "3.png").unlink()
        overrides = [*overrides, f"data.root={place}/moved"]
    before = sorted(path.read_bytes() for path in (place / "run").rglob("*") if path.is_file())
    way = f"weights={place}/run/checkpoints/last.pt instead of resume, in a new directory"
    with pytest.raises(UserError, match=f"{said}.*{way}") as raised:
        run_of(place / "none", f"resume={place}/run", *overrides, "resume_changed=true")
    assert "\n" not in str(raised.value)
    assert sorted(path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()) == before


def test_the_way_leads_there(run_of, place, stopped):
    weights = place / "run" / "checkpoints" / "last.pt"
    overrides = (*JOB, "data=folder", f"data.root={stopped}/people", "loss=arcface", f"weights={weights}")
    run_of(place / "other", *overrides, steps=1)
    assert last(place / "other")["step"] == 1


def test_values_of_network_and_loss_that_have_no_weights_are_used(run_of, place):
    changed_values = ("backbone.init=reference", "loss.terms.triplet.loss.margin=0.3", "loss.terms.ce.weight=0.5")
    run_of(place / "none", f"resume={place}/run", *changed_values, "resume_changed=true", steps=1)
    assert last(place / "run")["config"]["loss"]["terms"]["triplet"]["loss"]["margin"] == 0.3


def test_other_weights_to_begin_with_are_refused(run_of, place):
    with pytest.raises(UserError, match=r"weights=other.pth: is where a run begins, .* leave out one of them"):
        run_of(place / "none", f"resume={place}/run", "weights=other.pth", "resume_changed=true")


def test_an_average_that_begins_later_begins_at_the_weights_of_the_run(run_of, place):
    """Not at those that a new network is made with: update 0 of the average keeps a tenth."""
    run_of(place / "none", f"resume={place}/run", "trainer.ema_decay=0.9", "resume_changed=true", steps=0)
    content = last(place / "run")
    average, now = content["training"]["ema"]["model"], content["training"]["embedder"]
    before = checkpoint.load(place / "run" / "checkpoints" / "last.pt")["training"]["embedder"]
    name = max(now, key=lambda name: now[name].numel())
    assert (average[name] - now[name]).abs().max() < 0.01 and torch.equal(before[name], now[name])


def test_a_score_of_another_kind_is_no_best_to_beat(run_of, place, caplog):
    content = last(place / "run")
    content["best"] = {"score": 100.0, "row": {"train/loss": -100.0, "epoch": 1.0}}
    checkpoint.save(content, place / "run" / "checkpoints" / "last.pt")
    best = place / "run" / "checkpoints" / "best.pt"
    checkpoint.save({**content, "metrics": content["best"]["row"], "step": 77}, best)
    other = shutil.copytree(place / "run", place / "other")
    run_of(place / "none", f"resume={place}/run")
    assert last(place / "run")["best"]["score"] == 100.0 and checkpoint.load(best)["step"] == 77
    run_of(place / "none", f"resume={other}", "trainer.select=train/ce", "resume_changed=true")
    assert "best score: starts anew" in caplog.text and "trainer.select: was None, is train/ce" in caplog.text
    assert last(other)["best"]["score"] < 10 and checkpoint.load(other / "checkpoints" / "best.pt")["step"] < 77


def test_a_size_that_follows_another_follows_it(compose_train):
    stored = compose_train("backbone=mobilefacenet", "data.image_size=32", "seed=3")
    composed = compose_train("data.image_size=48")
    found = resume.overlaid(stored, composed, ["data.image_size=48"])
    assert found["data"]["image_size"] == 48 and found["seed"] == 3
    assert found["preprocess"]["size"] == [48, 48] == found["backbone"]["input_size"]
    said = resume.overlaid({**stored, "preprocess": {"size": [40, 32]}}, composed, ["data.image_size=48"])
    assert said["preprocess"]["size"] == [40, 32] and said["backbone"]["input_size"] == [32, 32]
    assert resume.overlaid(stored, composed, ["optimizer.lr=0.1"])["preprocess"]["size"] == [32, 32]


def test_an_option_that_is_newer_than_the_run_makes_no_other_training_of_it(compose_train):
    config, before = compose_train("backbone=mobilenet_v1"), compose_train("backbone=mobilenet_v1")
    del before["backbone"]["trunk"]["width"]
    assert changed.changes(before, config) == changed.changes(config, before) == []
    config["backbone"]["trunk"]["width"] = 0.5
    assert changed.changes(before, config) == ["backbone.trunk.width: was 1.0, is 0.5"]
    before["backbone"]["trunk"]["_target_"] = "facenet.backbones.InceptionResNetV1"
    assert "backbone.trunk.width: was absent, is 0.5" in changed.changes(before, config)


def test_what_is_pending_is_adopted_where_a_checkpoint_was_written_after_it(place):
    run = place / "run"
    for later, expected in ((False, "old"), (True, "new")):
        configs.write({"is": "old"}, run / "resolved.yaml")
        configs.write({"is": "new"}, run / "resolved.pending.yaml")
        written_at = (run / "resolved.pending.yaml").stat().st_mtime_ns + (10**9 if later else -(10**9))
        os.utime(run / "checkpoints" / "last.pt", ns=(written_at, written_at))
        resume.settle(run)
        assert written(run) == {"is": expected} and not (run / "resolved.pending.yaml").exists()
    resume.settle(place)  # nothing there


def test_a_job_of_a_sweep_is_known_where_its_data_have_moved(run_of, place, stopped):
    run_of(place / "none", f"resume={place}/run")
    shutil.copytree(stopped / "people", place / "moved")
    config = last(place / "run")["config"]

    def kind(**data):
        return state_of(place / "run", {**config, "data": {**config["data"], **data}, "resume": None}).kind

    assert kind() == kind(num_workers=3) == kind(root=f"{place}/moved") == "finished"
    assert kind(batch_size=24) == "changed"
    shutil.copy(place / "moved" / "Person_0" / "0.png", place / "moved" / "Person_3" / "5.png")
    assert kind(root=f"{place}/moved") == "changed"


@pytest.mark.slow
def test_the_commands_of_a_project_that_has_moved(stopped, place, started, finished):
    """As a user types them: the defaults of a command have drawn faces, and no data.root."""
    shutil.copytree(stopped / "people", place / "moved")
    command = (f"resume={place}/run", f"data.root={place}/moved", "data.num_workers=1", "accelerator=cpu")
    done = finished(started("facenet-train", place / "none", *command), place / "none")
    assert done.code == 0 and last(place / "run")["step"] == 4, done.err
    wrong = finished(started("facenet-train", place / "none", f"resume={place}/run", "data.rot=x"), place / "none")
    assert wrong.code == 2 and "data.rot: was absent, is x" in wrong.err, wrong.err


def test_a_held_out_evaluation_of_moved_data(run_of, compose_evaluate, stopped, tmp_path, caplog):
    people(tmp_path / "people", num_identities=6)
    held = ("benchmark=heldout", "benchmark.num_pairs=20", "benchmark.num_folds=2")
    job_of = [item for item in JOB if not item.startswith(("benchmark=", "data.val_identities"))]
    job_of += ["data=folder", f"data.root={tmp_path}/people", "data.val_identities=0.34", *held]
    run_of(tmp_path / "run", *job_of, "trainer.epochs=1")
    (tmp_path / "people").rename(tmp_path / "moved")
    path = tmp_path / "run" / "checkpoints" / "last.pt"

    def evaluated(*overrides, benchmark=held):
        overrides = (f"checkpoint={path}", *benchmark, *overrides)
        return evaluate.run_evaluation(
            compose_evaluate(*overrides), run_dir=tmp_path / "evaluation", overrides=list(overrides)
        ).objective

    with pytest.raises(UserError, match="people: no such folder"):
        evaluated()
    accuracy = checkpoint.load(path)["metrics"]["heldout/accuracy"]
    assert evaluated(f"data.root={tmp_path}/moved") == accuracy
    assert "have other contents" not in caplog.text
    with pytest.raises(UserError, match="data.root: only benchmark=heldout tests on images of the run"):
        evaluated("data.root=x", benchmark=("benchmark=lfw", "benchmark.root=x"))
    with pytest.raises(UserError, match="data.list=x: the run's data are of another kind; set data.root"):
        evaluated("data.list=x")
    for image in (tmp_path / "moved").rglob("0.png"):
        shutil.copy(image.with_name("1.png"), image)
    evaluated(f"data.root={tmp_path}/moved")
    assert "data: 6 of 36 sampled images have other contents" in caplog.text


def benchmark_of(folder):
    """In LFW's layout: a list of 2 folds of 2 + 2 pairs."""
    for person in range(4):
        for image in range(3):
            path = folder / "lfw" / f"Name_{person}" / f"Name_{person}_{image + 1:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (60 * person, 80 * image, 0)).save(path)
    lines = ["2\t2"]
    for first, second in ((0, 1), (2, 3)):
        lines += [f"Name_{first}\t1\t2", f"Name_{second}\t1\t3"]
        lines += [f"Name_{first}\t1\tName_{second}\t{image}" for image in (1, 2)]
    (folder / "lfw" / "pairs.txt").write_text("\n".join(lines) + "\n")
    return folder / "lfw"


def test_a_benchmark_that_has_moved(run_of, stopped, tmp_path, caplog):
    root, run = benchmark_of(tmp_path), tmp_path / "run"
    data = ("data=folder", f"data.root={stopped}/people", "benchmark=lfw", f"benchmark.root={root}")
    run_of(run, *(item for item in JOB if item != "benchmark=none"), *data, "trainer.epochs=4", steps=2)
    moved = root.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="lfw: .*lfw is not a folder"):
        run_of(tmp_path / "none", f"resume={run}")
    named = (f"resume={run}", f"benchmark.root={moved}")
    run_of(tmp_path / "none", *named, steps=2)
    shutil.copy(moved / "Name_0" / "Name_0_0001.png", moved / "Name_3" / "Name_3_0003.png")
    run_of(tmp_path / "none", *named, steps=2)  # mended since
    assert "benchmark: 1 of 10 sampled images have other contents" in caplog.text
    pairs = (moved / "pairs.txt").read_text()
    (moved / "pairs.txt").write_text(pairs.replace("Name_0\t1\t2", "Name_0\t1\t3"))
    with pytest.raises(UserError, match="the benchmark's pairs are not those that the run was tested on"):
        run_of(tmp_path / "none", *named)


def test_tracking_left_out_for_a_while_does_not_make_it_another_run(run_of, place):
    content = {**last(place / "run"), "run_id": "0" * 32}
    checkpoint.save(content, place / "run" / "checkpoints" / "last.pt")
    run_store.remember_store(place / "run", "sqlite:////a/mlflow.db", "0" * 32)
    for broken in (UserError("refused"), None):
        with contextlib.suppress(UserError):
            run_of(place / "none", f"resume={place}/run", "tracking=none", broken=broken, steps=1)
        assert run_store.stored_in(place / "run") == "sqlite:////a/mlflow.db"
    assert last(place / "run")["run_id"] == "0" * 32 and last(place / "run")["step"] == 2


def test_the_scale_of_the_loss_begins_where_it_is_told_to(compose_train):
    before = compose_train("precision=fp16")
    now = compose_train("precision=fp16", "precision.init_scale=1024")
    assert begun_anew(before, now) == {"scale": "begins at precision.init_scale=1024"}
    assert begun_anew(before, compose_train("precision=fp16", "precision.growth_interval=7")) == {}
    assert begun_anew(before, compose_train("precision=fp16", "seed=7")) == {"random": "begin at seed=7"}


def begun_anew(before, now, select="val/loss", keys=(), identities=("a", "b")):
    tested = [SimpleNamespace(name=key.rpartition(".")[2], key=key) for key in keys]
    material = SimpleNamespace(benchmarks=tested, train=SimpleNamespace(identities=["a", "b"]))
    return changed.begun_anew({"config": before, "identities": list(identities)}, now, material, select)


@pytest.mark.parametrize(
    ("select", "change", "anew"),
    [
        ("benchmark/accuracy", {}, False),
        ("benchmark/accuracy", {"benchmarks": {"other": {"num_pairs": 4}}}, False),  # one more
        (
            "benchmark/accuracy",
            {"benchmarks": {"agedb": {"num_folds": 5, "path": "/a"}}},
            False,
        ),  # another one is changed
        ("benchmark/accuracy", {"benchmark": {"num_pairs": 4}}, True),
        ("agedb/accuracy", {"benchmark": {"num_pairs": 4}}, False),
        ("agedb/accuracy", {"benchmarks": {"agedb": {"num_folds": 5, "path": "/a"}}}, True),
        ("agedb/accuracy", {"benchmarks": {"agedb": {"num_folds": 10, "path": "/b"}}}, False),  # it has moved
        ("val/loss", {"benchmark": {"num_pairs": 4}}, False),
        ("val/loss", {"trainer": {"select": "train/loss"}}, True),
        ("val/loss", {"data": {"val_images": 0.2}}, True),
    ],
)
def test_the_best_epoch_stays_where_what_chose_it_is_as_it_was(compose_train, select, change, anew):
    before = {**compose_train(), "benchmarks": {"agedb": {"num_folds": 10, "path": "/a"}}}
    now = {**before, **{name: {**before[name], **values} for name, values in change.items()}}
    found = begun_anew(before, now, select, ("benchmark", "benchmarks.agedb", "benchmarks.other"))
    assert ("best" in found) is anew and set(found) <= {"best"}


def test_the_best_epoch_by_a_loss_goes_with_the_identities(compose_train):
    config = compose_train()
    assert begun_anew(config, config) == begun_anew(config, config, "x/accuracy", ("benchmarks.x",), ("c",)) == {}
    assert begun_anew(config, config, identities=("a", "c")) == {"best": "the identities of the loss are others"}


def test_of_data_of_the_same_kind_only_what_is_named_counts(compose_train):
    stored = compose_train("data=folder", "data.root=a", "data.batch_size=12")
    composed = compose_train("data=folder", "data.root=b")
    found = resume.overlaid(stored, composed, ["data=folder", "data.root=b"])
    assert found["data"] == {**stored["data"], "root": "b"}
    other = compose_train("data=record", "data.path=c")
    assert resume.overlaid(stored, other, ["data=record", "data.path=c"])["data"] == other["data"]
    left_out = resume.overlaid(stored, composed, ["~optimizer.eps"])
    assert "eps" not in left_out["optimizer"] and left_out["data"] == stored["data"]


def test_a_config_that_nobody_wrote_is_one_line(run_of, place):
    content = last(place / "run")
    for broken in (None, [], "x", 3):
        checkpoint.save(
            {**content, "config": {**content["config"], "optimizer": broken}}, place / "run" / "checkpoints" / "last.pt"
        )
        with pytest.raises(UserError, match="its config has no optimizer; it is damaged"):
            run_of(place / "none", f"resume={place}/run")


def test_differences_name_the_key():
    before = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    assert list(changed.differing(before, before)) == []
    assert [line for _, line in changed.differing(before, {"a": {"b": 2, "c": [1, 2], "e": 0}})] == [
        "a.b: was 1, is 2",
        "a.e: was absent, is 0",
        "d: was None, is absent",
    ]


def test_every_free_key_is_one_of_the_config(compose_train):
    """A key that was renamed would no longer be free, and nobody would say so."""
    known = {key for key, _ in configs.walk(compose_train())}
    for group in ("data", "benchmark"):
        for path in Path(str(files("facenet.conf"))).joinpath(group).glob("*.yaml"):  # a wheel has them elsewhere
            known |= {f"{group}.{key}" for key in configs.read(path)}
    assert set(changed.FREE) <= known


DISK = ("replace", "rename", "fsync", "unlink", "link", "mkdir")


def dies_at(call, after):
    """This process ends, as if it were killed, before or after so many calls that change the disk."""
    left = [call]

    def counted(function):
        def run(*arguments, **options):
            left[0] -= 1
            if left[0] == 0 and not after:
                os._exit(9)
            result = function(*arguments, **options)
            if left[0] == 0:
                os._exit(9)
            return result

        return run

    for name in DISK:
        setattr(os, name, counted(getattr(os, name)))


@pytest.mark.nightly
@pytest.mark.skipif(os.environ.get("FACENET_NIGHTLY") != "1", reason="long; set FACENET_NIGHTLY=1")
@pytest.mark.timeout(7200)
def test_wherever_a_resume_is_killed_the_run_is_what_it_was_or_what_its_checkpoint_says(run_of, stopped, tmp_path):
    """200 instants, each before or after one of the calls by which the disk changes; which of them is drawn."""
    draw, kinds = random.Random(int(os.environ.get("FACENET_CHAOS_SEED", "0"))), Counter()
    for number in range(int(os.environ.get("FACENET_CHAOS_DRAWS", "200"))):
        run, call, after = tmp_path / str(number), draw.randrange(1, 45), draw.random() < 0.5
        shutil.copytree(stopped / "run", run)
        pid = os.fork()
        if pid == 0:
            dies_at(call, after)
            with contextlib.suppress(BaseException):
                run_of(tmp_path / "none", f"resume={run}", "optimizer.weight_decay=0.5", "resume_changed=true")
            os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
        now, on_disk = (config["optimizer"]["weight_decay"] for config in (last(run)["config"], written(run)))
        assert (now, on_disk) in ((0.05, 0.05), (0.5, 0.05), (0.5, 0.5)), (number, call, after)
        if last(run)["step"] < 4:
            run_of(tmp_path / "none", f"resume={run}", steps=1)
            assert last(run)["config"]["optimizer"]["weight_decay"] == now == written(run)["optimizer"]["weight_decay"]
            assert not (run / "resolved.pending.yaml").exists() and not [*run.rglob(".*-partial")], (
                number,
                call,
                after,
            )
        kinds[killed, now, on_disk] += 1
        shutil.rmtree(run)
    print(kinds)
    assert len(kinds) >= 3
