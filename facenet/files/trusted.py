"""Packages of others whose classes a config may name, because the command line or the user's config home says so.

Nothing here reads a checkpoint, a run directory or YAML: what these say of trust reaches nobody (docs/trust.md).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

from facenet.errors import UserError, shown
from facenet.files.home import expand_home
from facenet.files.reading import text_of

KEY = "trust"
ASKED = re.compile(rf"\+{{0,2}}{KEY}=(.*)", re.DOTALL)
KNOWN = ("facenet", "torch", "torchvision", "timm", "albumentations")  # whose parts have lists of their own
MOST_FILES = 2000  # of Python in a folder; a home directory has more


@dataclass(frozen=True)
class Package:
    """`name` is dotted, and what it holds is trusted too. `place`: its folder or file; None where Python finds it by itself."""

    name: str
    place: str | None = None

    @property
    def root(self) -> str:
        return self.name.partition(".")[0]

    def holds(self, target: str) -> bool:
        return target.startswith(f"{self.name}.")

    def __str__(self) -> str:
        return self.place or self.name


said: ContextVar[tuple[Package, ...]] = ContextVar("said", default=())  # by the command line, or a call
of_command: list[Package] = []  # by the command whose job this process belongs to, for all its threads


def take(arguments: Sequence[str]) -> tuple[list[str], tuple[Package, ...]]:
    """The arguments without `trust=...`, which Hydra never sees and no record of a command holds; and what these name. Raises UserError for a
    package that is not there, and for one that cannot be trusted by itself."""
    found = [ASKED.fullmatch(argument) for argument in arguments]
    rest = [argument for argument, asked in zip(arguments, found, strict=True) if asked is None]
    return rest, packages_named([text for asked in found if asked is not None for text in names_in(asked[1])])


@contextlib.contextmanager
def also(names: Iterable[str]) -> Iterator[None]:
    """Inside, these are trusted too. Raises UserError as `take` does."""
    before = said.set((*said.get(), *packages_named(names)))
    try:
        yield
    finally:
        said.reset(before)


def names_in(text: str) -> list[str]:
    """Of `a`, `a,b` or `[a,b]`; none of `null`."""
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return [name for part in inner.split(",") if (name := part.strip().strip("'\"")) not in ("", "null")]


def packages_named(names: Iterable[str]) -> tuple[Package, ...]:
    """Raises UserError as `take` does."""
    return tuple(check_package(package_of(name), name) for name in names)


def package_of(text: str) -> Package:
    """Of the name of a package, or of the path of its folder or file, which holds a separator. A link is followed once, here."""
    if os.sep not in text and not text.startswith((".", "~")):
        return Package(text)
    place = Path(os.path.abspath(expand_home(text)))
    if Path(text).name in ("", ".", ".."):
        raise UserError(
            f"{KEY}={shown(text)}: names no package; write the folder's own name: {KEY}={shown(str(place))}"
        )
    name = place.name.removesuffix(".py")
    if not (place.is_dir() or (place.is_file() and place.suffix == ".py")):
        raise UserError(f"{KEY}={shown(text)}: no such folder or file of Python")
    return Package(name, os.path.realpath(place))


def check_package(package: Package, text: str) -> Package:
    said_as = f"{KEY}={shown(text)}"
    if not all(part.isidentifier() for part in package.name.split(".")):
        raise UserError(f"{said_as}: {shown(package.name)!r} is no name of a Python package")
    if package.root in KNOWN or package.root in sys.stdlib_module_names:
        raise UserError(
            f"{said_as}: only packages of others are trusted so; what a config may name of {package.root} is in docs/trust.md"
        )
    spec = find_installed(package.root)
    if package.place is None and spec is None:
        raise UserError(f"{said_as}: no such package is installed{way_beside(package.root)}")
    if package.place is not None and spec is not None and package.place not in map(os.path.realpath, places_of(spec)):
        raise UserError(
            f"{said_as}: an installed package has this name too ({', '.join(places_of(spec))}); give the folder another name"
        )
    return package


def way_beside(root: str) -> str:
    """The way to a package that lies in the working directory, which is not searched."""
    near = next((name for name in (root, f"{root}.py") if os.path.exists(name)), None)
    return f"; the working directory is not searched, so name the path: {KEY}={os.path.join('.', near)}" if near else ""


def find_installed(root: str) -> ModuleSpec | None:
    """Where Python finds it, but for the working directory, which a notebook and `python -c` search first. Imports nothing of it."""
    for finder in sys.meta_path:
        if not isinstance(finder, Finder):
            path = [entry for entry in sys.path if entry] if finder is PathFinder else None
            spec = finder.find_spec(root, path)
            if spec is not None:
                return spec
    return None


def places_of(spec: ModuleSpec) -> list[str]:
    """Its folders, or its one file."""
    return list(spec.submodule_search_locations or [str(spec.origin)])


class Finder:
    """Imports trusted packages: from the place that was named, or as installed. Nothing else that lies beside them is found by it."""

    def __init__(self) -> None:
        self.packages: dict[str, Package] = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package = self.packages.get(name)
        if package is None:
            return None
        return find_installed(name) if package.place is None else spec_at(name, package.place)


def spec_at(name: str, place: str) -> ModuleSpec | None:
    if os.path.isfile(place):
        return spec_from_file_location(name, place)
    if os.path.isfile(first := os.path.join(place, "__init__.py")):
        return spec_from_file_location(name, first, submodule_search_locations=[place])
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [place]
    return spec


finder = Finder()


def make_ready(package: Package) -> None:
    """Its import finds it from now on, in this process. Raises UserError where another of its name is imported."""
    if package.place is not None and (before := sys.modules.get(package.root)) is not None:
        spec = before.__spec__
        if spec is None or package.place not in map(os.path.realpath, places_of(spec)):
            raise UserError(f"{KEY}={shown(package.place)}: another {package.root} is imported in this process already")
    finder.packages[package.root] = package
    if finder not in sys.meta_path:
        sys.meta_path.insert(0, finder)
        importlib.invalidate_caches()
    version_of(package)  # of the source as it is now that it is imported


def packages() -> tuple[Package, ...]:
    """All that are trusted; where one name is said in two ways the command line comes first."""
    found: dict[str, Package] = {}
    for package in (*said.get(), *of_command, *from_home()):
        found.setdefault(package.name, package)
    return tuple(found.values())


def home_list() -> Path | None:
    """The user's own list: a name of a package or a path a line."""
    named = os.environ.get("XDG_CONFIG_HOME", "")
    folder = named if os.path.isabs(named) else str(expand_home("~/.config"))
    return Path(folder, "facenet", KEY) if os.path.isabs(folder) else None


