"""Token shards: a text tokenised once into files that are mapped into memory, with an index of hashes.

A folder holds ``00000.bin``, ``00001.bin``, ... (uint16 or uint32, little-endian) and ``index.json``. Each shard and
the index appear whole; a preparation that was stopped continues after its last whole shard.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import replacing, write_json
from ..reading import inside, read_json, regular
from .text_tokens import Tokeniser, from_description, to_description

INDEX = "index.json"
PIECES = 64  # pieces of text in a shard


class Shards:
    """A long row of tokens in memory-mapped files, each of which is compared with its hash when it is opened.

    Arguments:
        folder: Where :func:`prepare` wrote them.
    Raises: ValueError if the index is missing or incomplete, or a shard is missing, cut short, damaged, or has tokens
        beyond the alphabet.
    Invariant: ``shards.read(i, j)`` is the concatenation of what the tokeniser gave, from i to j.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        index = read_index(self.folder)
        if index is None or not index["complete"]:
            raise ValueError(f"{self.folder} holds no complete {INDEX}; prepare the text again to finish it")
        self.tokeniser = from_description(index["tokeniser"])
        self.characters: int = index["characters"]
        self.hashes: list[str] = [entry["sha256"] for entry in index["shards"]]
        lost, letters = index["lost"]
        self.lost = lost / max(letters, 1)  # share of the letters of the text that the alphabet cannot say
        self._parts = [_open(self.folder, entry, index["dtype"], self.tokeniser.size) for entry in index["shards"]]
        self._ends = np.cumsum([len(part) for part in self._parts]).tolist()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, stop: int) -> NDArray[np.integer]:
        """Tokens from ``start`` to ``stop`` (exclusive), a copy."""
        found, i = [], bisect.bisect_right(self._ends, start)
        while start < stop and i < len(self._parts):
            first = self._ends[i] - len(self._parts[i])
            found.append(self._parts[i][start - first : stop - first])
            start, i = self._ends[i], i + 1
        return np.concatenate(found) if found else np.zeros(0, dtype=np.uint16)


def prepare(
    pieces: Callable[[], Iterable[str]],
    tokeniser: Tokeniser,
    folder: str | os.PathLike,
    source: str,
    progress: Callable[[int], None] | None = None,
) -> Shards:
    """Tokenise a text into shards, or open them if that was done before.

    Arguments:
        pieces: Called for an iterator over the text in pieces, the same each time, cut at white space.
        tokeniser: The alphabet.
        folder: Where the shards go.
        source: What the text is, such as a path with its size and time; other shards are replaced when it differs.
        progress: Called with the number of characters after each shard.
    Raises: ValueError if the text has no token.
    """
    folder = Path(folder)
    identity = hashlib.sha256(f"{source}\n{to_description(tokeniser)}".encode()).hexdigest()
    index = read_index(folder)
    if index is None or index["identity"] != identity or index["tokeniser"] != tokeniser.describe():
        dtype = "<u2" if tokeniser.size <= 2**16 else "<u4"
        index = {"identity": identity, "source": source, "tokeniser": tokeniser.describe(), "dtype": dtype,
                 "characters": 0, "lost": [0, 0], "complete": False, "shards": []}  # fmt: skip
    if not index["complete"]:
        done = len(index["shards"]) * PIECES
        for group in _groups(pieces(), done):
            _append(folder, index, group, tokeniser)
            if progress is not None:
                progress(index["characters"])
        if not sum(entry["tokens"] for entry in index["shards"]):
            raise ValueError(
                f"the text has no token of the alphabet {tokeniser.name}, and {index['lost'][0]:,} letters that it "
                "cannot say; give another text, or another tokeniser, such as bytes"
            )
        index["complete"] = True
        _write_index(folder, index)
    return Shards(folder)


def read_index(folder: Path) -> dict[str, Any] | None:
    """The index of a folder of shards, or ``None`` if it has none that can be read and has the right form."""
    try:
        index = read_json(folder / INDEX)
    except ValueError:
        return None
    match index:
        case {"identity": str(), "tokeniser": dict(), "dtype": "<u2" | "<u4", "characters": int(), "complete": bool(),
              "lost": [int(), int()], "shards": list(shards), "sha256": str(sha256)}:  # fmt: skip
            return index if all(map(_is_entry, shards)) and sha256 == sum_of(index) else None
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


def _append(folder: Path, index: dict[str, Any], group: list[str], tokeniser: Tokeniser) -> None:
    joint = np.asarray(tokeniser.joint, dtype=index["dtype"])
    parts = []
    for piece in group:
        tokens = tokeniser.encode(piece)
        parts += [tokens, joint] if len(tokens) else []
    content = np.concatenate(parts or [joint[:0]]).astype(index["dtype"]).tobytes()
    name = f"{len(index['shards']):05d}.bin"
    with replacing(folder / name) as temporary:
        temporary.write_bytes(content)
    size = np.dtype(index["dtype"]).itemsize
    entry = {"file": name, "tokens": len(content) // size, "sha256": hashlib.sha256(content).hexdigest()}
    index["shards"].append(entry)
    index["characters"] += sum(map(len, group))
    index["lost"] = [a + b for a, b in zip(index["lost"], tokeniser.lost(group[0]), strict=True)]  # of a piece of many
    _write_index(folder, index)


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
    try:
        path = inside(folder, entry["file"])
        whole = regular(path) == entry["tokens"] * np.dtype(dtype).itemsize
        with open(path, "rb") as file:
            whole = whole and hashlib.file_digest(file, "sha256").hexdigest() == entry["sha256"]
        part = np.memmap(path, dtype=dtype, mode="r") if whole and entry["tokens"] else np.zeros(0, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ValueError(f"a shard is missing or no plain file ({error}); {remedy}") from None
    if not whole:
        raise ValueError(f"{path} is damaged or cut short; {remedy}")
    if len(part) and (highest := int(part.max())) >= size:
        raise ValueError(f"{path} has the token {highest}, but its alphabet has 0 to {size - 1}; {remedy}")
    return part
