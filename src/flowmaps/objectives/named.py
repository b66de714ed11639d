"""Published methods that are special cases, by their names."""

from __future__ import annotations

from typing import Any

from ..maps import FlowMap
from ..times import FullJump, ToData, Triangle
from .eulerian import Eulerian
from .lagrangian import EndpointConsistency, Lagrangian
from .self_distillation import SelfDistillation
from .semigroup import Semigroup
from .teachers import Average, Frozen
from .weights import AdaptiveWeight


def consistency_training(map: FlowMap, **options: Any) -> SelfDistillation:
    """Eulerian with t = 1 and the datum's own velocity (Song et al. 2023, *Consistency models*, arXiv 2303.01469)."""
    return SelfDistillation(map, Eulerian(from_data=True), pairs=ToData(), **options)


def shortcut(map: FlowMap, **options: Any) -> SelfDistillation:
    """Semigroup at the midpoint (Frans et al. 2024, arXiv 2410.12557)."""
    return SelfDistillation(map, Semigroup(fraction=0.5), **options)


def mean_flow(map: FlowMap, **options: Any) -> SelfDistillation:
    """Eulerian with the datum's velocity and the adaptive weight (Geng et al. 2025, arXiv 2505.13447)."""
    return SelfDistillation(map, Eulerian(from_data=True), **{"weight": AdaptiveWeight(), **options})


def progressive_distillation(map: FlowMap, teacher: FlowMap, **options: Any) -> SelfDistillation:
    """Semigroup at the midpoint, targets from a frozen map (Salimans and Ho 2022, arXiv 2202.00512)."""
    return SelfDistillation(map, Semigroup(fraction=0.5), teacher=Frozen(teacher), **options)


def align_your_flow_eulerian(map: FlowMap, teacher: FlowMap, **options: Any) -> SelfDistillation:
    """AYF-EMD: Eulerian with a frozen teacher's velocity (Sabour et al. 2025, arXiv 2506.14603)."""
    return SelfDistillation(map, Eulerian(), teacher=Frozen(teacher), **options)


def align_your_flow_lagrangian(map: FlowMap, teacher: FlowMap, **options: Any) -> SelfDistillation:
    """AYF-LMD: Lagrangian, gradient through π_st alone, frozen teacher (Sabour et al. 2025, arXiv 2506.14603)."""
    return SelfDistillation(map, Lagrangian(through_tangent=False), teacher=Frozen(teacher), **options)


def terminal_velocity_matching(map: FlowMap, decay: float = 0.99, **options: Any) -> SelfDistillation:
    """Lagrangian with a short running average as the teacher (Zhou et al. 2025, *Terminal velocity matching*)."""
    return SelfDistillation(map, Lagrangian(), teacher=Average(map, decay), **options)


def categorical_flow_map(map: FlowMap, bounded: bool = True, **options: Any) -> SelfDistillation:
    """The published recipe: ECLD, or CSD with ``bounded=False``, full jumps now and then (Roos et al. 2026)."""
    consistency = EndpointConsistency() if bounded else Lagrangian()
    return SelfDistillation(map, consistency, **{"pairs": FullJump(Triangle()), **options})