def from_home() -> Iterator[Package]:
    """Raises UserError for a list that anybody could write."""
    path = home_list()
    if path is None or not path.is_file():
        return
    state = path.stat()
    if state.st_uid not in (0, os.geteuid()) or state.st_mode & 0o002:
        raise UserError(f"{path}: others can write it; chmod o-w it, or own it, so that what it trusts is yours")
    for line in text_of(path).splitlines():
        if text := line.partition("#")[0].strip():
            if text.startswith("."):
                raise UserError(f"{path}: {shown(text)}: a path there begins with / or ~")
            yield package_of(text)


def package_holding(target: Any) -> Package | None:
    """The trusted package under which the target of a config lies; None where no one has said that it is trusted."""
    return next((each for each in packages() if isinstance(target, str) and each.holds(target)), None)


def told() -> list[list[str | None]]:
    """What this command trusts, for the processes of its jobs."""
    return [[package.name, package.place] for package in packages()]


def take_over(told: list[list[str | None]]) -> None:
    """Trusts in this process what the command does whose job it belongs to."""
    of_command[:] = [Package(str(name), place) for name, place in told]


def arguments() -> list[str]:
    """What has to stand on a command line that repeats this one."""
    return [f"{KEY}={package}" for package in (*said.get(), *of_command)]


def versions(config: Any) -> dict[str, str]:
    """Name -> version, or hash of the source, of the trusted packages that a config's targets are of."""
    used = dict.fromkeys(package for target in targets_in(config) if (package := package_holding(target)) is not None)
    return {package.root: version_of(package) for package in used}


def targets_in(node: Any) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if key == "_target_" and isinstance(value, str):
            yield value
        else:
            yield from targets_in(value)


@functools.lru_cache
def version_of(package: Package) -> str:
    """Of the distribution that brought it; the hash of its source where there is none, or where it is installed so that it can be edited."""
    if package.place is None:
        found = distribution_of(package.root)
        if found is not None and '"editable": true' not in (found.read_text("direct_url.json") or ""):
            return found.version
        spec = find_installed(package.root)
        places = [] if spec is None else places_of(spec)
    else:
        places = [package.place]
    return f"sha256 {source_hash(places)}"


def distribution_of(root: str) -> metadata.Distribution | None:
    """Mostly it has the package's name; to look into all that are installed takes a second of a processor."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.distribution(root)
    names = metadata.packages_distributions().get(root, [])
    return metadata.distribution(names[0]) if names else None


def source_hash(places: Iterable[str]) -> str:
    """16 hexadecimal digits of all files of Python there, links followed as an import does. Raises UserError for more than a package has."""
    digest = hashlib.sha256()
    for place in places:
        found = sorted(python_files(place))
        if len(found) > MOST_FILES:
            raise UserError(
                f"{KEY}={shown(place)}: more than {MOST_FILES:,} files of Python; name the package's own folder"
            )
        for path in found:
            content = Path(path).read_bytes() if os.path.isfile(path) else b""
            digest.update(f"{os.path.relpath(path, place)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def python_files(place: str) -> list[str]:
    """At most one more than a package has."""
    found, seen = [place] if os.path.isfile(place) else [], set[str]()
    for folder, inner, files in os.walk(place, followlinks=True):
        real = os.path.realpath(folder)
        found += [os.path.join(folder, name) for name in files if name.endswith(".py") and real not in seen]
        if real in seen or len(found) > MOST_FILES:
            inner.clear()
        seen.add(real)
    return found
