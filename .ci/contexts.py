"""Tells coverage.py which test reaches a line, in the test's own process and in all that it starts: PYTHONPATH=.ci pytest -p contexts under
`coverage run --rcfile=.ci/coverage.ini`, as .ci/coverage does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import coverage

CONTEXT = "FACENET_TEST_CONTEXT"  # .ci/coverage.ini reads it in the children


def pytest_runtest_logstart(nodeid: str) -> None:
    os.environ[CONTEXT] = nodeid
    if os.environ.pop(
        "COVERAGE_PROCESS_CONFIG", None
    ):  # it holds the context of the time when pytest began; the file asks the variable
        os.environ["COVERAGE_PROCESS_START"] = str(Path(__file__).with_name("coverage.ini"))
    measured: Any = coverage.Coverage.current()
    if measured is not None:
        measured.switch_context(nodeid)
