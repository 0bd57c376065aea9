"""What Sphinx lacks for this site: a search that finds Chinese, and the pages of all options and of all public names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from sphinx.search.en import SearchEnglish

HAN = r"\u3400-\u4dbf\u4e00-\u9fff"
WORD = re.compile(rf"[{HAN}]+|[^\W{HAN}]+")


class Bigrams(SearchEnglish):
    """English words as Sphinx has them, Chinese as pairs of neighbouring characters: no dictionary, and a part of a word is found."""

    lang = "facenet"
    language_name = "English"  # of the stemmer in the browser

    def split(self, input: str) -> list[str]:
        return [part for word in WORD.findall(input) for part in bigrams(word)]

    @property
    def js_splitter_code(self) -> str:  # type: ignore[override]
        """The same for what is typed into the search."""
        return (
            "function splitQuery(query) {\n"
            f"  return Array.from(query.matchAll(/[{HAN}]+|(?:(?![{HAN}])[\\p{{L}}\\p{{N}}_])+/gu), (found) => found[0])\n"
            f"    .flatMap((word) => /[{HAN}]/u.test(word) && word.length > 2\n"
            "      ? Array.from({length: word.length - 1}, (_, at) => word.slice(at, at + 2)) : [word]);\n"
            "}"
        )


def bigrams(word: str) -> list[str]:
    """Of Chinese characters each two neighbours, of anything else the word."""
    if len(word) < 3 or not re.match(f"[{HAN}]", word):
        return [word]
    return [word[at : at + 2] for at in range(len(word) - 1)]


def options_page(conf: Path) -> str:
    """Markdown with each YAML file of the config: the commands' own, then group by group."""
    parts = []
    for command in ("train", "evaluate"):
        text = (conf / f"{command}.yaml").read_text(encoding="utf-8").split("\nhydra:\n")[0]
        parts.append(section(f"facenet-{command}", text))
    for shared in ("images", "image_files"):
        parts.append(section(f"shared by data=: {shared}", (conf / f"{shared}.yaml").read_text(encoding="utf-8")))
    groups = sorted({file.parent for file in conf.rglob("*.yaml")} - {conf}, key=lambda folder: folder.as_posix())
    for folder in groups:
        group = folder.relative_to(conf).as_posix()
        parts.append(f"## {group}\n")
        parts += [
            section(f"{group}={file.stem}", file.read_text(encoding="utf-8"), "###")
            for file in sorted(folder.glob("*.yaml"))
        ]
    return "\n".join(parts)


def section(title: str, text: str, level: str = "##") -> str:
    return f"{level} {title}\n\n```yaml\n{text.strip()}\n```\n"


# The rooms in the order in which a reader meets them; others follow.
ROOMS = (
    "facenet",
    "losses",
    "backbones",
    "data",
    "engine",
    "evaluation",
    "tracking",
    "devices",
    "distributed",
    "sweeps",
)


def public_names(package: Path) -> dict[str, list[str]]:
    """Room -> the names that its __init__.pyi gives to others."""
    found = {}
    for stub in package.rglob("__init__.pyi"):
        tree = ast.parse(stub.read_text(encoding="utf-8"))
        imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        room = ".".join(stub.parent.relative_to(package).parts) or "facenet"
        found[room] = [alias.name for node in imports for alias in node.names]
    return dict(sorted(found.items(), key=lambda item: ROOMS.index(item[0]) if item[0] in ROOMS else len(ROOMS)))


def api_page(package: Path) -> str:
    """Markdown with a directive for each public name, room by room: Sphinx puts signature and docstring in its place."""
    parts = []
    for room, names in public_names(package).items():
        module = "facenet" if room == "facenet" else f"facenet.{room}"
        lines = [directive(f"{module}.{name}") for name in names]
        parts.append(f"## {room}\n\n```{{eval-rst}}\n" + "\n".join(lines) + "```\n")
    return "\n".join(parts)


def directive(name: str) -> str:
    kind = "class" if name.rpartition(".")[2][0].isupper() else "function"
    return f".. auto{kind}:: {name}\n" + ("   :members:\n" if kind == "class" else "")
