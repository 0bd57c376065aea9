"""`python -m facenet` is facenet-train, which is how torchrun starts it: torchrun -m facenet KEY=VALUE ..."""

from __future__ import annotations

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", sys.flags.isolated):
    del sys.path[0]  # the working directory, which may be anybody's

from facenet.commands.front import train

if __name__ == "__main__":
    sys.argv[0] = "facenet-train"  # for messages and the command on record
    train()
