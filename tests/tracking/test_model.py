import numpy as np
import pytest
import torch

from facenet.backbones.embedder import FaceNet
from facenet.backbones.mobilenet_v1 import MobileNetV1
from facenet.data.transforms import Preprocess
from facenet.tasks.registration import Deployable
from facenet.tracking.choice import MlflowTracking
from facenet.tracking.model import current_store


@pytest.mark.slow
def test_the_best_network_is_registered_and_computes_the_same(own, facts):
    import mlflow
    from mlflow import MlflowClient

    tracking = MlflowTracking(uri=own.uri, experiment="study one", system_metrics=False, register="faces")
    torch.manual_seed(0)
    preprocess = Preprocess(size=[32, 32], mean=[0.5, 0.4, 0.3], std=[0.5, 0.6, 0.7])
    embedder = FaceNet(trunk=MobileNetV1()).eval()
    network = Deployable(embedder, preprocess).eval()
    client = MlflowClient(tracking_uri=own.uri)
    for version in ("1", "2"):
        with tracking.run(facts()) as run_id:
            tracking.register_best(run_id, lambda: (network, np.full((2, 32, 32, 3), 128, np.uint8)))
            assert client.get_run(run_id).info.status == "RUNNING"
        assert client.get_run(run_id).info.status == "FINISHED"
        found = client.get_model_version_by_alias("faces", "candidate")
        assert (str(found.version), found.run_id) == (version, run_id)
    with current_store(own.uri):
        loaded = mlflow.pyfunc.load_model("models:/faces@candidate")
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    with torch.no_grad():
        expected = embedder(preprocess.normalize(torch.from_numpy(images))).numpy()
    np.testing.assert_allclose(loaded.predict(images), expected, atol=1e-5)
    assert np.linalg.norm(expected, axis=1) == pytest.approx(1)


def test_a_network_that_cannot_be_registered_costs_the_registration_alone(mlflow, client, facts, caplog):
    tracking = MlflowTracking(uri=mlflow.uri, experiment="study one", system_metrics=False, register="faces")

    def damaged():
        raise RuntimeError("the checkpoint is gone\nand more")

    with tracking.run(facts()) as run_id:
        tracking.register_best(run_id, damaged)
    assert "tracking.register=faces: the network was not registered (the checkpoint is gone)" in caplog.text
    assert client.get_run(run_id).info.status == "FINISHED"


def test_nothing_is_registered_unless_asked(mlflow, caplog):
    mlflow.register_best("whatever", lambda: 1 / 0)
    MlflowTracking(register="faces").register_best(None, lambda: 1 / 0)
    assert not caplog.records  # a network that was asked for would have failed, which is told
