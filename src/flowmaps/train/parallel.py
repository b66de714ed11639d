"""What wraps an objective from outside, and what several processes must do together (on one: the plain thing)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .tensors import CheckpointError

REASONS = ("", "seconds", "steps", "SIGTERM", "SIGINT")  # to stop, the more urgent ones last
SIGNALS = REASONS[3:]

if TYPE_CHECKING:
    from lightning.fabric import Fabric

LOST = re.compile("gloo|nccl|peer|socket|timed? ?out|broken pipe|TCPStore", re.IGNORECASE)


class Mixed(nn.Module):
    """An objective whose layers compute in bfloat16, while what enters stays as it is.

    Near 1 bfloat16 has no times but 1 and .996, and noise of eight bits is no Gaussian: inputs are cast by the layers
    that want it, never before.
    """

    def __init__(self, objective: nn.Module):
        super().__init__()
        self.objective = objective

    def draw(self, batch: Any, generator: torch.Generator) -> Any:
        return self.objective.draw(batch, generator)  # type: ignore[operator]

    def forward(self, batch: Any, draw: Any) -> Any:
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


def on_first(fabric: Fabric, function: Callable[[], Any]) -> Any:
    """Call ``function`` on the first process; every process gets its result, or raises its CheckpointError."""
    result, error = None, None
    if fabric.is_global_zero:
        try:
            result = function()
        except CheckpointError as caught:
            error = caught
    result, message = fabric.broadcast((result, None if error is None else str(error)))
    if message is not None:
        raise CheckpointError(message) from error
    return result


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
        raise ConnectionError("another process of this training has died or does not answer; look for its own message, "
                              f"then continue from the last checkpoint with --resume ({reason})") from error


def pinned(tree: Any) -> Any:
    """A batch in page-locked memory, from which it reaches an accelerator without being waited for."""
    if isinstance(tree, Tensor):
        return tree.pin_memory() if tree.device.type == "cpu" else tree
    if isinstance(tree, Mapping):
        return {name: pinned(part) for name, part in tree.items()}
    if isinstance(tree, tuple):
        return type(tree)(*map(pinned, tree))
    return tree
