"""What a reader may count on in every page: a question, a command first, where to go next, links that lead somewhere, and Chinese in step."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from importlib.metadata import metadata
from typing import Any

import pytest
import torch
from pages import IN_STEP, ROOT, anchors, blocks, english, headings, links, prose, spans, tables, text_of

from facenet.data import transforms

assert transforms  # imported here, with torch and albumentations, so that no test is the one that does
CHINESE = sorted(
    path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("docs/zh/*.md"), ROOT / "docs/README.zh-CN.md"]
)
ANSWERING = [page for page in english() if page not in ("README.md", "docs/index.md")]
sys.path.insert(0, str(ROOT / "docs"))
NEXT = {"Where to go next", "接下来"}


def test_the_front_page_is_short_and_its_results_come_early():
    text = text_of("README.md")
    lines = text.splitlines()
    assert len(lines) <= 200 and len(text.split()) <= 1800
    assert [line for line in lines if len(line) > 120] == []
    assert len(text.partition("<!-- results -->")[0].split()) <= 200


@pytest.mark.parametrize("page", [*ANSWERING, *(page for page in CHINESE if page.startswith("docs/zh"))])
def test_a_page_begins_with_a_question_and_a_command_and_ends_with_where_to_go_next(page: str):
    lines = text_of(page).splitlines()
    assert re.match(r"\*\*.+[?？]\*\*", lines[2]), lines[2]
    first = blocks(page)[0]
    assert first.language in ("bash", "python") and first.line <= 6
    assert headings(page)[-1][1] in NEXT


@pytest.mark.parametrize("page", [*english(), *CHINESE, "CHANGELOG.md"])
def test_links_lead_somewhere(page: str):
    broken = []
    for link in links(page):
        if re.match(r"https?:", link):
            assert re.fullmatch(r"https://[\w.-]+(/[\w./#?=&%-]*)?", link), link
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        known = target.exists() and (not anchor or anchor in anchors(target.resolve().relative_to(ROOT).as_posix()))
        broken += [] if known else [link]
    assert broken == []


def without_comments(text: str) -> str:
    return re.sub(r" *#.*", "", text)


def numbers(text: str) -> list[str]:
    """In any order: sentences of two languages differ in it."""
    return sorted(re.findall(r"\d+(?:[.,]\d+)*", text))


@pytest.mark.parametrize(("page", "chinese"), IN_STEP.items())
def test_chinese_is_in_step(page: str, chinese: str):
    assert [level for level, _ in headings(page)] == [level for level, _ in headings(chinese)]
    for one, other in zip(blocks(page), blocks(chinese), strict=True):
        assert (one.language, without_comments(one.text)) == (other.language, without_comments(other.text)), str(one)
    for one, other in zip(tables(page), tables(chinese), strict=True):
        for row, row_zh in zip(one, other, strict=True):
            assert spans(row) == spans(row_zh) and numbers(row) == numbers(row_zh), row
    assert places(page) == places(chinese)


def places(page: str) -> list[str]:
    """The files that links with an anchor and pictures lead to; anchors are words of a page's own language."""
    found = [link for link in links(page) if "#" in link or link.endswith(".png")]
    return [link.partition("#")[0].split("/")[-1] or page.split("/")[-1] for link in found]


def public_names() -> dict[str, list[str]]:
    site_parts = pytest.importorskip("site_parts", reason="needs Sphinx: pip install 'facenet[docs]'")
    return site_parts.public_names(ROOT / "facenet")


def test_the_reference_is_made_of_every_public_name():
    names = public_names()
    assert names["facenet"][-2:] == ["load", "Result"] and "TripletLoss" in names["losses"]
    assert sum(map(len, names.values())) > 40 and list(names)[:2] == ["facenet", "losses"]


