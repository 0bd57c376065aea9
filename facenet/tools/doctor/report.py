"""What the checks found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from facenet.errors import UserError, shown
from facenet.privacy.addresses import mask


@dataclass(frozen=True)
class Problem:
    """`blocks`: no training with it."""

    what: str
    fix: str
    blocks: bool


@dataclass
class Report:
    """Facts by section and name, each said as it comes, and problems, said at the end."""

    say: Callable[[str], None]
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def fact(self, section: str, name: str, text: str, value: Any = None) -> None:
        """`value` is what the JSON object holds, the text where it is left out."""
        if section not in self.facts:
            self.say(f"\n{section}" if self.facts else section)
        self.facts.setdefault(section, {})[name] = text if value is None else value
        self.say(f"  {name:<16} {text}")

    def problem(self, what: str, fix: str, *, blocks: bool = False) -> None:
        self.problems.append(Problem(what, fix, blocks))

    @contextlib.contextmanager
    def finding(self, subject: str, fix: str, *, blocks: bool = False) -> Iterator[None]:
        """Turns what is raised inside into a problem. A UserError brings its own fix after the first semicolon."""
        try:
            yield
        except UserError as error:
            what, _, own_fix = str(error).partition("; ")
            self.problem(what, own_fix or fix, blocks=blocks)
        except Exception as error:  # drivers and plugins raise what they like
            self.problem(f"{subject}: {first_line(error)}", fix, blocks=blocks)

    @property
    def cannot_train(self) -> bool:
        return any(problem.blocks for problem in self.problems)

    @property
    def verdict(self) -> str:
        if self.cannot_train:
            return "cannot train"
        return "works with remarks" if self.problems else "ok"

    def summary(self) -> str:
        """The verdict, and under it one line per problem with its fix, those that block first."""
        ordered = sorted(self.problems, key=lambda problem: not problem.blocks)
        return "\n".join([f"verdict: {self.verdict}", *(f"  - {problem.what}; {problem.fix}" for problem in ordered)])

    def as_dict(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "problems": [asdict(problem) for problem in self.problems], **self.facts}


def first_line(error: BaseException) -> str:
    return shown(mask((str(error).strip() or repr(error)).splitlines()[0]))
