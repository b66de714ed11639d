"""Token shards: a text tokenised once into files that are mapped into memory, with an index of hashes.

A folder holds ``00000.bin``, ``00001.bin``, ... (uint16 or uint32, little-endian) and ``index.json``. Each shard and
the index appear whole; a preparation that was stopped continues after the last shard of the index, which is written
when it has grown by a hundredth. A finished folder may lie anywhere that fsspec reaches.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import multiprocessing
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..files import alone, replacing, sha256, sweep, write_json
from ..reading import inside, read_json, regular
from .sources import fetch, is_url, kept, reaching
from .text_tokens import Tokeniser, from_description, to_description

INDEX = "index.json"
PIECES = 64  # pieces of text in a shard
CHECKED = 2**30  # bytes of shards that are compared with their hashes when they are opened; others when first read
MAPPED = 8192  # shards that are mapped into memory at one time


class Shards:
    """A long row of tokens in memory-mapped files, each of which is compared with its hash before it is read.

    Arguments:
        folder: Where :func:`prepare` wrote them, or a URL for fsspec, from which a shard is fetched and kept when it is
            first read.
    Raises: ValueError if the index is missing or incomplete, or a shard is missing, cut short, damaged, or has tokens
        beyond the alphabet: when they are opened if they have up to 1 GiB and lie in a folder, else when one is read.
    Invariant: ``shards.read(i, j)`` is the concatenation of what the tokeniser gave, from i to j.
    """

    def __init__(self, folder: str | os.PathLike):
        self._url = str(folder).rstrip("/") if is_url(folder) else None
        self.folder = Path(folder) if self._url is None else kept(self._url)
        if self._url is not None:
            fetch(f"{self._url}/{INDEX}", self.folder / INDEX)
        index = read_index(self.folder)
        if index is None or not index["complete"]:
            raise ValueError(
                f"{self._url or self.folder} holds no complete {INDEX}; prepare the text again to finish it"
            )
        self.tokeniser = from_description(index["tokeniser"])
        self.characters: int = index["characters"]
        self.source: str = index["source"]
        self.hashes: list[str] = [entry["sha256"] for entry in index["shards"]]
        lost, letters = index["lost"]
        self.lost = lost / max(letters, 1)  # share of the letters of the text that the alphabet cannot say
        self._dtype, self._entries = index["dtype"], index["shards"]
        self._ends = np.cumsum([entry["tokens"] for entry in self._entries]).tolist()
        self._part = lru_cache(MAPPED)(self._opened)
        if self._url is None:
            self._check()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, stop: int) -> NDArray[np.integer]:
        """Tokens from ``start`` to ``stop`` (exclusive), a copy."""
        found, i = [], bisect.bisect_right(self._ends, start)
        while start < stop and i < len(self._ends):
            first = self._ends[i] - self._entries[i]["tokens"]
            found.append(self._part(i)[start - first : stop - first])
            start, i = self._ends[i], i + 1
        return np.concatenate(found) if found else np.zeros(0, dtype=np.uint16)

    def _check(self) -> None:
        """Every shard is there and has its size; few are compared with their hashes as well."""
        item = np.dtype(self._dtype).itemsize
        if len(self) * item <= CHECKED and len(self._entries) <= MAPPED:
            for i in range(len(self._entries)):
                self._part(i)
        else:
            for entry in self._entries:
                _sized(self.folder, entry, item)

    def _opened(self, i: int) -> NDArray[np.integer]:
        entry = self._entries[i]
        if self._url is not None:
            name, size = entry["file"], entry["tokens"] * np.dtype(self._dtype).itemsize
            with alone(self.folder / name):
                if not (place := self.folder / name).exists() or place.stat().st_size != size:
                    fetch(f"{self._url}/{name}", place)
        return _open(self.folder, entry, self._dtype, self.tokeniser.size)


def prepared(place: str | os.PathLike) -> bool:
    """Whether a folder or a URL has an index of shards."""
    if not is_url(place):
        return (Path(place).expanduser() / INDEX).is_file()
    with reaching(f"{str(place).rstrip('/')}/{INDEX}") as (system, file):
        return system.isfile(file)


def prepare(
    pieces: Callable[[], Iterable[str]],
    tokeniser: Tokeniser,
    folder: str | os.PathLike,
    source: str,
    progress: Callable[[int], None] | None = None,
    processes: int | None = None,
) -> Shards:
    """Tokenise a text into shards, or open them if that was done before; another process that does so is waited for.

    Arguments:
        pieces: Called for an iterator over the text in pieces, the same each time, cut at white space.
        tokeniser: The alphabet.
        folder: Where the shards go.
        source: What the text is, such as a path with its size and time; other shards are replaced when it differs.
        progress: Called with the number of characters after each shard.
        processes: That share the work, each making whole shards; by default as many as there are cores where the
            alphabet is one of subwords, and this one for others, which are read more slowly than they are written.
    Raises: ValueError if the text has no token.
    Invariant: shards do not depend on interruptions and the number of processes (``tests/data/test_text_shards.py``).
    """
    folder = Path(folder)
    if _begun(folder, tokeniser, source)["complete"]:  # which may be where nobody can write
        return Shards(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / INDEX):
        index = _begun(folder, tokeniser, source)
        if not index["complete"]:
            sweep(folder)
            count = processes or (_cores() if tokeniser.laborious else 1)
            _fill(folder, index, _groups(pieces(), len(index["shards"]) * PIECES), tokeniser, count, progress)
    return Shards(folder)


def _begun(folder: Path, tokeniser: Tokeniser, source: str) -> dict[str, Any]:
    """The index of a folder as far as it goes, or an empty one if it is of something else."""
    identity = hashlib.sha256(f"{source}\n{to_description(tokeniser)}".encode()).hexdigest()
    index = read_index(folder)
    if index is not None and index["identity"] == identity and index["tokeniser"] == tokeniser.describe():
        return index
    dtype = "<u2" if tokeniser.size <= 2**16 else "<u4"
    return {"identity": identity, "source": source, "tokeniser": tokeniser.describe(), "dtype": dtype,
            "characters": 0, "lost": [0, 0], "complete": False, "shards": []}  # fmt: skip


def _fill(
    folder: Path,
    index: dict[str, Any],
    groups: Iterator[list[str]],
    tokeniser: Tokeniser,
    processes: int,
    progress: Callable[[int], None] | None,
) -> None:
    """Write the shards that an index lacks, and complete it."""
    written = len(index["shards"])
    jobs = (Job(folder, i, group, index["dtype"]) for i, group in enumerate(groups, start=written))
    for made in _made(jobs, tokeniser, processes):
        index["shards"].append(made.entry)
        index["characters"] += made.characters
        index["lost"] = [a + b for a, b in zip(index["lost"], made.lost, strict=True)]
        if len(index["shards"]) - written > written // 100:
            _write_index(folder, index)
            written = len(index["shards"])
        if progress is not None:
            progress(index["characters"])
    if not sum(entry["tokens"] for entry in index["shards"]):
        raise ValueError(
            f"the text has no token of the alphabet {tokeniser.name}, and {index['lost'][0]:,} letters that it "
            "cannot say; give another text, or another tokeniser, such as bytes"
        )
    index["complete"] = True
    _write_index(folder, index)


class Job(NamedTuple):
    """A shard that is to be made.

    Arguments:
        folder, number: Where it goes.
        group: Its pieces of text.
        dtype: Of its tokens.
    """

    folder: Path
    number: int
    group: list[str]
    dtype: str


class Made(NamedTuple):
    """A shard that was made.

    Arguments:
        entry: Its line of the index.
        characters: Those of its text.
        lost: Letters that the alphabet cannot say and all letters, of one of its pieces.
    """

    entry: dict[str, Any]
    characters: int
    lost: tuple[int, int]


def _made(jobs: Iterator[Job], tokeniser: Tokeniser, processes: int) -> Iterator[Made]:
    """Shards in their order, made by several processes if there is more than one of each."""
    first = list(islice(jobs, 2))
    if processes < 2 or len(first) < 2:
        yield from (_make(job, tokeniser) for job in chain(first, jobs))
        return
    # A fork needs no guard in the caller's script; the workers touch nothing but the tokeniser.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    begin = (tokeniser, os.getpid())
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_employ, initargs=begin) as pool:
        waiting: deque = deque()
        try:
            for job in chain(first, jobs):
                waiting.append(pool.submit(_work, job))
                if len(waiting) > processes + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


_tokeniser: list[Tokeniser] = []  # of a worker


def _employ(tokeniser: Tokeniser, parent: int) -> None:
    """What a worker begins with; its library's own threads would only get into each other's way."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _tokeniser.append(tokeniser)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    """End with a parent that was killed, whose lock this process would hold otherwise."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _work(job: Job) -> Made:
    return _make(job, _tokeniser[0])


