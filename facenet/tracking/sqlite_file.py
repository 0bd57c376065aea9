"""A database in one file as an address, and back, by SQLAlchemy's own functions: its versions differ in what they escape, and a path that one reads
as another's is a neighbour's database."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from facenet.errors import UserError, shown


def address_of(path: Path) -> str:
    """Raises UserError for a name that an address cannot have under this SQLAlchemy (before 2.1, a question mark)."""
    import sqlalchemy

    plain = f"sqlite:///{path}"
    if file_of(plain) == path:
        return plain
    address = sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    if file_of(address) != path:
        raise UserError(
            f"tracking.uri: SQLAlchemy {sqlalchemy.__version__} knows no address of {shown(str(path))}; work in a directory whose name "
            "has no question mark, or set tracking.uri or MLFLOW_TRACKING_URI"
        )
    return address


def file_of(uri: str) -> Path | None:
    """None for an address of another kind, and for a database in memory."""
    if not uri.startswith("sqlite"):
        return None
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(uri)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return None
    name = url.database
    if url.get_backend_name() != "sqlite" or not name or name == ":memory:":
        return None
    if name.startswith("file:"):  # SQLite's own form
        name = unquote(name.removeprefix("file:").partition("?")[0])
    return Path(name).absolute()


def absolute(uri: str) -> str:
    """The address of a database in one file, or of a folder of runs, with its whole path, so that a command in another directory finds it; others
    as they are."""
    path = file_of(uri)
    if path is None:
        return uri if ":" in uri or uri.startswith("databricks") else os.path.abspath(uri)
    import sqlalchemy

    url = sqlalchemy.make_url(uri)
    if url.database is None or os.path.isabs(url.database) or url.database.startswith("file:"):
        return uri
    return address_of(path) if not url.query else url.set(database=str(path)).render_as_string(hide_password=False)


@contextlib.contextmanager
def no_other_folder(uri: str) -> Iterator[None]:
    """MLflow makes the folder of a database, by the address as it is written: with escapes, one that nobody wants, which is gone at the end."""
    folder = Path(uri.removeprefix("sqlite:///")).parent
    file = file_of(uri)
    other = file is not None and folder.absolute() != file.parent
    made = [each for each in (folder, *folder.parents) if other and not each.exists()]
    try:
        yield
    finally:
        for each in made:
            with contextlib.suppress(OSError):
                each.rmdir()
