"""Where data comes from: a folder of the user's, or a download that is checked before it is believed."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import cache_folder, replacing
from ..reading import BLOCK, blocks, check_size, packing

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

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


def files_below(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files of a folder and its subfolders whose suffix is one of ``suffixes`` in any case, sorted.

    What is hidden or comes with an archive is no data: names that begin with a dot (``.ipynb_checkpoints``,
    ``._x.png``) and ``__MACOSX``. Other files are left out with a warning that counts them.
    """
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _hidden(path.relative_to(folder))]
    files = [path for path in found if path.suffix.lower() in suffixes]
    if files and len(files) < len(found):
        others = Counter(path.suffix or "no suffix" for path in found if path.suffix.lower() not in suffixes)
        kinds = ", ".join(f"{count} of {kind}" for kind, count in others.most_common(5))
        warnings.warn(f"{folder}: {others.total()} of {len(found)} files are left out ({kinds})", stacklevel=3)
    return files


def is_url(place: str | os.PathLike) -> bool:
    """Whether a place is named by a URL, for fsspec, rather than by a path."""
    return isinstance(place, str) and "://" in place


def kept(url: str) -> Path:
    """The folder of the user's cache in which the files of a URL are kept."""
    return cache_folder() / "urls" / hashlib.sha256(url.encode()).hexdigest()[:16]


def fetch(url: str, path: Path) -> Path:
    """Copy one file of a URL that fsspec knows (``s3://``, ``gs://``, ``https://``, ``file://``, ...) to ``path``.

    Raises: ValueError naming the URL and what is wrong with it.
    """
    with reaching(url) as (system, place), replacing(path) as temporary:
        system.get_file(place, str(temporary))
    return path


@contextmanager
def reaching(url: str) -> Iterator[tuple[AbstractFileSystem, str]]:
    """The file system of a URL, and the place in it; what goes wrong there is told in one line.

    Raises: ValueError naming the URL.
    """
    import fsspec

    try:
        yield fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{url} needs another library: {error}") from error
    except (OSError, ValueError) as error:
        reason = "it does not exist" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())[:200]
        raise ValueError(f"{url} cannot be read ({reason}); check the address and your rights") from error


def _hidden(path: Path) -> bool:
    return any(part[0] == "." or part == "__MACOSX" for part in path.parts)


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
    if path.exists() and _digest(path) == sha256:
        return path
    failures = []
    for url in urls:
        try:
            with replacing(path) as temporary:
                _fetch(url, temporary, timeout)
                if (found := _digest(temporary, packing(path))) != sha256:
                    raise ValueError(f"its content has SHA-256 {found[:12]}..., expected {sha256[:12]}...")
            return path
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            failures.append(f"{url}: {getattr(error, 'reason', error)}")
    raise ValueError(
        f"no mirror gave {path.name} ({'; '.join(failures)}); "
        f"go online and try again, or put the file at {path} yourself"
    )


def _fetch(url: str, path: Path, timeout: float) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "flowmaps"})
    with urllib.request.urlopen(request, timeout=timeout) as answer, open(path, "wb") as file:
        while block := answer.read(BLOCK):
            check_size(url, file.tell() + len(block))
            file.write(block)


def _digest(path: Path, kind: str | None = None) -> str:
    digest = hashlib.sha256()
    for block in blocks(path, kind):
        digest.update(block)
    return digest.hexdigest()
