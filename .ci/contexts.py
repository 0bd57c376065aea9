"""Tells coverage.py which test reaches a line, in the test's own process and in all that it starts: PYTHONPATH=.ci pytest -p contexts under
`coverage run --rcfile=.ci/coverage.ini`, as .ci/coverage does."""

from __future__ import annotations

import os
from typing import Any

import coverage


def pytest_runtest_logstart(nodeid: str) -> None:
    measured: Any = coverage.Coverage.current()
    if measured is not None:
        measured.switch_context(nodeid)
        measured.config.context = nodeid
        os.environ["COVERAGE_PROCESS_CONFIG"] = measured.config.serialize()  # what processes begun from here go by
