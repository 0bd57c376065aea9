"""Which tests are those of a module: pytest $(python .ci/tests_of.py facenet/files/atomic.py)

Its own file of tests, then those that name it; where there are none, those of the modules that import it, and so on. With --coverage DIR, which
.ci/coverage filled: the tests that reach the file, or with FILE:LINE the line, the quickest first.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from mutants import Reach, read

ROOT = Path(__file__).resolve().parents[1]
DOTTED = re.compile(r"\bfacenet(?:\.\w+)+")
IMPORTED = re.compile(r"\bfrom (facenet[\w.]*) import (\([^)]*\)|[^\n;]+)")


def name_of(file: Path) -> str:
    """facenet.files.atomic of .../facenet/files/atomic.py, facenet.files of .../facenet/files/__init__.py; another file's path."""
    if not file.is_relative_to(ROOT):
        return str(file)
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def public_names(modules: dict[str, Path]) -> dict[str, str]:
    """Where what a room offers comes from: facenet.losses.Triplet is facenet.losses.triplet's."""
    found = {}
    for stub in (ROOT / "facenet").rglob("__init__.pyi"):
        for node in ast.walk(ast.parse(stub.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = f"{name_of(stub)}.{node.module}" if node.level else node.module
                found |= {f"{name_of(stub)}.{alias.asname or alias.name}": module for alias in node.names}
    return {name: module for name, module in found.items() if module in modules}


def named_in(file: Path) -> Iterator[str]:
    """What a file imports, and dotted names in it: targets of configs, programs of other processes. Text, since those stand in strings."""
    text = file.read_text(encoding="utf-8")
    yield from DOTTED.findall(text)
    for room, names in IMPORTED.findall(text):
        yield from (f"{room}.{name}" for name in re.findall(r"(?<!as )\b\w+", names))


def modules_in(file: Path, modules: dict[str, Path], public: dict[str, str]) -> set[str]:
    """The longest beginning of each name that is a module."""
    found = set()
    for name in named_in(file):
        parts = name.split(".")
        beginnings = (".".join(parts[:length]) for length in range(len(parts), 1, -1))
        found |= {next((public.get(each, each) for each in beginnings if each in public or each in modules), "")}
    return found - {""}


def own_file(module: str) -> Path:
    *room, part = module.split(".")[1:] or ["facenet"]
    return ROOT.joinpath("tests", *room, f"test_{part}.py")


def tests_of(wanted: set[str]) -> list[Path]:
    """Own files of tests first."""
    modules = {name_of(file): file for file in sorted((ROOT / "facenet").rglob("*.py"))}
    public = public_names(modules)
    if unknown := wanted - modules.keys():
        raise LookupError(f"no module of facenet: {', '.join(sorted(unknown))}")
    tests = {file: modules_in(file, modules, public) for file in sorted((ROOT / "tests").rglob("test_*.py"))}
    users: dict[str, set[str]] = {}  # read where no test names a module
    own: set[Path] = set()
    others: set[Path] = set()
    for module in wanted:
        near, seen = {module}, {module}
        while near:
            named_after = {own_file(each) for each in near} & tests.keys()
            naming = {file for file, named in tests.items() if named & near}
            own, others = own | named_after, others | naming
            if named_after | naming:
                break
            users = users or {name: modules_in(file, modules, public) for name, file in modules.items()}
            near = {user for user, named in users.items() if named & near} - seen
            seen |= near
    return [*sorted(own), *sorted(others - own)]


def reaching(folder: Path, file: str, line: int | None) -> list[str]:
    """Raises LookupError where nothing there was measured of the file."""
    if not (folder / "data").is_file():
        raise LookupError(f"no {folder / 'data'}; `.ci/coverage {folder} TESTS` makes it")
    notes = read(folder / "notes.jsonl")
    seconds = {note["test"]: sum(note.get(part, 0.0) for part in ("setup", "call", "teardown")) for note in notes}
    reach = Reach(folder / "data")
    if not any(path.endswith(f"/{file}") for path in reach.files):
        raise LookupError(f"no test in {folder} reaches {file}")
    lines = range(line, line + 1) if line else range(1, sys.maxsize)
    return sorted(reach.tests(file, lines), key=lambda test: (seconds.get(test, 0.0), test))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coverage", type=Path, metavar="DIR")
    parser.add_argument("files", nargs="+", metavar="FILE[:LINE]")
    given = parser.parse_args()
    places = [(Path(file).resolve(), line) for file, _, line in (each.partition(":") for each in given.files)]
    try:
        if given.coverage is None:
            found = [str(test.relative_to(ROOT)) for test in tests_of({name_of(file) for file, _ in places})]
        else:
            inside = [(file.as_posix().removeprefix(f"{ROOT}/"), int(line) if line else None) for file, line in places]
            found = [test for file, line in inside for test in reaching(given.coverage, file, line)]
    except LookupError as error:
        parser.error(str(error.args[0]))
    print("\n".join(dict.fromkeys(found)))


if __name__ == "__main__":
    main()
