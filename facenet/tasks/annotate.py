"""A folder of faces as the reference's annotation file."""

from __future__ import annotations

from facenet.data.annotation import annotate


def run_annotate(root: str, out: str) -> str:
    """Writes the file and says what is in it."""
    faces = annotate(root, out)
    skipped = f"; {faces.skipped} files that are no images left out" if faces.skipped else ""
    return f"{out}: {len(faces):,} images of {len(faces.identities):,} identities{skipped}"
