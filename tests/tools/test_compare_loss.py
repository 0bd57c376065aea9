import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from facenet.errors import UserError
from facenet.tools.compare_loss import by_iteration, run_compare_loss
from facenet.tracking.choice import MlflowTracking
from facenet.tracking.dllogger import VendorLog
from facenet.tracking.facts import RunFacts

BIN = Path(sys.executable).parent
DEFAULTS = {"steps": None, "metric": "train.loss", "tolerance": 0.05, "uri": None, "plot": None, "json": True}


def log_of(path, losses, first=1):
    """A log as training writes it, an iteration per loss."""
    log = VendorLog(path, 0)
    for iteration, loss in enumerate(losses, start=first):
        log.train(0, iteration, loss=loss, ips=1.0, lr=0.1)
    log.close()
    return str(path)


def nvidia_log_of(path, losses):
    rows = [{"type": "LOG", "step": [0, row], "data": {"train.loss": loss}} for row, loss in enumerate(losses)]
    path.write_text("".join(f"DLLL {json.dumps(row)}\n" for row in rows))
    return str(path)


def figures(a, b, **changes):
    text, passed = run_compare_loss(a=a, b=b, **{**DEFAULTS, **changes})
    found = json.loads(text)
    assert found["absolute"]["passed"] is passed
    return found


def test_the_figures_of_two_logs_of_both_dialects(tmp_path):
    a = log_of(tmp_path / "a", [4.4, 1.8, 1.0, 99.0])
    b = nvidia_log_of(tmp_path / "b", [4.0, 2.0, 1.0])  # counts from 0
    found = figures(a, b)
    assert (found["num_iterations"], found["first_iteration"], found["last_iteration"]) == (3, 1, 3)
    # differences 0.4, -0.2, 0; relative 0.1, -0.1, 0
    assert found["vendor"] == {
        "mean_relative": pytest.approx(0, abs=1e-12),
        "mean": pytest.approx(0.2 / 3),
        "passed": True,
    }
    assert found["absolute"] == {
        "mean_relative": pytest.approx(0.2 / 3),
        "mean": pytest.approx(0.2),
        "max": pytest.approx(0.4),
        "max_iteration": 1,
        "tolerance": 0.05,
        "passed": False,
    }
    assert found["final"] == {"a": 1.0, "b": 1.0}
    assert figures(a, b, tolerance=0.07)["absolute"]["passed"]
    first = figures(a, b, steps=1)
    assert first["num_iterations"] == 1 and first["absolute"]["mean_relative"] == pytest.approx(0.1)


def test_a_lower_loss_passes_the_vendors_rule_and_not_ours(tmp_path):
    a, b = log_of(tmp_path / "a", [0.5, 0.25]), log_of(tmp_path / "b", [1.0, 1.0])
    found = figures(a, b)
    assert found["vendor"] == {"mean_relative": -0.625, "mean": -0.625, "passed": True}
    assert found["absolute"]["mean_relative"] == 0.625 and not found["absolute"]["passed"]
    assert not figures(b, a)["vendor"]["passed"]


def test_the_vendors_rule_takes_either_figure(tmp_path):
    a, b = log_of(tmp_path / "a", [0.0011]), log_of(tmp_path / "b", [0.001])
    assert figures(a, b)["vendor"]["passed"], "10 %, and only 0.0001"
    a, b = log_of(tmp_path / "c", [104.0]), log_of(tmp_path / "d", [100.0])
    assert figures(a, b)["vendor"]["passed"], "4, and only 4 %"


def test_a_reference_of_zero_is_told_apart_from_a_difference(tmp_path):
    zeros = log_of(tmp_path / "zeros", [0.0, 0.0])
    assert figures(zeros, zeros)["absolute"]["mean_relative"] == 0
    found = figures(log_of(tmp_path / "a", [0.0, 0.5]), zeros)
    assert found["absolute"]["mean_relative"] is None and found["absolute"]["mean"] == 0.25
    assert not found["absolute"]["passed"]


@pytest.mark.parametrize(
    ("steps", "numbers"),
    [
        ([(0, 1), (0, 2), (1, 3)], [1, 2, 3]),  # over the run
        ([(0, 0), (0, 1), (1, 2)], [1, 2, 3]),  # from 0
        ([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)], [1, 2, 3, 4, 5]),  # anew in each epoch
        ([(1, 1), (1, 2), (2, 1)], [1, 2, 3]),
        ([(0, 20), (0, 40), (1, 60)], [20, 40, 60]),
    ],
)
def test_iterations_count_from_1_over_the_run(steps, numbers):
    points = [(*step, float(value)) for value, step in enumerate(steps)]
    assert by_iteration(points) == {number: float(value) for value, number in enumerate(numbers)}


