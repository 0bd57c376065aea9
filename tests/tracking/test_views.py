"""Printed links, and the state of MLflow's pages that they open."""

import dataclasses
import json
import socket
import subprocess
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from facenet.tracking import reading, views
from facenet.tracking.store import open_client, pages

VIEW = views.View(
    name="sweep-a b/c",
    condition="tags.sweep_id = 'a b/c'",
    select="lfw/accuracy",
    lower_is_better=False,
    axes=("optimizer.lr", "seed"),
    seeds=True,
)


def addresses(text):
    return [word for line in text.splitlines() for word in line.split() if word.startswith("http")]


def test_the_links_of_a_sweep_are_encoded_and_open_what_they_say(mlflow, client, facts):
    with mlflow.run(facts()) as run_id:
        pass
    run = reading.run(mlflow.uri, run_id)
    text = views.compare_pages(mlflow.uri, [run], VIEW)
    table, charts, compare = addresses(text.partition("then open")[2])
    assert (
        not any(letter in text.partition("then open")[2] for letter in '[]"')
        and table.partition("&workflowType")[0] in charts
    )
    key = parse_qs(urlsplit(urlsplit(table).fragment).query)["viewStateShareKey"][0]
    state = json.loads(client.get_experiment(run.experiment_id).tags[f"mlflow.sharedViewState.{key}"])
    assert state == VIEW.state() and charts.endswith("&compareRunsMode=CHART&workflowType=machine_learning")
    assert unquote(compare).endswith(
        f'/#/compare-runs?runs=["{run_id}"]&experiments=["{run.experiment_id}"]&workflowType=machine_learning'
    )


def test_a_view_has_the_columns_that_answer_and_a_row_for_the_seeds_of_a_setting():
    state = VIEW.state()
    assert state["selectedColumns"] == [
        *(
            "params.`optimizer.lr`",
            "params.`seed`",
            "metrics.`best/lfw/accuracy`",
            "metrics.`over_seeds/lfw/accuracy_std`",
        ),
    ]
    assert state["groupBy"]["groupByKeys"] == [{"mode": "param", "groupByData": "optimizer.lr"}]
    assert state["orderByKey"] == "metrics.`best/lfw/accuracy`" and state["orderByAsc"] is False
    parallel, line = state["compareRunCharts"]
    assert parallel["selectedParams"] == ["optimizer.lr", "seed"] and parallel["selectedMetrics"] == [
        "best/lfw/accuracy"
    ]
    assert line["metricKey"] == "lfw/accuracy"
    plain = views.View(name="x", condition="", select="val/loss").state()
    assert plain["selectedColumns"][-1] == "tags.`interval.val`"
    assert plain["groupBy"] is None and plain["orderByKey"] == "metrics.`best/val/loss`"
    order, widths = state["columnOrder"], state["columnWidths"]
    assert order[0] == "attributes.`Run Name`" and order[1:-2] == state["selectedColumns"]
    assert {*widths} == {*order} and widths["metrics.`over_seeds/lfw/accuracy_std`"] == 35 + 7 * 28


@pytest.mark.parametrize("folder", ["plain", 'it\'s [a] 100%_"q"*\\', "训练"])
def test_the_table_of_a_sweep_has_no_runs_of_another_of_its_name(own, facts, tmp_path, folder):
    places = [tmp_path / above / "same" for above in (folder, "other")]
    ids = []
    for number, directory in enumerate([*(places[0] / n for n in "01"), places[1] / "0"]):
        directory.mkdir(parents=True)
        with own.run(facts(run_dir=directory, tags={"sweep_id": "same", "job_num": str(number % 2)})) as run_id:
            ids.append(run_id)
    store = open_client(own.uri)
    for place, expected in zip(places, (ids[:2], ids[2:]), strict=True):
        runs = reading.runs_of_sweep(own.uri, "same", directory=str(place))
        assert [run.id for run in runs] == expected and reading.is_shared(own.uri, "same", runs)
        found = store.search_runs([runs[0].experiment_id], reading.of_own("same", runs, str(place)))
        assert sorted(run.info.run_id for run in found) == sorted(expected)
    moved = reading.runs_of_sweep(own.uri, "same", directory=str(places[0]))
    assert reading.of_own("same", moved, "/elsewhere/same") == "tags.sweep_id = 'same'"
    long = [dataclasses.replace(run, tags={"run_dir": f"/{'x' * 4000}/same/0"}) for run in moved]
    assert reading.of_own("same", long, f"/{'x' * 4000}/same") == "tags.sweep_id = 'same'"
    assert not reading.is_shared(own.uri, "same", [*moved, *runs])
    keys = [views.name_of_sweep(place, shared=shared) for place in places for shared in (False, True)]
    assert keys[0] == keys[2] == "sweep-same" and len({*keys}) == 3


