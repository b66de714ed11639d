"""Writing files so that nobody sees half of one: a temporary name beside it, flushed, then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success it is flushed and renamed over ``path``.

    Arguments:
        path: The file to write; missing parent folders are made.
    Raises: whatever the block raises, or the ``OSError`` of a full disk or an unwritable folder.
    Invariant: after an exception an earlier file at ``path`` is as it was, and the temporary file is gone.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text through :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write indented JSON through :func:`replacing`; not-a-number is refused, JSON has no word for it."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
