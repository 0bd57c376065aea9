"""Python and packages, against the versions that facenet declares."""

from __future__ import annotations

import importlib
import importlib.util
import platform
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from facenet.tools.doctor.report import Report, first_line

if TYPE_CHECKING:
    from packaging.requirements import Requirement


def check_software(report: Report) -> bool:
    """Whether torch imports."""
    report.fact("software", "python", platform.python_version())
    report.fact("software", "platform", platform.platform())
    with report.finding("requirements of facenet", "install it: python -m pip install .", blocks=True):
        report.fact("software", "facenet", metadata.version("facenet"))
        for requirement in requirements():
            check_package(report, requirement)
    return check_torch(report)


def requirements() -> Iterator[Requirement]:
    """Returns the requirements that every installation of facenet has, without the extras."""
    from packaging.requirements import Requirement

    for line in metadata.requires("facenet") or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def check_package(report: Report, requirement: Requirement) -> None:
    name = requirement.name
    # pip would take a build that knows no vendor's device.
    fix = (
        f"pip install '{requirement}'" if name != "torch" else "install a build of torch in that range for your device"
    )
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        report.fact("software", name, f"absent, needed {requirement.specifier}")
        report.problem(f"{name} is not installed", fix, blocks=True)
        return
    within = requirement.specifier.contains(version, prereleases=True)
    note = "" if within else ": OUTSIDE"
    report.fact("software", name, f"{version:<14} {requirement.specifier}{note}", version)
    if not within:
        report.problem(f"{name} {version} is outside {requirement.specifier}", fix)


def check_torch(report: Report) -> bool:
    """Whether it imports; also whether it and NumPy go together, and whether a torchvision that is there fits."""
    try:
        import torch
    except Exception as error:  # a plugin that torch loads by itself raises what it likes
        what = f"torch does not import: {first_line(error)}"
        report.problem(what, "reinstall torch and the device's plugin", blocks=True)
        return False
    report.fact("software", "torch_build", str(torch.__version__))  # the package's version may not say for what
    with report.finding("torch and NumPy", "install the NumPy of this torch: pip install 'numpy<2'", blocks=True):
        torch.zeros(1).numpy()
    if importlib.util.find_spec("torchvision") is None:
        report.fact("software", "torchvision", "absent; not needed")
        return True
    fix = "only configs that name a torchvision network need it: install the version made for this torch"
    with report.finding("torchvision does not import", fix):
        report.fact("software", "torchvision", str(importlib.import_module("torchvision").__version__))
    return True
