import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.engine import checkpoint
from facenet.errors import UserError
from facenet.tasks.evaluate import run_evaluation

OTHERS = ["data.image_size=32", "backbone.trunk.width=0.25"]  # what `weights` do not say of themselves
PAIRS = ["benchmark=heldout", "benchmark.num_pairs=60", "benchmark.num_folds=3"]


def read(path):
    return json.loads(path.read_text())


@pytest.fixture
def evaluated(compose_evaluate, tmp_path):
    """evaluated(*overrides): the record of an evaluation in this process."""

    def evaluate(*overrides, run_dir=None):
        run_dir = run_dir or tmp_path / "evaluation"
        accuracy = run_evaluation(compose_evaluate(*overrides), run_dir=run_dir, overrides=list(overrides)).objective
        (path,) = (path for path in run_dir.glob("*.json") if not path.name.startswith("hardest"))
        record = read(path)
        assert record["accuracy"] == accuracy and (run_dir / "roc.png").stat().st_size > 5000
        return record

    return evaluate


@pytest.fixture(scope="module")
def last(tiny_run):
    return tiny_run.run_dir / "checkpoints" / "last.pt"


@pytest.fixture(scope="module")
def lfw(tmp_path_factory):
    """Six drawn identities x 4 images in LFW's layout, with a list of 2 folds of 4 + 4 pairs."""
    root = tmp_path_factory.mktemp("lfw")
    faces = SyntheticFaces(num_identities=6, images_per_identity=4, size=48, seed=7)
    for index, label in enumerate(faces.labels.tolist()):
        path = root / f"Name_{label}" / f"Name_{label}_{index % 4 + 1:04d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(faces.load(index)).save(path, quality=95)
    lines = ["2\t4"]
    for fold in range(2):
        lines += [f"Name_{3 * fold + i % 3}\t{i // 3 + 1}\t{i // 3 + 2}" for i in range(4)]
        lines += [f"Name_{3 * fold + i % 3}\t1\tName_{3 * fold + (i + 1) % 3}\t{i // 3 + 2}" for i in range(4)]
    (root / "pairs.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def weights(last, tmp_path_factory):
    """The tiny network as a plain state dict, as others save theirs."""
    path = tmp_path_factory.mktemp("weights") / "facenet.pth"
    torch.save(checkpoint.load(last)["embedder"], path)
    return path


def test_the_command_repeats_the_result_of_the_training_log(tiny_run, last, facenet_evaluate):
    database = f"sqlite:///{tiny_run.run_dir.parent}/mlflow.db"
    done = facenet_evaluate(f"checkpoint={last}", *PAIRS, "accelerator=cpu", f"tracking.uri={database}")
    assert done.code == 0, done.err
    assert read(done.run_dir / "heldout.json") == read(tiny_run.run_dir / "heldout.json")
    row = read(tiny_run.run_dir / "history.json")[-1]
    assert read(done.run_dir / "heldout.json")["accuracy"] == row["heldout/accuracy"]
    assert "\nheldout: 60 pairs, 3 folds\n" in done.out and f"{100 * row['heldout/accuracy']:.2f} %" in done.out

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=database)
    found = [
        run
        for run in client.search_runs([client.get_experiment_by_name("facenet").experiment_id])
        if run.data.tags["run_dir"] == str(done.run_dir)
    ]
    (run,) = found
    assert run.info.status == "FINISHED" and run.info.run_name == "evaluate last.pt on heldout"
    assert run.data.metrics["heldout/accuracy"] == row["heldout/accuracy"]
    trained_by = run.data.tags["trained_by_run"]
    assert trained_by == checkpoint.load(last)["run_id"]
    told = client.get_run(trained_by).data.tags["evaluated.heldout"]
    assert told.startswith(f"accuracy {row['heldout/accuracy']:.4f}, 95 % interval ")
    assert told.endswith(f", run {run.info.run_id}")
    artifacts = {
        item.path for top in ("curves", "faces", "records") for item in client.list_artifacts(run.info.run_id, top)
    }
    curves = {"curves/roc.png", "curves/scores-heldout.png", "curves/det-heldout.png", "curves/projection-heldout.png"}
    assert artifacts == curves | {
        "faces/faces-hardest-heldout.png",
        "records/heldout.json",
        "records/hardest-heldout.json",
        "records/pairs-heldout.csv.gz",
    }


