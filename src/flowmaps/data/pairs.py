"""Pairs of source and data points for the regression of a bijection: made once, kept as files with hashes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..fields import Batch, Fields
from ..paths import GeodesicPath
from .base import fingerprint
from .shards import Numbered

FILES = Numbered("pairs", "it holds no pairs; make them first")
SHARD = 2**14  # pairs of one file


class Pairs:
    """Pairs in memory, of which :meth:`batch` gives the fields ``x_0`` and ``x_1``.

    Arguments:
        x_0, x_1: Source and data points ``(n, *positions, dim)``.
        origin: What made them: names and fingerprints.
    Raises: ValueError if their shapes differ, or a number is not finite.
    """

    def __init__(self, x_0: Tensor, x_1: Tensor, origin: Mapping[str, str]):
        if x_0.shape != x_1.shape or x_0.ndim < 2 or not len(x_0):
            raise ValueError(
                f"pairs have shapes {tuple(x_0.shape)} and {tuple(x_1.shape)}, expected equal ones (n, ...)"
            )
        if not bool(x_0.isfinite().all() and x_1.isfinite().all()):
            raise ValueError("pairs hold numbers that are not finite; make them anew from finite data")
        self.x_0, self.x_1, self.origin = x_0, x_1, dict(origin)

    def __len__(self) -> int:
        return len(self.x_0)

    def batch(self, index: Tensor) -> Batch:
        """Pairs ``index``."""
        return Batch(Fields(x_0=self.x_0[index], x_1=self.x_1[index]))

    def fingerprint(self) -> str:
        return fingerprint(self.x_0, self.x_1)

    def parted(self, held_out: int) -> tuple[Pairs, Pairs]:
        """All but the last ``held_out`` pairs, and those."""
        if not 0 < held_out < len(self):
            raise ValueError(f"held_out is {held_out}, expected a number of pairs from 1 to below {len(self)}")
        cut = len(self) - held_out
        parts = (slice(None, cut), slice(cut, None))
        first, last = (Pairs(self.x_0[part], self.x_1[part], self.origin) for part in parts)
        return first, last

    def require(self, shape: tuple[int, ...], **origin: str) -> Pairs:
        """These pairs, if their points have this shape and they come from there.

        Raises: ValueError naming what differs.
        """
        if tuple(self.x_1.shape[1:]) != shape:
            raise ValueError(
                f"pairs of another flow: their points have shape {tuple(self.x_1.shape[1:])}, expected {shape}"
            )
        for name, value in origin.items():
            if self.origin.get(name) != value:
                raise ValueError(
                    f"pairs of another flow: their {name} is {self.origin.get(name)}, expected {value}; make pairs of "
                    "this one in another folder"
                )
        return self


class Draw(Protocol):
    """What makes some pairs: ``count`` of them from number ``first`` on, by the numbers of the generator alone."""

    def __call__(self, first: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]: ...


def pushed(
    path: GeodesicPath[Tensor], push: Callable[[Tensor], Tensor], positions: tuple[int, ...] = (), batch: int = 4096
) -> Draw:
    r"""Reflow: source points and where a trained transport carries them, :math:`x_1 = T(x_0)`.

    Arguments:
        path: Of the transport: its source is drawn.
        push: T, such as jumps of a flow map or a solver of its differential equation.
        positions: Of one state.
        batch: States at a time.
    Reference: Liu, Gong, Liu 2022, *Flow straight and fast*, arXiv 2209.03003.
    """

    @torch.no_grad()
    def draw(first: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x_0 = path.start(path.noise((count, *positions), generator))
        return x_0, torch.cat([push(part) for part in x_0.split(batch)])

    return draw


def optimal(path: GeodesicPath[Tensor], x_1: Tensor, group: int = 1024) -> Draw:
    r"""Data and the source points that optimal transport gives them, group by group.

    .. math:: \min_\sigma \sum_i d\big(x_0^{\sigma(i)}, x_1^i\big)^2

    Arguments:
        path: Space and source.
        x_1: Data ``(N, *positions, dim)``, taken in one random order again and again.
        group: Points of one plan, which is exact and takes a time that grows faster than its square.
    Reference: Flamary et al. 2021, *POT: Python optimal transport*; Rehman et al. 2025, arXiv 2506.01158.
    """
    order = torch.randperm(len(x_1), generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def draw(first: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        import ot  # imported here: it takes longer to import than the library

        y = x_1[order[(first + torch.arange(count)) % len(x_1)]]
        x = path.start(path.noise(tuple(y.shape[:-1]), generator)).to(y.dtype)
        plans = []
        for start in range(0, count, group):
            a, b = y[start : start + group].double(), x[start : start + group].double()
            plan = ot.emd([], [], path.space.apart(a, b).numpy(), numItermax=10**7)
            plans.append(start + torch.as_tensor(plan).argmax(1))
        return x[torch.cat(plans)], y

    return draw


def make_pairs(
    folder: str | os.PathLike,
    draw: Draw,
    n: int,
    origin: Mapping[str, str],
    seed: int = 0,
    shard: int = SHARD,
    tell: Callable[[int], None] | None = None,
) -> Pairs:
    """Pairs in a folder, made as far as they are not there; whoever was interrupted goes on where that was.

    Arguments:
        folder: Of ``pairs.json`` and one file a shard.
        draw: What makes them.
        n: How many.
        origin: What ``draw`` is: names and fingerprints.
        seed: Of the source points.
        shard: Pairs a file.
        tell: Called with the number that are there.
    Raises: ValueError if other pairs are in the folder, or a file is not as it was written.
    Invariant: interrupted and continued equals made at once (``tests/data/test_pairs.py``).
    """
    wanted = {"origin": dict(origin), "seed": seed, "shard": shard, "n": n}

    def rows(first: int, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        x_0, x_1 = draw(first, count, generator)
        return {"x_0": x_0.float(), "x_1": x_1.float()}

    FILES.make(Path(folder), rows, wanted, tell)
    return read_pairs(folder)


def read_pairs(folder: str | os.PathLike) -> Pairs:
    """The pairs of a folder, every file checked by its hash.

    Raises: ValueError if there are none, if some are missing, or a file is not as it was written.
    """
    index, rows = FILES.read(Path(folder).expanduser())
    return Pairs(rows["x_0"], rows["x_1"], index["origin"])
