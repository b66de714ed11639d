"""Who gives the targets: the map itself, a running average of it, or a frozen one."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod

from torch import Tensor, nn

from ..ema import EMA
from ..fields import FREE, Condition, S
from ..maps import FlowMap, VelocityMap
from ..networks import TiedHead


class Teacher(nn.Module, ABC):
    """The map whose predictions are targets. Only its network and head count: states are the student's."""

    @abstractmethod
    def forward(self, flow_map: FlowMap) -> FlowMap:
        """The teacher of ``flow_map``, in evaluation mode where it is a copy."""

    def after_step(self, flow_map: FlowMap) -> None:  # noqa: B027
        """Follow the student after an update."""


class Itself(Teacher):
    """Current weights, stop-gradient: plain self-distillation."""

    def forward(self, flow_map: FlowMap) -> FlowMap:
        return flow_map


class Frozen(Teacher):
    """A map that does not change: the second stage of two-stage training, progressive distillation.

    Teacher and student share the student's path, so that a state means the same to both. In an embedded space keep the
    read-in fixed (``flow_map.path.requires_grad_(False)``) if the teacher's targets are to stay exactly what they were.

    Arguments:
        flow_map: The teacher; its network and head are copied.
    Reference: Davis et al. 2026, *Scaling Categorical Flow Maps*, arXiv 2605.07820.
    """

    def __init__(self, flow_map: FlowMap):
        super().__init__()
        self.copy = copy.deepcopy(flow_map).requires_grad_(False).eval()
        _disown(self.copy)

    def train(self, mode: bool = True) -> Frozen:
        super().train(False)
        return self

    def forward(self, flow_map: FlowMap) -> FlowMap:
        vars(self.copy)["path"] = flow_map.path  # an attribute, not a submodule: the teacher owns no path
        return self.copy


def _disown(teacher: FlowMap) -> None:
    """Take its path from a teacher, which is given the student's, but for the matrix that its head reads out with."""
    if not any(isinstance(part, TiedHead) and part.owner in set(teacher.path.modules()) for part in teacher.modules()):
        del teacher.path


class Autoguided(Frozen):
    r"""A frozen velocity map that is pushed away from a weaker one.

    .. math:: v = v_{weak} + w\,(v_{strong} - v_{weak})

    The weak map is a smaller or less trained one of the same data; the student of the guided velocity needs one
    evaluation where the teacher needs two. For endpoint maps: ``Frozen(LogitGuidance(...))``.

    Arguments:
        flow_map: The strong map.
        weak: The weak one, on the same space.
        scale: w; 1 is the strong map itself.
    Raises: ValueError if a map has no velocity to predict, or the scale is not finite.
    Reference: Karras et al. 2024, *Guiding a diffusion model with a bad version of itself*, arXiv 2406.02507; Sabour et
    al. 2025, *Align your flow*, arXiv 2506.14603.
    """

    def __init__(self, flow_map: VelocityMap, weak: VelocityMap, scale: float):
        for each in (flow_map, weak):
            if not isinstance(each, VelocityMap):
                raise ValueError(
                    f"Autoguided extrapolates velocities but a map is a {type(each).__name__}; "
                    "use Frozen(LogitGuidance(...))"
                )
        if not math.isfinite(scale):
            raise ValueError(f"scale is {scale}, expected a finite number")
        super().__init__(VelocityMap(flow_map.path, _Extrapolated(flow_map, weak, scale)))


class _Extrapolated(nn.Module):
    """Predictions of two maps as those of one network."""

    def __init__(self, strong: VelocityMap, weak: VelocityMap, scale: float):
        super().__init__()
        self.strong, self.weak, self.scale = Frozen(strong).copy, Frozen(weak).copy, scale

    def forward(self, x: S, s: Tensor, t: Tensor, condition: Condition = FREE) -> S:
        strong, weak = (each.prediction(each.features(x, s, t, condition)) for each in (self.strong, self.weak))
        return weak + self.scale * (strong - weak)


class Average(EMA[FlowMap], Frozen):
    r"""Moving average of the student over a constant part of the past, then over a constant stretch of it.

    .. math:: \bar\theta \leftarrow d_n\, \bar\theta + (1-d_n)\, \theta, \qquad d_n = \min\Big(d, \frac{1+n}{10+n}\Big)

    A long average early in a run holds the student back, because every level of jumps waits for the one below; hence
    the growing d_n. A short average (d about 0.99) with the Lagrangian objective is terminal velocity matching.

    Arguments:
        flow_map: The student.
        decay: The final d, in [0, 1).
    """

    first = 0

    def __init__(self, flow_map: FlowMap, decay: float = 0.999):
        EMA.__init__(self, flow_map, decay)
        _disown(self.copy)

    def after_step(self, flow_map: FlowMap) -> None:
        self.update(flow_map)