def _make(job: Job, tokeniser: Tokeniser) -> Made:
    joint = np.asarray(tokeniser.joint, dtype=job.dtype)
    parts = []
    for piece in job.group:
        tokens = tokeniser.encode(piece)
        parts += [tokens, joint] if len(tokens) else []
    content = np.concatenate(parts or [joint[:0]]).astype(job.dtype).tobytes()
    name = f"{job.number:05d}.bin"
    with replacing(job.folder / name) as temporary:
        temporary.write_bytes(content)
    tokens = len(content) // np.dtype(job.dtype).itemsize
    entry = {"file": name, "tokens": tokens, "sha256": hashlib.sha256(content).hexdigest()}
    return Made(entry, sum(map(len, job.group)), tokeniser.lost(job.group[0]))


def read_index(folder: Path) -> dict[str, Any] | None:
    """The index of a folder of shards, or ``None`` if it has none that can be read and has the right form."""
    try:
        index = read_json(folder / INDEX)
    except ValueError:
        return None
    match index:
        case {"identity": str(), "tokeniser": dict(), "dtype": "<u2" | "<u4", "characters": int(), "complete": bool(),
              "lost": [int(), int()], "shards": list(shards), "sha256": str(digest)}:  # fmt: skip
            return index if all(map(_is_entry, shards)) and digest == sum_of(index) else None
    return None