def test_a_resumed_or_repeated_run_replaces_what_it_did_again(tmp_path):
    path = tmp_path / "log"
    log_of(path, [1.0, 2.0, 3.0, 4.0])
    assert figures(log_of(path, [5.0, 6.0], first=3), log_of(tmp_path / "b", [1, 2, 5, 6]))["absolute"]["max"] == 0
    log_of(path, [7.0, 8.0])
    found = figures(str(path), log_of(tmp_path / "c", [7, 8, 9, 9]))
    assert found["num_iterations"] == 2 and found["absolute"]["max"] == 0


def test_a_picture_of_both(tmp_path):
    a, b = log_of(tmp_path / "a", [2.0, 1.0]), log_of(tmp_path / "b", [2.0, 1.5])
    figures(a, b, plot=str(tmp_path / "loss.png"))
    with Image.open(tmp_path / "loss.png") as image:
        assert image.format == "PNG" and image.size == (770, 660)
        assert len(image.convert("RGB").getcolors(2**20)) > 50
    with pytest.raises(UserError, match="--plot .*/absent/loss.png: cannot be written .No such file"):
        figures(a, b, plot=str(tmp_path / "absent" / "loss.png"))


def test_what_is_refused(tmp_path):
    good, nan = log_of(tmp_path / "good", [1.0, 1.0, 1.0]), log_of(tmp_path / "nan", [1.0, 1.0, float("nan")])
    late = log_of(tmp_path / "late", [1.0, 1.0], first=7)
    (tmp_path / "empty").mkdir()
    for a, b, changes, message in [
        (
            f"{good}x",
            good,
            {},
            f"{good}x: no such file, and no MLflow run (32 hexadecimal digits, or runs:/ and these)",
        ),
        (good, str(tmp_path / "empty"), {}, "/empty: no dllogger-0.json in it; the run needs tracking.dllogger=true"),
        (
            good,
            good,
            {"metric": "train.los"},
            "no metric train.los in it; it has rank, train.loss, train.ips, train.lr",
        ),
        (good, late, {}, f"no iteration in common: {good} has 3 from 1 to 3, {late} has 2 from 7 to 8"),
        (good, nan, {}, f"{nan}: the loss is not finite at iteration 3 (nan); --steps 2 compares what came before"),
        (good, good, {"steps": 0}, "--steps: expected 1 or more, got 0"),
        (good, good, {"tolerance": -0.1}, "--tolerance: expected 0 or more, got -0.1"),
        (good, good, {"tolerance": float("nan")}, "--tolerance: expected 0 or more, got nan"),
    ]:
        with pytest.raises(UserError) as raised:
            figures(a, b, **changes)
        assert message in str(raised.value)
    assert figures(good, nan, steps=2)["absolute"]["passed"]


