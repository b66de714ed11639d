"""The objective on held-out data, always the same data and the same noise, so that two numbers differ by the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .stream import generator


class Validation:
    """Held-out loss, and every other scalar of the objective, averaged over a fixed choice of data.

    Arguments:
        data: Held-out data set.
        examples: At most so many of it, chosen by the seed.
        batch_size: Examples per forward pass.
        seed: Chooses data, times and noise.
    Raises: ValueError if there is no held-out example.
    """

    def __init__(self, data: Any, examples: int, batch_size: int, seed: int):
        if len(data) < 1 or examples < 1:
            raise ValueError(f"{examples} of {len(data)} held-out examples; give at least one, or no validation data")
        rows = torch.randperm(len(data), generator=generator("cpu", seed, "valid"))[:examples]
        self.data, self.seed, self.parts = data, seed, rows.split(batch_size)

    @torch.no_grad()
    def __call__(self, objective: nn.Module, fabric: Any) -> dict[str, float]:
        """The means over all processes, each of which takes its share of the batches."""
        mine = range(fabric.global_rank, len(self.parts), fabric.world_size)
        sums: dict[str, Tensor] = {}
        for i in mine or [0]:  # a process without a share still learns the names, with no weight
            batch = fabric.to_device(self.data.batch(self.parts[i]))
            draw = objective.draw(batch, generator(fabric.device, self.seed, "valid", i))  # pyright: ignore
            with fabric.autocast():
                values = objective(batch, draw)
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value.detach().float() * (len(self.parts[i]) if mine else 0)
        names = sorted(sums)
        total = fabric.all_reduce(torch.stack([sums[name] for name in names]), reduce_op="sum")
        count = sum(len(part) for part in self.parts)
        return {name: value / count for name, value in zip(names, total.tolist(), strict=True)}
