"""What facenet imports is what setup.cfg declares: what comes along with another package today may stay away tomorrow."""

import ast
import configparser
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def imported(source: str) -> set[str]:
    """Top-level names of other packages, wherever in a file they are imported."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"facenet", "hydra_plugins"}


def declared() -> set[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    lines = [config["options"]["install_requires"], *(value for name, value in extras.items() if name != "test")]
    wanted = [line for text in lines for line in text.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(Requirement(line).name) for line in wanted}


def undeclared(names: set[str]) -> set[str]:
    makers = packages_distributions()
    known = declared()
    return {name for name in names if known.isdisjoint(map(canonicalize_name, makers.get(name, [name])))}


def test_what_is_imported_is_declared():
    files = [path for folder in ("facenet", "hydra_plugins") for path in (ROOT / folder).rglob("*.py")]
    names = set().union(*(imported(path.read_text(encoding="utf-8")) for path in files))
    assert names > {"torch", "sqlalchemy", "yaml", "PIL"} and undeclared(names) == set()


def test_a_package_that_comes_along_with_another_is_found():
    source = "import os, yaml\ndef late():\n    from pandas.api import types\n    import somewhere.deep"
    assert undeclared(imported(source)) == {"pandas", "somewhere"}
