"""The training loss: cross-entropy on the diagonal and a consistency identity off it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..fields import Batch, fieldwise, leaves, select
from ..maps import EndpointMap, FlowMap, per_sample, wide
from ..networks.chunked import Sums
from ..paths import Coupling, Independent
from ..times import PairLaw, TimeLaw, Triangle, Uniform, on_alphabet, stratified
from .base import Consistency, Jump, Objective
from .diagonal import CrossEntropy, Diagonal, SquaredError
from .semigroup import SemigroupKL
from .teachers import Average, Itself, Teacher


class Draw(NamedTuple):
    """Raw noise per field, times s <= t ``(batch,)``, uniforms r ``(batch,)`` for a time between them; s = t for the
    first m samples, which are on the diagonal."""

    noise: Any
    s: Tensor
    t: Tensor
    r: Tensor
    m: int


class SelfDistillation(Objective):
    r"""Train a flow map without a teacher of its own kind.

    .. math:: L = \mathbb{E}_{t}\, L_{\text{diagonal}}(t, t) + c\, \mathbb{E}_{s<t}\, L_{\text{consistency}}(s, t)

    The first ``share`` of each batch learns the posterior on the diagonal, the rest the chosen identity; times are
    stratified over the batch. With ``share = 1`` this is plain (variational) flow matching, the first stage of
    two-stage training.

    Arguments:
        map: The flow map in training.
        consistency: The identity off the diagonal. Without one, and without a teacher, the pair that the comparison on
            exact laws favours (``bench/results``): the semigroup at the midpoint with targets from an ``Average``.
        diagonal: The loss on it; cross-entropy for endpoint maps, squared error otherwise.
        times, pairs: Laws of t on the diagonal and of (s, t) off it; clocks they lack are those of the map's alphabet.
        share: Share of the batch on the diagonal, in (0, 1].
        strength: The factor c.
        teacher: Who gives targets, or how to make it of the map (``Average``); the map itself if only a consistency is
            named.
        weight: Optional weight of the loss off the diagonal.
        coupling: Pairing of noise and data within a batch.
        emphasis: Factors of the losses of named fields, such as ``{"bonds": 4}``; 1 for the others. Minima stay where
            they are. Recorded losses hold the factors.
    Raises: ValueError if a share is outside (0, 1], or a factor is not positive or belongs to no field.
    Invariant: on an exact map with the identity's own minimum, gradients vanish (``tests/identities``).
    Reference: Boffi et al. 2025, *How to build a consistency model*, arXiv 2505.18825.
    """

    def __init__(
        self,
        map: FlowMap,
        consistency: Consistency | None = None,
        *,
        diagonal: Diagonal | None = None,
        times: TimeLaw | None = None,
        pairs: PairLaw | None = None,
        share: float = 0.75,
        strength: float = 1.0,
        teacher: Teacher | Callable[[FlowMap], Teacher] | None = None,
        weight: nn.Module | None = None,
        coupling: Coupling | None = None,
        emphasis: Mapping[str, float] | None = None,
    ):
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}, expected a number in (0, 1]: the part of the batch on the diagonal")
        self.map = map
        self.consistency = consistency or SemigroupKL(fraction=0.5)
        self.diagonal = diagonal or (CrossEntropy() if isinstance(map, EndpointMap) else SquaredError())
        sizes = [size for (size,) in leaves(map.path.space.sizes())]
        self.times, self.pairs = on_alphabet(times or Uniform(), sizes), on_alphabet(pairs or Triangle(), sizes)
        self.share, self.strength = share, strength
        if consistency is None and teacher is None and share < 1:
            teacher = Average
        made = teacher if isinstance(teacher, Teacher) or teacher is None else teacher(map)
        self.teacher, self.weight, self.coupling = made or Itself(), weight, coupling or Independent()
        self.emphasis = _factors(emphasis or {}, map.path.space.sizes())
        self._dropout = any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in map.modules())

    def on_diagonal(self, n: int) -> int:
        """How many of ``n`` samples are on the diagonal."""
        if self.share == 1:
            return n
        if n < 2:
            raise ValueError(f"a batch of {n} cannot hold samples on and off the diagonal; use at least 2, or share=1")
        return min(max(round(self.share * n), 1), n - 1)

    def draw(self, batch: Batch, generator: torch.Generator) -> Draw:
        path = self.map.path
        path.space.check(batch.x_1)
        n = len(next(leaves(batch.x_1))[0])
        m = self.on_diagonal(n)
        noise = self.map.noise(fieldwise(lambda x: tuple(x.shape), batch.x_1), generator)
        with torch.no_grad():
            order = self.coupling(path.start(noise), path.space.embed(batch.x_1))
        if order is not None:
            noise = fieldwise(lambda e: e[order], noise)
        t = self.times(stratified(m, generator=generator).squeeze(-1))
        jumps = self.pairs(stratified(n - m, 2, generator=generator)) if m < n else (t[:0], t[:0])
        r = stratified(n, generator=generator).squeeze(-1)
        s, t = (torch.cat(times).to(self.map.dtype) for times in ((t, jumps[0]), (t, jumps[1])))
        return Draw(noise, s, t, r.to(self.map.dtype), m)

    def forward(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        x_1, condition = batch
        x_0 = self.map.path.start(draw.noise)
        x_s = self.map.path(x_0, x_1, draw.s, condition)
        everything = Jump(x_s, x_0, x_1, draw.s, draw.t, draw.r, condition)
        m, n = draw.m, len(draw.s)
        sums = fieldwise(lambda _: Sums(), x_1)
        on = self._on(part(everything, slice(None, m)), sums) if m > 0 else {}
        off = self._off(part(everything, slice(m, None)), sums) if m < n else {}
        losses = [terms.pop("loss") for terms in (on, off) if terms]
        return {"loss": sum(losses[1:], losses[0]), **on, **off}

    def apart(self, batch: Batch, draw: Draw) -> tuple[tuple[Batch, Draw], tuple[Batch, Draw]]:
        """The samples on the diagonal and those off it, each a batch with its draw; their losses sum to that of all."""

        def some(index: slice, m: int) -> tuple[Batch, Draw]:
            noise, s, t, r = (take(tree, index) for tree in draw[:4])
            return Batch(take(batch.x_1, index), select(batch.condition, index)), Draw(noise, s, t, r, m)

        return some(slice(None, draw.m), draw.m), some(slice(draw.m, None), 0)

    def _on(self, here: Jump, sums: Any) -> dict[str, Tensor]:
        """The loss on the diagonal."""
        if self.map.chunk is not None:
            here = here._replace(weight=sample_weight(here, self.emphasis), sums=sums)
        diagonal = per_sample(self.diagonal(self.map, here), here.condition, self.emphasis).mean()
        return {"loss": diagonal, "diagonal": diagonal.detach()}

    def _off(self, away: Jump, sums: Any) -> dict[str, Tensor]:
        """The loss off the diagonal, with its strength, and what else the identity returns."""
        if self.map.chunk is not None and self.weight is None:
            away = away._replace(weight=sample_weight(away, self.emphasis, self.strength), sums=sums)
        teacher = self.teacher(self.map)
        values = self.consistency(self.map, _Calm(teacher) if self._dropout else teacher, away)  # type: ignore[arg-type]
        off = per_sample(values.pop("loss"), away.condition, self.emphasis)
        weighted = off if self.weight is None else self.weight(off, away.s, away.t)
        log = {name: per_sample(value, away.condition).mean().detach() for name, value in values.items()}
        return {"loss": self.strength * weighted.mean(), "off_diagonal": off.mean().detach(), **log}

    def after_step(self) -> None:
        self.teacher.after_step(self.map)


class _Calm:
    """A map whose passes run in evaluation mode: targets carry no dropout."""

    def __init__(self, map: FlowMap):
        self._map = map

    def __getattr__(self, name: str) -> Any:
        return getattr(self._map, name)

    def features(self, *arguments: Any) -> Any:
        with evaluating(self._map):
            return self._map.features(*arguments)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each submodule returns to its own mode."""
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        yield
    finally:
        for m in training:
            m.training = True


