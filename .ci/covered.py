"""What coverage.py reports, by room: python .ci/covered.py NAME.json [NAME.json], tables in Markdown of `coverage json`."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

PARTS = ("covered_lines", "num_statements", "covered_branches", "num_branches")


def rooms(report: Path) -> dict[str, list[int]]:
    """For each folder of facenet/, and for all: lines covered, lines, branches covered, branches."""
    counted: defaultdict[str, list[int]] = defaultdict(lambda: [0] * len(PARTS))
    for file, told in json.loads(report.read_text(encoding="utf-8"))["files"].items():
        parts = Path(file).parts
        if "facenet" not in parts:  # packages that an installation has inside
            continue
        inside = parts[parts.index("facenet") + 1 :]
        for room in (inside[0] if len(inside) > 1 else "(root)", "all"):
            counted[room] = [a + told["summary"][part] for a, part in zip(counted[room], PARTS, strict=True)]
    return counted


def main(reports: list[Path]) -> None:
    counted = [rooms(report) for report in reports]
    head = [f"{report.stem}: lines % | branches % | both %" for report in reports]
    print("| room | " + " | ".join(head) + " |\n|---" + "|---" * 3 * len(reports) + "|")
    for room in [*sorted({room for each in counted for room in each} - {"all"}), "all"]:
        cells = []
        for each in counted:
            lines, of_lines, branches, of_branches = each.get(room, [0] * 4)
            for part, whole in ((lines, of_lines), (branches, of_branches), (lines + branches, of_lines + of_branches)):
                cells.append(f"{100 * part / whole:.1f}" if whole else "")
        print(f"| {room} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
