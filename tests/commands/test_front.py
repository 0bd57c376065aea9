"""What the commands say about themselves: help out of the YAML files, the version, the umbrella command, completion."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import facenet.data.transforms  # noqa: F401  whose import sets a variable
from facenet.commands import composed, flags, front, mistakes, parser
from facenet.commands.help_text import help_of
from facenet.config import near
from facenet.errors import UserError
from facenet.files.choices import built_in

BIN = Path(sys.executable).parent


@pytest.fixture(autouse=True)
def wide(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)


def choices_in(text: str) -> dict[str, list[str]]:
    """Group -> its choices, in order."""
    found: dict[str, list[str]] = {}
    for line in text.partition("\n\nValues")[0].splitlines():
        if group := re.match(r"  ([\w/]+)", line):
            names = found.setdefault(group[1], [])
        elif name := re.match(r"    (\w+)", line):
            names.append(name[1])
    return found


def test_the_default_of_each_group_comes_first_and_all_are_there():
    listed = choices_in(help_of("train", []))
    conf = yaml.safe_load(built_in(".", "facenet.conf")["train"])
    chosen = {group: name for each in conf["defaults"] if isinstance(each, dict) for group, name in each.items()}
    for group, name in chosen.items():
        if group not in ("preset", "sweep") and not group.startswith("override"):
            assert listed[group][0] == name and sorted(listed[group]) == list(built_in(group)), group
    assert listed["benchmark/protocol"][0] == "plain" and listed["sweep"] == ["default", "lr_batch", "optuna_lr"]
    assert "single_card" in listed["preset"] and "real_faces" in listed["preset"]


def test_each_choice_has_a_line_that_says_what_it_is():
    text = help_of("train", [])
    listed = [name for names in choices_in(text).values() for name in names]
    assert {"mobilenet_v1", "triplet_ce", "single_card"} <= set(listed)
    assert [name for name in listed if not re.search(rf"^    {name}(\n)? +\S", text, re.MULTILINE)] == []


def test_values_stand_with_their_comments_and_are_those_of_the_config(default_config):
    text = help_of("train", []).partition("\n\nValues")[2].partition("\n\nFlags")[0]
    found = dict(re.findall(r"^  ([\w.]+)=(\S+)", text, re.MULTILINE))
    for key, value in found.items():
        node = default_config
        for part in key.split("."):
            node = node[part]
        assert "${" in value or yaml.safe_load(value) == node, key
    assert {key.partition(".")[0] for key in found} == {
        key for key in default_config if key not in ("hydra", "benchmarks")
    }
    assert re.search(r"^  trainer.keep=2 +newest numbered checkpoints to keep beside", text, re.MULTILINE)
    assert re.search(r"^  data.val_images=0.01 +share of images held out", text, re.MULTILINE)


@pytest.fixture(scope="module")
def default_config():
    from facenet.sweeps.batch import resolved_as_job

    assert composed.own_experiments  # its import registers a resolver
    return resolved_as_job(mistakes.compose_leniently("train", [])[0])


def test_another_choice_shows_its_own_values():
    text = help_of("train", ["--help", "loss=arcface", "watch=none", "benchmark/protocol=flip", "seed=3"])
    assert re.search(r"^  loss.terms.arcface.loss.margin=0.5 +radians", text, re.MULTILINE)
    assert "loss.terms.triplet" not in text.partition("Examples")[0] and "  benchmark.protocol.flip=concat" in text
    assert "  watch.collapse='off'\n" in text and "  watch.hang=" in text
    assert "\npreset=" not in text and "\npreset=single_card\n  # @package" in help_of("train", ["preset=single_card"])
    with pytest.raises(UserError, match="^loss: no choice 'arcfac' among .*; did you mean 'arcface'"):
        help_of("train", ["loss=arcfac"])


def test_presets_of_ones_own_are_listed(tmp_path):
    folder = tmp_path / "experiments" / "preset"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\n# Mine\x1b[31m, for small faces.\nseed: 1\n")
    (folder / "odd.yaml").write_bytes(b"\xff\xfe")
    (folder / "folder.yaml").mkdir()
    (tmp_path / "experiments" / "backbone").mkdir()
    (tmp_path / "experiments" / "backbone" / "own.yaml").write_text("# Own.\n_target_: [\n")  # no YAML: shown, not read
    assert "\nbackbone=own\n  # Own.\n  _target_: [\n" in help_of("train", ["backbone=own"])
    listed = help_of("train", [])
    assert re.search(r"^    mine +Mine\\x1b\[31m, for small faces.$", listed, re.MULTILINE) and "\n    odd\n" in listed


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_help_ends_with_five_examples(command):
    examples = help_of(command, []).split("Examples\n")[1].splitlines()
    assert len(examples) == 5 and all(line.startswith(f"  facenet-{command}") for line in examples)


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_each_example_names_what_there_is(command):
    assert composed.own_experiments  # its import registers a resolver
    config = mistakes.default_config(command)
    for line in help_of(command, []).split("Examples\n")[1].splitlines():
        words = [each for each in shlex.split(line.split("   ")[0])[1:] if "=" in each]
        keys = [word.partition("=")[0] for word in words]
        assert "trust" in keys or all(near.is_key(key.replace("/", "."), config) for key in keys), line
        assert "{" not in line  # bash makes several words of {a,b}


@pytest.mark.parametrize("command", ["data", "doctor", "compare-loss", "report", "runs"])
def test_help_of_the_commands_with_flags_ends_with_examples(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["facenet", command, "--help"])
    with pytest.raises(SystemExit, match="0"):
        front.facenet()
    examples = capsys.readouterr().out.split("Examples\n")[1].splitlines()
    assert len(examples) >= 2 and all(line.startswith(f"  facenet-{command}") for line in examples)


def test_each_example_is_taken_by_its_parser(monkeypatch):
    """Up to the task itself, which is not run."""
    monkeypatch.setattr(parser.Parser, "exit", lambda self, *said: pytest.fail(str(said)))
    seen = []
    monkeypatch.setattr(parser, "guard_logs", lambda: seen.append(sys.argv[0]) or sys.exit(77))
    for line in (each for each in parser.EXAMPLES if each and not each.startswith("facenet new")):
        monkeypatch.setattr(sys, "argv", line.split())
        with pytest.raises(SystemExit, match="77"):
            getattr(flags, line.split()[0].removeprefix("facenet-").replace("-", "_"))()
    assert len(seen) == len(parser.EXAMPLES) - 2


def test_the_umbrella_runs_its_commands(monkeypatch, capsys):
    monkeypatch.setattr(flags, "doctor", lambda: print(json.dumps(sys.argv)))
    monkeypatch.setattr(sys, "argv", ["/bin/facenet", "doctor", "--json"])
    front.facenet()
    assert json.loads(capsys.readouterr().out) == ["facenet-doctor", "--json"]
    for said, told in (([], "facenet train"), (["--help"], "facenet compare-loss"), (["--version"], "facenet 0.")):
        monkeypatch.setattr(sys, "argv", ["facenet", *said])
        front.facenet()
        assert told in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["facenet", "train", "--version"])
    front.facenet()
    assert capsys.readouterr().out.startswith("facenet 0.")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (["trian"], "facenet trian: no command; did you mean 'train'?"),
        (["x"], "facenet x: no command; one of train, evaluate, data, doctor, report, runs, new, compare-loss"),
        (["--completion", "fish"], "--completion: expected bash or zsh; bash: eval"),
    ],
)
def test_what_is_no_command_is_told(said, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["facenet", *said])
    with pytest.raises(SystemExit, match="2"):
        front.facenet()
    assert capsys.readouterr().err.startswith(told)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("runs ls", "facenet-runs ls: no command; did you mean 'list'?"),
        ("runs xyz", "facenet-runs xyz: no command; one of reap, sync, list, show"),
        ("runs", "facenet-runs: name a command: reap, sync, list, show; for example: facenet-runs list --limit 50"),
        (
            "runs show",
            "facenet-runs show: RUN is missing: its id or how that begins, its name, or its directory, which facenet-runs list shows; "
            "for example: facenet-runs show 244df88c",
        ),
        (
            "data pack people",
            "facenet-data pack: OUT is missing: folder to make; it must not exist; for example: facenet-data pack PEOPLE pack --size 160",
        ),
        (
            "compare-loss",
            "facenet-compare-loss: A is missing: the run to judge; for example: facenet-compare-loss outputs/a outputs/b",
        ),
        (
            "runs list --limit 0",
            "facenet-runs list: argument --limit: expected 1 or more, got 0; facenet-runs list --help shows what there is",
        ),
        ("new", "facenet new: DIR is missing: directory to make; it must not exist; for example: facenet new faces"),
        (
            "new -x",
            "facenet new: DIR is missing: directory to make; it must not exist; for example: facenet new faces; "
            "a name that begins with - goes last, after --: facenet new -- -x",
        ),
        (
            "runs show --uri sqlite:///x.db -x",
            "facenet-runs show: RUN is missing: its id or how that begins, its name, or its directory, which facenet-runs list shows; "
            "for example: facenet-runs show 244df88c; a name that begins with - goes last, after --: facenet-runs show -- -x",
        ),
        (
            "runs sync -x",
            "facenet-runs: unrecognized arguments: -x; facenet-runs --help shows what there is; "
            "a name that begins with - goes last, after --: facenet-runs sync -- -x",
        ),
        (
            "report -x --uri sqlite:///x.db",
            "facenet-report: unrecognized arguments: -x; facenet-report --help shows what there is; "
            "a name that begins with - goes last, after --: facenet-report -- -x",
        ),
        (
            "report mine --urii sqlite:///x.db",
            "facenet-report: unrecognized arguments: --urii sqlite:///x.db; facenet-report --help shows what there is",
        ),
        ("runs list -x", "facenet-runs: unrecognized arguments: -x; facenet-runs --help shows what there is"),
        (
            "runs list --sweep -x",
            "facenet-runs list: argument --sweep: expected one argument; facenet-runs list --help shows what there is; "
            "a value that begins with - is given as --sweep=-x",
        ),
        (
            "runs list --sweep",
            "facenet-runs list: argument --sweep: expected one argument; facenet-runs list --help shows what there is",
        ),
    ],
)
def test_a_command_with_flags_is_told_in_one_line_what_it_lacks(said, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["facenet", *said.split()])
    with pytest.raises(SystemExit, match="2"):
        front.facenet()
    assert capsys.readouterr() == ("", f"{told}\n")


@pytest.mark.parametrize(
    "said",
    ["report -- -x", "report --uri sqlite:///x.db -- -x", "runs show -- -x", "runs sync -- -x", "runs list --sweep=-x"],
)
def test_a_name_that_begins_with_a_dash_is_taken_so(said, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(sys, "argv", ["facenet", *said.split()])
    with pytest.raises(SystemExit, match="2"):
        front.facenet()
    found = capsys.readouterr().err
    assert found.startswith((f"no MLflow database {tmp_path}/", f"{tmp_path}/-x: no such directory")), found


def completed(shell: str, directory: Path, *lines: str) -> list[str]:
    """What the script gives for each line, in the shell itself. The words of the line are those that the shell would hand over."""
    asked = [
        f'COMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}; _facenet_complete; echo "${{COMPREPLY[*]}}"' for line in lines
    ]
    options = {"bash": ["--norc", "-c"], "zsh": ["-f", "-c"]}[shell]
    script = "\n".join(['eval "$(facenet --completion bash)"' if shell == "bash" else ZSH, *asked])
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        [shell, *options, script], cwd=directory, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


ZSH = 'eval "$(facenet --completion zsh)"; emulate sh'  # as its completion runs what bash's defines


@pytest.mark.slow
@pytest.mark.cold
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_complete_commands_overrides_flags_and_files(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    (tmp_path / "people").mkdir()
    (tmp_path / "experiments" / "preset").mkdir(parents=True)
    (tmp_path / "experiments" / "preset" / "$(touch ran).yaml").write_text("# @package _global_\n")
    lines = ("facenet tr", "facenet data an", "facenet-runs reap --dr", "facenet-data annotate peo")
    assert completed(shell, tmp_path, *lines) == ["train", "annotate", "--dry-run", "people"]
    before = "" if shell == "bash" else "loss="  # bash completes what is behind the sign, zsh the word
    told = completed(shell, tmp_path, "facenet train loss=arc", "facenet-train preset=")
    assert (
        told[0] == f"{before}arcface {before}arcface_sharded"
        and f"{before.replace('loss', 'preset')}single_card" in told[1]
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "terminal", "told"),
    [
        ("", True, True),
        ("-m seed=1,2", True, True),
        ("seed=1", False, False),
        ("--cfg job", True, False),
        ("-sc query=bash", True, False),
        ("--lr 0.1", True, False),
    ],
)
def test_somebody_who_waits_is_told_before_anything_heavy_is_imported(arguments, terminal, told, monkeypatch, capsys):
    said = []
    monkeypatch.setattr(front, "settle", lambda: None)  # its stderr would be another
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "argv", ["facenet-train", *shlex.split(arguments)])
    monkeypatch.setattr(composed, "train", lambda: said.append(capsys.readouterr().err))
    front.train()
    assert said == ["facenet-train: loading torch, MLflow and the data\n" if told else ""]
