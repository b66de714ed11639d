"""Two-stage training: an ordinary flow first, then its flow map by self-distillation from a checkpoint of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from ..maps import EndpointMap, FlowMap
from ..networks import Transformer
from ..objectives import Average, Consistency, Distilled, Frozen, SelfDistillation
from ..paths import Coupling
from ..steering import LogitGuidance
from ..times import PairLaw, TimeLaw
from .checkpoint import load_map, resolve


@contextmanager
def shallower(flow_map: FlowMap, depth: int | None) -> Iterator[None]:
    """The map with the first ``depth`` blocks of its transformer; afterwards they have grown to all of its depth."""
    if depth is None:
        yield
        return
    network = flow_map.network
    if not isinstance(network, Transformer):
        raise ValueError(f"depth is {depth}, but the network is a {type(network).__name__}, expected a Transformer")
    full = len(network.blocks)
    if not 1 <= depth <= full:
        raise ValueError(f"depth is {depth}, expected 1 to the {full} blocks of the network")
    network.blocks = network.blocks[:depth]
    yield
    network.deepen(full)


def load_base(flow_map: FlowMap, base: str, depth: int | None = None) -> None:
    """Averaged weights of a checkpoint, perhaps of only ``depth`` blocks, in the precision of the map."""
    precision = flow_map.dtype
    with shallower(flow_map, depth):
        load_map(resolve(base), flow_map)
    flow_map.to(precision)


@dataclass(frozen=True)
class Autoguidance:
    r"""Distil a guided flow: the diagonal learns the base pushed away from a weaker map, in the place of data.

    .. math:: z^* = \tfrac{1}{T} \big(z_{weak} + w\, (z_{base} - z_{weak})\big), \qquad
              L_{\text{diagonal}} = \mathrm{KL}(\pi^* \| \pi_{t,t})

    The second stage then makes jumps of the guided flow, one evaluation each. The guided flow is not that of the data:
    it is surer than the base where the base is surer than the weak map. A base may itself be guided: stages compose.

    Arguments:
        weaker: Folder of a less trained or shallower first stage, or one of its checkpoints; of the same embedding, if
            the alphabet has one. ``None``: no guidance, the base at a temperature.
        scale: w; 1 is the base itself.
        depth: Blocks of the weak map's transformer, if this one has more.
        temperature: T of what the diagonal learns; guidance makes samples more varied letter by letter, a temperature
            below 1 less.
    Raises: ValueError if there is neither a weaker map nor a temperature other than 1.
    Reference: Karras et al. 2024, *Guiding a diffusion model with a bad version of itself*, arXiv 2406.02507; Meng et
    al. 2022, *On distillation of guided diffusion models*, arXiv 2210.03142.
    """

    weaker: str | None = None
    scale: float = 1.5
    depth: int | None = None
    temperature: float = 1.0

    def __call__(self, base: FlowMap) -> Distilled:
        """The loss on the diagonal of a map that starts as the base."""
        if self.weaker is None and self.temperature == 1:
            raise ValueError("a guide of no weaker map at temperature 1 does nothing; give weaker or a temperature")
        teacher = cast(EndpointMap, base)
        if self.weaker is not None:
            weak = copy.deepcopy(teacher)
            load_base(weak, self.weaker, self.depth)
            teacher = LogitGuidance(teacher, self.scale, weak)
        return Distilled(teacher, self.temperature)


class TwoStage(SelfDistillation):
    r"""The second stage: the map starts from a checkpoint, and so does its teacher.

    .. math:: \theta_0 = \bar\theta_0 = \theta_{\text{base}}, \qquad
              \bar\theta \leftarrow d\,\bar\theta + (1-d)\,\theta \;\text{ or constant}

    The first stage is ``SelfDistillation`` with ``share=1``, the diagonal alone.

    Arguments:
        flow_map: The flow map in training, of the architecture of the first stage.
        base: Folder of the run of the first stage, or one of its checkpoints; averaged weights are taken.
        depth: Blocks of the base's transformer, if this one has more: it starts as the same function, with the rest to
            learn (:meth:`~flowmaps.networks.Transformer.deepen`); ``None``: as many.
        consistency, times, pairs, share, strength, coupling, emphasis: As in
            :class:`~flowmaps.objectives.SelfDistillation`; the coupling that of the first stage, whose states the
            teacher knows.
        guide: What the diagonal learns in the place of data; ``None``: data.
        decay: Of a teacher that follows the map; ``None`` freezes it. A frozen teacher in an embedded space, or a
            guide, also freezes the read-in, so that its states mean what they meant.
    Raises: CheckpointError if there is no such checkpoint or it does not fit the map. ValueError if ``depth`` is given
        and the network is no transformer, or one of fewer blocks.
    Reference: Davis et al. 2026, *Scaling Categorical Flow Maps*, arXiv 2605.07820.
    """

    def __init__(
        self,
        flow_map: FlowMap,
        base: str,
        consistency: Consistency | None = None,
        *,
        times: TimeLaw | None = None,
        pairs: PairLaw | None = None,
        share: float = 0.75,
        strength: float = 1.0,
        coupling: Coupling | None = None,
        emphasis: Mapping[str, float] | None = None,
        decay: float | None = None,
        depth: int | None = None,
        guide: Autoguidance | None = None,
    ):
        load_base(flow_map, base, depth)
        teacher = Frozen(flow_map) if decay is None else Average(flow_map, decay)
        if decay is None or guide is not None:
            flow_map.path.requires_grad_(False)
        options = {"times": times, "pairs": pairs, "share": share, "strength": strength, "coupling": coupling,
                   "emphasis": emphasis, "diagonal": guide and guide(flow_map)}  # fmt: skip
        super().__init__(flow_map, consistency, teacher=teacher, **options)  # pyright: ignore[reportArgumentType]  (by name)
