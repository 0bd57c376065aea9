"""Words for devices stay in one file, so that a new device is one row there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import facenet

PACKAGE = Path(str(facenet.__file__)).parent
NO_DEVICE = {"devices/cores.py": "cpu"}  # the name of a control group of Linux
WORDS = re.compile(r"sdaa|cuda|tccl|nccl|gloo|gradscaler|torch\.(cpu|amp|autocast)|^cpu(:\d+)?$", re.IGNORECASE)


def device_words(source: str) -> list[str]:
    """Names, attributes, imports and strings of the code that name a device. Comments and docstrings may name one, and so may
    `map_location`: it says where the tensors of a file land, whatever the device."""
    tree = ast.parse(source)
    free = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    free |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "map_location"}
    code = (node for node in ast.walk(tree) if not (isinstance(node, ast.Constant) and id(node) in free))
    return [text for node in code for text in texts(node) if WORDS.search(text)]


def texts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield ast.unparse(node)
    elif isinstance(node, ast.keyword) and node.arg:
        yield node.arg
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_one_file_names_devices(path: Path):
    name = path.relative_to(PACKAGE).as_posix()
    found = [word for word in device_words(path.read_text(encoding="utf-8")) if word != NO_DEVICE.get(name)]
    assert bool(found) == (name == "devices/table.py"), found


@pytest.mark.parametrize(
    "line",
    [
        "x.cuda()",
        "x.is_cuda",
        "import torch_sdaa",
        "from torch.cuda import amp",
        "from torch import autocast",
        "x.to('cuda:0')",
        "x.to('cpu')",
        "with torch.autocast('x'): pass",
        "torch.amp.autocast('x')",
        "init_process_group('nccl')",
        "f(backend=f'{x}:gloo')",
        "scaler = GradScaler()",
    ],
)
def test_what_counts_as_a_device_word(line: str):
    assert device_words(line)


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(p, map_location='cpu')",
        "with accelerator.autocast(): pass",
        "'''cuda'''",
        "x = 1  # cuda",
        "x.cpu()",
    ],
)
def test_what_does_not(line: str):
    assert not device_words(line)