METHODS = (property, classmethod, staticmethod)
# What says how large an array is: letters in brackets, or that it is one number, or the shape of what was given.
SHAPE = re.compile(r"\([A-Z][^()]*,[^()]*\)|\b0-d\b|\bsame shape\b")
TENSORS = re.compile(r"^(?!list|Callable).*\b(Tensor|Triplets|LossValue|NDArray|Floats|Indices)\b")


def public_things() -> list[tuple[str, object]]:
    """Every entry of the page: each public name, and of a class what it defines itself without an underscore."""
    found: list[tuple[str, object]] = []
    for room, name in [(room, name) for room, names in public_names().items() for name in names]:
        thing = getattr(importlib.import_module("facenet" if room == "facenet" else f"facenet.{room}"), name)
        found.append((name, thing))
        for member, value in vars(thing).items() if inspect.isclass(thing) else ():
            if not member.startswith("_") and (callable(value) or isinstance(value, METHODS)):
                found.append((f"{name}.{member}", thing))
    return found


def written(owner: type, member: str) -> str:
    """The docstring of a member, its own or that of the class which it overrides; of facenet's alone, since torch's says nothing of ours."""
    for base in owner.__mro__:
        text = inspect.getdoc(vars(base)[member]) if member in vars(base) and "facenet" in base.__module__ else None
        if text and text.strip():
            return text
    return ""


def signature(thing: object) -> inspect.Signature:
    function = thing.fget if isinstance(thing, property) else getattr(thing, "__func__", thing)
    return inspect.signature(function)  # type: ignore[arg-type]


def unsaid(name: str, thing: Any) -> list[str]:
    """What the docstring of an entry leaves out: all of it, an argument of a class, or the shape of what comes back."""
    _, _, member = name.partition(".")
    if member:
        text, value = written(thing, member), vars(thing)[member]
        shapeless = TENSORS.search(str(signature(value).return_annotation)) and not SHAPE.search(text)
        return [name] if not text else [f"{name}: the shape of what comes back"] if shapeless else []
    text = "\n".join(each.__doc__ or "" for each in getattr(thing, "__mro__", [thing]) if "facenet" in each.__module__)
    if not (inspect.getdoc(thing) or "").strip():
        return [name]
    given = () if inspect.isclass(thing) and issubclass(thing, Exception) else signature(thing).parameters.values()
    named = [each.name for each in given if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return [f"{name}: {each}" for each in named if not re.search(rf"\b{each}\b", text)]


def test_every_public_name_says_what_it_is():
    """What comes back, every argument of a class, and the shapes of arrays; itself, or in the class that it derives from."""
    assert [each for name, thing in public_things() for each in unsaid(name, thing)] == []


class Silent:
    """Takes a size."""

    def __init__(self, *, size: int, other: int) -> None: ...

    def rows(self) -> torch.Tensor:
        """What it has found."""

    def shaped(self) -> torch.Tensor:
        """The rows (N, D)."""

    def nothing(self) -> None: ...


Silent.__module__ = "facenet.silent"


def test_a_docstring_that_leaves_something_out_is_found():
    assert unsaid("Silent", Silent) == ["Silent: other"]
    assert unsaid("Silent.rows", Silent) == ["Silent.rows: the shape of what comes back"]
    assert unsaid("Silent.shaped", Silent) == []
    assert unsaid("Silent.nothing", Silent) == ["Silent.nothing"]


def test_the_version_is_one():
    version = metadata("facenet")["Version"]
    assert f"\nversion: {version}\n" in text_of("CITATION.cff")
    assert f"\n## [{version}]" in text_of("CHANGELOG.md")
    assert f"| {version.rpartition('.')[0]} | yes |" in text_of("SECURITY.md")


def test_no_page_names_a_place_of_one_machine():
    found = [
        (page, match)
        for page in [*english(), *CHINESE]
        for match in re.findall(
            r"(?<![\w~.])/(?:root|home|work|tmp)/[\w/.-]*", prose(page) + "".join(block.text for block in blocks(page))
        )
    ]
    assert found == []
