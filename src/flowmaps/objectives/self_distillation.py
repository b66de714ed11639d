"""The training loss: cross-entropy on the diagonal and a consistency identity off it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ..evaluation import Evaluation, per_example, shared_sums
from ..fields import FREE, Batch, Condition, S, State, Tree, first_leaf, parts, select, take
from ..maps import EndpointMap, FlowMap
from ..networks.chunked import Sums
from ..paths import Coupling, Independent
from ..spaces import Product
from ..times import PairLaw, TimeLaw, Triangle, Uniform, on_alphabet, stratified
from .base import Consistency, Jump, Objective
from .diagonal import CrossEntropy, Diagonal, SquaredError
from .distribution import EndpointKernel, Ends
from .semigroup import Semigroup, SemigroupKL
from .teachers import Average, Itself, Teacher
from .weights import GapCurriculum


class Draw(NamedTuple):
    """Raw noise per field, times s <= t ``(batch,)``, uniforms r ``(batch,)`` for a time between them; s = t for the
    first m samples, which are on the diagonal; and jumps whose ends are compared with the data, if any."""

    noise: State
    s: Tensor
    t: Tensor
    r: Tensor
    m: int
    jumps: Ends | None = None


class SelfDistillation(Objective[Draw, FlowMap]):
    r"""Train a flow map without a teacher of its own kind.

    .. math:: L = \mathbb{E}_{t}\, L_{\text{diagonal}}(t, t) + c\, \mathbb{E}_{s<t}\, L_{\text{consistency}}(s, t)

    The first ``share`` of each batch learns the posterior on the diagonal, the rest the chosen identity; times are
    stratified over the batch. With ``share = 1`` this is plain (variational) flow matching, the first stage of
    two-stage training.

    Arguments:
        flow_map: The flow map in training.
        consistency: The identity off the diagonal. Without one, and without a teacher, the pair that the comparison on
            exact distributions favours (``bench/results``): the semigroup at the midpoint with targets from an
            ``Average``.
        diagonal: The loss on it; cross-entropy for endpoint maps, squared error otherwise.
        times, pairs: Distributions of t on the diagonal and of (s, t) off it; clocks they lack are those of the map's
            alphabet.
        share: Share of the batch on the diagonal, in (0, 1].
        strength: The factor c.
        teacher: Who gives targets, or how to make it of the map (``Average``); the map itself if only a consistency is
            named.
        weight: Optional weight of the loss off the diagonal.
        coupling: Pairing of noise and data within a batch.
        matching: A term that compares the ends of jumps with the data, in training only.
        emphasis: Factors of the losses of named fields, such as ``{"bonds": 4}``; 1 for the others. Minima stay where
            they are. Recorded losses hold the factors.
    Raises: ValueError if a share is outside (0, 1], or a factor is not positive or belongs to no field.
    Invariant: on an exact map with the identity's own minimum, gradients vanish (``tests/identities``).
    Reference: Boffi et al. 2025, *How to build a consistency model*, arXiv 2505.18825.
    """

    def __init__(
        self,
        flow_map: FlowMap,
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
        matching: EndpointKernel | None = None,
        emphasis: Mapping[str, float] | None = None,
    ):
        super().__init__()
        if not isinstance(flow_map, FlowMap):
            raise ValueError(
                f"{type(self).__name__} trains jumps, but the map is a {type(flow_map).__name__}; use MaximumLikelihood"
            )
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}, expected a number in (0, 1]: the part of the batch on the diagonal")
        self.flow_map = flow_map
        simplex = isinstance(flow_map, EndpointMap)
        self.consistency = consistency or (SemigroupKL if simplex else Semigroup)(fraction=0.5)
        self.diagonal = diagonal or (CrossEntropy() if simplex else SquaredError())
        sizes = [size for size in parts(flow_map.space.sizes()) if size is not None]
        self.times, self.pairs = on_alphabet(times or Uniform(), sizes), on_alphabet(pairs or Triangle(), sizes)
        self.share, self.strength = share, strength
        if consistency is None and teacher is None and share < 1:
            teacher = Average
        made = teacher if isinstance(teacher, Teacher) or teacher is None else teacher(flow_map)
        self.teacher, self.weight, self.coupling = made or Itself(), weight, coupling or Independent()
        self.matching = matching
        self.emphasis = _factors(emphasis or {}, flow_map)
        self._dropout = any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in flow_map.modules())

    def on_diagonal(self, n: int) -> int:
        """How many of ``n`` samples are on the diagonal."""
        if self.share == 1:
            return n
        if n < 2:
            raise ValueError(f"a batch of {n} cannot hold samples on and off the diagonal; use at least 2, or share=1")
        return min(max(round(self.share * n), 1), n - 1)

    def draw(self, batch: Batch, generator: torch.Generator) -> Draw:
        path = self.flow_map.path
        path.space.check(batch.x_1)
        n = len(first_leaf(batch.x_1))
        m = self.on_diagonal(n)
        noise = self.flow_map.noise(path.space.positions(batch.x_1), generator)
        with torch.no_grad():
            order = self.coupling(path.space, path.start(noise), path.space.encode(batch.x_1))
        if order is not None:
            noise = take(noise, order)
        t = self.times(stratified(m, generator=generator).squeeze(-1))
        jumps = self.pairs(stratified(n - m, 2, generator=generator)) if m < n else (t[:0], t[:0])
        r = stratified(n, generator=generator).squeeze(-1)
        s, t = (torch.cat(times).to(self.flow_map.dtype) for times in ((t, jumps[0]), (t, jumps[1])))
        jumps = None if self.matching is None else self.matching.draw(self.flow_map, batch, generator)
        return Draw(noise, s, t, r.to(self.flow_map.dtype), m, jumps)

    def forward(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        everything = self.jump(batch, draw)
        m, n = draw.m, len(draw.s)
        sums = shared_sums(everything.x_s)
        on = self._on(everything.part(slice(None, m)), sums) if m > 0 else {}
        off = self._off(everything.part(slice(m, None)), sums) if m < n else {}
        compared = self._compared(draw) if self.matching is not None and self.training else {}
        losses = [terms.pop("loss") for terms in (on, off, compared) if terms]
        return {"loss": sum(losses[1:], losses[0]), **on, **off, **compared}

    def jump(self, batch: Batch, draw: Draw) -> Jump:
        """The states of the path above the examples, and their times."""
        (x_1, condition), path = batch, self.flow_map.path
        x_0 = path.start(draw.noise)
        return Jump(path(x_0, x_1, draw.s, condition), x_0, x_1, draw.s, draw.t, draw.r, condition)

    def apart(self, batch: Batch, draw: Draw) -> tuple[tuple[Batch, Draw], tuple[Batch, Draw]]:
        """The samples on the diagonal and those off it, each a batch with its draw; their losses sum to that of all."""

        def some(index: slice, m: int) -> tuple[Batch, Draw]:
            noise, s, t, r = take(draw.noise, index), draw.s[index], draw.t[index], draw.r[index]
            return Batch(take(batch.x_1, index), select(batch.condition, index)), Draw(noise, s, t, r, m)

        (here, on), (away, off) = some(slice(None, draw.m), draw.m), some(slice(draw.m, None), 0)
        return (here, on), (away, off._replace(jumps=draw.jumps))

    def _on(self, here: Jump, sums: Tree[Sums]) -> dict[str, Tensor]:
        """The loss on the diagonal."""
        weight = self.times.weight(here.s)
        each = lambda values: per_example(values, here.condition, self.emphasis)  # noqa: E731
        mean = lambda values: (each(values) if weight is None else weight * each(values)).mean()  # noqa: E731
        evaluate = Evaluation.weighted(self.flow_map.chunk, mean, here.x_s, sums)
        values = self.diagonal(self.flow_map, here, evaluate)
        if self.training:
            self.times.learn(here.s, each(values).detach())
        diagonal = mean(values)
        return {"loss": diagonal, "diagonal": diagonal.detach()}

    def _off(self, away: Jump, sums: Tree[Sums]) -> dict[str, Tensor]:
        """The loss off the diagonal, with its strength, and what else the identity returns."""
        each = lambda values: per_example(values, away.condition, self.emphasis)  # noqa: E731
        weighted = lambda values: self.strength * each(values).mean()  # noqa: E731
        # A weight that depends on the loss is not known before it.
        known = self.weight is None
        evaluate = Evaluation.weighted(self.flow_map.chunk, weighted, away.x_s, sums) if known else None
        teacher = self.teacher(self.flow_map)
        calm = cast(FlowMap, _Calm(teacher)) if self._dropout else teacher
        values = self.consistency(self.flow_map, calm, away, evaluate)
        off = each(values.pop("loss"))
        loss = off if self.weight is None else self.weight(off, away.s, away.t)
        log = {name: per_example(value, away.condition).mean().detach() for name, value in values.items()}
        return {"loss": self.strength * loss.mean(), "off_diagonal": off.mean().detach(), **log}

    def _compared(self, draw: Draw) -> dict[str, Tensor]:
        """The loss of the ends of jumps; 0 while it does not count."""
        assert self.matching is not None
        loss = draw.s.new_zeros(()) if draw.jumps is None else self.matching(self.flow_map, draw.jumps)
        return {"loss": loss, "distribution": loss.detach()}

    def before_step(self, share: float) -> None:
        for part in (self.weight, self.matching):
            if isinstance(part, GapCurriculum | EndpointKernel):
                part.before_step(share)

    def after_step(self) -> None:
        self.teacher.after_step(self.flow_map)
        self.consistency.after_step()
        self.times.after_step()


class _Calm:
    """A map whose passes run in evaluation mode: targets carry no dropout."""

    def __init__(self, flow_map: FlowMap):
        self._flow_map = flow_map

    def __getattr__(self, name: str) -> object:
        return getattr(self._flow_map, name)

    def features(self, x: S, s: Tensor, t: Tensor, condition: Condition = FREE) -> S:
        with evaluating(self._flow_map):
            return self._flow_map.features(x, s, t, condition)

    def __call__(self, x: S, s: Tensor, t: Tensor, condition: Condition = FREE) -> S:
        return self._flow_map.move(x, self.features(x, s, t, condition), s, t, condition)


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


def _factors(emphasis: Mapping[str, float], flow_map: FlowMap) -> dict[str, float] | float:
    """The factor of every field; 1 where there is but one."""
    fields = list(flow_map.space.spaces) if isinstance(flow_map.space, Product) else []
    for name, factor in emphasis.items():
        if name not in fields or not factor > 0:
            known = fields or "no field"
            raise ValueError(f"emphasis has {name!r}: {factor}, expected positive factors of {known}")
    return {name: float(emphasis.get(name, 1.0)) for name in fields} or 1.0
