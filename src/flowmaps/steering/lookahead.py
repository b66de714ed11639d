r"""Look-ahead: what the endpoint of a state would earn, by one call of the flow map, and in which direction it grows.

.. math:: r_t(x) = r(X_{t,1}(x)) = r(\pi_{t,1}(x))
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..fields import FREE, Condition, fieldwise, leaves
from ..maps import EndpointMap, FlowMap
from .rewards import Reward, RewardError


def endpoint(map: FlowMap, x: Any, t: Tensor, condition: Condition = FREE) -> Any:
    """X_{t,1}(x) over the categories, ``(n, *positions, K)`` per field; π_{t,1}(x) for an endpoint map.

    Positions that do not exist hold zeros.
    """
    h = map.features(x, t, torch.ones_like(t), condition)
    readouts = map.readout(h) if isinstance(map, EndpointMap) else map.final(x, h, t)
    pi = fieldwise(lambda r: map.mean(r.read(r.h)), readouts)
    if condition.mask is None:
        return pi
    return fieldwise(lambda pi, mask: torch.where(mask.unsqueeze(-1), pi, 0), pi, condition.mask)


def look_ahead(map: FlowMap, reward: Reward, x: Any, t: Tensor, condition: Condition = FREE, first: int = 0) -> Tensor:
    """r_t(x), shape ``(n,)``, without gradients; ``first`` numbers the particles in complaints."""
    with torch.no_grad():
        return reward.of_endpoint(endpoint(map, x, t, condition), first)


def look_ahead_gradient(
    map: FlowMap, reward: Reward, x: Any, t: Tensor, condition: Condition = FREE, first: int = 0
) -> tuple[Tensor, Any]:
    """r_t(x) and its gradient in the state, 0 at known positions; not yet paired with the space.

    Raises: ValueError if the reward cannot be differentiated.
    """
    if not reward.differentiable:
        raise ValueError(
            f"reward {reward.name!r} is a black box, and its gradient was asked for; "
            "use a Soft reward, or a method without gradients (FeynmanKac, BestOf)"
        )
    with torch.enable_grad():
        x = fieldwise(lambda leaf: leaf.detach().requires_grad_(), x)
        inputs = [leaf for (leaf,) in leaves(x)]
        values = reward.of_endpoint(endpoint(map, x, t, condition), first)
        if not values.requires_grad:
            raise ValueError(f"reward {reward.name!r} does not depend differentiably on the endpoint; wrap it in Hard")
        found = iter(torch.autograd.grad(values.sum(), inputs, allow_unused=True))
    gradient = fieldwise(lambda leaf: _or_zero(next(found), leaf), x)
    if not all(bool(leaf.isfinite().all()) for (leaf,) in leaves(gradient)):
        bad = torch.stack([~leaf.flatten(1).isfinite().all(1) for (leaf,) in leaves(gradient)]).any(0)
        i = first + int(bad.nonzero()[0])
        raise RewardError(f"the gradient of reward {reward.name!r} is not finite at particle {i}; smooth the reward")
    return values.detach(), map.path.clamp(gradient, fieldwise(torch.zeros_like, gradient), condition)


def _or_zero(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient
