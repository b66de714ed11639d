"""What several processes must do together; on one process each of these is the plain thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .tensors import CheckpointError

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def reduced(fabric: Fabric, tensor: Tensor, how: str) -> Tensor:
    """The ``"mean"``, ``"sum"``, ``"min"`` or ``"max"`` of a tensor over processes, on each of them."""
    result = fabric.all_reduce(tensor.clone(), reduce_op=how)
    assert isinstance(result, Tensor)
    return result


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


def pinned(tree: Any) -> Any:
    """A batch in page-locked memory, from which it reaches an accelerator without being waited for."""
    if isinstance(tree, Tensor):
        return tree.pin_memory() if tree.device.type == "cpu" else tree
    if isinstance(tree, Mapping):
        return {name: pinned(part) for name, part in tree.items()}
    if isinstance(tree, tuple):
        return type(tree)(*map(pinned, tree))
    return tree