def take(tree: Any, index: Any) -> Any:
    """Some samples of every field."""
    return fieldwise(lambda leaf: leaf[index], tree)


def part(jump: Jump, index: Any) -> Jump:
    """Some samples of a batch of jumps."""
    x_s, x_0, x_1, s, t, r = (take(tree, index) for tree in jump[:6])
    weight = None if jump.weight is None else take(jump.weight, index)
    return Jump(x_s, x_0, x_1, s, t, r, select(jump.condition, index), weight)


def _factors(emphasis: Mapping[str, float], sizes: Any) -> Any:
    """The factor of every field; 1 where there is but one."""
    fields = sizes if isinstance(sizes, dict) else {}
    for name, factor in emphasis.items():
        if name not in fields or not factor > 0:
            known = list(fields) or "no field"
            raise ValueError(f"emphasis has {name!r}: {factor}, expected positive factors of {known}")
    return {name: float(emphasis.get(name, 1.0)) for name in fields} or 1.0


def sample_weight(jump: Jump, emphasis: Any, strength: float = 1.0) -> Any:
    """What ``strength`` times the mean over samples of :func:`flowmaps.maps.per_sample` multiplies each position by."""
    each = strength / max(len(jump.s), 1)

    def weight(x_1: Tensor, x_s: Tensor, mask: Tensor | None, known: Tensor | None, factor: float) -> Tensor:
        counted = torch.ones_like(x_1, dtype=wide(x_s).dtype)
        if mask is not None:
            counted = counted * mask
        if known is not None:
            counted = counted * ~known
        return each * factor * counted / counted.flatten(1).sum(1).clamp(min=1).reshape(-1, *(1,) * (x_1.ndim - 1))

    return fieldwise(weight, jump.x_1, jump.x_s, jump.condition.mask, jump.condition.known, emphasis)
