"""The order of the data and the seeds of the noise, both functions of integers, so that nothing is kept to resume."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")


def key(*parts: int | str) -> int:
    """A seed below 2^53 (so that JSON keeps it exactly) from integers and words; the same on every machine.

    >>> key(0, 1, 0, "draw")
    4721642293049122
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 11


def generator(device: torch.device | str, *parts: int | str) -> torch.Generator:
    """A generator on ``device`` seeded by :func:`key` of the parts."""
    return torch.Generator(device=device).manual_seed(key(*parts))


def seed_dropout(device: torch.device, *parts: int | str) -> None:
    """Seed the global generators that dropout on ``device`` draws from, and no others.

    ``torch.manual_seed`` would also queue a call, with its stack, for each kind of accelerator that is not in use.
    """
    torch.default_generator.manual_seed(key(*parts))
    if device.type == "cuda":
        torch.cuda.manual_seed(key(*parts))


@lru_cache(maxsize=2)
def permutation(size: int, seed: int, epoch: int) -> Tensor:
    """The order of ``range(size)`` in one epoch, int64 ``(size,)``; the last two are kept, so do not write to it."""
    return torch.randperm(size, generator=generator("cpu", seed, "epoch", epoch))


class Stream:
    r"""Endless epochs, each a permutation of the data, cut into updates.

    .. math:: \text{example}(p) = \sigma_{\lfloor p / N \rfloor}(p \bmod N), \qquad (n-1) B \le p < n B
       \text{ for update } n = 1, 2, \dots

    An update takes the same examples however many processes and micro-batches share it.

    Arguments:
        size: Number of examples N.
        batch_size: Examples of one update B, over all processes and micro-batches.
        seed: Chooses the permutations.
        parts: Number of equal parts an update is cut into (processes times micro-batches).
    Raises: ValueError if there is no data or the parts are not equal.
    Invariant: the parts of updates 1..n are the first n B examples of the permutations, each once and in order.
    """

    def __init__(self, size: int, batch_size: int, seed: int, parts: int = 1):
        if size < 1:
            raise ValueError(f"the training data hold {size} examples; give at least one")
        if batch_size < 1 or parts < 1 or batch_size % parts:
            raise ValueError(
                f"batch_size {batch_size} is not a multiple of {parts} (processes times accumulation); "
                f"make it a multiple of {parts}"
            )
        self.size, self.batch_size, self.seed, self.parts = size, batch_size, seed, parts

    def epoch(self, step: int) -> float:
        """Passes over the data made after ``step`` updates."""
        return step * self.batch_size / self.size

    def index(self, step: int, part: int = 0) -> Tensor:
        """Rows of one part of update ``step`` (from 1), int64 ``(batch_size / parts,)``."""
        count = self.batch_size // self.parts
        start = (step - 1) * self.batch_size + part * count
        pieces = []
        while count:
            epoch, row = divmod(start, self.size)
            taken = min(count, self.size - row)
            pieces.append(permutation(self.size, self.seed, epoch)[row : row + taken])
            start, count = start + taken, count - taken
        return torch.cat(pieces)


def ahead(function: Callable[[Item], Result], items: Iterable[Item], depth: int) -> Generator[Result, None, None]:
    """``map(function, items)``, computed up to ``depth`` items ahead in a thread; depth 0 computes in place."""
    if depth < 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="data") as pool:
        waiting: deque = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
