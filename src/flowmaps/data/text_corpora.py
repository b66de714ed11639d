"""Texts: any file or folder (plain, .gz, .xz), corpora by name, and streams of the ``datasets`` library."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..reading import characters, packing
from .sources import data_folder, download, fetch, files_below, is_url, reaching
from .text_tokens import SEPARATOR

PIECE = 1 << 18  # characters of text handled at a time
SUFFIXES = (".txt", ".text", ".md", ".gz", ".xz", "")


@dataclass(frozen=True)
class Corpus:
    """A text and what distinguishes it from others.

    Arguments:
        name: Short name, for folders and tables.
        pieces: Called for an iterator over the text, the same each time, in pieces cut at white space.
        source: Changes when the text does.
        size: About the number of characters, for a progress bar; 0 if unknown.
    """

    name: str
    pieces: Callable[[], Iterable[str]]
    source: str
    size: int = 0


def from_path(path: str | os.PathLike, name: str | None = None) -> Corpus:
    """The text of a file, or of all files in a folder in the order of their names; a path, or a URL for fsspec.

    Raises: ValueError if there is no such file, or (while reading) if one is cut short, empty or not UTF-8.
    """
    if is_url(path):
        return _from_url(str(path), name)
    root = Path(path).expanduser()
    if root.is_dir():
        files = files_below(root, SUFFIXES)
    else:
        files = [root] if root.is_file() else []
    if not files:
        raise ValueError(f"{root} is no text file and no folder with .txt, .gz or .xz files; check the path")
    stats = [file.stat() for file in files]
    source = "; ".join(f"{f} {s.st_size} {s.st_mtime_ns}" for f, s in zip(files, stats, strict=True))
    source = source.encode(errors="backslashreplace").decode()  # a name may be no Unicode
    name = name or root.name.split(".")[0] or "text"
    size = 0 if any(packing(file) for file in files) else sum(s.st_size for s in stats)
    return Corpus(name, lambda: at_spaces(_separated_files(map(read_text, files))), source, size)


def _from_url(url: str, name: str | None) -> Corpus:
    """The text of a file, of the files below a folder, or of those that a pattern with ``*`` matches."""
    with reaching(url) as (system, place):
        found = system.glob(place) if "*" in place else system.find(place) if system.isdir(place) else [place]
        files = sorted(str(file) for file in found)
        files = [file for file in files if Path(file).suffix.lower() in SUFFIXES and Path(file).name[0] != "."]
        urls = [str(system.unstrip_protocol(file)) for file in files]
        source = "; ".join(f"{url} {system.ukey(file)}" for url, file in zip(urls, files, strict=True))
    if not urls:
        raise ValueError(f"{url} names no .txt, .gz or .xz file; check the address")
    name = name or Path(url.rstrip("/*")).name.split(".")[0] or "text"
    return Corpus(name, lambda: at_spaces(_separated_files(map(_fetched_text, urls))), source)


def _fetched_text(url: str) -> Iterator[str]:
    """The characters of one file, which is here while it is read."""
    with tempfile.TemporaryDirectory() as folder:
        yield from read_text(fetch(url, Path(folder) / Path(url).name))


def from_texts(name: str, texts: Callable[[], Iterable[str]]) -> Corpus:
    """A corpus of documents in memory or of a generator, which must be the same at each call."""
    return Corpus(name, lambda: at_spaces(_separated(texts())), name)


def read_text(path: Path) -> Iterator[str]:
    """The characters of one file, some at a time.

    Raises: ValueError naming the file and what is wrong: missing, empty, cut short, or no text and where.
    """
    some = False
    for text in characters(path):
        some = some or bool(text)
        yield text
    if not some:
        raise ValueError(f"{path} is empty; give a file with text")


def at_spaces(blocks: Iterable[str]) -> Iterator[str]:
    """The same text in pieces of about ``PIECE`` characters, each but the first beginning with white space."""
    rest = ""
    for block in blocks:
        rest += block
        while len(rest) > PIECE:
            cut = next((i for i in range(PIECE, 0, -1) if rest[i].isspace()), PIECE)
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def _separated_files(files: Iterable[Iterator[str]]) -> Iterator[str]:
    for i, text in enumerate(files):
        if i:
            yield SEPARATOR
        yield from text


def _separated(texts: Iterable[str]) -> Iterator[str]:
    for i, text in enumerate(texts):
        yield SEPARATOR + text if i else text


# -- by name ---------------------------------------------------------------------------------------------------------


def tiny_shakespeare(path: str | os.PathLike | None = None) -> Corpus:
    """1.1 M characters of plays; downloaded where it is not in ``$FLOWMAPS_DATA/text`` or the cache."""
    file = _file("tiny_shakespeare.txt", path)
    url = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
    sha256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    return from_path(file if file.exists() else download([url], file, sha256), "tiny_shakespeare")


def text8(path: str | os.PathLike | None = None) -> Corpus:
    """The first 10^8 characters of cleaned Wikipedia: lower-case letters and single spaces.

    Reference: Mahoney 2011, *About the test data*, http://mattmahoney.net/dc/textdata.html.
    """
    plain = _file("text8", path)
    if not plain.exists():
        archive = plain.with_name("text8.zip")
        sha256 = "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232"
        download(["https://mattmahoney.net/dc/text8.zip", "http://mattmahoney.net/dc/text8.zip"], archive, sha256)
        with zipfile.ZipFile(archive) as whole:
            whole.extract("text8", plain.parent)
    if plain.stat().st_size != 10**8:
        raise ValueError(f"{plain} has {plain.stat().st_size} bytes, expected 100,000,000; remove it to fetch it again")
    return from_path(plain, "text8")


def novels(path: str | os.PathLike | None = None) -> Corpus:
    """94 English novels from the 1800s to the 1920s, 73 M characters, from ``$FLOWMAPS_DATA/text`` or a path."""
    file = _file("english_novels.txt.xz", path)
    if not file.exists():
        raise ValueError(f"{file} does not exist; set data.path to the file, or FLOWMAPS_DATA to the folder with text/")
    return from_path(file, "novels")


def streamed(name: str, repository: str, column: str, documents: int | None, **options: str) -> Corpus:
    """A public data set through ``datasets`` streaming (extra ``text``).

    Arguments:
        documents: Only so many of the first documents.
    """

    def texts() -> Iterator[str]:
        try:
            from datasets import load_dataset  # pyright: ignore[reportAttributeAccessIssue]  (an extra)
        except ImportError:
            raise ValueError(f"{name} needs the library datasets; pip install 'flowmaps[text]'") from None
        rows = load_dataset(repository, split="train", streaming=True, **options)
        for i, row in enumerate(rows):
            if documents is not None and i >= documents:
                return
            yield row[column]

    return from_texts(f"{name} {repository} {documents}", texts)


def lm1b(documents: int | None = None) -> Corpus:
    """The One Billion Word benchmark (Chelba et al. 2013), sentence by sentence."""
    return streamed("lm1b", "dvruette/lm1b", "text", documents)


def openwebtext(documents: int | None = None) -> Corpus:
    """OpenWebText (Gokaslan and Cohen 2019), page by page."""
    return streamed("openwebtext", "Skylion007/openwebtext", "text", documents)


NAMED: dict[str, Callable[..., Corpus]] = {
    "tiny_shakespeare": tiny_shakespeare,
    "text8": text8,
    "novels": novels,
    "novels27": novels,
    "lm1b": lm1b,
    "openwebtext": openwebtext,
}


def corpus(name: str | None = None, path: str | os.PathLike | None = None) -> Corpus:
    """A corpus by name, by path, or both: a named one whose file lies at ``path``.

    Raises: ValueError if neither is given or the name is unknown.
    """
    if name is None and path is not None:
        return from_path(path)
    if name not in NAMED:
        raise ValueError(f"corpus {name!r} is unknown; expected one of {', '.join(NAMED)}, or give data.path")
    if path is not None and name in ("lm1b", "openwebtext"):
        return from_path(path, name)
    return NAMED[name]() if path is None else NAMED[name](path)


def _file(name: str, path: str | os.PathLike | None) -> Path:
    place = data_folder("text", path)
    return place / name if path is None or place.is_dir() else place
