"""The processes of a run: how they are launched, and what several must do together; on one: the plain thing."""

from __future__ import annotations

import atexit
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor, nn

from ..fields import each_tensor
from .settings import Hardware
from .tensors import CheckpointError

Result = TypeVar("Result")
Tree = TypeVar("Tree")

REASONS = ("", "seconds", "steps", "SIGTERM", "SIGINT")  # to stop, the more urgent ones last
SIGNALS = REASONS[3:]
SHARDED = "fsdp2"

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import Strategy

LOST = re.compile("gloo|nccl|peer|socket|timed? ?out|broken pipe|TCPStore", re.IGNORECASE)


def launchable(hardware: Hardware) -> Fabric:
    """The devices of a run, not yet launched.

    Under ``torchrun`` and SLURM processes and machines are those that were started, if ``devices`` is 1.

    Raises: ValueError if this machine does not have them.
    """
    # imported here: it takes seconds, which other commands need not wait for
    from lightning.fabric import Fabric
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    # Fabric would cast all that enters a module in mixed precision, times and noise too: Mixed does not.
    accelerator, strategy = hardware.accelerator, hardware.strategy
    precision = "64-true" if hardware.precision == "64-true" and strategy != SHARDED else "32-true"
    devices, nodes = _started() if hardware.devices == 1 else (hardware.devices, 1)
    _leave_at_exit()
    try:
        chosen = _sharded() if strategy == SHARDED else strategy
        return Fabric(accelerator=accelerator, strategy=chosen, devices=devices, num_nodes=nodes, precision=precision)
    except (ImportError, MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"accelerator {accelerator!r}, devices {devices!r} and strategy {strategy!r} do not fit this machine: "
            f"{str(error)[:200]}"
        ) from error


@cache
def _leave_at_exit() -> None:
    """Let this process leave its group before it ends, once: threads of gloo that outlive the interpreter abort it."""
    if torch.distributed.is_available():
        atexit.register(lambda: torch.distributed.is_initialized() and torch.distributed.destroy_process_group())


def _started() -> tuple[int, int]:
    """How many processes a launcher has started on each machine, and on how many machines; 1 and 1 without one."""
    from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    said = os.environ
    if TorchElasticEnvironment.detect():
        here = int(said["LOCAL_WORLD_SIZE"])
        return here, int(said["WORLD_SIZE"]) // here
    if SLURMEnvironment.detect() and "SLURM_NTASKS_PER_NODE" in said:
        return int(said["SLURM_NTASKS_PER_NODE"]), int(said.get("SLURM_NNODES", 1))
    return 1, 1


def _sharded() -> Strategy:
    """Launching and process groups as Fabric makes them; weights are sharded by :class:`~.strategy.Sharded`."""
    from lightning.fabric.strategies import ModelParallelStrategy

    return ModelParallelStrategy(lambda module, mesh: module)


def reduced(fabric: Fabric, tensor: Tensor, how: str) -> Tensor:
    """The ``"mean"``, ``"sum"``, ``"min"`` or ``"max"`` of a tensor over processes, on each of them."""
    result = fabric.all_reduce(tensor.clone(), reduce_op=how)
    assert isinstance(result, Tensor)
    return result


def agreed(fabric: Fabric, reason: str) -> str:
    """The most urgent reason to stop of all processes, on each of them."""
    if fabric.world_size == 1:
        return reason
    code = torch.tensor(REASONS.index(reason), device=fabric.device)
    return REASONS[int(reduced(fabric, code, "max"))]


def on_first(fabric: Fabric, function: Callable[[], Result]) -> Result:
    """Call ``function`` on the first process; every process gets its result, or raises its CheckpointError."""
    result: Result | None = None
    error: CheckpointError | None = None
    if fabric.is_global_zero:
        try:
            result = function()
        except CheckpointError as caught:
            error = caught
    result, message = fabric.broadcast((result, None if error is None else str(error)))
    if message is not None:
        raise CheckpointError(message) from error
    return cast("Result", result)


def each(fabric: Fabric, value: Result) -> list[Result]:
    """The values of all processes, in order, on each of them."""
    found = [value] * fabric.world_size
    if fabric.world_size > 1:
        torch.distributed.all_gather_object(found, value)
    return found


@torch.no_grad()
def share_buffers(fabric: Fabric, *modules: nn.Module) -> None:
    """Give every process the buffers of the first, such as running means, which alone are saved."""
    buffers = [buffer for module in modules for buffer in module.buffers()]
    if fabric.world_size > 1 and buffers:
        for own, first in zip(buffers, fabric.broadcast([buffer.cpu() for buffer in buffers]), strict=True):
            own.copy_(first)


@contextmanager
def together(fabric: Fabric) -> Iterator[None]:
    """Within the block the loss of another process is told as what it is.

    Raises: ConnectionError with the remedy, in the place of what the transport says.
    """
    try:
        yield
    except RuntimeError as error:
        if fabric.world_size < 2 or not LOST.search(str(error)):
            raise
        said = (" ".join(part.split()) for part in re.split(r"[\n;]|\. ", str(error)))
        reason = next(part for part in said if LOST.search(part))[-120:]
        raise ConnectionError(
            "another process of this training has died or does not answer; look for its own message, "
            f"then continue from the last checkpoint with --resume ({reason})"
        ) from error


def pinned(tree: Tree) -> Tree:
    """A batch in page-locked memory, from which it reaches an accelerator without being waited for."""
    return each_tensor(lambda x: x.pin_memory() if x.device.type == "cpu" else x, tree)