def _write_index(folder: Path, index: dict[str, Any]) -> None:
    write_json(folder / INDEX, {**index, "sha256": sum_of(index)})


def sum_of(index: dict[str, Any]) -> str:
    """The hash of all else that the index says."""
    rest = {name: value for name, value in index.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _is_entry(entry: object) -> bool:
    match entry:
        case {"file": str(), "tokens": int(tokens), "sha256": str()}:
            return tokens >= 0
    return False


def _groups(pieces: Iterable[str], done: int) -> Iterator[list[str]]:
    group: list[str] = []
    for i, piece in enumerate(pieces):
        if i < done:
            continue
        group.append(piece)
        if len(group) == PIECES:
            yield group
            group = []
    if group:
        yield group


def _open(folder: Path, entry: dict[str, Any], dtype: str, size: int) -> NDArray[np.integer]:
    remedy = f"remove {folder} and prepare the text again"
    path = _sized(folder, entry, np.dtype(dtype).itemsize)
    if sha256(path) != entry["sha256"]:
        raise ValueError(f"{path} is damaged or cut short; {remedy}")
    part = np.memmap(path, dtype=dtype, mode="r") if entry["tokens"] else np.zeros(0, dtype=dtype)
    if len(part) and (highest := int(part.max())) >= size:
        raise ValueError(f"{path} has the token {highest}, but its alphabet has 0 to {size - 1}; {remedy}")
    return part


def _sized(folder: Path, entry: dict[str, Any], item: int) -> Path:
    """The file of a shard, which has its size."""
    remedy = f"remove {folder} and prepare the text again"
    try:
        path = inside(folder, entry["file"])
        size = regular(path)
    except ValueError as error:
        raise ValueError(f"a shard is missing or no plain file ({error}); {remedy}") from None
    if size != entry["tokens"] * item:
        raise ValueError(f"{path} is damaged or cut short; {remedy}")
    return path
