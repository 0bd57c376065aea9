"""Names of classes that earlier configs have."""

from __future__ import annotations

import importlib
import logging

import pytest
from omegaconf import OmegaConf

from facenet import config
from facenet.files import renamed as names


def test_a_class_is_named_by_its_room_and_all_else_keeps_its_name():
    old = {
        "_target_": "facenet.losses.mix.LossMix",
        "terms": [{"_target_": "facenet.losses.triplet.TripletLoss", "margin": 0.2}],
        "note": "facenet.losses.mix.LossMix",  # a text is no name
        "other": {"_target_": "torch.optim.Adam"},
        "function": {"_target_": "facenet.losses.mix.weight_of"},
    }
    assert names.renamed(old) == old | {
        "_target_": "facenet.losses.LossMix",
        "terms": [{"_target_": "facenet.losses.TripletLoss", "margin": 0.2}],
    }
    assert names.renamed({"_target_": 3}) == {"_target_": 3}


def test_each_room_of_the_table_is_there():
    for room in set(names.ROOMS.values()):
        assert importlib.import_module(room).__all__


def test_an_earlier_name_is_warned_of_once_where_its_reader_can_mend_it(caplog, monkeypatch):
    monkeypatch.setattr(names, "told", set())
    composed = OmegaConf.create({"watch": {"_target_": "facenet.engine.watch.choice.Watch"}})
    with caplog.at_level(logging.WARNING):
        found = [config.resolve(composed) for _ in range(2)]
    assert found == [{"watch": {"_target_": "facenet.engine.Watch"}}] * 2
    said = "facenet.engine.watch.choice.Watch is called facenet.engine.Watch now; the earlier name goes on working"
    assert [record.getMessage() for record in caplog.records] == [said]
    names.renamed({"_target_": "facenet.engine.trainer.Settings"})
    assert len(caplog.records) == 1


@pytest.mark.parametrize("room", sorted(set(names.ROOMS.values())))
def test_what_a_room_offers_is_there_and_is_told_by_that_name(room):
    module = importlib.import_module(room)
    for name in module.__all__:
        assert config.public_name(getattr(module, name)) == f"{room}.{name}"
