"""Two-stage training: an ordinary flow first, then its flow map by self-distillation from a checkpoint of it."""

from __future__ import annotations

from ..maps import FlowMap
from ..objectives import Average, Consistency, Frozen, SelfDistillation
from ..times import PairLaw, TimeLaw
from .checkpoint import load_map, resolve


class TwoStage(SelfDistillation):
    r"""The second stage: the map starts from a checkpoint, and so does its teacher.

    .. math:: \theta_0 = \bar\theta_0 = \theta_{\text{base}}, \qquad
              \bar\theta \leftarrow d\,\bar\theta + (1-d)\,\theta \;\text{ or constant}

    The first stage is ``SelfDistillation`` with ``share=1``, the diagonal alone.

    Arguments:
        map: The flow map in training, of the architecture of the first stage.
        base: Folder of the run of the first stage, or one of its checkpoints; averaged weights are taken.
        consistency, times, pairs, share, strength: As in :class:`~flowmaps.objectives.SelfDistillation`.
        decay: Of a teacher that follows the map; ``None`` freezes it. A frozen teacher in an embedded space also
            freezes the read-in, so that its states mean what they meant.
    Raises: CheckpointError if there is no such checkpoint or it does not fit the map.
    Reference: Davis et al. 2026, *Scaling Categorical Flow Maps*, arXiv 2605.07820.
    """

    def __init__(
        self,
        map: FlowMap,
        base: str,
        consistency: Consistency | None = None,
        *,
        times: TimeLaw | None = None,
        pairs: PairLaw | None = None,
        share: float = 0.75,
        strength: float = 1.0,
        decay: float | None = None,
    ):
        precision = map.dtype
        load_map(resolve(base), map)
        map.to(precision)
        teacher = Frozen(map) if decay is None else Average(map, decay)
        if decay is None:
            map.path.requires_grad_(False)
        super().__init__(map, consistency, times=times, pairs=pairs, share=share, strength=strength, teacher=teacher)
