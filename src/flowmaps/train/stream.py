"""The order of the data and the seeds of the noise, both functions of integers, so that nothing is kept to resume."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..seeds import mixed

Item = TypeVar("Item")
Result = TypeVar("Result")
SHUFFLED = 2**26  # examples whose order is kept as a whole, half a gigabyte; that of more is computed place by place
ROUNDS = 6


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


def scattered(places: Tensor, size: int, seed: int) -> Tensor:
    r"""Where a permutation of ``range(size)`` puts ``places``, without the permutation: memory does not grow with size.

    .. math:: (l, r) \leftarrow \big(r,\; l \oplus h_i(r)\big), \qquad i = 1, \dots, 6,

    a Feistel network on the two halves of the bits of a place, walked again from each result beyond ``size``.

    Arguments:
        places: int64 ``(n,)``.
    Invariant: a bijection of ``range(size)`` for every seed.
    Reference: Black and Rogaway 2002, *Ciphers with arbitrary finite domains*.

    >>> sorted(scattered(torch.arange(5), 5, seed=0).tolist())
    [0, 1, 2, 3, 4]
    """
    half = np.uint64(max(((size - 1).bit_length() + 1) // 2, 1))
    low = np.uint64((1 << int(half)) - 1)
    keys = mixed(np.uint64(seed) + np.arange(1, ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    found = places.numpy().astype(np.uint64)
    left = np.arange(len(found))
    while len(left):
        x = found[left]
        a, b = x >> half, x & low
        for each in keys:
            a, b = b, a ^ (mixed(b ^ each) & low)
        found[left] = a << half | b
        left = left[found[left] >= size]
    return torch.from_numpy(found.astype(np.int64))


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
            pieces.append(self._order(epoch, row, row + taken))
            start, count = start + taken, count - taken
        return torch.cat(pieces)

    def _order(self, epoch: int, start: int, stop: int) -> Tensor:
        if self.size <= SHUFFLED:
            return permutation(self.size, self.seed, epoch)[start:stop]
        return scattered(torch.arange(start, stop), self.size, key(self.seed, "epoch", epoch))


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
