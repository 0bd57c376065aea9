"""Commands on the pages are what the programs take: every override fits the code, every flag and file exists, every option is named."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import metadata
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.errors import ConfigCompositionException
from pages import ROOT, Block, blocks, english, prose, spans

from facenet import config as configs
from facenet.commands import composed, flags, mistakes, parser
from facenet.data import transforms

sys.path.insert(0, str(ROOT / "docs"))

# Keys of Hydra and its launchers, and words of other programs that look like keys.
ELSEWHERE = ("hydra.", "hydra/", "+", "local_lock=", "timeout_min=")
PAGES = english()  # the Chinese ones have the same blocks: tests/docs/test_pages.py
assert (
    composed and transforms
)  # the first registers resolvers; torch and albumentations are imported here, so that no test is the one that does it
BASH = [block for page in PAGES for block in blocks(page) if block.language == "bash"]


@pytest.fixture(scope="module")
def conf() -> Iterator[None]:
    with initialize_config_module("facenet.conf", version_base="1.3"):
        yield


def facenet_commands() -> list[tuple[str, str]]:
    """(program, overrides) of the two commands that Hydra composes, each once; under torchrun too."""
    found: dict[tuple[str, str], None] = {}
    for block in BASH:
        for words in block.commands():
            if words[0] == "torchrun":
                words = ["facenet-train", *words[words.index("facenet") + 1 :]]
            if words[0] in ("facenet-train", "facenet-evaluate") and "trust=" not in " ".join(
                words
            ):  # tests/test_extending.py
                overrides = [word for word in words[1:] if re.match(r"[~+]*[\w./@]+=", word)]
                found[words[0], shlex.join(overrides)] = None
    return list(found)


def problems(program: str, overrides: list[str]) -> list[str]:
    """What is wrong with them, but for values that only a reader has."""
    name = program.removeprefix("facenet-")
    firsts = [mistakes.first_value(each) for each in overrides if not each.startswith(("resume=", "sweep.resume="))]
    # Launchers and sweepers of other packages come with extras; their own keys are looked at where they are installed.
    extra = re.compile(r"\+?hydra[./](launcher|sweeper)|sweep=optuna_lr|.*=interval\(")
    firsts = [each for each in firsts if not extra.match(each)]
    found = compose(name, overrides=firsts)
    return [each for each in mistakes.problems_of(configs.resolve(found), name) if ": needs a value; set " not in each]


@pytest.mark.slow
def test_every_command_composes_and_fits_the_code(conf: None):
    commands, wrong = facenet_commands(), {}
    for program, line in commands:
        if found := problems(program, shlex.split(line)):
            wrong[f"{program} {line}"] = found
    assert wrong == {} and len(commands) >= 40


def test_an_override_that_is_none_is_found(conf: None):
    assert problems("facenet-train", ["++trainer.epoch=3"]) != []
    with pytest.raises(ConfigCompositionException):
        problems("facenet-train", ["optimizer.momentom=0.9"])
    assert problems("facenet-train", ["trainer.epochs=3"]) == []


FLAGS = {
    "data": flags.data,
    "doctor": flags.doctor,
    "compare-loss": flags.compare_loss,
    "report": flags.report,
    "runs": flags.runs,
}


PARSE = argparse.ArgumentParser.parse_args


class Ran(Exception):
    """The command got past its flags."""


def parse_only(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(self: argparse.ArgumentParser, *given: object) -> None:
        PARSE(self, words[1:])
        raise Ran

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    with pytest.raises(Ran):
        FLAGS[words[0].removeprefix("facenet-")]()


def test_flags_of_the_other_commands_are_theirs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parser, "settle", lambda: None)
    seen = set()
    for block in BASH:
        for words in block.commands():
            if words[0].removeprefix("facenet-") in FLAGS:
                parse_only(words, monkeypatch)
                seen.add(words[0])
    assert seen == {f"facenet-{name}" for name in FLAGS}
    with pytest.raises(SystemExit):
        parse_only(["facenet-data", "audit", "PEOPLE", "--agianst", "LFW"], monkeypatch)


def other(words: list[str]) -> bool:
    """A program that is not facenet's: whether the files and extras that the command names are there."""
    program, rest = Path(words[0]).name, words[1:]
    if program.startswith("python"):
        program, rest = (words[2], words[3:]) if words[1] == "-m" else ("script", words[1:2])
    if program == "pip":
        extras = set(metadata("facenet").get_all("Provides-Extra") or ())
        return {each for found in re.findall(r"\[([\w,]+)\]", " ".join(rest)) for each in found.split(",")} <= extras
    if program in ("pytest", "script", "sphinx-build"):
        paths = [each.partition("::")[0] for each in rest if re.match(r"(tests|docs|examples|bench)\b", each)]
        return all((ROOT / each).exists() for each in paths)
    if program in ("bench", "facenet.tools.replay"):
        return (ROOT / program.replace(".", "/")).exists() or (ROOT / f"{program.replace('.', '/')}.py").is_file()
    if program == "offline":
        return (ROOT / ".ci" / "offline").is_file()
    return program in ("mlflow", "ruff", "mypy", "lint-imports", "torchrun")


