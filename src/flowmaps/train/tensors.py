"""Named tensors in safetensors files: shared tensors stored once, and loaded strictly by name, shape and type.

Tensors that lie in shards on several processes are in files of their own beside (:mod:`flowmaps.train.shards`).
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files import usual_mode
from ..reading import check_size, expect, regular
from . import shards
from .shards import Like, is_spread, local, placed

ALIASES = "aliases"
HEADER = 2**24  # bytes of names and shapes, unless more are allowed


class CheckpointError(ValueError):
    """A checkpoint cannot be written, found, trusted or loaded; the message names the file and the remedy."""


def unwritable(path: Path, error: OSError, consequence: str) -> str:
    """One line that says why ``path`` could not be written and what to do."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free some space" if full else "choose a folder that can be written"
    return f"cannot write {path}: {error.strerror or error}; {consequence}; {remedy} and resume"


def memory_of(x: Tensor) -> int:
    """A number of the memory that a tensor lies in, the same for all views of it, for as long as it is there."""
    return x.untyped_storage()._cdata


def canonical(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Split names into tensors and aliases, so that weights shared under several names are kept once.

    Returns: the tensors under the first name of each, and the other names with that first name.
    Raises: ValueError if a value is not a tensor.

    >>> w = torch.zeros(2)
    >>> canonical({"a": w, "b": w})
    ({'a': tensor([0., 0.])}, {'b': 'a'})
    """
    first: dict[tuple, str] = {}
    kept, aliases = {}, {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"{name} of the state is a {type(tensor).__name__}; only tensors can be kept, "
                "register it as a buffer or rebuild it from the configuration"
            )
        here = local(tensor)
        memory = here.untyped_storage()  # which a shard without elements has, too, if it is that of a parameter
        place = (here.device, memory.data_ptr(), here.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        owner = first.setdefault(place, name) if tensor.numel() and memory.nbytes() else name
        if owner == name:
            kept[name] = tensor
        else:
            aliases[name] = owner
    return kept, aliases


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file; shared tensors once, the other names in its metadata; no tensors that lie in shards.

    Raises: OSError if the file cannot be written.
    """
    kept, aliases = canonical(tensors)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in kept.items() if not is_spread(tensor)}
    storages = {}
    for name, tensor in plain.items():  # views of one storage that are not the same tensor are stored apart
        if storages.setdefault(tensor.untyped_storage().data_ptr(), name) != name:
            plain[name] = tensor.clone()
    try:
        with usual_mode(path):
            save_file(plain, path, metadata={ALIASES: json.dumps(aliases)})
    except SafetensorError as error:  # an input or output error arrives as text
        code = re.search(r"os error (\d+)", str(error))
        number = int(code[1]) if code else errno.EIO
        raise OSError(number, os.strerror(number) if code else str(error), str(path)) from error


def nbytes(tensors: Mapping[str, Tensor]) -> int:
    """The memory that tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def read_tensors(
    path: Path, most: int | None = None, like: Like | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file, and what belongs to it in shards beside it, as tensors and aliases.

    Arguments:
        most: Bytes that the tensors may have, if that is known; more is not read.
        like: Where it gives a sharded tensor for a name, the tensor is read as such; every process must call.
    Raises: CheckpointError if the file is missing, not a whole safetensors file, or has more.
    """
    try:
        size = regular(path)
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header <= size:  # a longer one is refused below, for what it is
            check_size(f"the header of {path}", header, HEADER)
        if most is not None and size - 8 - header > most:
            raise CheckpointError(
                f"{path} does not fit this model: it holds {size - 8 - header:,} bytes of tensors; "
                "build the model from the config.json beside it"
            )
        with safe_open(path, framework="pt") as file:
            aliases = json.loads((file.metadata() or {}).get(ALIASES, "{}"))
            expect(aliases, {str: str}, ALIASES)
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        found |= shards.read(path.parent, path.name, most, like)
        return {name: placed(tensor, like(name)) if like else tensor for name, tensor in found.items()}, aliases
    except CheckpointError:
        raise
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; give a whole checkpoint") from error


def restore(target: Mapping[str, Tensor], path: Path) -> None:
    """Copy the tensors of a file into ``target``, which must have exactly its names, shapes, types and sharing.

    Raises: CheckpointError, with ``target`` as it was, if anything differs.
    """
    fill(target, *read_tensors(path, 2 * nbytes(target), target.get), path)


@torch.no_grad()
def fill(target: Mapping[str, Tensor], stored: Mapping[str, Tensor], sharing: Mapping[str, str], path: Path) -> None:
    """:func:`restore` from tensors and aliases that were read before."""
    live, aliases = canonical(target)
    differences = differing(live, stored)
    if not differences and aliases != sharing:
        differences = [
            f"{name} shares its values with {sharing.get(name)} there and with {aliases.get(name)} here"
            for name in sorted({*aliases, *sharing})
            if aliases.get(name) != sharing.get(name)
        ]
    if differences:
        more = f" and {len(differences) - 4} more" if len(differences) > 4 else ""
        raise CheckpointError(
            f"{path} does not fit this model: {'; '.join(differences[:4])}{more}; "
            "build the model from the config.json beside it"
        )
    for name, tensor in live.items():
        tensor.copy_(stored[name])


def differing(live: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> list[str]:
    """What keeps stored tensors from filling live ones, one phrase for each name."""
    result = [f"{name} is missing" for name in live if name not in stored]
    result += [f"{name} is unknown" for name in stored if name not in live]
    for name in live:
        if name in stored and (live[name].shape, live[name].dtype) != (stored[name].shape, stored[name].dtype):
            result.append(
                f"{name} is {tuple(stored[name].shape)} {stored[name].dtype}, "
                f"expected {tuple(live[name].shape)} {live[name].dtype}"
            )
    return result
