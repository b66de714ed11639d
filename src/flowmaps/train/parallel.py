"""Parallelism, precision and compilation: all that wraps an objective from outside, in this order.

Devices are taken (:func:`launchable`), layers compute in their precision, the compiler sees the whole, and the strategy
spreads it over processes (:func:`wrap`). The rest is what several processes must do together; on one: the plain thing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..fields import Batch
from ..objectives import Objective
from .settings import Hardware
from .tensors import CheckpointError

Result = TypeVar("Result")
Tree = TypeVar("Tree")

REASONS = ("", "seconds", "steps", "SIGTERM", "SIGINT")  # to stop, the more urgent ones last
SIGNALS = REASONS[3:]

if TYPE_CHECKING:
    from lightning.fabric import Fabric

LOST = re.compile("gloo|nccl|peer|socket|timed? ?out|broken pipe|TCPStore", re.IGNORECASE)


class Wrapped(NamedTuple):
    """An objective in layers.

    Arguments:
        computed: In its precision; validation calls it.
        module: Also compiled, and spread over processes; updates call it.
        stepper: The optimiser, as the strategy wants to step it.
    """

    computed: Objective | Mixed
    module: Any
    stepper: Any


def launchable(hardware: Hardware) -> Fabric:
    """The devices of a run, not yet launched.

    Raises: ValueError if this machine does not have them.
    """
    # imported here: it takes seconds, which other commands need not wait for
    from lightning.fabric import Fabric
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    # Fabric would cast all that enters a module in mixed precision, times and noise too: Mixed does not.
    precision = "64-true" if hardware.precision == "64-true" else "32-true"
    accelerator, devices, strategy = hardware.accelerator, hardware.devices, hardware.strategy
    try:
        return Fabric(accelerator=accelerator, strategy=strategy, devices=devices, precision=precision)
    except (ImportError, MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"accelerator {accelerator!r}, devices {devices!r} and strategy {strategy!r} do not fit this machine: "
            f"{str(error)[:200]}"
        ) from error


def wrap(fabric: Fabric, objective: Objective, optimizer: Optimizer, hardware: Hardware) -> Wrapped:
    """Precision, then compilation, then the strategy of ``fabric``."""
    computed: Objective | Mixed = Mixed(objective) if hardware.precision == "bf16-mixed" else objective
    module: Any = computed
    if hardware.compile:
        module = torch.compile(module, mode=hardware.compile if isinstance(hardware.compile, str) else "default")
    return Wrapped(computed, *fabric.setup(module, optimizer))  # Fabric compiles outside of DDP


class Mixed(nn.Module):
    """An objective whose layers compute in bfloat16, while what enters stays as it is.

    Near 1 bfloat16 has no times but 1 and .996, and noise of eight bits is no Gaussian: inputs are cast by the layers
    that want it, never before.
    """

    def __init__(self, objective: Objective):
        super().__init__()
        self.objective = objective

    def draw(self, batch: Batch, generator: torch.Generator) -> object:
        return self.objective.draw(batch, generator)

    def forward(self, batch: Batch, draw: object) -> dict[str, Tensor]:
        with torch.autocast(next(self.objective.parameters()).device.type, torch.bfloat16):
            return self.objective(batch, draw)


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
        reason = " ".join(str(error).split())[-120:]
        raise ConnectionError(
            "another process of this training has died or does not answer; look for its own message, "
            f"then continue from the last checkpoint with --resume ({reason})"
        ) from error


def pinned(tree: Tree) -> Tree:
    """A batch in page-locked memory, from which it reaches an accelerator without being waited for."""
    found: object = tree
    if isinstance(tree, Tensor):
        found = tree.pin_memory() if tree.device.type == "cpu" else tree
    elif isinstance(tree, Mapping):
        found = {name: pinned(part) for name, part in tree.items()}
    elif isinstance(tree, tuple):
        found = type(tree)(*map(pinned, tree))
    return cast("Tree", found)