def test_the_best_run_is_the_first_beside_others(mlflow, client, facts):
    runs = []
    for loss in (0.5, 0.25, None, 0.75):
        with mlflow.run(facts()) as run_id:
            if loss is not None:
                client.log_metric(run_id, "best/val/loss", loss)
        runs.append(reading.run(mlflow.uri, run_id))
    for lower, order in ((True, (1, 0, 3, 2)), (False, (3, 0, 1, 2))):
        view = views.beside_others({"lower_is_better": "true"} if lower else {}, "val/loss")
        compare = addresses(views.compare_pages(mlflow.uri, runs, view))[-1]
        assert json.loads(unquote(compare).partition("runs=")[2].partition("&")[0]) == [runs[n].id for n in order]
        assert view.state()["orderByAsc"] is lower


@pytest.mark.parametrize(
    ("uri", "command"), [("http://me:secret@host:5000/", False), ("sqlite:////x y/mlflow.db", True)]
)
def test_a_database_is_served_once_for_all_pages(uri, command):
    text = pages(uri, {"the run": "#/a", "beside others": "#/b"})
    assert text.count("mlflow server") == command and "secret" not in text
    root = "http://127.0.0.1:50" if command else "http://host:5000/#/"
    assert len(addresses(text)) == 2 and all(each.startswith(root) for each in addresses(text))


@pytest.mark.parametrize("said", ["sqlite:///mlflow.db", "sqlite:///{folder}/mlflow.db"])
@pytest.mark.parametrize(
    ("host", "opts", "scheme"), [("127.0.0.1", "", "http"), ("127.0.0.2", "--ssl-certfile c.pem", "https")]
)
def test_a_database_that_is_served_needs_no_second_server(tmp_path, said, host, opts, scheme):
    listening = socket.create_server((host, 0))
    port = listening.getsockname()[1]
    words = ["server", "--backend-store-uri", said.format(folder=tmp_path), "--port", str(port), "--host", host]
    words += ["--uvicorn-opts", opts]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(["sh", "-c", "echo; read line", *words], cwd=tmp_path, **pipes) as server:
        server.stdout.readline()  # until then its words may be those of its parent, or cut off
        text = pages(f"sqlite:///{tmp_path}/mlflow.db", {"the run": "#/a"})
        other = pages(f"sqlite:///{tmp_path}/other.db", {"the run": "#/a"})
        listening.close()
        nobody = pages(f"sqlite:///{tmp_path}/mlflow.db", {"the run": "#/a"})
        server.communicate(b"end\n")
    assert (
        addresses(text) == [f"{scheme}://{host}:{port}/#/a?workflowType=machine_learning"]
        and "mlflow server" not in text
    )
    assert "mlflow server" in other and str(port) not in other
    assert "mlflow server" in nobody and str(port) not in nobody  # as of a container, whose ports are its own


def test_an_experiment_says_what_its_runs_are(mlflow, client):
    told = client.get_experiment_by_name("study one").tags["mlflow.note.content"]
    first, _, rest = told.partition("\n\n")  # pages with little room show a line
    assert first == "Face embeddings, trained by facenet." and "facenet-report" in rest
