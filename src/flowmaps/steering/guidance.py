r"""Guidance: extrapolate from a weak prediction through a strong one, under the interface of a flow map.

.. math:: \text{weak} + w\,(\text{strong} - \text{weak})

w = 0 is the weak map, w = 1 the strong one, both bit for bit. With the same map whose label is dropped as the weak one
this is classifier-free guidance; with a smaller or less trained map it is autoguidance.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Generic

import torch
from torch import Tensor, nn

from ..evaluation import Readout, Readouts, free_positions, then, wide
from ..fields import FREE, Condition, S, across, cat, like, take, zeros_like
from ..maps import EndpointMap
from ..networks.heads import Head

Scale = float | Callable[[Tensor], Tensor]


def without_label(condition: Condition) -> Condition:
    """What the unconditional branch of classifier-free guidance sees: everything but the label."""
    return condition._replace(label=None)


def without_known(condition: Condition) -> Condition:
    """Hide the known positions as if they did not exist: guidance by a prompt or the rim of a gap.

    For networks trained with masks (padding) of such shapes.
    """
    if condition.known is None:
        return condition
    return condition._replace(known=None, mask=free_positions(condition.known, condition))


def unchanged(condition: Condition) -> Condition:
    return condition


def interval(scale: float, low: float, high: float, outside: float = 1.0) -> Callable[[Tensor], Tensor]:
    """A schedule that guides only at times in [low, high) (Kynkäänniemi et al. 2024, arXiv 2404.07724)."""
    if not 0 <= low < high <= 1:
        raise ValueError(f"the interval is [{low}, {high}), expected 0 <= low < high <= 1")
    return lambda t: torch.where((t >= low) & (t < high), scale, outside)


def ramp(start: float, end: float) -> Callable[[Tensor], Tensor]:
    """A schedule that goes linearly from ``start`` at noise to ``end`` at data."""
    return lambda t: start + (end - start) * t


class Pair(nn.Module, Generic[S]):
    """The two maps as one network: the scale, and the features of both, side by side."""

    def __init__(
        self, strong: EndpointMap[S], weak: EndpointMap[S], scale: Scale, weaken: Callable[[Condition], Condition]
    ):
        super().__init__()
        self.strong, self.weak, self.scale, self.weaken = strong, weak, scale, weaken

    def forward(self, x: S, s: Tensor, t: Tensor, condition: Condition = FREE) -> S:
        constant = None if callable(self.scale) else self.scale
        features = [] if constant == 0 else [self.strong.features(x, s, t, condition)]
        if constant != 1:
            features.append(self.weak.features(x, s, t, self.weaken(condition)))
        w, h = self.scale(s) if callable(self.scale) else torch.full_like(s, self.scale), features[0]
        column = zeros_like(take(h, (..., slice(0, 1)))) + across(w, h)
        return cat([column, *(like(each, h) for each in features)], dim=-1)


class Guidance(EndpointMap[S]):
    r"""A guided endpoint map; subclasses say what is extrapolated.

    A constant scale of 0 or 1 costs one network evaluation, any other two. On the diagonal the result is the guided
    posterior, which every sampler of the flow can use. A jump of it extrapolates mean endpoints: it is a flow map
    exactly only at w = 0 and w = 1, and in the limit of short steps. What the guided flow samples is not the geometric
    average of the two distributions; :class:`~flowmaps.steering.correctors.Corrector` supplies the missing weights.

    Arguments:
        flow_map: The strong map.
        scale: w, a number or a function of the times ``(*batch,)``.
        weak: The weak map, on the same space; by default the strong one with a weakened condition.
        weaken: What the weak map sees of it; without the label by default if the maps are the same, else unchanged.
    Raises: ValueError if a map has no endpoint, or the two live on alphabets of different sizes, embed them differently
        or start from different sources.
    Invariant: w = 0 and w = 1 reproduce the samples of the weak and the strong map bit for bit
        (``tests/steering/test_guidance.py``).
    Reference: Ho and Salimans 2022, *Classifier-free diffusion guidance*, arXiv 2207.12598; Karras et al. 2024,
    *Guiding a diffusion model with a bad version of itself*, arXiv 2406.02507.
    """

    network: Pair[S]

    def __init__(
        self,
        flow_map: EndpointMap[S],
        scale: Scale,
        weak: EndpointMap[S] | None = None,
        weaken: Callable[[Condition], Condition] | None = None,
    ):
        for each in (flow_map, weak or flow_map):
            if not isinstance(each, EndpointMap):
                raise ValueError(f"guidance extrapolates endpoints but the map is a {type(each).__name__}")
        if weak is not None and weak.space.sizes() != flow_map.space.sizes():
            sizes = f"{flow_map.space.sizes()} and {weak.space.sizes()}"
            raise ValueError(f"the maps have {sizes} categories; guide with a map of the same alphabet")
        if weak is not None and type(weak.path.source) is not type(flow_map.path.source):
            sources = f"{type(flow_map.path.source).__name__} and {type(weak.path.source).__name__}"
            raise ValueError(f"the maps start from {sources}; guide with a map of the same source")
        if weak is not None and not _same_weights(weak.space, flow_map.space):
            raise ValueError(
                "the maps read categories into different vectors, so the weak one cannot read the states of the other; "
                "guide with a map of the same embedding, or lower the temperature"
            )
        if not callable(scale) and not torch.tensor(float(scale)).isfinite():
            raise ValueError(f"scale is {scale}, expected a finite number or a function of time")
        weaken = weaken or (without_label if weak is None else unchanged)
        super().__init__(flow_map.path, Pair(flow_map, weak or flow_map, scale, weaken), chunk=flow_map.chunk)

    @abstractmethod
    def predict(self, z: Tensor) -> Tensor:
        """What is extrapolated, from the logits of one map."""

    @property
    def chosen(self) -> EndpointMap[S] | None:
        """The only map that counts under a constant scale of 0 or 1."""
        scale = self.network.scale
        if callable(scale) or scale not in (0, 1):
            return None
        return self.network.strong if scale == 1 else self.network.weak

    def readout(self, h: S) -> Readouts:
        if self.chosen is not None:
            return then(self.chosen.readout(_alone(h)), self.predict)
        joint = lambda space, *parts: self._joint(space.K, *parts)  # noqa: E731
        return self.space.each(joint, h, self.network.strong.heads, self.network.weak.heads)

    def tangent(self, dh: S) -> Readouts:
        raise ValueError("a guided map is not trained; make it the frozen teacher of a plain one to distil it")

    def _joint(self, K: int, h: Tensor, strong: nn.Module, weak: nn.Module) -> Readout:
        features = strong.matrix.shape[-1] if isinstance(strong, Head) else K

        def read(h: Tensor) -> Tensor:
            w, h = wide(h[..., :1]), h[..., 1:]
            a = self.predict(wide(strong(h[..., :features])))
            b = self.predict(wide(weak(h[..., features:])))
            return torch.where(w == 0, b, torch.where(w == 1, a, b + w * (a - b)))

        return Readout(read, h)


class LogitGuidance(Guidance):
    r"""Guidance of the logits: always a point of the simplex.

    .. math:: z = z_{weak} + w\,(z_{strong} - z_{weak})
    """

    def predict(self, z: Tensor) -> Tensor:
        return z


class VelocityGuidance(Guidance):
    r"""Guidance of the velocities, hence of the mean endpoints: linear, may leave the simplex for w outside [0, 1].

    .. math:: v = v_{weak} + w\,(v_{strong} - v_{weak})
    """

    def predict(self, z: Tensor) -> Tensor:
        return wide(z).log_softmax(-1).exp()

    def mean(self, z: Tensor) -> Tensor:
        return z

    def final(self, x: S, h: S, s: Tensor) -> Readouts:
        if self.chosen is not None:
            return self.chosen.final(x, _alone(h), s)
        return then(self.readout(h), lambda pi: pi.clamp(min=torch.finfo(pi.dtype).tiny).log())


def _same_weights(a: nn.Module, b: nn.Module) -> bool:
    """Whether two spaces have the same weights, such as the matrix of an embedding, or both none."""
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(w, theirs[name].to(w)) for name, w in ours.items())


def _alone(h: S) -> S:
    """The features of the only map that counts, without the column of the scale."""
    return take(h, (..., slice(1, None)))