def test_each_checkpoint_repeats_its_own_metrics(tiny_run, evaluated):
    for epoch in (1, 2):
        path = tiny_run.run_dir / "checkpoints" / f"epoch-{epoch:03d}.pt"
        content = checkpoint.load(path)
        record = evaluated(f"checkpoint={path}", *PAIRS)
        assert record["accuracy"] == content["metrics"]["heldout/accuracy"]
        assert record["threshold"] == content["threshold"] and record["auc"] == content["metrics"]["heldout/auc"]


def test_weights_made_elsewhere_give_what_the_checkpoint_gives(last, weights, lfw, evaluated, tmp_path):
    of_checkpoint = evaluated(f"checkpoint={last}", "benchmark=lfw", f"benchmark.root={lfw}", run_dir=tmp_path / "a")
    of_weights = evaluated(
        f"weights={weights}", "benchmark=lfw", f"benchmark.root={lfw}", *OTHERS, run_dir=tmp_path / "b"
    )
    assert of_weights == of_checkpoint and of_weights["num_pairs"] == 16
    assert len(of_weights["fold_accuracies"]) == 2 and np.isfinite(of_weights["auc"])
    flipped = evaluated(
        f"checkpoint={last}",
        "benchmark=lfw",
        f"benchmark.root={lfw}",
        "benchmark/protocol=flip",
        run_dir=tmp_path / "c",
    )
    assert flipped["threshold"]["flip"] == "concat" and flipped["threshold"] != of_checkpoint["threshold"]


def settled(state):
    """Running statistics without the share of their first values, 0.9 to the number of batches: after the tiny job's 8 these shrink what
    differs between images layer by layer, down to rounding, and all images give one embedding."""
    found = dict(state)
    for name in [key.removesuffix("num_batches_tracked") for key in state if key.endswith("num_batches_tracked")]:
        share = 0.9 ** int(state[f"{name}num_batches_tracked"])
        found[f"{name}running_mean"] = state[f"{name}running_mean"] / (1 - share)
        found[f"{name}running_var"] = (state[f"{name}running_var"] - share).clamp_min(1e-6) / (1 - share)
    return found


def test_the_preprocessing_of_the_checkpoint_is_used(tiny_run, last, lfw, evaluated, tmp_path):
    """Weights with another frame give another result: the checkpoint's must come from the file."""
    content = checkpoint.load(last)
    content["embedder"] = settled(content["embedder"])
    paths = tmp_path / "one.pt", tmp_path / "other.pt"
    for path, mean in zip(paths, (0.0, 0.5), strict=True):
        content["config"]["preprocess"]["mean"] = [mean] * 3
        checkpoint.save(content, path)
    first, second = (
        evaluated(f"checkpoint={path}", f"benchmark.root={lfw}", run_dir=tmp_path / path.stem) for path in paths
    )
    assert first["threshold"]["value"] > 0.01 and abs(first["threshold"]["value"] - second["threshold"]["value"]) > 1e-4


def one_line(raised):
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_weights_of_another_backbone(weights, lfw, evaluated, tmp_path):
    with pytest.raises(UserError, match="facenet.pth does not fill this network: .* choose the backbone") as raised:
        evaluated(f"weights={weights}", "backbone=inception_resnet_v1", f"benchmark.root={lfw}")
    assert one_line(raised) and not (tmp_path / "evaluation").exists()


