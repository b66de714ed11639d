"""Invertibility of jumps, which the likelihood of few-step maps rests on."""

from __future__ import annotations

from ..evaluation import Evaluation
from ..fields import S
from ..maps import FlowMap
from .base import Consistency, Jump


class Cycle(Consistency):
    r"""Another identity, and that a jump back in time finds where it came from.

    .. math:: L = L_{\text{identity}} + \lambda\, \|\log_{x_s} X_{t,s}(X_{s,t}(x_s))\|^2_{x_s}, \qquad s < t

    The map must be one whose jumps also go backwards, a :class:`~flowmaps.maps.VelocityMap`; nothing else trains
    those. Values of :class:`~flowmaps.maps.FewStep` mean nothing without it.

    Arguments:
        consistency: The identity of the flow.
        strength: λ.
    Returns: also ``cycle``, the squared distance.
    Invariant: on an exact map the second term is 0 (``tests/maps/test_few_step.py``).
    Reference: Rehman et al. 2025, *FALCON*, arXiv 2512.09914.
    """

    def __init__(self, consistency: Consistency, strength: float = 1.0):
        super().__init__(consistency.derivative)
        if not strength >= 0:
            raise ValueError(f"strength is {strength}, expected a factor of the cycle that is not negative")
        self.consistency, self.strength = consistency, strength

    def forward(
        self, flow_map: FlowMap[S], teacher: FlowMap[S], jump: Jump[S], evaluate: Evaluation[S] | None = None
    ) -> dict[str, S]:
        values = self.consistency(flow_map, teacher, jump, evaluate)
        x_t = flow_map(jump.x_s, jump.s, jump.t, jump.condition)
        r = flow_map.space.log(jump.x_s, flow_map(x_t, jump.t, jump.s, jump.condition))
        cycle = flow_map.space.inner(jump.x_s, r, r)
        return {**values, "loss": values["loss"] + self.strength * cycle, "cycle": cycle}

    def after_step(self) -> None:
        self.consistency.after_step()
