import hashlib

import pytest

from facenet.tracking import facts as facts_module
from facenet.tracking.facts import flatten, is_shown, params, safe_name, shorten


@pytest.mark.parametrize(
    ("node", "flat"),
    [
        ({"a": {"b": [1, {"c": None}]}}, {"a.b.0": 1, "a.b.1.c": None}),
        ({"a": {}, "b": [], "c": 0}, {"c": 0}),
        ({1: True}, {"1": True}),
    ],
)
def test_flatten(node, flat):
    assert flatten(node) == flat


def test_names_and_values_that_mlflow_does_not_take():
    assert safe_name("val/tar@far=1e-3[0]") == "val/tar_far_1e-3_0_" and safe_name("a b:c.d/e-f_g") == "a b:c.d/e-f_g"
    assert shorten(0.5, 6000) == "0.5" and shorten("x" * 6000, 6000) == "x" * 6000
    one, two = safe_name("k" * 400), safe_name("k" * 401)
    assert one != two and len(one) <= 250 and safe_name("k" * 250) == "k" * 250


def test_no_param_is_cut_silently(facts):
    value = "x" * 6001
    config = {"short": "y" * 6000, "long": value, "tar@far": 1, "tar=far": 2}
    found = params(facts(config=config, plan={}))
    assert found["short"] == "y" * 6000
    assert hashlib.sha256(value.encode()).hexdigest() in found["long"] and len(found["long"]) < 400
    assert (found["tar_far"], found["tar_far_"]) == ("1", "2"), "two keys that MLflow would spell alike are both there"


def test_only_what_is_compared_is_a_param(facts):
    assert params(facts(compared={"optimizer.lr": 0.1, "plan.lr": 0.01})) == {"optimizer.lr": "0.1", "plan.lr": "0.01"}
    assert params(facts())["plan.device"] == "here" and "weights" in params(facts())


SHOWN = [
    "lfw/accuracy",
    "best/lfw/accuracy",
    "best/cfp/accuracy",
    "best/epoch",
    "epoch",
    "samples_seen",
    "train/loss",
    "train/ce",
]
SHOWN += [
    "train/ce/accuracy",
    "train/triplet/active",
    "train/lr",
    "train/images_per_s",
    "val/loss",
    "lfw/auc",
    "cfp/eer",
    "system/x",
]
UNSHOWN = [
    "lfw/threshold",
    "lfw/spread",
    "best/lfw/auc",
    "best/train/loss",
    "val/ce",
    "val/ce/accuracy",
    "folds/lfw/0",
    "folds/lfw/accuracy",
]
UNSHOWN += [
    "epoch/train/loss",
    "train/triplet/positive_distance",
    "train/embedding_rank",
    "lfw/tar_at_far_0.1",
    "unreadable_images",
]


@pytest.mark.parametrize("select", ["lfw/accuracy", "train/loss", "val/mine/odd", None])
def test_mlflow_gets_the_metrics_that_people_compare(select):
    assert all(is_shown(name, select) for name in [*SHOWN, *([] if select is None else [select, f"best/{select}"])])
    own = [] if select is None else [select, f"best/{select}", f"epoch/{select}"]
    assert {name for name in UNSHOWN if is_shown(name, select)} == {
        name for name in UNSHOWN if select is None or name in own
    }


@pytest.mark.parametrize(
    ("refused", "message"), [(3, "UNIQUE constraint failed: datasets.name"), (99, "constraint"), (1, "no such run")]
)
def test_a_dataset_that_another_run_adds_at_the_same_time_is_tried_again(monkeypatch, refused, message):
    from mlflow.exceptions import MlflowException

    class Client:
        asked = 0

        def log_inputs(self, run_id, datasets):
            self.asked += 1
            if self.asked <= refused:
                raise MlflowException(message)

    monkeypatch.setattr(facts_module, "PAUSE_S", 0.0)
    client = Client()
    if refused == 3:
        facts_module.log_inputs(client, "a run", [])
        assert client.asked == 4
    else:
        with pytest.raises(MlflowException, match=message):
            facts_module.log_inputs(client, "a run", [])
        assert client.asked == (facts_module.TRIES if message == "constraint" else 1)
