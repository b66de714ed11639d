"""What is made once and kept as numbered files with hashes, beside an index of how it was made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..files import replacing, sha256, write_json
from ..reading import Document, check_size, expect, inside, read_json
from ..seeds import check_seed


def read_index(file: Path, pattern: Document, lacking: str) -> Document:
    """The index of a folder.

    Arguments:
        pattern: What it has to hold.
        lacking: What a folder without one lacks, and the remedy, for a complaint.
    Raises: ValueError if there is none, or it holds something else.
    """
    if not file.exists():
        raise ValueError(f"{file.parent} has no {file.name}: {lacking}")
    index = read_json(file)
    expect(index, pattern, str(file))
    return index


def continued(file: Path, index: Document | None, wanted: Document, rows: str, what: str) -> Document:
    """The index of a folder that is empty, or holds a part of what is wanted; kept if it is for more or fewer rows now.

    A last file that was not to be full is made again where more rows are wanted.

    Arguments:
        file: Of the index.
        index: What it holds, if it is there.
        wanted: How the rows are to be made: ``n`` of them, ``shard`` a file, and so on.
        rows: Names them in a complaint, such as "frames".
        what: Names those of a folder in a complaint, such as "pairs of another flow".
    Raises: ValueError naming the first setting that differs, or if rows would be lost.
    """
    if index is None:
        return {**wanted, "shards": {}}
    folder, n, shard = file.parent, wanted["n"], wanted["shard"]
    for name, value in wanted.items():
        if name != "n" and index[name] != value:
            raise ValueError(f"{folder} holds {what}: {name} is {index[name]}, expected {value}; choose another")
    if n == index["n"]:
        return index
    shards = dict(index["shards"])
    made = min(len(shards) * shard, index["n"])
    if n < made:
        raise ValueError(f"{folder} holds {made} {rows}; n is {n}, expected as many or more; choose another")
    if made % shard and n > made:
        del shards[max(shards)]
    index = {**index, "n": n, "shards": shards}
    write_json(file, index)
    return index


def write_shard(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write one file, and give its hash."""
    from safetensors.torch import save_file

    with replacing(file) as temporary:
        save_file({name: x.contiguous() for name, x in tensors.items()}, temporary)
        return sha256(temporary)


def check_shard(file: Path, digest: str, remedy: str) -> None:
    """Refuse a file that is not as it was written.

    Raises: ValueError naming it and the remedy.
    """
    if not file.exists() or sha256(file) != digest:
        raise ValueError(f"{file} is not as it was written; {remedy}")


def read_shard(file: Path, digest: str, remedy: str) -> dict[str, Tensor]:
    """The tensors of a file that is as it was written."""
    from safetensors.torch import load_file

    check_shard(file, digest, remedy)
    return load_file(file)


class Numbered:
    """Rows that are made once, so many a file, each file by random numbers of its own: ``NAME-00000.safetensors``, ...
    and ``NAME.json``, which says how they were made. Whoever was interrupted goes on where that was, and whoever wants
    more of them later, or is content with those that are there, asks for so many.

    Arguments:
        name: Of the files.
        lacking: What a folder without them lacks, and the remedy, for a complaint.
        settings: What the index holds besides ``origin``, ``seed``, ``shard`` and ``n``, for :func:`expect`.
    """

    def __init__(self, name: str, lacking: str, settings: Document | None = None):
        self.name, self.lacking, self.file = name, lacking, f"{name}.json"
        self.pattern = {"origin": {str: str}, "seed": int, "shard": int, "n": int, "shards": {str: str}}
        self.pattern |= settings or {}

    def index(self, folder: Path) -> Document:
        """How the rows of a folder were made, and the hashes of its files."""
        return read_index(folder / self.file, self.pattern, self.lacking)

    def make(
        self,
        folder: Path,
        draw: Callable[[int, int, torch.Generator], Mapping[str, Tensor]],
        wanted: Document,
        tell: Callable[[int], None] | None = None,
    ) -> None:
        """Make the files that are not there.

        Arguments:
            draw: What makes some rows: those from number ``first`` on, ``count`` of them, by the generator alone.
            wanted: The index, without its files.
            tell: Called with the number of rows that are there.
        Raises: ValueError if other rows are in the folder, or more.
        """
        n, shard, seed = wanted["n"], wanted["shard"], check_seed(wanted["seed"], bits=32)
        if n < 1 or shard < 1:
            raise ValueError(f"n is {n} and shard {shard}, expected at least one of each")
        there = self.index(folder) if (folder / self.file).exists() else None
        index = continued(
            folder / self.file, there, {**wanted, "seed": seed}, self.name, f"{self.name} of another flow"
        )
        for number, first in enumerate(range(0, n, shard)):
            name = f"{self.name}-{number:05d}.safetensors"
            if name not in index["shards"]:
                generator = torch.Generator().manual_seed((seed << 20) + number)
                index["shards"][name] = write_shard(folder / name, draw(first, min(shard, n - first), generator))
                write_json(folder / self.file, index)
            if tell is not None:
                tell(min(first + shard, n))

    def read(self, folder: Path) -> tuple[Document, dict[str, Tensor]]:
        """The index and all rows of a folder, every file checked by its hash.

        Raises: ValueError if there are none, if some are missing, or a file is not as it was written.
        """
        index = self.index(folder)
        files = [inside(folder, name) for name in sorted(index["shards"])]
        missing = -(-index["n"] // max(index["shard"], 1)) - len(files)
        if missing:
            raise ValueError(
                f"{folder} lacks {missing} files of {self.name}; run what makes them again, it goes on from there"
            )
        check_size(str(folder), sum(file.stat().st_size for file in files if file.exists()))
        remedy = f"remove it and {self.file}, and make the {self.name} again"
        read = [read_shard(file, index["shards"][file.name], remedy) for file in files]
        return index, {name: torch.cat([part[name] for part in read]) for name in read[0]}
