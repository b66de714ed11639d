"""Tensors that lie in shards on several processes: written by all of them at once, read by any number of them.

The files are those of torch's distributed checkpoints in their safetensors form, so nothing is pickled; a tensor is
named by the file that it would be in on one process, as ``model.safetensors/network.read.weight``.
"""

from __future__ import annotations

import errno
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs

PATTERN = "shard-*.safetensors"
Like = Callable[[str], Tensor | None]  # the live tensor of a name, whose shards are wanted


def is_spread(tensor: object) -> TypeIs[DTensor]:
    """Whether a tensor lies in shards; if there is any, its module was imported, which takes a second."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies on this process; the same memory, without its history."""
    found = tensor.detach()
    return found.to_local() if is_spread(found) else found


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every process; each of them must call."""
    found = tensor.detach()
    return found.full_tensor() if is_spread(found) else found


def placed(tensor: Tensor, like: Tensor | None) -> Tensor:
    """A whole tensor that every process has, in shards as ``like`` is, if it has its shape."""
    if not is_spread(like) or is_spread(tensor) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    there = tensor.to(like.device)
    return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)


def write(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]]) -> list[Path]:
    """Write the shards of this process; every process must call. Returns: its files.

    Raises: OSError, on all processes, if one of them could not write.
    """
    import torch.distributed as dist
    from torch.distributed import checkpoint as dcp

    state = {f"{file}/{name}": t.detach() for file, group in tensors.items() for name, t in group.items()}
    try:
        dcp.save(state, storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except dcp.api.CheckpointException as error:
        first = _first(error)
        number = first.errno if isinstance(first, OSError) else None
        raise OSError(number or errno.EIO, " ".join(str(first).split())[:200]) from error
    return sorted(folder.glob(f"shard-{dist.get_rank() + 1:05d}-*.safetensors"))


def read(folder: Path, file: str, most: int | None = None, like: Like | None = None) -> dict[str, Tensor]:
    """The tensors in the shards of a folder that belong to ``file``, by name.

    Arguments:
        most: Bytes that they may have, if that is known; more is not read.
        like: Where it gives a sharded tensor of that shape, only the own shards are read; every process must call.
    Raises: ValueError if a part of a tensor is missing, or they have more bytes.
    """
    if not any(folder.glob(PATTERN)):
        return {}
    from torch.distributed import checkpoint as dcp

    stored = dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    state: dict[str, Tensor] = {}
    total = 0
    for key, found in stored.items():
        if not key.startswith(f"{file}/") or not isinstance(found, dcp.TensorStorageMetadata):
            continue
        if sum(chunk.sizes.numel() for chunk in found.chunks) != found.size.numel():
            raise ValueError(f"a part of {key} is missing in the shards of {folder}")
        total += found.size.numel() * found.properties.dtype.itemsize
        if most is not None and total > most:
            raise ValueError(f"the shards of {file} hold at least {total:,} bytes, expected at most {most:,}")
        alive = like(key.removeprefix(f"{file}/")) if like else None
        fits = alive is not None and is_spread(alive) and alive.shape == found.size
        make = partial(torch.empty_like, cast("Tensor", alive)) if fits else partial(torch.empty, found.size)
        state[key] = make(dtype=found.properties.dtype)
    alone = not any(map(is_spread, state.values()))
    if state:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", "torch.distributed is disabled", UserWarning
                )  # one process needs none
                dcp.load(state, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=alone)
        except dcp.api.CheckpointException as error:  # which is no Exception
            raise ValueError(f"the shards of {file} cannot be read: {_first(error)}") from error
    return {key.removeprefix(f"{file}/"): tensor for key, tensor in state.items()}


def _first(error: CheckpointException) -> BaseException:
    """What went wrong on the first process on which anything did."""
    return next(iter(error.failures.values()))[0]
