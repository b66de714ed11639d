"""One update of the weights, and everything that an update changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..fields import Batch
from ..maps import FlowMap
from . import checkpoint
from .logs import Window
from .parallel import reduced
from .settings import Plan
from .shards import local
from .state import restore_training, training_tensors
from .strategy import strategy_of
from .stream import generator, key, seed_dropout
from .surgery import Divided, Surgery
from .tensors import restore

if TYPE_CHECKING:
    from lightning.fabric import Fabric

NEVER = 2**62  # the first update that was not finite, while there is none


class NonFiniteError(ArithmeticError):
    """The loss, its gradient or a weight is infinite or not a number; the run stopped and saved nothing of it."""


class Learner:
    """Weights, optimiser, averaged weights, and the sums for the log.

    Arguments:
        fabric: The devices.
        plan: The objective, and what an update is.
    """

    def __init__(self, fabric: Fabric, plan: Plan):
        self.fabric, self.plan, self.objective = fabric, plan, plan.objective
        self.strategy = strategy_of(fabric, plan)
        self.wrapped = self.strategy.wrap(plan)
        self.optimizer, self.ema = self.wrapped.optimizer, self.wrapped.ema
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.surgery = Surgery(fabric, plan.objective) if plan.surgery else None
        self.window = Window()
        self.broken = torch.full((), NEVER, dtype=torch.int64, device=fabric.device)

    @property
    def trained(self) -> FlowMap:
        """The map that is validated, sampled and shipped."""
        return self.objective.flow_map if self.ema is None else self.ema.copy

    def update(self, step: int, steps: int, batches: Sequence[Batch]) -> None:
        """Update number ``step``, from this process's part of the batch, of a schedule over ``steps``."""
        self.objective.before_step((step - 1) / steps)
        self._backward(step, batches)
        if self.surgery is not None:
            self.window.add({"gradient_cosine": self.surgery.operate()})
        norm = self.strategy.clip(self.wrapped, self.plan.clip or float("inf"))
        self.broken = torch.where(norm.isfinite(), self.broken, self.broken.clamp(max=step))
        if self.fabric.device.type == "cpu" and self.fabric.world_size == 1:  # looking at numbers costs nothing
            self.check_finite()
        self.window.add({"grad_norm": norm})
        self.set_rate(step, steps)
        self.wrapped.stepper.step()
        self.wrapped.stepper.zero_grad(set_to_none=True)
        self.objective.after_step()
        if self.ema is not None:
            self.ema.update(self.objective.flow_map)

    def draws(self, step: int, part: int = 0) -> tuple[int | str, ...]:
        """What the noise of one part of the batch is seeded by, whichever process it falls to."""
        return self.plan.seed, step, part, "draw"

    def set_rate(self, step: int, steps: int) -> None:
        """Learning rates of update ``step``."""
        factor = self.plan.schedule(step, steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def means(self) -> dict[str, float]:
        """The mean of each scalar since the last record, which begins anew."""
        window, self.window = self.window, Window()
        return window.means(partial(reduced, self.fabric, how="mean"))

    def check_finite(self) -> None:
        """Raise NonFiniteError if a loss or gradient was not finite, on all processes alike."""
        step = int(reduced(self.fabric, self.broken, "min"))
        if step < NEVER:
            seed = key(*self.draws(step))
            raise NonFiniteError(f"the loss or its gradient is not finite at step {step} (seed {seed})")

    def check_weights(self, step: int) -> None:
        """Raise NonFiniteError if a weight is not finite."""
        finite = torch.stack([local(parameter).isfinite().all() for parameter in self.objective.parameters()]).all()
        if not reduced(self.fabric, finite.int(), "min"):
            raise NonFiniteError(f"a weight is not finite after step {step}")

    # what a checkpoint keeps

    def sums(self) -> Tensor:
        """The sums for the log, over all processes."""
        return self.window.total(partial(reduced, self.fabric, how="mean"))

    def tensors(self, sums: Tensor) -> dict[str, Mapping[str, Tensor]]:
        """The files of a checkpoint."""
        averaged = {} if self.ema is None else {checkpoint.EMA_MODEL: self.ema.copy.state_dict()}
        training = training_tensors(self.objective, self.optimizer, sums)
        return {checkpoint.MODEL: self.objective.flow_map.state_dict(), checkpoint.TRAINING: training, **averaged}

    def restore(self, folder: Path, state: checkpoint.Document) -> None:
        """Everything as it was in a checkpoint.

        Raises: CheckpointError if it does not fit.
        """
        restore(self.objective.flow_map.state_dict(), folder / checkpoint.MODEL)
        if self.ema is not None:
            restore(self.ema.copy.state_dict(), folder / checkpoint.EMA_MODEL)
            self.ema.updates.fill_(state["ema_updates"])
        total = restore_training(folder / checkpoint.TRAINING, self.objective, self.optimizer)
        self.window = Window(state["window"], total.to(self.fabric.device).unbind())

    # the gradient

    def _backward(self, step: int, batches: Sequence[Batch]) -> None:
        """The gradient of all micro-batches, and their means for the log."""
        device, broken = self.fabric.device, self.broken
        means: dict[str, Tensor] = {}
        for i, batch in enumerate(batches):
            batch, part = self.fabric.to_device(batch), self.fabric.global_rank * len(batches) + i
            draw = self.wrapped.computed.draw(batch, generator(device, *self.draws(step, part)))
            seed_dropout(device, self.plan.seed, step, part, "dropout")
            with self.strategy.accumulating(self.wrapped.module, more=i + 1 < len(batches)):
                values = self._backward_one(batch, draw, len(batches))
            for name, value in values.items():
                share = value.detach().float() / len(batches)
                means[name] = means[name] + share if name in means else share
            broken = torch.where(values["loss"].isfinite(), broken, broken.clamp(max=step))
        self.broken = broken
        self.window.add(means)

    def _backward_one(self, batch: Batch, draw: object, count: int) -> dict[str, Tensor]:
        """Add to the gradient, or to those of both losses, the share of one of ``count`` micro-batches."""
        total: dict[str, Tensor] = {}
        for part in self._parts(batch, draw):
            values = self.wrapped.module(*part)
            self.fabric.backward(values["loss"] / count)
            if self.surgery is not None:
                self.surgery.turn()
            loss = values["loss"].detach()
            total |= {**values, "loss": total["loss"] + loss if total else loss}
        return total

    def _parts(self, batch: Batch, draw: object) -> Sequence[tuple[Batch, object]]:
        """The parts of a micro-batch whose gradients are taken one by one."""
        if self.surgery is not None and isinstance(self.objective, Divided):
            return self.objective.apart(batch, draw)
        return [(batch, draw)]
