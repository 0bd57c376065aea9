"""Whose classes a config may name: only those that the command line or the user's config home trusts, whatever a file says."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from facenet import config as configs
from facenet.config import overlays, slots
from facenet.errors import UserError
from facenet.files import trusted
from facenet.files.trusted import Package, take
from facenet.losses.term import Term  # noqa: F401  torch, before a test's own state is looked at

CODE = """
import subprocess
from facenet.losses import Term, TripletLoss
open({mark!r}, "a").close()

class Mine(Term):
    def __init__(self, *, margin: float = 0.5, weights_file: str = "") -> None:
        super().__init__()
        self.margin = margin

    forward = TripletLoss.forward

class NoTerm:
    pass

class Unwritten(Term):
    pass
"""


@pytest.fixture
def package(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A package of this test's own, which leaves a mark where it is imported."""
    folder = tmp_path / "work" / f"faces_{abs(hash(request.node.nodeid)):x}"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(CODE.format(mark=str(tmp_path / "imported")))
    (folder / "losses.py").touch()
    yield folder
    trusted.finder.packages.pop(folder.name, None)
    sys.modules.pop(folder.name, None)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "facenet").mkdir(parents=True)
    return tmp_path / "config" / "facenet" / "trust"


@pytest.fixture
def trust() -> Iterator[Callable[..., None]]:
    token = trusted.said.set(())
    yield lambda *names: trusted.said.set(trusted.packages_named(map(str, names))) and None
    trusted.said.reset(token)


PLACE = "loss.terms.mine.loss"


