"""What is measured between two updates: the held-out loss, and the quality of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .interrupt import Interrupt, Interrupted
from .learner import Learner
from .logs import Row, finite, flat
from .parallel import SIGNALS, agreed, share_buffers
from .settings import Plan
from .validation import Validation

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class Measure:
    """Validation and evaluation of a run.

    Arguments:
        fabric: The devices.
        plan: Held-out data, and what is evaluated.
        learner: Whose weights are measured.
    """

    def __init__(self, fabric: Fabric, plan: Plan, learner: Learner):
        self.fabric, self.plan, self.learner = fabric, plan, learner
        self.validation = None
        if plan.valid_data is not None:
            size = plan.batch_size // (fabric.world_size * plan.accumulation)
            self.validation = Validation(plan.valid_data, plan.valid_examples, size, plan.seed)

    def __call__(self, step: int, validating: bool, evaluating: bool, reason: str, interrupt: Interrupt) -> Row | None:
        """Held-out loss and quality, as far as they are due; ``None`` if a signal asks to leave before they are known.

        Validation exchanges weights and takes its course; an evaluation, which may take minutes, is left at once.
        """
        if reason in SIGNALS:
            return None
        row = self._held_out() if validating else {}
        if evaluating:
            quality = None if agreed(self.fabric, interrupt.name or "") else self._quality(step, interrupt)
            return None if quality is None else {**row, **quality}
        return row

    def _held_out(self) -> Row:
        assert self.validation is not None
        learner, row = self.learner, Row()
        share_buffers(self.fabric, learner.objective, learner.trained)
        learner.objective.eval()
        try:
            if learner.ema is None or self.plan.validate_raw:
                name = "valid" if learner.ema is None else "valid_raw"
                row |= flat(self.validation(learner.wrapped.computed, self.fabric), name)
            if learner.ema is not None:
                learner.strategy.rest(learner.wrapped)
                with learner.ema.lent_to(learner.objective.flow_map):
                    row |= flat(self.validation(learner.wrapped.computed, self.fabric), "valid")
                    learner.strategy.rest(learner.wrapped)
            return row
        finally:
            learner.strategy.rest(learner.wrapped)
            learner.objective.train()

    @torch.no_grad()
    def _quality(self, step: int, interrupt: Interrupt) -> Row | None:
        results, flow_map = None, self.learner.strategy.whole(self.learner.trained)
        if self.fabric.is_global_zero and self.plan.evaluate is not None:
            self.learner.objective.eval()
            try:
                with interrupt.at_once():
                    results = finite(flat(self.plan.evaluate(flow_map.eval(), step), "quality"))
            except Interrupted:
                pass
            finally:
                self.learner.objective.train()
        return self.fabric.broadcast(results)
