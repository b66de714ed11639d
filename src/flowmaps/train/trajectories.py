"""Stored paths of a teacher: its endpoint predictions along many solutions of its flow, made once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic

import torch
from torch import Tensor

from ..data import Dataset
from ..data.shards import Numbered
from ..evaluation import predictions, then
from ..fields import (
    FREE,
    Batch,
    Condition,
    Fields,
    S,
    State,
    across,
    cat,
    fieldwise,
    first_leaf,
    leaves,
    like,
    moved,
    select,
    take,
)
from ..maps import EndpointMap, FlowMap
from ..spaces import OneHot, Product
from ..times import check_grid

FILES = Numbered("trajectories", "it holds no trajectories; make them first: flowmaps trajectories", {"times": [float]})
SHARD = 256  # paths of one file
NEAREST = 1 - 2.0**-30  # 1 / (1 - t) of the last time is finite


class Trajectories(Generic[S]):
    r"""Euler paths of an endpoint map, kept as where they start and what was predicted on the way.

    .. math:: x_{t_{k+1}} = x_{t_k} + \frac{t_{k+1} - t_k}{1 - t_k}\, (\pi_k - x_{t_k}), \qquad
              \pi_k = \pi_{t_k,t_k}(x_{t_k})

    All states, and the mean endpoint of every jump along a path, are sums of these. With τ = 1 / (1 - t):

    .. math:: x_{t_i} = \frac{1}{\tau_i}\Big(x_0 + \sum_{k<i} (\tau_{k+1} - \tau_k)\, \pi_k\Big), \qquad
              \pi_{t_i,t_j} = \sum_{k=i}^{j-1} \frac{\tau_{k+1} - \tau_k}{\tau_j - \tau_i}\, \pi_k

    so that targets are on the simplex whatever the precision of what is stored.

    Arguments:
        times: ``0 = t_0 < ... < t_M = 1``.
        x_0: Source points ``(n, *positions, K)`` per field, with what is given clean at known positions.
        pi: Predictions ``(n, M, *positions, K)`` per field.
        origin: What made them: names and fingerprints.
        condition: What the map was told of each path.
    Raises: ValueError if shapes differ, or a number is not finite.
    """

    def __init__(self, times: Tensor, x_0: S, pi: S, origin: Mapping[str, str], condition: Condition = FREE):
        for x, p in leaves(x_0, pi):
            if p.ndim < 3 or not len(p) or p.shape != (len(x), len(times) - 1, *x.shape[1:]):
                raise ValueError(
                    f"predictions have shape {tuple(p.shape)}, expected {len(times) - 1} along each path from x_0 "
                    f"{tuple(x.shape)}"
                )
            if not bool(x.isfinite().all() and p.isfinite().all()):
                raise ValueError("trajectories hold numbers that are not finite; make them anew from a sound map")
        self.times, self.x_0, self.pi, self.condition = check_grid(times), x_0, pi, condition
        self.origin = dict(origin)
        self.tau = 1 / (1 - self.times.double().clamp(max=NEAREST))

    def __len__(self) -> int:
        return len(first_leaf(self.x_0))

    @property
    def steps(self) -> int:
        """M, the evaluations of a path."""
        return len(self.times) - 1

    def jumps(self, row: Tensor, i: Tensor, j: Tensor) -> tuple[S, S, Condition]:
        """The states of paths at their times i, and the mean endpoints of their jumps from there to times j > i.

        Arguments:
            row, i, j: Which path, and which of its times, ``(m,)``.
        Returns: ``x_s`` and ``pi_st``, each ``(m, *positions, K)`` per field in float32, and their conditions.
        """
        k, rise = torch.arange(self.steps), self.tau.diff()
        before = torch.where(k < i[:, None], rise, 0) / self.tau[i, None]
        along = torch.where((i[:, None] <= k) & (k < j[:, None]), rise, 0) / (self.tau[j] - self.tau[i])[:, None]
        x_0, pi = (take(x, row).to(torch.float32) for x in (self.x_0, self.pi))
        sums = lambda w: fieldwise(lambda p: torch.einsum("nk,nk...->n...", w.float(), p), pi)  # noqa: E731
        return across(1 / self.tau[i], x_0) * x_0 + sums(before), sums(along), select(self.condition, row)

    @staticmethod
    def nearest(t: Tensor, times: Tensor) -> Tensor:
        """Which of the times is nearest to each of ``t``."""
        return (t[:, None] - times.to(t)).abs().argmin(-1)

    def parted(self, held_out: int) -> tuple[Trajectories, Trajectories]:
        """All but the last ``held_out`` paths, and those."""
        if not 0 < held_out < len(self):
            raise ValueError(f"held_out is {held_out}, expected a number of paths from 1 to below {len(self)}")
        cut = len(self) - held_out
        parts = (slice(None, cut), slice(cut, None))
        first, last = (
            Trajectories(
                self.times, take(self.x_0, part), take(self.pi, part), self.origin, select(self.condition, part)
            )
            for part in parts
        )
        return first, last


@torch.no_grad()
def solved(flow_map: EndpointMap[S], x_0: S, times: Tensor, temperature: float = 1.0, condition: Condition = FREE) -> S:
    """The predictions along the Euler paths from x_0, ``(n, M, *positions, K)``, as they are stored: in float16.

    Arguments:
        x_0: Source points ``(n, *positions, K)``, clean where positions are known.
        times: ``0 = t_0 < ... < t_M = 1``.
        temperature: Logits are divided by it.
        condition: What the map is told; known positions stay as they are.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, expected a number above 0")
    x, found = x_0, list[S]()
    for s, t in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        at = first_leaf(x).new_full((len(first_leaf(x)),), s)
        h = flow_map.features(x, at, at, condition)
        pi = like(predictions(then(flow_map.readout(h), lambda z: flow_map.mean(z / temperature))), x)
        found.append(flow_map.path.clamp(pi, x_0, condition).to(torch.float16))  # pyright: ignore[reportArgumentType]  (a state like x)
        x = x + (t - s) / (1 - s) * (like(found[-1], x) - x)
    return fieldwise(lambda *each: torch.stack(each, 1), *found)


