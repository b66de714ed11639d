"""How large a network may get that a file describes: refused before memory is taken for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registry
from torch.overrides import TorchFunctionMode

from ..reading import VARIABLE, most_bytes

Network = TypeVar("Network", bound=nn.Module)
NETWORK = 2**34  # bytes of weights and buffers, unless more are allowed
SMALL = 2**28  # bytes that are taken without measuring first
EACH = 2**20  # a tensor more for every so many bytes of the limit: depth costs time, too
SHAPED = {torch.empty, torch.full, torch.ones, torch.rand, torch.randn, torch.zeros}
RANGED = {torch.arange, torch.linspace, torch.randperm}


class TooLarge(ValueError):
    """A network that a file describes is larger than the limit."""


def built(build: Callable[[], Network], limit: int = NETWORK) -> Network:
    """The network that ``build`` makes; a large one is made without memory first, to learn how large it is.

    Arguments:
        build: Of a configuration that was read from a file, and may ask for anything.
        limit: Bytes of weights and buffers, unless more are allowed.
    Raises: ValueError naming the limit and the way to raise it.
    """
    state = torch.random.get_rng_state()
    try:
        with within(min(SMALL, limit)):
            return build()
    except TooLarge:
        torch.random.set_rng_state(state)
    try:
        with torch.device("meta"), within(most_bytes(limit)):
            build()
    except RuntimeError as error:  # sizes whose product no tensor can have
        raise TooLarge(
            f"the network cannot be built ({' '.join(str(error).split())[:200]}); give it smaller sizes"
        ) from error
    return build()


@contextmanager
def within(limit: int) -> Iterator[None]:
    """A block that builds a network stops where a tensor, or all of them together, would get too large.

    Arguments:
        limit: Bytes of weights and buffers.
    Raises: TooLarge naming the limit and the way to raise it.
    """
    size = tensors = 0

    def count(owner: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal size, tensors
        if tensor is None:
            return
        size, tensors = size + tensor.numel() * tensor.element_size(), tensors + 1
        _check(size, limit)
        if tensors > (most := most_bytes(NETWORK) // EACH):
            raise ValueError(
                f"the network has more than {most:,} tensors of weights; give it less depth, or set the "
                f"environment variable {VARIABLE} to more"
            )

    hooks = (registry.register_module_parameter_registration_hook(count),
             registry.register_module_buffer_registration_hook(count))  # fmt: skip
    try:
        with _Watched(limit):
            yield
    finally:
        for hook in hooks:
            hook.remove()


class _Watched(TorchFunctionMode):
    """Every tensor that is made has a size that is known before it has memory."""

    def __init__(self, limit: int):
        super().__init__()
        self.limit = limit

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given = kwargs or {}
        if func in SHAPED or func in RANGED:
            numbers = list(_integers((*args, *(given.get(name) for name in ("size", "steps", "end", "n")))))
            numel = math.prod(numbers) if func in SHAPED else max(numbers, default=0)
            _check(4 * numel, self.limit)
        return func(*args, **given)


def _check(size: int, limit: int) -> None:
    if size > limit:
        raise TooLarge(
            f"the network needs at least {size:,} bytes, more than the limit of {limit:,}; if that is "
            f"right, set the environment variable {VARIABLE} to more"
        )


def _integers(values: Iterable[object]) -> Iterator[int]:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _integers(value)
        elif type(value) is int:
            yield value
