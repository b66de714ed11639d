"""The objective on held-out data, with data and noise always the same, so that two numbers differ by the weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data import Dataset
from ..objectives import Objective
from .parallel import reduced
from .strategy import Gathered, Mixed
from .stream import generator

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class Validation:
    """Held-out loss, and every other scalar of the objective, averaged over a fixed choice of data.

    Arguments:
        data: Held-out data set.
        examples: At most so many of it, chosen by the seed.
        batch_size: At most so many in a forward pass; the passes are of equal size, give or take one.
        seed: Chooses data, times and noise.
    Raises: ValueError if there is no held-out example.
    """

    def __init__(self, data: Dataset, examples: int, batch_size: int, seed: int):
        if len(data) < 1:
            raise ValueError("the held-out data hold 0 examples; give at least one, or None for no validation")
        rows = torch.randperm(len(data), generator=generator("cpu", seed, "valid"))[:examples]
        self.data, self.seed, self.parts = data, seed, rows.tensor_split(math.ceil(len(rows) / batch_size))
        self.count = len(rows)

    @torch.no_grad()
    def __call__(self, objective: Objective | Mixed | Gathered, fabric: Fabric) -> dict[str, float]:
        """The means over all processes, each of which takes its share of the batches."""
        sums: dict[str, Tensor] = {}
        for first in range(
            0, len(self.parts), fabric.world_size
        ):  # processes pass together, each with its part or none
            counted = (i := first + fabric.global_rank) < len(self.parts)
            i = i if counted else 0
            rows = self.parts[i] if len(self.parts[i]) > 1 else self.parts[i].repeat(2)  # on and off the diagonal
            batch = fabric.to_device(self.data.batch(rows))  # pyright: ignore[reportArgumentType]  (Fabric moves named tuples, too)
            draw = objective.draw(batch, generator(fabric.device, self.seed, "valid", i))
            with fabric.autocast():
                values = objective(batch, draw)
            weight = len(self.parts[i]) / self.count if counted else 0.0
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + weight * value.float()
        names = sorted(sums)
        total = reduced(fabric, torch.stack([sums[name] for name in names]), "sum")
        return dict(zip(names, total.tolist(), strict=True))
