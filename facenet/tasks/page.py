"""What MLflow's page of a run says first, in Markdown: what was trained on what, what came of it, and what to type next."""

from __future__ import annotations

import contextlib
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from facenet.errors import UserError, printable
from facenet.evaluation.report import digits, interval, is_chance
from facenet.files import trusted
from facenet.files.reading import text_of
from facenet.files.run_dir import RunDir
from facenet.files.typed import command, override
from facenet.privacy.addresses import mask
from facenet.tracking.facts import LONGEST_TAG, RunFacts
from facenet.tracking.store import NOTE
from facenet.tracking.tracker import Tracker

LONGEST_REASON = 1500
WIDTH = 60  # letters of a block beside the panel on the right, in a window of 1,600 pixels


def begun(params: Mapping[str, Any], plan: str, command: str, code: str) -> str:
    """What is known before the first step. `plan`: as the terminal showed it."""
    told = {group: params.get(group, "?") for group in ("backbone", "loss", "data", "optimizer", "schedule")}
    head = "**{backbone}** with **{loss}** on **{data}**, {optimizer}, {schedule}".format(**told)
    rows = [line.strip().split(maxsplit=1) for line in plan.splitlines()[1:] if line.strip()]
    chosen = [
        row for row in rows if len(row) == 2 and row[0] in ("data", "benchmark", "device", "batch", "steps", "lr")
    ]
    lines = [f"- {name}: {value}" for name, value in chosen]
    whose = code if code.startswith("git ") else f"{code}; the command ran in no git repository"
    return cleaned("\n".join([head, "", *lines, "", f"Repeat it: {as_code(command)}", "", f"Code: {whose}"]))


def ended(result: Mapping[str, Any], run_dir: Path, select: str, longer: str) -> str:
    """What came of a run that finished. longer: as `longer_than` says it."""
    metrics, checkpoint = result["metrics"], result["checkpoint"]
    value = metrics.get(select)
    if result.get("collapsed"):
        head = f"**No best epoch**: {result['collapsed']}"
    elif value is None:
        head = f"**Finished**; {select} was not measured"
    else:
        span = span_of(run_dir, select, value)
        head = f"**{select} {digits(value)}**{span}, in epoch {metrics['epoch']:.0f}"
    following = next_commands(run_dir, checkpoint, longer)
    blocks = [f"{what.capitalize()}: {as_code(how)}\n" for what, how in following.items()]
    threshold = metrics.get(f"{select.partition('/')[0]}/threshold")
    blocks += [f"Threshold: {digits(threshold)}; nearer faces are one identity\n"] if threshold is not None else []
    head += f"; ended early: {result['pruned']}" if result.get("pruned") else ""
    return cleaned("\n".join([head, "", *blocks]))


def span_of(run_dir: Path, select: str, value: float) -> str:
    """Where an accuracy is with a chance of 95 %, by the number of pairs that it was measured on; empty for other figures."""
    name, _, figure = select.partition("/")
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, ZeroDivisionError):
        if figure == "accuracy" and name not in ("train", "val"):
            found = json.loads(text_of(RunDir(run_dir).benchmark(name)))
            pairs = int(found["num_pairs"])
            guessed = ", not shown to be better than guessing" if is_chance(value, pairs) else ""
            return f" (95 % interval {interval(value, pairs)}{guessed})"
    return ""


def of_test(path: str, trained_by: str, command: str) -> str:
    """Of a network's test: which one, and the run that trained it, whose id is the checkpoint's word."""
    known = re.fullmatch("[0-9a-f]{32}", trained_by) is not None
    way = (
        f"Trained by run `{trained_by}`: {as_code(f'facenet-runs show {trained_by}')}"
        if known
        else "Trained elsewhere."
    )
    return cleaned(f"Test of {as_code(path)}\n\n{way}\n\nRepeat it: {as_code(command)}")


def longer_than(plan: Mapping[str, Any]) -> str:
    """The override that makes a run of this plan a longer one, N to be filled in: of what ended it."""
    cut = plan.get("total_steps", 0) < plan.get("steps_per_epoch", 0) * plan.get("epochs", 0)
    return f"trainer.{'max_steps' if cut else 'epochs'}=N"


def next_commands(run_dir: Path, checkpoint: str, longer: str) -> dict[str, str]:
    """What to type for a run that has finished."""
    return {
        "test it": command("facenet-evaluate", override("checkpoint", checkpoint), *trusted.arguments()),
        "use it": f"facenet.load({', '.join([repr(checkpoint), *trust_of_load()])})",
        "train on": f"{resume_command(run_dir)} {longer} resume_changed=true",
    }


def stopped(run_dir: Path, reason: str) -> str:
    """Why a run failed, or that it was stopped, and how it goes on."""
    head = f"**Failed**\n\n{fenced(wrapped(reason[-LONGEST_REASON:]))}" if reason else "**Stopped**"
    last = RunDir(run_dir).checkpoints.last.is_file()
    way = (
        [f"Go on with it: {as_code(resume_command(run_dir))}"]
        if last
        else ["It ended before its first checkpoint; the same command begins anew."]
    )
    return cleaned("\n".join([head, "", *way]))


def resume_command(run_dir: Path) -> str:
    return command("facenet-train", override("resume", run_dir), *trusted.arguments())


def trust_of_load() -> list[str]:
    """What a call of `facenet.load` has to say to trust what this command does."""
    names = [argument.partition("=")[2] for argument in trusted.arguments()]
    return [f"trust={names!r}"] if names else []


def as_code(text: str) -> str:
    """Code that MLflow's page breaks where its column ends and that is copied as it is; a block of it pushes what stands beside it out of the
    window. Where it has several lines it is a block."""
    if "\n" in text.strip():
        return f"\n{fenced(text)}"
    marks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{marks} {text} {marks}" if "`" in text else f"`{text}`"


def wrapped(text: str) -> str:
    """Lines no longer than a column of MLflow's page."""
    return "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, WIDTH) or [""])


def fenced(text: str) -> str:
    return f"```\n{text.replace('```', chr(39) * 3)}\n```"


def cleaned(text: str) -> str:
    return printable(mask(text))


@contextlib.contextmanager
def of_run(tracker: Tracker, facts: RunFacts) -> Iterator[dict[str, Any]]:
    """Puts what came of a run, which the block fills in, or why it ended, before what was known at its start."""
    result: dict[str, Any] = {}
    try:
        yield result
        told = ended(result, facts.run_dir, str(facts.select), longer_than(facts.plan))
    except BaseException as error:
        told = stopped(facts.run_dir, str(error) if isinstance(error, Exception) else "")
        raise
    finally:
        with contextlib.closing(tracker), contextlib.suppress(OSError, UserError):  # a full disk, which the end tells
            whole = f"{told}\n\n---\n\n{facts.tags[NOTE]}"
            tracker.tag(NOTE, whole if len(whole) <= LONGEST_TAG else told)
