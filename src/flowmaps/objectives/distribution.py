"""A term that compares distributions: what jumps end in against the data, by a kernel."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ..fields import Batch, State, one_field, select, take
from ..maps import EndpointMap, FlowMap
from ..times import stratified


class Ends(NamedTuple):
    """Jumps to time 1 and what their ends are compared with.

    Arguments:
        batch: The examples that ends are compared with.
        rows: Which of them the jumps start above, without repetition, ``(jumps,)``.
        noise: Raw noise of the jumps.
        s: Their times, ``(jumps,)``.
        positions: Flat indices of the positions that are compared.
    """

    batch: Batch
    rows: Tensor
    noise: State
    s: Tensor
    positions: Tensor


class EndpointKernel(nn.Module):
    r"""Endpoints of jumps to time 1 must be distributed as the data, whatever the time they start at.

    .. math:: L = \lambda \Big[ \operatorname*{mean}_{i \ne j} k(\pi_i, \pi_j)
              - 2 \operatorname*{mean}_{i \ne j} k(\pi_i, e_{y_j}) \Big], \qquad
              k(p, q) = \prod_{d \in D} \frac{1 + \langle p_d, q_d \rangle}{2}

    Up to a constant it is λ times the squared maximum mean discrepancy between the endpoints and the data, estimated
    without bias: where i starts above y_j the pair is left out. Half of the jumps start from noise, half at s uniform
    below ``latest``. Identities weigh errors by the states they occur in, this term by the probability that goes to the
    wrong examples; it needs no teacher. The product over many positions is nearly 0 for any two examples that are not
    alike: compare a random subset D there. Class labels count as one more position, whose factor is 0 or 1.

    Arguments:
        strength: λ.
        jumps: Jumps of an update, two at least and at most the batch.
        start: Share of the run after which the term counts: before, endpoints are blurred and it would misguide.
        latest: Latest time at which the half of the jumps starts that does not start from noise, in [0, 1).
        positions: Size of D, drawn anew for each update; ``None`` for all positions.
    Raises: ValueError if a setting is outside its range; of a call, for padding, prompts, labels that are no classes,
        several fields, or a map without endpoints on the simplex.
    Invariant: on an exact map the expected value is -λ E k(e_y, e_y'), its minimum (``tests/objectives``).
    Reference: Gretton et al. 2012, *A kernel two-sample test*, JMLR 13 (the estimate).
    """

    def __init__(
        self,
        strength: float = 10.0,
        jumps: int = 64,
        start: float = 0.3,
        latest: float = 0.8,
        positions: int | None = None,
    ):
        super().__init__()
        if not 0 < strength < math.inf:
            raise ValueError(f"strength is {strength}, expected a positive number")
        if jumps < 2 or (positions is not None and positions < 1):
            raise ValueError(f"jumps is {jumps} and positions {positions}, expected at least 2, and at least 1 or None")
        for name, value in (("start", start), ("latest", latest)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}, expected a number in [0, 1)")
        self.strength, self.jumps, self.start, self.latest = strength, jumps, start, latest
        self.positions, self.behind = positions, 0.0

    def before_step(self, share: float) -> None:
        """Take note of the share of the run that is behind."""
        self.behind = share

    def draw(self, flow_map: FlowMap, batch: Batch, generator: torch.Generator) -> Ends | None:
        """The jumps of an update; ``None`` while the term does not count."""
        if not self.training or self.behind < self.start:
            return None
        _check(flow_map, batch)
        x_1 = one_field(batch.x_1)
        n, device = min(self.jumps, len(x_1)), generator.device
        rows = torch.randperm(len(x_1), generator=generator, device=device)[:n]
        noise = flow_map.noise(flow_map.space.positions(x_1[:n]), generator)
        s = self.latest * stratified(n, generator=generator).squeeze(-1)
        s[: n // 2] = 0
        count = math.prod(x_1.shape[1:])
        chosen = torch.randperm(count, generator=generator, device=device)[: self.positions]
        return Ends(batch, rows, noise, s.to(flow_map.dtype), chosen)

    def forward(self, flow_map: FlowMap, draw: Ends) -> Tensor:
        x_1, label = one_field(draw.batch.x_1), draw.batch.condition.label
        condition = select(draw.batch.condition, draw.rows)
        x_s = flow_map.path(flow_map.path.start(draw.noise), take(x_1, draw.rows), draw.s, condition)
        h = cast(Tensor, flow_map.features(x_s, draw.s, torch.ones_like(draw.s), condition))  # of one field
        pi = flow_map.mean(cast(Tensor, flow_map.prediction(h.flatten(1, -2)[:, draw.positions])))
        e = nn.functional.one_hot(x_1.flatten(1)[:, draw.positions].long(), pi.shape[-1]).to(pi.dtype)
        same, own = torch.eye(len(pi), device=pi.device), draw.rows[:, None] == torch.arange(len(x_1), device=pi.device)
        alike = None if label is None else (label[draw.rows, None] == label).to(pi.dtype)
        within = kernel(pi, pi, None if alike is None else alike[:, draw.rows])
        across = kernel(pi, e, alike)
        return self.strength * (_mean(within, same == 0) - 2 * _mean(across, ~own))


def kernel(p: Tensor, q: Tensor, factor: Tensor | None = None) -> Tensor:
    """k of all pairs of ``p`` (n, D, K) and ``q`` (m, D, K): (n, m), times a factor of the pair."""
    k = ((1 + torch.einsum("idk,jdk->ijd", p, q)) / 2).prod(-1)
    return k if factor is None else factor * k


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return torch.where(counted, values, 0).sum() / counted.sum().clamp(min=1)


def _check(flow_map: FlowMap, batch: Batch) -> None:
    if not isinstance(flow_map, EndpointMap):
        raise ValueError(f"EndpointKernel compares endpoints but the map is a {type(flow_map).__name__}; leave it out")
    mask, known, label = batch.condition
    if isinstance(batch.x_1, dict) or mask is not None or known is not None:
        raise ValueError(
            "EndpointKernel compares whole examples of one field, but the data have several fields, padding or given "
            "positions; leave it out"
        )
    if label is not None and label.is_floating_point():
        raise ValueError("EndpointKernel compares examples of equal labels, but these are real numbers; leave it out")