def make_trajectories(
    folder: str | os.PathLike,
    flow_map: EndpointMap,
    examples: Dataset,
    times: Sequence[float],
    n: int,
    origin: Mapping[str, str],
    *,
    temperature: float = 1.0,
    seed: int = 0,
    shard: int = SHARD,
    batch: int = 32,
    tell: Callable[[int], None] | None = None,
) -> Trajectories:
    """Paths in a folder, made as far as they are not there; whoever was interrupted goes on where that was.

    Arguments:
        folder: Of ``trajectories.json`` and one file a shard.
        flow_map: The teacher, in evaluation mode: any endpoint map, perhaps guided.
        examples: Training data, whose sizes, labels and prompts the paths have.
        times: ``0 = t_0 < ... < t_M = 1``, one evaluation for each but the last.
        n, shard, batch: How many paths, in a file, and at a time.
        origin: What the teacher is: names and fingerprints.
        temperature: Of its predictions; below 1 its flow is surer than the teacher.
        seed: Of the source points.
        tell: Called with the number that are there.
    Raises: ValueError if other paths are in the folder, or a file is not as it was written.
    Invariant: interrupted and continued equals made at once (``tests/train/test_trajectories.py``).
    """
    grid = _whole(times)
    require_one_hot(flow_map)

    def draw(first: int, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        index = torch.randint(len(examples), (count,), generator=generator)
        return _drawn(flow_map, examples.batch(index), grid, temperature, batch, generator)

    by = {**origin, "temperature": f"{temperature:g}"}
    FILES.make(Path(folder), draw, {"times": grid.tolist(), "origin": by, "seed": seed, "shard": shard, "n": n}, tell)
    return read_trajectories(folder)


def require_one_hot(flow_map: FlowMap) -> None:
    """Refuse a map whose states are no sums of noise and predictions.

    Raises: ValueError naming what it is.
    """
    space = flow_map.space
    spaces = list(space.spaces.values()) if isinstance(space, Product) else [space]
    if not isinstance(flow_map, EndpointMap) or not all(type(each) is OneHot for each in spaces):
        kinds = ", ".join(dict.fromkeys(type(each).__name__ for each in spaces))
        raise ValueError(
            f"trajectories are of endpoint maps in one-hot states, but this is a {type(flow_map).__name__} on {kinds}; "
            "train its jumps by TwoStage"
        )


def _whole(times: Sequence[float]) -> Tensor:
    """Times that increase from noise to data."""
    grid = check_grid(torch.tensor(times, dtype=torch.float64))
    if grid[0] != 0 or grid[-1] != 1:
        raise ValueError(f"times go from {float(grid[0])} to {float(grid[-1])}, expected 0 to 1: from noise to data")
    return grid


def _drawn(
    flow_map: EndpointMap, examples: Batch, times: Tensor, temperature: float, batch: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Paths under the conditions of some examples, as they are stored."""
    path, x_1 = flow_map.path, examples.x_1
    x_0 = path.start(flow_map.noise(path.space.positions(x_1), generator))
    x_0 = path.clamp(x_0, path.space.encode(x_1), examples.condition)
    x_0 = x_0.to(torch.float16)
    found = []
    for first in range(0, len(first_leaf(x_0)), batch):
        given = take(x_0, slice(first, first + batch)), select(examples.condition, slice(first, first + batch))
        start, condition = moved(given, flow_map.device)
        pi = solved(flow_map, start.to(torch.float32), times, temperature, condition)
        found.append(moved(pi, torch.device("cpu")))
    named = {"x_0": x_0, "pi": cat(found), **examples.condition._asdict()}
    return {f"{name}.{field}" if field else name: x for name, tree in named.items() if tree is not None
            for field, x in (tree.items() if isinstance(tree, Mapping) else [("", tree)])}  # fmt: skip


def _tree(rows: Mapping[str, Tensor], name: str) -> State | None:
    """The tensor of a name, or those of its fields; ``None`` if there are none."""
    found = {field: x for (first, _, field), x in ((key.partition("."), x) for key, x in rows.items()) if first == name}
    return found.get("", Fields(found)) if found else None


def read_trajectories(folder: str | os.PathLike) -> Trajectories:
    """The paths of a folder, every file checked by its hash.

    Raises: ValueError if there are none, if some are missing, or a file is not as it was written.
    """
    index, rows = FILES.read(Path(folder).expanduser())
    times = torch.tensor(index["times"], dtype=torch.float64)
    x_0, pi, mask, known = (_tree(rows, name) for name in ("x_0", "pi", "mask", "known"))
    if x_0 is None or pi is None:
        raise ValueError(f"{folder} holds no x_0 and pi; remove it and make the trajectories again")
    return Trajectories(times, x_0, pi, index["origin"], Condition(mask, known, rows.get("label")))  # pyright: ignore[reportArgumentType]  (both of one kind)
