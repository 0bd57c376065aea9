"""A folder of faces as the reference's annotation file."""

from __future__ import annotations

from facenet.data.files.annotation import annotate


def run_annotate(root: str, out: str, *, depth: int = 1) -> str:
    """Writes the file and says what is in it."""
    faces = annotate(root, out, depth=depth)
    skipped = f"; left out: {faces.left_out}" if faces.left_out else ""
    return f"{out}: {len(faces):,} images of {len(faces.identities):,} identities{skipped}"
