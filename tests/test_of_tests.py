"""The tests themselves, read and not run: each can fail, and stands where README.md of tests says."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "facenet"
# Calls that fail by themselves where something is not as it has to be.
ASSERTING = ("raises", "warns", "fail", "gradcheck", "check_call")


@functools.cache
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(TESTS.rglob("*.py"))}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


Functions = dict[str, list[ast.FunctionDef]]


def by_name(*paths: Path) -> Functions:
    known: Functions = {}
    for path in paths:
        for function in functions(trees()[path]):
            known.setdefault(function.name, []).append(function)
    return known


def asserts(function: ast.AST, near: Functions, shared: Functions, seen: set[str]) -> bool:
    """Whether it asserts, or a function or fixture that it names does: one of its file, else one that files share."""
    nodes = [*ast.walk(function)]
    names = {node.id for node in nodes if isinstance(node, ast.Name)} | {
        node.arg for node in nodes if isinstance(node, ast.arg)
    }
    every = names | {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    if any(isinstance(node, (ast.Assert, ast.Raise)) for node in nodes) or any(
        name in ASSERTING or name.startswith("assert_") for name in every
    ):
        return True
    fresh = {name for name in names if name in near or name in shared} - seen
    seen |= fresh
    return any(asserts(each, near, shared, seen) for name in fresh for each in near.get(name) or shared[name])


def test_each_test_asserts() -> None:
    shared = by_name(*(path for path in trees() if not path.name.startswith("test_")))
    silent, count = [], 0
    for path, tree in trees().items():
        near = by_name(path)
        named = [each for each in functions(tree) if each.name.startswith("test_")]
        tests = [each for each in named if not any("fixture" in ast.unparse(mark) for mark in each.decorator_list)]
        count += len(tests)
        silent += [
            f"{path.relative_to(TESTS)}::{each.name}" for each in tests if not asserts(each, near, shared, set())
        ]
    assert silent == [] and count > 1500
    example = ast.parse("def test_a(tmp_path):\n    facenet.load(tmp_path)")
    assert not asserts(example, {}, shared, set())  # what is looked for is seen


def always_true(node: ast.expr) -> bool:
    """A text, a list with something in it, a generator, a thing that is compared with itself by name."""
    full = isinstance(node, (ast.Tuple, ast.List, ast.Set)) and node.elts != []
    return full or isinstance(node, (ast.Constant, ast.JoinedStr, ast.GeneratorExp, ast.Lambda))


def test_no_assertion_is_true_whatever_happens() -> None:
    found = [
        f"{path.relative_to(TESTS)}:{node.lineno}"
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Assert) and always_true(node.test))
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Compare))  # without the word assert
    ]
    assert found == []


def test_no_test_hides_one_of_its_name() -> None:
    found = []
    for path, tree in trees().items():
        for scope in (tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))):
            names = [node.name for node in scope.body if isinstance(node, ast.FunctionDef)]
            found += [f"{path.relative_to(TESTS)}::{name}" for name in {*names} if names.count(name) > 1]
    assert found == []


def test_no_error_is_expected_of_any_kind() -> None:
    """`raises(Exception)` is content with a slip of the test's own."""
    wide = {"Exception", "BaseException", "AssertionError"}
    found = [
        f"{path.relative_to(TESTS)}:{node.lineno}"
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises"
        if {each.id for each in ast.walk(node.args[0]) if isinstance(each, ast.Name)} & wide
    ]
    assert found == []


def test_a_file_with_the_name_of_a_part_lies_where_the_part_lies() -> None:
    """tests/data/test_decode.py would be looked for in vain where the part is facenet/data/files/decode.py."""
    parts = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")}
    assert len(parts) > 200
    wrong = []
    for path in (path.relative_to(TESTS) for path in trees() if path.name.startswith("test_")):
        of_name = {part for part in parts if part.name == path.name.removeprefix("test_")}
        in_room = {part for part in of_name if part.parts[0] == path.parts[0]}
        if in_room and path.parent not in {part.parent for part in in_room}:
            wrong.append(f"{path}: {sorted(map(str, in_room))}")
    assert wrong == []


def test_each_room_has_its_tests_and_each_folder_of_tests_its_line() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    folders = {path.parent.relative_to(TESTS).parts[0] for path in trees() if path.parent != TESTS}
    assert rooms <= folders, rooms - folders
    said = {word for word in (TESTS / "README.md").read_text(encoding="utf-8").split("`") if word.isidentifier()}
    assert folders <= said, folders - said
