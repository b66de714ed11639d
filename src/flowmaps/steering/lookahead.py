r"""Look-ahead: what the endpoint of a state would earn, by one call of the flow map, and in which direction it grows.

.. math:: r_t(x) = r(X_{t,1}(x)) = r(\pi_{t,1}(x))
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..evaluation import predictions, then
from ..fields import FREE, Condition, S, State, detach, joined, parts, where, zeros_like
from ..maps import EndpointMap, FlowMap
from .rewards import Reward, RewardError


def endpoint(flow_map: FlowMap[S], x: S, t: Tensor, condition: Condition = FREE) -> State:
    """X_{t,1}(x) over the categories, ``(n, *positions, K)`` per field; π_{t,1}(x) for an endpoint map.

    Positions that do not exist hold zeros.
    """
    h = flow_map.features(x, t, torch.ones_like(t), condition)
    readouts = flow_map.readout(h) if isinstance(flow_map, EndpointMap) else flow_map.final(x, h, t)
    pi = predictions(then(readouts, flow_map.mean))
    return pi if condition.mask is None else where(condition.mask, pi, 0)


def look_ahead(
    flow_map: FlowMap[S], reward: Reward, x: S, t: Tensor, condition: Condition = FREE, first: int = 0
) -> Tensor:
    """r_t(x), shape ``(n,)``, without gradients; ``first`` numbers the particles in complaints."""
    with torch.no_grad():
        return reward.of_endpoint(endpoint(flow_map, x, t, condition), first)


def look_ahead_gradient(
    flow_map: FlowMap[S], reward: Reward, x: S, t: Tensor, condition: Condition = FREE, first: int = 0
) -> tuple[Tensor, S]:
    """r_t(x) and its gradient in the state, 0 at known positions; a covector that ``sharp`` makes a tangent.

    Raises: ValueError if the reward cannot be differentiated.
    """
    if not reward.differentiable:
        raise ValueError(
            f"reward {reward.name!r} is a black box, and its gradient was asked for; "
            "use a Soft reward, or a method without gradients (FeynmanKac, BestOf)"
        )
    with torch.enable_grad():
        x = detach(x)
        inputs = [leaf.requires_grad_() for leaf in parts(x)]
        values = reward.of_endpoint(endpoint(flow_map, x, t, condition), first)
        if not values.requires_grad:
            raise ValueError(f"reward {reward.name!r} does not depend differentiably on the endpoint; wrap it in Hard")
        found = torch.autograd.grad(values.sum(), inputs, allow_unused=True)
    gradient = joined(x, [_or_zero(g, leaf) for g, leaf in zip(found, inputs, strict=True)])
    bad = torch.stack([~leaf.flatten(1).isfinite().all(1) for leaf in parts(gradient)]).any(0)
    if bool(bad.any()):
        i = first + int(bad.nonzero()[0])
        raise RewardError(f"the gradient of reward {reward.name!r} is not finite at particle {i}; smooth the reward")
    return values.detach(), flow_map.path.clamp(gradient, zeros_like(gradient), condition)


def _or_zero(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient
