"""The tables from the reference's flags to overrides: every row composes and fits the code, and every flag has one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facenet import config as configs
from facenet.tasks.recipe import Recipe

DOCS = Path(__file__).parents[2]
ENGLISH = (DOCS / "docs" / "reference-flags.md", "no counterpart: ")
CHINESE = (DOCS / "docs" / "zh" / "reference-flags.md", "无对应：")
# Arguments of the launchers of the FaceNet and arcface ports; those of the last line are parsed and never used.
LAUNCHER = """
    model_name distributed nproc_per_node nnodes nnode node_rank device master_addr master_port use_amp autocast grad_scale
    epoch step lr learning-rate batch_size bs num_workers train_data_path train_annotation_path val_data_path val_pairs_path
    do_eval do_predict eval_batch_size model_path checkpoint_path early_stop warm_up
    loss_scale gradient_accumulation_steps max_steps log_freq
"""
# What is set at the top of train.py in bubbliiiing/facenet-pytorch.
CONSTANTS = """
    Cuda seed distributed sync_bn fp16 annotation_path input_shape backbone model_path pretrained batch_size Init_Epoch Epoch
    Init_lr Min_lr optimizer_type momentum weight_decay lr_decay_type save_period save_dir num_workers lfw_eval_flag
    lfw_dir_path lfw_pairs_path
"""


def tables(document: tuple[Path, str]) -> list[list[tuple[str, str]]]:
    """The rows (flag, override) of the page's tables."""
    section = document[0].read_text(encoding="utf-8")
    found: list[list[tuple[str, str]]] = []
    for line, following in zip(section.splitlines(), [*section.splitlines()[1:], ""], strict=True):
        if following.startswith("| --- "):
            found.append([])
        elif line.startswith("| ") and not line.startswith("| --- "):
            flag, override = line.strip("| ").split(" | ")
            found[-1].append((flag, override))
    return found


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def overrides(cell: str) -> list[list[str]]:
    """Of each code span the words key=value."""
    found = [[word for word in shlex.split(span) if re.match(r"[a-z_./]+=", word)] for span in spans(cell)]
    return [words for words in found if words]


ROWS = [row for table in tables(ENGLISH) for row in table]


@pytest.mark.parametrize(("flag", "override"), ROWS, ids=[flag for flag, _ in ROWS])
def test_a_row_says_what_fits(compose_train: Callable[..., dict[str, Any]], flag: str, override: str):
    """Each code span by itself, as a reader takes it. What a choice leaves to the user (a folder, a list) may be missing."""
    for words in overrides(override):
        found = configs.problems_of(compose_train(*words), Recipe)
        problems = [problem for problem in found if ": needs a value; set " not in problem]
        assert not problems, (words, problems)
    if "no counterpart" in override:
        assert len(override.partition(ENGLISH[1])[2].split()) >= 5, "no reason"
    else:
        assert overrides(override)


def test_the_tables_are_all_there():
    launcher, constants = tables(ENGLISH)
    assert len(launcher) == 22 and len(constants) == 19


def test_every_flag_of_the_reference_has_a_row():
    launcher, constants = tables(ENGLISH)
    named = [flag for cell, _ in launcher for span in spans(cell) for flag in re.findall(r"--([a-zA-Z_-]+)", span)]
    assert sorted(set(named)) == sorted(LAUNCHER.split())
    named = [span.split(" ")[0] for cell, _ in constants for span in spans(cell) if not span.startswith('"')]
    assert sorted(named) == sorted(CONSTANTS.split())


def test_the_chinese_tables_say_the_same():
    assert len(ROWS) > 30
    for english, chinese in zip(tables(ENGLISH), tables(CHINESE), strict=True):
        for (flag, override), (flag_zh, override_zh) in zip(english, chinese, strict=True):
            assert spans(flag) == spans(flag_zh)
            assert spans(override) == spans(override_zh), flag
            assert (ENGLISH[1] in override) == (CHINESE[1] in override_zh), flag
