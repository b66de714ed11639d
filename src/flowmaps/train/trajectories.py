"""Stored paths of a teacher: its endpoint predictions along many solutions of its flow, made once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..data.shards import Numbered
from ..evaluation import predictions, then
from ..fields import across, one_field
from ..maps import EndpointMap
from ..times import check_grid

FILES = Numbered("trajectories", "it holds no trajectories; make them first: flowmaps trajectories", {"times": [float]})
SHARD = 256  # paths of one file
NEAREST = 1 - 2.0**-30  # 1 / (1 - t) of the last time is finite


class Trajectories:
    r"""Euler paths of an endpoint map, kept as where they start and what was predicted on the way.

    .. math:: x_{t_{k+1}} = x_{t_k} + \frac{t_{k+1} - t_k}{1 - t_k}\, (\pi_k - x_{t_k}), \qquad
              \pi_k = \pi_{t_k,t_k}(x_{t_k})

    All states, and the mean endpoint of every jump along a path, are sums of these. With τ = 1 / (1 - t):

    .. math:: x_{t_i} = \frac{1}{\tau_i}\Big(x_0 + \sum_{k<i} (\tau_{k+1} - \tau_k)\, \pi_k\Big), \qquad
              \pi_{t_i,t_j} = \sum_{k=i}^{j-1} \frac{\tau_{k+1} - \tau_k}{\tau_j - \tau_i}\, \pi_k

    so that targets are on the simplex whatever the precision of what is stored.

    Arguments:
        times: ``0 = t_0 < ... < t_M = 1``.
        x_0: Source points ``(n, *positions, K)``.
        pi: Predictions ``(n, M, *positions, K)``.
        origin: What made them: names and fingerprints.
    Raises: ValueError if shapes differ, or a number is not finite.
    """

    def __init__(self, times: Tensor, x_0: Tensor, pi: Tensor, origin: Mapping[str, str]):
        if pi.ndim < 3 or not len(pi) or pi.shape != (len(x_0), len(times) - 1, *x_0.shape[1:]):
            raise ValueError(
                f"predictions have shape {tuple(pi.shape)}, expected {len(times) - 1} along each path from x_0 "
                f"{tuple(x_0.shape)}"
            )
        if not bool(x_0.isfinite().all() and pi.isfinite().all()):
            raise ValueError("trajectories hold numbers that are not finite; make them anew from a sound map")
        self.times, self.x_0, self.pi, self.origin = check_grid(times), x_0, pi, dict(origin)
        self.tau = 1 / (1 - self.times.double().clamp(max=NEAREST))

    def __len__(self) -> int:
        return len(self.x_0)

    @property
    def steps(self) -> int:
        """M, the evaluations of a path."""
        return len(self.times) - 1

    def jumps(self, row: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        """The states of paths at their times i, and the mean endpoints of their jumps from there to times j > i.

        Arguments:
            row, i, j: Which path, and which of its times, ``(m,)``.
        Returns: ``x_s`` and ``pi_st``, each ``(m, *positions, K)`` in float32.
        """
        k, rise = torch.arange(self.steps), self.tau.diff()
        before = torch.where(k < i[:, None], rise, 0) / self.tau[i, None]
        along = torch.where((i[:, None] <= k) & (k < j[:, None]), rise, 0) / (self.tau[j] - self.tau[i])[:, None]
        pi = self.pi[row].float()
        weighted = lambda w: torch.einsum("nk,nk...->n...", w.float(), pi)  # noqa: E731
        x_0 = self.x_0[row].float()
        return across(1 / self.tau[i], x_0) * x_0 + weighted(before), weighted(along)

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
        first, last = (Trajectories(self.times, self.x_0[part], self.pi[part], self.origin) for part in parts)
        return first, last


@torch.no_grad()
def solved(flow_map: EndpointMap[Tensor], x_0: Tensor, times: Tensor, temperature: float = 1.0) -> Tensor:
    """The predictions along the Euler paths from x_0, ``(n, M, *positions, K)``, as they are stored: in float16.

    Arguments:
        flow_map: Of one field.
        x_0: Source points ``(n, *positions, K)``.
        times: ``0 = t_0 < ... < t_M = 1``.
        temperature: Logits are divided by it.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, expected a number above 0")
    x, found = x_0, []
    for s, t in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        at = x.new_full((len(x),), s)
        read = then(flow_map.readout(flow_map.features(x, at, at)), lambda z: flow_map.mean(z / temperature))
        found.append(one_field(predictions(read)).half())
        x = x + (t - s) / (1 - s) * (found[-1].to(x.dtype) - x)
    return torch.stack(found, 1)


def make_trajectories(
    folder: str | os.PathLike,
    flow_map: EndpointMap[Tensor],
    positions: tuple[int, ...],
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
        flow_map: The teacher, in evaluation mode: an endpoint map of one field, perhaps guided.
        positions: Shape of an example.
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

    def draw(first: int, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        x_0 = one_field(flow_map.path.start(flow_map.noise((count, *positions), generator))).half()
        given = x_0.to(flow_map.device, torch.float32).split(batch)
        return {"x_0": x_0, "pi": torch.cat([solved(flow_map, x, grid, temperature).cpu() for x in given])}

    by = {**origin, "temperature": f"{temperature:g}"}
    FILES.make(Path(folder), draw, {"times": grid.tolist(), "origin": by, "seed": seed, "shard": shard, "n": n}, tell)
    return read_trajectories(folder)


def _whole(times: Sequence[float]) -> Tensor:
    """Times that increase from noise to data."""
    grid = check_grid(torch.tensor(times, dtype=torch.float64))
    if grid[0] != 0 or grid[-1] != 1:
        raise ValueError(f"times go from {float(grid[0])} to {float(grid[-1])}, expected 0 to 1: from noise to data")
    return grid


def read_trajectories(folder: str | os.PathLike) -> Trajectories:
    """The paths of a folder, every file checked by its hash.

    Raises: ValueError if there are none, if some are missing, or a file is not as it was written.
    """
    index, rows = FILES.read(Path(folder).expanduser())
    times = torch.tensor(index["times"], dtype=torch.float64)
    return Trajectories(times, rows["x_0"], rows["pi"], index["origin"])