def refusal(target: str, path: str = PLACE) -> str:
    with pytest.raises(UserError) as caught:
        slots.locate(target, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_strangers_class_is_refused_with_the_line_that_allows_it_and_not_imported(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refusal(f"{package.name}.Mine")
    assert (
        f"; if you trust all code of {package.name}, say on the command line: trust={package.name} or trust=PATH/"
        in said
    )
    monkeypatch.chdir(package.parent)
    assert f"say on the command line: trust=./{package.name}; " in refusal(f"{package.name}.Mine"), "it lies here"
    assert not (tmp_path / "imported").exists()


def test_its_folder_said_by_path_allows_it(package: Path, trust: Callable[..., None], tmp_path: Path) -> None:
    trust(package)
    assert slots.locate(f"{package.name}.Mine", PLACE).__name__ == "Mine"
    assert (tmp_path / "imported").exists() and str(package.parent) not in sys.path


def test_the_name_of_a_package_that_is_nearly_a_trusted_one_is_told(package: Path, trust: Callable[..., None]) -> None:
    trust(package)
    assert refusal(f"{package.name}x.Mine").endswith(f"; did you mean {package.name!r}?")
    assert "did you mean" not in refusal("quite_another.Mine")


@pytest.mark.parametrize(
    ("own", "path", "reason"),
    [
        ("NoTerm", PLACE, "is no loss term: it has to derive from facenet.losses.Term"),
        ("Unwritten", PLACE, "lacks forward(features, embedding, labels"),
        ("Mine", "backbone", "is no backbone: it has to derive from facenet.backbones.Embedder"),
        ("Term", PLACE, "is the base of every loss term"),
        ("TripletLoss", PLACE, "is a class of facenet.losses.triplet, which"),
        ("Minee", PLACE, "did you mean 'Mine'?"),
        ("lossse.Mine", PLACE, "no 'lossse' in"),
        ("lossse.Mine", PLACE, "; did you mean 'losses'?"),
        ("subprocess.Popen", PLACE, "is no loss term"),
        ("subprocess.run", PLACE, "is no class, which a loss term is"),
        ("__init__.x", PLACE, "no '__init__' in"),
        ("Mine", "watch", "may not be built from a config"),
        ("Mine", "elsewhere", "may not be built from a config"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    package: Path, trust: Callable[..., None], own: str, path: str, reason: str
) -> None:
    trust(package)
    assert reason in refusal(f"{package.name}.{own}", path)


def test_signatures_are_checked_as_ours_are(package: Path, trust: Callable[..., None]) -> None:
    trust(package)
    node = {"_target_": f"{package.name}.Mine", "margn": 1.0, "margin": "x"}
    first, second = configs.unfit_value(node, Any, PLACE, {})
    assert first.startswith(f"{PLACE}.margn: {package.name}.Mine has no parameter 'margn'; write {PLACE}.margin=1.0")
    assert second == f"{PLACE}.margin: expected float, got 'x'"


def test_a_package_that_does_not_import_is_one_line(package: Path, trust: Callable[..., None]) -> None:
    (package / "__init__.py").write_text("raise SystemExit('no')\n")
    trust(package)
    assert refusal(f"{package.name}.Mine").endswith("does not import here: SystemExit: no")
    (package / "__init__.py").write_text("import absent_package_of_nobody\n")
    assert "needs the package absent_package_of_nobody" in refusal(f"{package.name}.Mine")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nobody_has_this", "no such package is installed"),
        ("os", "only packages of others"),
        ("torch", "only packages of others"),
        (".", "names no package"),
        ("..", "names no package"),
        ("./absent", "no such folder"),
        ("a-b", "is no name of a Python package"),
        ("a b", "is no name of a Python package"),
    ],
)
def test_what_cannot_be_trusted_is_said(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        take([f"trust={text}"])


def test_spellings_of_it() -> None:
    rest, found = take(["a=1", "trust=numpy", "++trust=[yaml,hydra]", "+trust=PIL,numpy", "trust=null", "x.trust=1"])
    assert rest == ["a=1", "x.trust=1"]
    assert [package.name for package in found] == ["numpy", "yaml", "hydra", "PIL", "numpy"]


def test_the_working_directory_is_not_searched(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(package.parent)
    monkeypatch.setattr(sys, "path", ["", *sys.path])  # as a notebook has it
    with pytest.raises(UserError, match=rf"not searched, so name the path: trust=\./{package.name}"):
        take([f"trust={package.name}"])
    assert take([f"trust=./{package.name}"])[1] == (Package(package.name, str(package.resolve())),)


def test_a_folder_cannot_take_the_name_of_an_installed_package(tmp_path: Path) -> None:
    for name in ("yaml", "numpy.py"):
        place = tmp_path / name
        place.write_text("") if name.endswith(".py") else place.mkdir()
        with pytest.raises(UserError, match="an installed package has this name too"):
            take([f"trust={place}"])


def test_what_lies_beside_a_trusted_folder_is_not_found(package: Path, trust: Callable[..., None]) -> None:
    (package.parent / "beside_it.py").write_text("")
    (package / "__init__.py").write_text("import beside_it\n")
    trust(package)
    assert "needs the package beside_it" in refusal(f"{package.name}.Mine")


def test_a_link_is_followed_once(package: Path, tmp_path: Path, trust: Callable[..., None]) -> None:
    link = tmp_path / "linked_faces"
    link.symlink_to(package)
    trust(link)
    (kept,) = trusted.packages()
    assert kept == Package("linked_faces", str(package.resolve()))
    link.unlink()
    link.symlink_to(tmp_path)  # a later turn of the link changes nothing of this command
    assert trusted.told() == [["linked_faces", str(package.resolve())]]


def test_the_list_in_the_config_home_counts(package: Path, home: Path, trust: Callable[..., None]) -> None:
    home.write_text(f"# mine\n{package}   # the losses\nnumpy\n")
    assert [each.name for each in trusted.packages()] == [package.name, "numpy"]
    assert slots.locate(f"{package.name}.Mine", PLACE)


@pytest.mark.parametrize("spoil", ["writable", "relative"])
def test_a_list_that_others_can_write_or_that_depends_on_the_directory_is_refused(home: Path, spoil: str) -> None:
    home.write_text("./mine\n" if spoil == "relative" else "numpy\n")
    home.chmod(0o666 if spoil == "writable" else 0o600)
    with pytest.raises(UserError, match="others can write it" if spoil == "writable" else "begins with / or ~"):
        trusted.packages()


def test_a_relative_config_home_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "facenet").mkdir()
    (tmp_path / "facenet" / "trust").write_text("numpy\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", ".")
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    assert trusted.packages() == ()


def test_processes_of_a_command_are_told(
    package: Path, trust: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trusted, "of_command", [])
    assert trusted.told() == []
    trust(package)
    told = json.loads(json.dumps(trusted.told()))
    trusted.said.set(())
    monkeypatch.setenv("FACENET_TRUST", json.dumps(told))  # a variable says nothing of it
    assert trusted.packages() == ()
    trusted.take_over(told)
    with ThreadPoolExecutor(1) as pool:  # a thread of the process trusts it too
        assert pool.submit(trusted.packages).result() == (Package(package.name, str(package)),)
    assert trusted.arguments() == [f"trust={package}"]


SMUGGLED: dict[str, Any] = {
    "a key": {"trust": "EVIL"},
    "a list": {"trust": ["EVIL"]},
    "a target": {"loss": {"terms": {"mine": {"loss": {"_target_": "EVIL.Mine"}}}}},
    "a sweep's axis": {"hydra": {"sweeper": {"params": {"loss.terms.mine.loss._target_": "EVIL.Mine"}}}},
    "an axis of trust": {"hydra": {"sweeper": {"params": {"trust": "EVIL"}}}},
    "an axis with a sign": {"hydra": {"sweeper": {"params": {"+trust": "EVIL"}}}},
    "a variable of the environment": {"hydra": {"job": {"env_set": {"FACENET_TRUST": '[["EVIL", null]]'}}}},
    "a path of Python's": {"hydra": {"job": {"env_set": {"PYTHONPATH": "EVIL"}}}},
}


def with_name(node: Any, name: str) -> Any:
    return json.loads(json.dumps(node).replace("EVIL", name))


@pytest.mark.parametrize("kind", SMUGGLED)
def test_a_file_in_a_directory_says_nothing_of_trust(kind: str, package: Path) -> None:
    assert list(overlays.problems_of(with_name(SMUGGLED[kind], package.name), "preset/evil", "_global_"))


def test_its_targets_are_taken_where_the_command_line_trusts_them(package: Path, trust: Callable[..., None]) -> None:
    trust(package)
    for kind in ("a target", "a sweep's axis"):
        assert not list(overlays.problems_of(with_name(SMUGGLED[kind], package.name), "preset/mine", "_global_"))
    for kind in ("a key", "a list", "an axis of trust", "an axis with a sign"):
        assert list(overlays.problems_of(with_name(SMUGGLED[kind], package.name), "preset/mine", "_global_")), kind


@pytest.mark.parametrize(
    "argument",
    [
        "trust=EVIL",
        "+trust=EVIL",
        "++trust=[EVIL]",
        "loss.terms.mine.loss._target_=EVIL.Mine",
        "++loss.terms.mine.loss={_target_:EVIL.Mine}",
        "+hydra.job.env_set.FACENET_TRUST=x",
        "loss.terms={m:{_target_:EVIL.Mine}}",
    ],
)
def test_a_command_on_record_says_nothing_of_trust(argument: str, package: Path) -> None:
    assert list(overlays.strange_arguments([argument.replace("EVIL", package.name)]))


def test_a_command_on_record_goes_on_where_this_one_trusts(package: Path, trust: Callable[..., None]) -> None:
    trust(package)
    assert not list(overlays.strange_arguments([f"loss.terms.mine.loss._target_={package.name}.Mine"]))


def test_a_file_of_a_directory_has_nothing_opened_by_a_trusted_class(
    package: Path, trust: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    trust(package)
    term = {"_target_": f"{package.name}.Mine", "weights_file": "/etc/x"}
    config = {"loss": {"terms": {"mine": {"loss": term}}}}
    monkeypatch.setattr(overlays, "files_read", [])
    overlays.check_composed(config)
    overlays.files_read.append(Path("preset/mine.yaml"))
    with pytest.raises(UserError, match=r"loss\.terms\.mine\.loss\.weights_file: '/etc/x' would be opened"):
        overlays.check_composed(config)
    token = overlays.overrides_said.set([f"{PLACE}.weights_file=/etc/x"])
    overlays.check_composed(config)
    overlays.overrides_said.reset(token)


def test_the_record_is_the_version_or_the_hash_of_the_source(package: Path, trust: Callable[..., None]) -> None:
    trust(package, "numpy")
    config = {"a": [{"_target_": f"{package.name}.Mine"}], "b": {"_target_": "numpy.X"}, "c": {"_target_": "torch.X"}}
    before = trusted.versions(config)
    assert before["numpy"] == __import__("numpy").__version__ and before[package.name].startswith("sha256 ")
    (package / "more.py").write_text("x = 1\n")
    os.utime(package / "__init__.py", (1, 1))
    trusted.version_of.cache_clear()
    assert trusted.versions(config)[package.name] != before[package.name]
    (package / "more.py").unlink()
    trusted.version_of.cache_clear()
    assert trusted.versions(config) == before


def test_a_folder_that_is_no_package_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusted, "MOST_FILES", 3)
    for index in range(5):
        (tmp_path / f"{index}.py").touch()
    (tmp_path / "round").symlink_to(tmp_path)
    with pytest.raises(UserError, match="name the package's own folder"):
        trusted.source_hash([str(tmp_path)])
