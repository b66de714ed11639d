"""Published methods that are special cases, by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict, Unpack

from torch import nn

from ..maps import FlowMap
from ..paths import Coupling
from ..times import PairLaw, TimeLaw, ToData
from .diagonal import Diagonal
from .eulerian import Eulerian
from .lagrangian import EndpointConsistency, Lagrangian
from .self_distillation import SelfDistillation
from .semigroup import Semigroup
from .teachers import Average, Frozen, Teacher
from .weights import AdaptiveWeight


class Options(TypedDict, total=False):
    """What else :class:`SelfDistillation` takes."""

    diagonal: Diagonal | None
    times: TimeLaw | None
    pairs: PairLaw | None
    share: float
    strength: float
    weight: nn.Module | None
    coupling: Coupling | None
    emphasis: Mapping[str, float] | None


def consistency_training(flow_map: FlowMap, **options: Unpack[Options]) -> SelfDistillation:
    """Eulerian with t = 1 and the example's own velocity (Song et al. 2023, *Consistency models*, arXiv 2303.01469)."""
    options.setdefault("pairs", ToData())
    return SelfDistillation(flow_map, Eulerian(from_data=True), **options)


def shortcut(flow_map: FlowMap, **options: Unpack[Options]) -> SelfDistillation:
    """Semigroup at the midpoint (Frans et al. 2024, arXiv 2410.12557)."""
    return SelfDistillation(flow_map, Semigroup(fraction=0.5), **options)


def mean_flow(flow_map: FlowMap, **options: Unpack[Options]) -> SelfDistillation:
    """Eulerian with the example's velocity and the adaptive weight (Geng et al. 2025, arXiv 2505.13447)."""
    options.setdefault("weight", AdaptiveWeight())
    return SelfDistillation(flow_map, Eulerian(from_data=True), **options)


def progressive_distillation(flow_map: FlowMap, teacher: FlowMap, **options: Unpack[Options]) -> SelfDistillation:
    """Semigroup at the midpoint, targets from a frozen map (Salimans and Ho 2022, arXiv 2202.00512)."""
    return SelfDistillation(flow_map, Semigroup(fraction=0.5), teacher=Frozen(teacher), **options)


def align_your_flow_eulerian(
    flow_map: FlowMap, teacher: FlowMap | Teacher, warm_up: int = 10_000, **options: Unpack[Options]
) -> SelfDistillation:
    """AYF-EMD: Eulerian with a frozen teacher's velocity, residuals normalised and the derivative warmed up over 10,000
    updates (Sabour et al. 2025, arXiv 2506.14603); an ``Autoguided`` teacher is the published option."""
    eulerian = Eulerian(normalise=0.1, warm_up=warm_up, limit=0.99)
    return SelfDistillation(flow_map, eulerian, teacher=_frozen(teacher), **options)


def align_your_flow_lagrangian(
    flow_map: FlowMap, teacher: FlowMap | Teacher, **options: Unpack[Options]
) -> SelfDistillation:
    """AYF-LMD: Lagrangian, gradient through π_st alone, frozen teacher (Sabour et al. 2025, arXiv 2506.14603)."""
    return SelfDistillation(flow_map, Lagrangian(through_tangent=False), teacher=_frozen(teacher), **options)


def lagrangian_map_distillation(flow_map: FlowMap, teacher: FlowMap, **options: Unpack[Options]) -> SelfDistillation:
    """LMD: the flow map of a given velocity, by the Lagrangian identity (Boffi et al. 2024, arXiv 2406.07507)."""
    return SelfDistillation(flow_map, Lagrangian(), teacher=Frozen(teacher), **options)


def eulerian_map_distillation(flow_map: FlowMap, teacher: FlowMap, **options: Unpack[Options]) -> SelfDistillation:
    """EMD: the flow map of a given velocity, by the Eulerian identity (Boffi et al. 2024, arXiv 2406.07507)."""
    return SelfDistillation(flow_map, Eulerian(), teacher=Frozen(teacher), **options)


def terminal_velocity_matching(flow_map: FlowMap, decay: float = 0.99, **options: Unpack[Options]) -> SelfDistillation:
    """Lagrangian with a short running average as the teacher (Zhou et al. 2025, *Terminal velocity matching*)."""
    return SelfDistillation(flow_map, Lagrangian(), teacher=Average(flow_map, decay), **options)


def categorical_flow_map(flow_map: FlowMap, bounded: bool = True, **options: Unpack[Options]) -> SelfDistillation:
    """ECLD, or CSD with ``bounded=False`` (Roos et al. 2026, arXiv 2602.12233).

    No full jumps, of which neither asks anything. For text the authors add the mean losses on the diagonal and off it,
    as is done here; for graphs they average over all examples of a batch: ``strength=(1 - share) / share``, a third.
    """
    return SelfDistillation(flow_map, EndpointConsistency() if bounded else Lagrangian(), **options)


def _frozen(teacher: FlowMap | Teacher) -> Teacher:
    return teacher if isinstance(teacher, Teacher) else Frozen(teacher)
