"""What the commands with plain flags share: a parser whose help ends with examples."""

from __future__ import annotations

import argparse

EXAMPLES = """
facenet-data annotate PEOPLE --out cls_train.txt
facenet-data pack PEOPLE pack --size 160
facenet-data shard PEOPLE shards --images-per-shard 5000
facenet-data audit PEOPLE
facenet-data audit PEOPLE --against LFW --checkpoint RUN/checkpoints/best.pt
facenet-doctor
facenet-doctor --accelerator cpu --processes 2
facenet-doctor --json
facenet-compare-loss outputs/a outputs/b
facenet-compare-loss ours/dllogger-0.json theirs/dllogger-0.json --steps 100 --plot losses.png
facenet-report lr_batch
facenet-report lr_batch --uri http://127.0.0.1:5000 --out page.html
facenet-runs list --limit 50
facenet-runs show 244df88c
facenet-runs reap --dry-run
facenet-runs reap --all-hosts --older-than 48
facenet new faces
facenet-runs sync
facenet-runs sync outputs/2026-11-28
""".splitlines()


class Parser(argparse.ArgumentParser):
    """Its help ends with examples."""

    def format_help(self) -> str:
        lines = [f"\n  {each}" for each in EXAMPLES if f"{each} ".startswith(f"{self.prog} ")]
        return f"{super().format_help()}\nExamples{''.join(lines)}\n"


def positive(text: str) -> int:
    """For `type=` of a flag."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return int(text)