def test_a_checkpoint_whose_weights_are_of_another_network(last, lfw, evaluated, tmp_path):
    content = checkpoint.load(last)
    content["config"]["backbone"]["embedding_size"] = 64
    checkpoint.save(content, tmp_path / "mixed.pt")
    with pytest.raises(UserError, match="mixed.pt: its weights do not fit its own network .*Bottleneck.weight"):
        evaluated(f"checkpoint={tmp_path}/mixed.pt", f"benchmark.root={lfw}")


def test_a_checkpoint_may_only_build_networks(last, lfw, evaluated, tmp_path):
    content = checkpoint.load(last)
    content["config"]["backbone"] = {"_target_": "os.system", "command": "true"}
    checkpoint.save(content, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="os.system.* may not be built from a config"):
        evaluated(f"checkpoint={tmp_path}/evil.pt", f"benchmark.root={lfw}")


def test_a_damaged_checkpoint_is_one_line_and_exit_code_2(last, lfw, facenet_evaluate, tmp_path):
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(last.read_bytes()[:100_000])
    done = facenet_evaluate(f"checkpoint={damaged}", f"benchmark.root={lfw}", "tracking=none")
    assert done.code == 2 and done.err.startswith(f"checkpoint={damaged}: damaged, or no checkpoint")
    assert len(done.err.splitlines()) == 1 and not done.out


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "give either checkpoint=FILE .* or weights=FILE"),
        (["checkpoint=a.pt", "weights=b.pt"], "give either checkpoint=FILE .* or weights=FILE"),
        (["checkpoint=absent.pt"], "checkpoint=absent.pt: no such file"),
        (["checkpoint=a.pt", "backbone=mobilenet_v1"], "backbone=mobilenet_v1: a.pt carries its own network"),
        (["checkpoint=a.pt", "data.image_size=32"], "data.image_size=32: a.pt carries its own network"),
        (["weights=absent.pth"], "no file at absent.pth"),
    ],
)
def test_what_does_not_go_together(evaluated, lfw, overrides, said):
    with pytest.raises(UserError, match=said) as raised:
        evaluated(*overrides, f"benchmark.root={lfw}")
    assert one_line(raised)


def test_weights_made_elsewhere_have_no_held_out_identities(weights, evaluated):
    with pytest.raises(UserError, match="weights made elsewhere name no training data; use benchmark=lfw"):
        evaluated(f"weights={weights}", *OTHERS, *PAIRS)


def test_nothing_to_test_on(last, evaluated):
    with pytest.raises(UserError, match="benchmark=none: there is nothing to test on; use benchmark=lfw"):
        evaluated(f"checkpoint={last}", "benchmark=none")


def test_identities_that_were_trained_on_are_not_called_held_out(last, evaluated, tmp_path):
    """A run with another benchmark holds nobody out, and the default share would then be drawn from its training data."""
    content = checkpoint.load(last)
    content["identities"] = [f"synthetic/{number}" for number in range(12)]
    every = SyntheticFaces(num_identities=12, images_per_identity=1, size=32, seed=0).identities
    checkpoint.save({**content, "identities": list(every)}, tmp_path / "all.pt")
    with pytest.raises(UserError, match="4 of 4 held-out identities were trained on, first .*; use benchmark=lfw"):
        evaluated(f"checkpoint={tmp_path}/all.pt", *PAIRS)


def test_data_that_changed_since_is_said(last, evaluated, tmp_path, caplog):
    checkpoint.save({**checkpoint.load(last), "data_fingerprint": "0" * 16}, tmp_path / "before.pt")
    evaluated(f"checkpoint={tmp_path}/before.pt", *PAIRS)
    assert "the data changed since training" in caplog.text


def test_missing_faces_of_the_benchmark(last, lfw, evaluated, tmp_path):
    incomplete = tmp_path / "lfw"
    shutil.copytree(lfw, incomplete)
    (incomplete / "Name_0" / "Name_0_0001.jpg").unlink()
    with pytest.raises(
        UserError, match="lfw: 1 files named by pairs.txt are missing under .*, first Name_0/Name_0_0001"
    ):
        evaluated(f"checkpoint={last}", f"benchmark.root={incomplete}")
