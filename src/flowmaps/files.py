"""Files: written so that nobody sees half of one (a temporary name beside it, flushed, then renamed), and where."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

_TEMPORARY = re.compile(r"\..+\.\d+\.tmp", re.DOTALL)


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success it is flushed and renamed over ``path``.

    Arguments:
        path: The file to write; missing parent folders are made.
    Raises: whatever the block raises, or the ``OSError`` of a full disk or an unwritable folder.
    Invariant: the file has the mode that the umask asks for; after an exception an earlier file at
        ``path`` is as it was, and the temporary file is gone.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    try:
        with usual_mode(temporary):
            yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Within the block no other process is in one for ``path``; it is waited for. A lock ends with its process."""
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


def sha256(path: str | os.PathLike) -> str:
    """The hash of a file's content, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text through :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write indented JSON through :func:`replacing`; not-a-number is refused, JSON has no word for it."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def usual_mode(path: Path) -> Iterator[None]:
    """Give a file that the block writes the mode of any other new file there, whatever the writer chose."""
    path.touch()
    mode = path.stat().st_mode & 0o777
    yield
    path.chmod(mode)


def beside(path: Path) -> Path:
    """The temporary name beside ``path`` under which this process writes it."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sweep(folder: Path) -> None:
    """Remove what killed processes left half written in ``folder``; nobody else may be writing there."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def same_file(path: Path, descriptor: int) -> bool:
    """Whether ``path`` is still the file or folder that was opened as ``descriptor``."""
    with suppress(OSError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False


def numbered(path: Path, first: int = 1) -> Path:
    """``path-1``, ``path-2``, ...: the first of these names that is free, counted from ``first``."""
    number = first
    while os.path.lexists(place := path.with_name(f"{path.name}-{number}")):
        number += 1
    return place


def cache_folder() -> Path:
    """Where things are kept that can be made again: ``$XDG_CACHE_HOME/flowmaps``, else ``~/.cache/flowmaps``.

    A relative ``$XDG_CACHE_HOME`` is passed over, as its specification says.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "flowmaps"