def test_a_block_runs_or_says_why_not():
    unknown = []
    for block in BASH:
        for words in block.commands():
            known = words[0].startswith("facenet-") or "|" in words or other(words)
            unknown += [] if known or block.not_run else [(str(block), words)]
    assert unknown == []
    written = [block for page in PAGES for block in blocks(page) if block.language in ("bash", "python")]
    left_out = [block for block in written if block.not_run]
    assert len(left_out) <= len(written) / 10


def keys_of(value: object, place: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            here = f"{place}.{key}" if place else str(key)
            yield here
            yield from keys_of(inner, here)


def options() -> tuple[set[str], dict[str, set[str]]]:
    """Every key of every file, under the name that a command gives it, and the choices of each group."""
    keys, choices = set(), {}
    conf = files("facenet.conf")
    for path in sorted(Path(str(conf)).rglob("*.yaml")):
        group = path.parent.relative_to(str(conf)).as_posix()
        text = path.read_text(encoding="utf-8")
        content = {key: value for key, value in (yaml.safe_load(text) or {}).items() if key != "defaults"}
        if group != ".":
            choices.setdefault(group, set()).add(path.stem)
        if path.stem in ("images", "image_files"):  # what the choices of data= share
            keys |= set(keys_of(content, "data"))
        elif group == "." or text.startswith("# @package _global_"):
            keys |= set(keys_of(content))
        else:
            place = group.replace("/", ".")
            keys |= set(keys_of(content, place)) | {place}
    return keys, choices


def test_every_option_named_on_a_page_exists():
    keys, choices = options()
    wrong = []
    for page in PAGES:
        if page == "docs/extending.md":  # whose options are those of its own classes: tests/test_extending.py
            continue
        for word in (word for span in spans(prose(page)) for word in span.strip("'").split()):
            match = re.fullmatch(r"\+*([a-z_]+(?:[./][a-z_0-9]+)*)=(\S*)", word.strip("'"))
            if not match or word.startswith(ELSEWHERE):
                continue
            key, value = match.groups()
            fits = key in keys or (key in choices and (value in choices[key] | {""} or "," in value))
            wrong += [] if fits or key in ("preset", "sweep", "group", "key", "checkpoint", "trust") else [(page, word)]
    assert wrong == []


def test_every_option_that_exists_is_on_the_page_of_options():
    site_parts = pytest.importorskip("site_parts", reason="needs Sphinx: pip install 'facenet[docs]'")
    page = site_parts.options_page(ROOT / "conf")
    keys, choices = options()
    assert {f"### {group}={choice}" for group, known in choices.items() for choice in known} <= set(page.splitlines())
    named = {key.rpartition(".")[2] for key in keys if not key.startswith("hydra")}
    assert [
        key for key in named if not re.search(rf"\b{re.escape(key)}:|^## {re.escape(key)}$", page, re.MULTILINE)
    ] == []


def test_every_group_and_choice_stands_on_the_page_of_the_config():
    text = (ROOT / "docs/config.md").read_text(encoding="utf-8")
    for group, known in options()[1].items():
        if not group.startswith("hydra"):
            row = next((line for line in text.splitlines() if line.startswith(f"| `{group}` ")), "")
            named = set(spans(row))
            missing = {each for each in known if each not in named} - ({"default"} if group in ("sweep",) else set())
            assert missing == set(), group


def test_parts_of_a_block_are_found():
    block = Block("page", 1, "bash", "A=1 facenet-train a=1 \\\n  b='2 3'  # why\npip install . && pytest")
    assert block.commands() == [["facenet-train", "a=1", "b=2 3"], ["pip", "install", "."], ["pytest"]]