def test_runs_of_mlflow(tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow = MlflowTracking(uri=uri)
    ids = []
    for losses in ([4.0, 2.0], [4.0, 2.5], [1.0, float("inf")]):
        with mlflow.run(RunFacts("run", tmp_path, {}, "", {}, {}, {})) as run_id:
            tracker = mlflow.tracker(run_id, tmp_path)
            for step, loss in enumerate(losses, start=1):
                tracker.metrics({"train/loss": loss, "train/ce/accuracy": loss}, step=step)
            tracker.close()
        ids.append(run_id)
    found = figures(ids[0], f"runs:/{ids[1]}", uri=uri)
    assert found["absolute"]["max"] == 0.5 and found["final"] == {"a": 2.0, "b": 2.5}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    log_of(tmp_path / "dllogger-0.json", [4.0, 2.5])
    assert figures(str(tmp_path), ids[1])["absolute"]["max"] == 0, "a log's iterations are the run's steps"
    assert figures(ids[0], ids[1], metric="train/ce/accuracy")["final"]["b"] == 2.5
    refused = [
        (ids[2], {}, f"{ids[2]}: the loss is not finite at iteration 2"),
        ("0" * 32, {}, f"MLflow at {uri} cannot be read (Run with id={'0' * 32} not found)"),
        (ids[0], {"metric": "val.loss"}, "no metric val/loss in it; it has train/ce/accuracy, train/loss"),
        (ids[0], {"uri": f"sqlite:///{tmp_path}/other.db"}, f"no MLflow database {tmp_path}/other.db; set --uri"),
    ]
    for a, changes, message in refused:
        with pytest.raises(UserError) as raised:
            figures(a, ids[1], **changes)
        assert message in str(raised.value)
    assert not (tmp_path / "other.db").exists()


def command(*arguments):
    done = subprocess.run([BIN / "facenet-compare-loss", *arguments], capture_output=True, text=True, timeout=100)
    assert "Traceback" not in done.stderr
    return done


def test_the_command_and_its_exit_codes(tmp_path):
    a, b = log_of(tmp_path / "a", [4.4, 1.8]), log_of(tmp_path / "b", [4.0, 2.0])
    differs = command(a, b)
    assert differs.returncode == 1 and differs.stdout == (
        "train.loss: 2 common iterations, 1 to 2\n"
        f"  A  {a}\n"
        f"  B  {b} (reference)\n"
        "  mean (A - B) / B       +0.000000\n"
        "  mean  A - B            +0.100000\n"
        "  vendor's rule          pass: the first <= 0.05 or the second <= 0.0002; they are signed, so a lower loss always passes\n"
        "  mean |A - B| / |B|      0.100000\n"
        "  mean |A - B|            0.300000\n"
        "  largest |A - B|         0.400000 at iteration 1\n"
        "  last                    1.800000 and 2.000000\n"
        "  verdict                FAIL: mean |A - B| / |B| <= 0.05 (--tolerance)\n"
    )
    same = command(a, b, "--tolerance", "0.2", "--json", "--plot", str(tmp_path / "loss.png"))
    assert same.returncode == 0 and json.loads(same.stdout)["absolute"]["max_iteration"] == 1
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    missing = command(a, str(tmp_path / "c"))
    assert missing.returncode == 2 and missing.stdout == "" and missing.stderr.count("\n") == 1


def logged(path):
    """[(step, data)] of the LOG lines, read as the vendor does."""
    entries = [json.loads(line.split("TCAPPDLL")[1]) for line in path.read_text().splitlines()]
    return [(entry["step"], ast.literal_eval(entry["data"])) for entry in entries if entry["type"] == "LOG"]


@pytest.mark.slow
def test_a_short_run_and_its_repetition_agree(facenet_train, tmp_path):
    """The vendor's comparison from training to verdict, with 10 iterations for 100, in epochs of 4."""
    short = ("trainer.max_steps=10", "trainer.epochs=9", "trainer.log_every=1", "benchmark=none")
    runs = [facenet_train(*short, "tracking.dllogger=true", run_dir=tmp_path / name) for name in ("first", "second")]
    assert [done.code for done in runs] == [0, 0], runs[0].err
    history = json.loads((tmp_path / "first" / "history.json").read_text())
    rows = logged(tmp_path / "first" / "dllogger-0.json")
    train = [(step, data) for step, data in rows if "train.loss" in data]
    assert [step[1] for step, _ in train] == list(range(1, 11)) and len(history) == 3
    assert all(float(data["train.ips"]) > 0 for _, data in train)
    for epoch, row in enumerate(history):
        losses = [float(data["train.loss"]) for step, data in train if step[0] == epoch]
        assert sum(losses) / len(losses) == pytest.approx(row["train/loss"], rel=1e-5)
        [(step, val)] = [(step, data) for step, data in rows if "val.loss" in data and step[0] == epoch]
        assert float(val["val.loss"]) == pytest.approx(row["val/loss"], rel=1e-5) and float(val["val.ips"]) > 0
        assert step[1] == max(step[1] for step, _ in train if step[0] == epoch) and step[2] >= 1
    assert rows[-1][0] == "summary"
    done = command(str(tmp_path / "first"), str(tmp_path / "second"), "--steps", "100", "--tolerance", "0.001")
    assert done.returncode == 0 and "10 common iterations, 1 to 10" in done.stdout, done.stdout


@pytest.mark.slow
def test_each_process_logs_its_own_loss_and_rate(facenet_train, tmp_path):
    ddp = ("distributed=ddp", "distributed.num_processes=2", "benchmark=none", "trainer.epochs=1")
    done = facenet_train(*ddp, "trainer.log_every=1", "tracking.dllogger=true")
    assert done.code == 0, done.err
    [row] = json.loads((tmp_path / "run" / "history.json").read_text())
    own = [
        [
            float(data["train.loss"])
            for _, data in logged(tmp_path / "run" / f"dllogger-{rank}.json")
            if "train.loss" in data
        ]
        for rank in (0, 1)
    ]
    assert len(own[0]) == len(own[1]) >= 2 and all(first != second for first, second in zip(*own, strict=True))
    assert sum(map(sum, own)) / (2 * len(own[0])) == pytest.approx(row["train/loss"], rel=1e-5)
