"""What a page of Markdown consists of, and the commands in it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
# English page and the Chinese one that follows it.
IN_STEP = {
    "README.md": "docs/README.zh-CN.md",
    **{f"docs/{path.name}": f"docs/zh/{path.name}" for path in sorted(ROOT.glob("docs/zh/*.md"))},
}


@dataclass(frozen=True)
class Block:
    """A fenced block; `not_run` says why it cannot run here."""

    page: str
    line: int
    language: str
    text: str
    not_run: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[list[str]]:
        """Words of each command; comments, continued lines, variables set for one command and `&&` are seen through."""
        found = []
        for line in self.text.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                words = shlex.split(part, comments=True)
                while words and re.match(r"[A-Z_]+=", words[0]):
                    del words[0]
                if words:
                    found.append(words)
        return found


def english() -> list[str]:
    """Every page a user reads, but results, whose commands belong to their day."""
    return [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md")) if "zh-CN" not in path.name),
    ]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    found, reason, start = [], "", 0
    language, body = None, []
    for number, line in enumerate(text_of(page).splitlines(), 1):
        if language is not None and line.startswith("```"):
            found.append(Block(page, start, language, "\n".join(body), reason))
            language, reason = None, ""
        elif language is not None:
            body.append(line)
        elif line.startswith("```"):
            language, body, start = line.strip("`{} "), [], number
        elif line.strip():
            match = NOT_RUN.match(line)
            reason = match[1] if match else ""
    return found


def prose(page: str) -> str:
    """The page without its blocks."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def headings(page: str) -> list[tuple[int, str]]:
    return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.+)$", prose(page), flags=re.MULTILINE)]


def tables(page: str) -> list[list[str]]:
    """Rows of each table, as they are written."""
    return [part.splitlines() for part in re.findall(r"(?:^\|.*\n?)+", prose(page), flags=re.MULTILINE)]


def anchors(page: str) -> set[str]:
    """As GitHub and MyST name them."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for _, title in headings(page)}


def links(page: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)
