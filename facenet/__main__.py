"""`python -m facenet` is facenet-train, which is how torchrun starts it: torchrun -m facenet KEY=VALUE ..."""

from __future__ import annotations

import sys

if sys.flags.isolated == 0 and not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # the working directory, which may be anybody's

from facenet.cli import train

if __name__ == "__main__":
    sys.argv[0] = "facenet-train"  # for messages and the command on record
    train()
