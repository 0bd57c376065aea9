"""The commands with plain flags: they compose no config. What each does is a module of `facenet.tasks`."""

from __future__ import annotations

import argparse

from facenet.errors import told


def data() -> None:
    """facenet-data"""
    parser = argparse.ArgumentParser(prog="facenet-data", description="Prepare and inspect folders of faces.")
    commands = parser.add_subparsers(dest="command", required=True)
    annotate = commands.add_parser(
        "annotate",
        help="write the annotation file of a folder of faces",
        description="Writes one line <label>;<absolute path> per image of ROOT/<identity>/<image>, sorted, labels without gaps.",
    )
    annotate.add_argument("root", metavar="ROOT", help="folder of <identity>/<image>")
    annotate.add_argument("--out", default="cls_train.txt", metavar="FILE", help="file to write (default: %(default)s)")
    arguments = parser.parse_args()
    with told():
        from facenet.tasks.annotate import run_annotate

        print(run_annotate(arguments.root, arguments.out))


def doctor() -> None:
    """facenet-doctor"""


def compare_loss() -> None:
    """facenet-compare-loss"""
