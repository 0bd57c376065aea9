"""The shape of facenet/ as numbers, from the syntax tree alone, so that any commit can be measured: python .ci/house.py [CHECKOUT]

Lines of a function: from `def` to its last; methods and functions inside others count too. Parameters: all of a signature but self and cls. Public:
classes, functions and methods without a leading underscore, no function inside a function. Rooms: the modules that lie in facenet/ itself, and each
folder. An arrow: a room imports another that it is not in; a cycle: rooms that reach each other. No __init__.py counts as a file.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

LONG, MANY_PARAMETERS, MANY_FIELDS = 60, 9, 12
Function = ast.FunctionDef | ast.AsyncFunctionDef


def measured(root: Path) -> Iterator[tuple[str, str]]:
    """Each row of the table: what is measured, and its value."""
    texts = {
        path.relative_to(root).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(root.rglob("*.py"))
    }
    trees = {place: ast.parse(text) for place, text in texts.items()}
    lines = {place: text.count("\n") for place, text in texts.items()}
    files = {place: count for place, count in lines.items() if not place.endswith("__init__")}
    functions = {f"{place}:{name}": found for place, tree in trees.items() for name, found in functions_of(tree)}
    lengths = {name: (found.end_lineno or 0) - found.lineno + 1 for name, found in functions.items()}
    counts = {name: len(parameters(found)) for name, found in functions.items()}
    fields = {f"{place}:{name}": count for place, tree in trees.items() for name, count in fields_of(tree)}
    public = [node for tree in trees.values() for node in public_in(tree)]
    arrows = arrows_of(trees)

    yield "lines in all", f"{sum(lines.values()):,}"
    yield "root modules", named([place for place in files if "/" not in place])
    yield "files; lines, median / max", f"{len(files)}; {at_share(files.values(), 0.5)} / {largest(files)}"
    median, p90 = (at_share(lengths.values(), share) for share in (0.5, 0.9))
    yield "functions; lines, median / p90 / max", f"{len(functions)}; {median} / {p90} / {largest(lengths)}"
    yield f"functions over {LONG} lines", over(lengths, LONG)
    yield "most parameters", largest(counts)
    yield f"functions with more than {MANY_PARAMETERS} parameters", over(counts, MANY_PARAMETERS)
    yield f"dataclasses with more than {MANY_FIELDS} fields", over(fields, MANY_FIELDS)
    yield "functions that take **kwargs", named([name for name, each in functions.items() if each.args.kwarg])
    yield "public docstrings", share(ast.get_docstring(node) is not None for node in public)
    yield "return types", share(found.returns is not None for found in functions.values())
    yield "rooms, import arrows between them", f"{len(arrows)}, {sum(map(len, arrows.values()))}"
    yield "cycles of rooms", named(cycles(arrows))


def functions_of(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, Function]]:
    """Every function, with its dotted name in the file."""
    for node in ast.iter_child_nodes(tree):
        name = f"{inside}.{node.name}".lstrip(".") if isinstance(node, Function | ast.ClassDef) else inside
        if isinstance(node, Function):
            yield name, node
        yield from functions_of(node, name)


def parameters(function: Function) -> list[str]:
    given = function.args
    every = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return [each.arg for each in every if each is not None and each.arg not in ("self", "cls")]


def fields_of(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Dataclasses, and how many fields each declares itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(each) for each in node.decorator_list):
            declared = [each for each in node.body if isinstance(each, ast.AnnAssign)]
            yield node.name, sum("ClassVar" not in ast.unparse(each.annotation) for each in declared)


def public_in(node: ast.Module | ast.ClassDef) -> Iterator[ast.ClassDef | Function]:
    for each in node.body:
        if isinstance(each, Function | ast.ClassDef) and not each.name.startswith("_"):
            yield each
            if isinstance(each, ast.ClassDef):
                yield from public_in(each)


def room_of(place: str) -> str:
    return place.rpartition("/")[0] or place


def arrows_of(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """{room: the other rooms that it imports}."""
    arrows: dict[str, set[str]] = {room_of(place): set() for place in trees if place != "__init__"}
    for place, tree in trees.items():
        room = room_of(place)
        for path in (path for node in ast.walk(tree) for path in imported(node)):
            found = found_in(trees, path)
            nested = f"{found}/".startswith(f"{room}/") or f"{room}/".startswith(f"{found}/")
            if found is not None and room in arrows and not nested:
                arrows[room].add(found)
    return arrows


def found_in(trees: dict[str, ast.Module], path: str) -> str | None:
    """The room of what lies at the longest beginning of this path, if anything does."""
    if not path or path in trees:
        return room_of(path) or None
    return path if f"{path}/__init__" in trees else found_in(trees, path.rpartition("/")[0])


def imported(node: ast.AST) -> list[str]:
    """Paths in facenet/; `from facenet import x` imports x."""
    names = [each.name for each in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
    if isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{name}" for name in names]
    return [name.removeprefix("facenet.").replace(".", "/") for name in names if name.startswith("facenet.")]


def cycles(arrows: dict[str, set[str]]) -> list[str]:
    """Groups of rooms of which each reaches the others."""
    reach = {room: {*others} for room, others in arrows.items()}
    for _ in arrows:
        reach = {room: others.union(*(reach[each] for each in others)) for room, others in reach.items()}
    groups = {tuple(sorted(each for each in reach[room] if room in reach[each])) for room in reach}
    return [" <-> ".join(group) for group in sorted(groups) if group]


def at_share(values: Iterable[int], part: float) -> int:
    return (ordered := sorted(values))[int(part * len(ordered))]


def largest(counts: dict[str, int]) -> str:
    return f"{max(counts.values())} ({max(counts, key=counts.__getitem__)})"


def over(counts: dict[str, int], limit: int) -> str:
    names = sorted((name for name in counts if counts[name] > limit), key=counts.__getitem__, reverse=True)
    return named([f"{name} {counts[name]}" for name in names])


def named(names: Sequence[str]) -> str:
    return f"{len(names)}: {', '.join(names)}" if names else "0"


def share(answers: Iterable[bool]) -> str:
    found = [*answers]
    return f"{sum(found) / len(found):.1%} of {len(found):,}"


if __name__ == "__main__":
    checkout = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]
    print(
        "| | |", "| --- | --- |", *(f"| {what} | {value} |" for what, value in measured(checkout / "facenet")), sep="\n"
    )
