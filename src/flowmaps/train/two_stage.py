"""Two-stage training: an ordinary flow first, then its flow map by self-distillation from a checkpoint of it."""

from __future__ import annotations

from collections.abc import Mapping

from ..maps import FlowMap
from ..objectives import Average, Consistency, Frozen, SelfDistillation
from ..paths import Coupling
from ..times import PairLaw, TimeLaw
from .checkpoint import load_map, resolve


class TwoStage(SelfDistillation):
    r"""The second stage: the map starts from a checkpoint, and so does its teacher.

    .. math:: \theta_0 = \bar\theta_0 = \theta_{\text{base}}, \qquad
              \bar\theta \leftarrow d\,\bar\theta + (1-d)\,\theta \;\text{ or constant}

    The first stage is ``SelfDistillation`` with ``share=1``, the diagonal alone.

    Arguments:
        flow_map: The flow map in training, of the architecture of the first stage.
        base: Folder of the run of the first stage, or one of its checkpoints; averaged weights are taken.
        consistency, times, pairs, share, strength, coupling, emphasis: As in
            :class:`~flowmaps.objectives.SelfDistillation`; the coupling that of the first stage, whose states the
            teacher knows.
        decay: Of a teacher that follows the map; ``None`` freezes it. A frozen teacher in an embedded space also
            freezes the read-in, so that its states mean what they meant.
    Raises: CheckpointError if there is no such checkpoint or it does not fit the map.
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
    ):
        precision = flow_map.dtype
        load_map(resolve(base), flow_map)
        flow_map.to(precision)
        teacher = Frozen(flow_map) if decay is None else Average(flow_map, decay)
        if decay is None:
            flow_map.path.requires_grad_(False)
        options = {"times": times, "pairs": pairs, "share": share, "strength": strength, "coupling": coupling,
                   "emphasis": emphasis}  # fmt: skip
        super().__init__(flow_map, consistency, teacher=teacher, **options)  # pyright: ignore[reportArgumentType]  (by name)
