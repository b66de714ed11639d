"""What is made once and kept as numbered files with hashes, beside an index of how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..files import replacing, sha256
from ..reading import Document, expect, read_json


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


def agreed(folder: Path, index: Document | None, wanted: Document, what: str) -> Document:
    """The index of a folder that is empty, or holds a part of what is wanted.

    Arguments:
        index: That of the folder, if it has one.
        wanted: How it is to be made.
        what: Names it in a complaint, such as "pairs of another flow".
    Raises: ValueError naming the first setting that differs.
    """
    if index is None:
        return {**wanted, "shards": {}}
    for name, value in wanted.items():
        if index[name] != value:
            raise ValueError(f"{folder} holds {what}: {name} is {index[name]}, expected {value}; choose another")
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
