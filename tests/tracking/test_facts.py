import hashlib

import pytest

from facenet.tracking import facts as facts_module
from facenet.tracking.facts import AXES, flatten, params, run_name, safe_name, shorten, value_tags


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


def test_learning_rates_are_also_there_as_logarithms(facts):
    found = params(facts())
    assert (found["optimizer.lr"], found["optimizer.log10_lr"]) == ("0.1", "-1.0")
    assert (found["plan.lr"], found["plan.log10_lr"]) == ("0.01", "-2.0"), "what trains, which a rule may have changed"
    assert "optimizer.log10_lr" not in params(facts(config={"optimizer": {"lr": 0.0}}))


@pytest.mark.parametrize(
    ("overrides", "axes", "name"),
    [
        ([], {}, "default"),
        (["optimizer.lr=1e-3", "hydra.run.dir=x", "tracking.uri=http://a:b@c", "resume=auto"], {}, "optimizer.lr=1e-3"),
        (["data.root=http://a:b@c"], {}, "data.root=http://***@c"),
        (
            ["+preset=x", "optimizer.lr=1e-3", "seed=1"],
            {"optimizer.lr": "0.001", "seed": "1"},
            "optimizer.lr=0.001, seed=1",
        ),
        (["preset=x", "optimizer.lr=1e-3"], {"preset": "x"}, "preset=x"),
    ],
)
def test_a_run_is_named_by_what_was_changed_and_in_a_sweep_by_what_differs(overrides, axes, name):
    assert run_name(overrides, value_tags(AXES, axes) if axes else {}) == name


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
