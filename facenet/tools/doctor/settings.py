"""Environment variables that change or break a run."""

from __future__ import annotations

import os
from collections.abc import Iterator

from facenet.launch.local import INHERITED
from facenet.tools.doctor.report import Report


def check_settings(report: Report, has_torch: bool) -> None:
    left = [name for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if name in os.environ]
    if left:
        report.fact("settings", "torchrun", ", ".join(f"{name}={os.environ[name]}" for name in left))
        report.problem(
            f"{', '.join(left)} left in the environment: a command would take itself for one of several processes",
            f"unset {' '.join(name for name in INHERITED if name in os.environ)}",
        )
    if not has_torch:
        return
    for name, effect in harmful_settings():
        report.fact("settings", name, os.environ[name])
        report.problem(f"{name}={os.environ[name]} {effect}", f"unset {name}")


def harmful_settings() -> Iterator[tuple[str, str]]:
    """Variables that are set, and what each does. Their names follow from the device's, in every vendor's hand."""
    from facenet.devices.table import DEVICES

    for row in DEVICES.values():
        blocking = row.visible.replace("VISIBLE_DEVICES", "LAUNCH_BLOCKING")
        if os.environ.get(blocking, "0") not in ("", "0"):
            yield blocking, "waits for the device after every operation: right for debugging, slow for training"
        autoload = f"{row.plugin}_AUTOLOAD".upper()
        if os.environ.get(autoload, "").endswith("_migrate"):
            yield autoload, "gives the device another device's name, which is then trained under that name's settings"
