"""Who gives the targets: the map itself, a running average of it, or a frozen one."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ..maps import FlowMap


class Teacher(nn.Module, ABC):
    """The map whose predictions are targets. Only its network and head count: states are the student's."""

    @abstractmethod
    def forward(self, map: FlowMap) -> FlowMap:
        """The teacher of ``map``, in evaluation mode where it is a copy."""

    def after_step(self, map: FlowMap) -> None:  # noqa: B027
        """Follow the student after an update."""


class Itself(Teacher):
    """Current weights, stop-gradient: plain self-distillation."""

    def forward(self, map: FlowMap) -> FlowMap:
        return map


class Frozen(Teacher):
    """A map that does not change: the second stage of two-stage training, progressive distillation.

    Teacher and student share the student's path, so that a state means the same to both. In an embedded space keep the
    read-in fixed (``map.path.requires_grad_(False)``) if the teacher's targets are to stay exactly what they were.

    Arguments:
        map: The teacher; its network and head are copied.
    Reference: Davis et al. 2026, *Scaling Categorical Flow Maps*, arXiv 2605.07820.
    """

    def __init__(self, map: FlowMap):
        super().__init__()
        self.copy = copy.deepcopy(map).requires_grad_(False).eval()
        del self.copy.path

    def train(self, mode: bool = True) -> Frozen:
        super().train(False)
        return self

    def forward(self, map: FlowMap) -> FlowMap:
        vars(self.copy)["path"] = map.path  # an attribute, not a submodule: the teacher owns no path
        return self.copy


class Average(Frozen):
    r"""Moving average of the student over a constant part of the past, then over a constant stretch of it.

    .. math:: \bar\theta \leftarrow d_n\, \bar\theta + (1-d_n)\, \theta, \qquad d_n = \min\Big(d, \frac{1+n}{10+n}\Big)

    A long average early in a run holds the student back, because every level of jumps waits for the one below; hence
    the growing d_n. A short average (d about 0.99) with the Lagrangian objective is terminal velocity matching.

    Arguments:
        map: The student.
        decay: The final d, in [0, 1).
    """

    updates: Tensor

    def __init__(self, map: FlowMap, decay: float = 0.999):
        super().__init__(map)
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}, expected a number in [0, 1)")
        self.decay = decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.float64))  # a tensor: no synchronisation, and saved

    @torch.no_grad()
    def after_step(self, map: FlowMap) -> None:
        weights, buffers = dict(map.named_parameters()), dict(map.named_buffers())
        part = 1 - ((1 + self.updates) / (10 + self.updates)).clamp(max=self.decay)
        self.updates += 1
        for name, mean in self.copy.named_parameters():
            mean.lerp_(weights[name], part.to(mean.dtype))
        for name, mean in self.copy.named_buffers():
            mean.copy_(buffers[name])
