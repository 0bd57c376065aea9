"""facenet-report on a real store of made-up runs. The page in a browser: tests/browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest
from PIL import Image

from facenet.errors import UserError
from facenet.evaluation.judged import JudgedPair, save_pairs
from facenet.reports.report import BEST, END, run_report
from facenet.reports.study import read_curves, read_study
from facenet.tracking.store import NOTE, open_experiment

pytestmark = pytest.mark.slow  # MLflow takes seconds to make its tables
COMMAND = Path(sys.executable).parent / "facenet-report"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Address of a database with sweep `s` of three jobs, the first of which was tried twice, and a sweep `other`."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    client, experiment = open_experiment(uri, "study")
    jobs = [(0, "1e-3", None), (0, "1e-3", 0.9), (1, "3e-3", 0.8), (2, "1e-2", None)]
    for started, (number, lr, accuracy) in enumerate(jobs, start=1):
        tags = {
            "sweep_id": "s",
            "job_num": str(number),
            "hydra.overrides": f"optimizer.lr={lr}",
            "command": f"train {lr}",
        }
        run = client.create_run(experiment, start_time=started * 1000, tags=tags).info.run_id
        client.log_param(run, "plan.select", "lfw/accuracy")
        client.log_param(run, "plan.images_per_step", "30")
        if accuracy is None:
            client.set_tag(run, "error", "Traceback\nRuntimeError: no memory")
            client.set_terminated(run, "FAILED")
            continue
        for step in (5, 10):
            client.log_metric(run, "lfw/accuracy", accuracy - 1 / step, step=step)
        client.log_metric(run, "best/lfw/accuracy", accuracy)
        for fold in range(10):
            client.log_metric(run, f"folds/lfw/{fold}", accuracy)
        pairs = [JudgedPair(f"p/{n}.jpg", f"q/{n}.jpg", n % 2 == 0, n / 10, n < 10 * accuracy) for n in range(10)]
        folder = tmp_path_factory.mktemp("records")
        save_pairs(folder / "pairs-lfw.csv.gz", pairs)
        client.log_artifact(run, str(folder / "pairs-lfw.csv.gz"), "records")
        Image.new("RGB", (8, 8)).save(folder / "roc.png")
        client.log_artifact(run, str(folder / "roc.png"), "curves")
        client.set_terminated(run)
    client.create_run(experiment, tags={"sweep_id": "other"})
    return uri


def test_runs_of_several_seeds_are_told_how_far_those_lie_apart_and_only_once(store, tmp_path):
    shutil.copy(store.removeprefix("sqlite:///"), tmp_path)  # making tables takes seconds
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client, experiment = open_experiment(uri, "seeds")
    figures = {("1e-3", 1): 0.9, ("1e-3", 2): 0.94, ("3e-3", 1): 0.8}
    for number, ((lr, seed), accuracy) in enumerate(figures.items()):
        said = {"sweep_id": "seeds", "job_num": str(number), "hydra.overrides": f"optimizer.lr={lr}\nseed={seed}"}
        run = client.create_run(experiment, start_time=number * 1000, tags=said).info.run_id
        client.log_param(run, "plan.select", "lfw/accuracy")
        client.log_metric(run, "best/lfw/accuracy", accuracy)
        client.set_terminated(run)
    for _ in range(2):
        run_report("seeds", uri, str(tmp_path / "page.html"))
    name = "over_seeds/lfw/accuracy_std"
    told = [client.get_metric_history(job.run_id, name) for job in read_study(uri, "seeds").jobs]
    assert [[point.value for point in points] for points in told] == [
        [pytest.approx(0.04 / 2**0.5)],
        [pytest.approx(0.04 / 2**0.5)],
        [],
    ]


def test_a_sweep_is_read(store):
    study = read_study(store, "s")
    assert [(job.number, job.axes, job.value) for job in study.jobs] == [
        (0, {"optimizer.lr": "1e-3"}, 0.9),
        (1, {"optimizer.lr": "3e-3"}, 0.8),
        (2, {"optimizer.lr": "1e-2"}, None),
    ]
    assert study.jobs[0].folds == (0.9,) * 10 and study.jobs[2].why_unranked == "failed: RuntimeError: no memory"
    curves = read_curves(store, study, "lfw/accuracy")
    assert curves == {
        0: [(5, pytest.approx(0.7)), (10, pytest.approx(0.8))],
        1: [(5, pytest.approx(0.6)), (10, pytest.approx(0.7))],
    }
    assert read_curves(store, study, "val/loss") == {}


def test_the_command_writes_the_page_and_adds_it_to_the_best_run(store, tmp_path):
    done = subprocess.run([COMMAND, "s", "--uri", store], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    best = read_study(store, "s").jobs[0].run_id
    assert (done.returncode, done.stderr) == (0, "")
    verdict, where = done.stdout.splitlines()
    assert (
        verdict == "optimizer.lr=1e-3 has the highest lfw/accuracy, 0.9000, 0.1000 above optimizer.lr=3e-3: "
        "significantly different (p = 0.002 over 10 folds, one seed each)."
    )
    page = tmp_path / "report-s.html"
    assert where.startswith(f"{page} (0.0") and where.endswith(f"also in the artifacts of run {best}")
    client, _ = open_experiment(store, "study")
    text = page.read_text()
    assert (
        "Of 10 pairs 8 are judged rightly by both and 1 by neither; 1 by lr 1e-3 alone and 0 by lr 3e-3 alone." in text
    )
    assert "p/8.jpg" in text and text.count("data:image/png;base64,") == 1 and "p/9.jpg" not in text
    kept = Path(client.download_artifacts(best, "report/report-s.html"))
    assert kept.read_bytes() == page.read_bytes() and verdict.encode() in page.read_bytes()
    run_report("s", store, str(tmp_path / "mine.html"))
    assert [each.path for each in client.list_artifacts(best, "report")] == ["report/report-s.html"]
    note = client.get_run(best).data.tags[NOTE]
    assert note.startswith(f"{BEST}: `{verdict}`\n\nThe whole comparison: artifact `report/report-s.html`{END}")


def test_faces_are_in_the_page_where_their_folder_is_named_and_nowhere_else(store, tmp_path):
    for folder in ("p", "q"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8), "red").save(tmp_path / folder / "8.jpg")
    out = tmp_path / "faces.html"
    assert run_report("s", store, str(out), faces=str(tmp_path)).endswith(
        "with faces in it and therefore not sent to MLflow"
    )
    assert out.read_text().count("data:image/jpeg;base64,") == 2
    client, _ = open_experiment(store, "study")
    sent = client.list_artifacts(read_study(store, "s").jobs[0].run_id, "report")
    assert "report/faces.html" not in [each.path for each in sent]


def test_an_unknown_sweep_names_those_that_are_known(store):
    done = subprocess.run([COMMAND, "nope", "--uri", store], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"nope: no such sweep in MLflow at {store}; it has other, s; see --uri\n"
    with pytest.raises(
        UserError, match=f"^SWEEP_ID is missing: name a sweep of MLflow at {re.escape(store)}; it has other, s; "
    ):
        run_report(None, store, None)


def test_no_database(tmp_path):
    with pytest.raises(UserError, match="no MLflow database .*none.db; set --uri"):
        run_report("s", f"sqlite:///{tmp_path}/none.db", None)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written(store, tmp_path):
    with pytest.raises(
        UserError, match="--out .*/absent/page.html: cannot be written .No such file or directory.; choose"
    ):
        run_report("s", store, str(tmp_path / "absent" / "page.html"))


def test_the_best_run_says_that_it_is(store, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    client, _ = open_experiment(store, "study")
    best, second = (read_study(store, "s").jobs[number].run_id for number in (0, 1))
    client.set_tag(second, NOTE, f"{BEST}\nonce{END}how it began")  # the best of the jobs that had ended by then
    client.set_tag(best, NOTE, "what it is")
    for _ in range(2):
        run_report("s", store, str(tmp_path / "page.html"), open=True)
    assert opened == [(tmp_path / "page.html").as_uri()] * 2
    notes = {run: client.get_run(run).data.tags[NOTE] for run in (best, second)}
    assert notes[second] == "how it began" and notes[best].endswith(f"{END}what it is")
    assert notes[best].count(BEST) == 1 and "significantly different (p = 0.002 over 10 folds" in notes[best]
    assert "artifact `report/report-s.html`" in notes[best]
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    assert run_report("s", store, str(tmp_path / "page.html"), open=True).endswith("; no browser was found to open it")


def test_of_two_sweeps_of_one_name_a_path_says_which(store, tmp_path):
    client, experiment = open_experiment(store, "study")
    for start, place, values in ((1, "a", (0.9, 0.8, 0.7)), (10, "b", (0.5, 0.4))):
        for number, value in enumerate(values):
            tags = {
                "sweep_id": "lr",
                "job_num": str(number),
                "run_dir": f"/{place}/lr/{number}",
                "hydra.overrides": f"a={number}",
            }
            run = client.create_run(experiment, start_time=1000 * (start + number), tags=tags).info.run_id
            client.log_param(run, "plan.select", "lfw/accuracy")
            client.log_metric(run, "best/lfw/accuracy", value)
            client.set_terminated(run)
    for named, best, jobs in (("lr", "0.5000", 2), ("/a/lr", "0.9000", 3), ("/b/lr", "0.5000", 2)):
        assert f"highest lfw/accuracy, {best}" in run_report(named, store, str(tmp_path / "x.html"))
        assert f"{jobs} jobs;" in (tmp_path / "x.html").read_text()
    with pytest.raises(UserError, match="^/c/lr: no sweep of MLflow's ran there; name it as facenet-report lr"):
        run_report("/c/lr", store, str(tmp_path / "x.html"))
