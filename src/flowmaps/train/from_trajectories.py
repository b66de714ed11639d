"""Few jumps learned from stored paths of a flow: no teacher runs while they are learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..evaluation import Evaluation, per_example, plain, shared_sums
from ..fields import Batch, Condition, State, moved, select, take
from ..maps import EndpointMap
from ..objectives import Distilled, SelfDistillation, self_distillation
from ..objectives.diagonal import divergence
from ..times import PairLaw, TimeLaw
from .trajectories import read_trajectories, require_one_hot
from .two_stage import Autoguidance, load_base

HELD_OUT = 0.02  # of the paths, by which the jumps are validated


class Stored(NamedTuple):
    """What the diagonal draws, then jumps of stored paths: states, mean endpoints, their conditions, and times
    ``(jumps,)``."""

    here: self_distillation.Draw
    x_s: State
    pi: State
    condition: Condition
    s: Tensor
    t: Tensor


class FromTrajectories(SelfDistillation):
    r"""Regression of jumps on stored paths of a flow.

    .. math:: L = \mathbb{E}_t\, \mathrm{KL}\big(\pi^*_{t,t}(x_t) \,\|\, \pi_{t,t}(x_t)\big) + c\,
              \mathbb{E}_{\text{paths}}\, \mathbb{E}_{i<j}\,
              \mathrm{KL}\big(\pi^*_{t_i,t_j} \,\|\, \pi_{t_i,t_j}(x_{t_i})\big)

    The map starts from the flow that made the paths (:mod:`flowmaps.train.trajectories`). Off the diagonal it learns
    their mean endpoints, for which no map is evaluated; times are drawn like those of self-distillation and moved to
    the nearest ones of the paths. On the diagonal it stays what it was, at the temperature of the paths, on states
    above the data. Targets do not improve while it learns, and do not drift.

    Arguments:
        flow_map: The flow map in training, of the architecture of the base.
        base: The checkpoint that made the paths.
        trajectories: Folder of the paths.
        times, pairs, share, strength, emphasis: As in :class:`~flowmaps.objectives.SelfDistillation`.
        guide: What the diagonal learns, if the paths are guided; by default the base at their temperature.
    Raises: CheckpointError if there is no such checkpoint or it does not fit. ValueError if there are no paths, or the
        map is no endpoint map in one-hot states.
    Invariant: on the flow of a known law it converges to the exact jumps (``tests/train/test_from_trajectories.py``).
    Reference: Luhman and Luhman 2021, *Knowledge distillation in iterative generative models*, arXiv 2101.02388 (of a
        whole path at once); Zheng et al. 2023, *Fast sampling of diffusion models via operator learning*, arXiv
        2211.13449 (of all of its times).
    """

    def __init__(
        self,
        flow_map: EndpointMap,
        base: str,
        trajectories: str,
        *,
        times: TimeLaw | None = None,
        pairs: PairLaw | None = None,
        share: float = 0.25,
        strength: float = 1.0,
        emphasis: Mapping[str, float] | None = None,
        guide: Autoguidance | None = None,
    ):
        require_one_hot(flow_map)
        paths = read_trajectories(trajectories)
        load_base(flow_map, base)
        diagonal = guide(flow_map) if guide else Distilled(flow_map, float(paths.origin.get("temperature", 1)))
        super().__init__(flow_map, diagonal=diagonal, times=times, pairs=pairs, share=share, strength=strength,
                         teacher=None, emphasis=emphasis)  # fmt: skip
        self.learned, self.held_out = paths.parted(max(round(HELD_OUT * len(paths)), 1))

    def draw(self, batch: Batch, generator: torch.Generator) -> Stored:  # pyright: ignore[reportIncompatibleMethodOverride]  (it draws more)
        here = super().draw(batch, generator)
        paths = self.learned if self.training else self.held_out
        s, t = here.s[here.m :].cpu(), here.t[here.m :].cpu()
        u = torch.rand(s.shape, generator=generator, device=here.s.device).cpu()
        row = (u * len(paths)).long().clamp(max=len(paths) - 1)
        i, j = paths.nearest(s, paths.times[:-1]), paths.nearest(t, paths.times)
        j = torch.maximum(i + 1, j)
        s, t = (paths.times[k].to(here.s) for k in (i, j))
        return Stored(here, *moved(paths.jumps(row, i, j), here.s.device), s, t)

    def forward(self, batch: Batch, draw: Stored) -> dict[str, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]  (it draws more)
        m, sums = draw.here.m, shared_sums(draw.x_s)
        on, off = {}, {}
        if m:
            on = self._on(self.jump(*super().apart(batch, draw.here)[0]), sums)
        if len(draw.s):
            flow_map = self.flow_map
            mean = lambda values: per_example(values, draw.condition, self.emphasis).mean()  # noqa: E731
            evaluate = Evaluation.weighted(flow_map.chunk, lambda v: self.strength * mean(v), draw.x_s, sums)
            z = flow_map.readout(flow_map.features(draw.x_s, draw.s, draw.t, draw.condition))
            loss = mean(evaluate(lambda z, pi: divergence(pi, z), z, plain(draw.pi))["loss"])
            off = {"loss": self.strength * loss, "off_diagonal": loss.detach()}
        losses = [terms.pop("loss") for terms in (on, off) if terms]
        return {"loss": sum(losses[1:], losses[0]), **on, **off}

    def apart(self, batch: Batch, draw: Stored) -> tuple[tuple[Batch, Stored], tuple[Batch, Stored]]:  # pyright: ignore[reportIncompatibleMethodOverride]  (it draws more)
        """The samples on the diagonal, and the stored jumps; their losses sum to that of all."""
        none = slice(0, 0)
        here, on = super().apart(batch, draw.here)[0]
        empty = Stored(on, take(draw.x_s, none), take(draw.pi, none), select(draw.condition, none), draw.s[none],
                       draw.t[none])  # fmt: skip
        return (here, empty), (batch, draw._replace(here=draw.here._replace(m=0)))
