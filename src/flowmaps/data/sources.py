"""Where data comes from: a folder of the user's, or a download that is checked before it is believed."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import lzma
import os
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path

from ..files import cache_folder, replacing

ENVIRONMENT = "FLOWMAPS_DATA"


def data_folder(name: str, path: str | os.PathLike | None = None) -> Path:
    """The folder of data set ``name``: ``path`` if given, else ``$FLOWMAPS_DATA/name``, else in the cache.

    >>> data_folder("mnist", "/data/digits").as_posix()
    '/data/digits'
    """
    if path is not None:
        return Path(path).expanduser()
    root = os.environ.get(ENVIRONMENT)
    return (Path(root).expanduser() if root else cache_folder()) / name


def writable(folder: Path) -> Path:
    """The folder itself, or one of its name in the user's cache where it cannot be written (a read-only disk)."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return folder if os.access(existing, os.W_OK) else cache_folder() / folder.name


def read_bytes(path: str | os.PathLike) -> bytes:
    """The content of a file, unpacked where its name ends in ``.gz`` or ``.xz``.

    Raises: ValueError if the file is missing or its compressed stream is broken or cut short.
    """
    path = Path(path)
    try:
        return _unpack(path.read_bytes(), path.suffix)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; give the path of an existing file") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check the path and its rights") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}; fetch it again") from None


def _unpack(content: bytes, suffix: str) -> bytes:
    try:
        return {".gz": gzip.decompress, ".xz": lzma.decompress}.get(suffix, bytes)(content)
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"not a whole {suffix} stream ({error})") from None


def download(urls: Sequence[str], path: str | os.PathLike, sha256: str, timeout: float = 30.0) -> Path:
    """Fetch one file from the first mirror that has it and keep it only if its content is the expected one.

    Arguments:
        urls: Mirrors, tried in order.
        path: Where the file goes; an existing file is left alone if its content has the checksum.
        sha256: Checksum of the *unpacked* content, which is the same on every mirror.
        timeout: Seconds without an answer before the next mirror is tried.
    Raises: ValueError naming every mirror and what went wrong there, with the way to do it by hand.
    Invariant: ``path`` never holds a partial or unexpected file.
    """
    path = Path(path)
    if path.exists() and hashlib.sha256(read_bytes(path)).hexdigest() == sha256:
        return path
    failures = []
    for url in urls:
        try:
            content = _fetch(url, timeout)
            _check(_unpack(content, path.suffix), sha256)
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            failures.append(f"{url}: {getattr(error, 'reason', error)}")
        else:
            with replacing(path) as temporary:
                temporary.write_bytes(content)
            return path
    raise ValueError(
        f"no mirror gave {path.name} ({'; '.join(failures)}); "
        f"go online and try again, or put the file at {path} yourself"
    )


def _fetch(url: str, timeout: float) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "flowmaps"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return answer.read()


def _check(content: bytes, sha256: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"its content has SHA-256 {found[:12]}..., expected {sha256[:12]}...")
