"""The loop of one run on one process: update, record, validate, save, stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..data import Identified
from ..files import sweep
from . import checkpoint
from .ema import EMA
from .engine import Report, Trainer
from .folder import Lock, refuge, taken
from .interrupt import Interrupt, Interrupted
from .logs import Records, Window, finite, flat
from .parallel import SIGNALS, Mixed, agreed, on_first, pinned, reduced, share_buffers, together
from .progress import Bar
from .state import changes, check_same_run, restore_training, training_tensors, versions, warn_of_parts
from .stream import Stream, ahead, generator, key, seed_dropout
from .surgery import Surgery
from .tensors import CheckpointError, restore, unwritable
from .validation import Validation

if TYPE_CHECKING:
    from lightning.fabric import Fabric

log = logging.getLogger("flowmaps.train")
NEVER = 2**62  # the first update that was not finite, while there is none


class NonFiniteError(ArithmeticError):
    """The loss, its gradient or a weight is infinite or not a number; the run stopped and saved nothing of it."""


def fit(fabric: Fabric, trainer: Trainer, resume: bool) -> Report:
    """Run ``trainer`` on the devices of ``fabric``."""
    run = Run(fabric, trainer)
    try:
        run.begin(resume)
        with together(fabric):
            return run.train()
    finally:
        run.close()


class Run:
    """State of a run: what a checkpoint keeps, and what is built anew around it."""

    def __init__(self, fabric: Fabric, trainer: Trainer):
        self.fabric, self.trainer, self.objective = fabric, trainer, trainer.objective
        self.directory = Path(trainer.directory)
        self.stream = Stream(len(trainer.train_data), trainer.batch_size, trainer.seed,
                             fabric.world_size * trainer.accumulation)
        data = trainer.train_data
        self.data = data.fingerprint() if isinstance(data, Identified) else None
        self.optimizer = trainer.optimizer(self.objective)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.computed: Any = Mixed(self.objective) if trainer.precision == "bf16-mixed" else self.objective
        module: Any = self.computed
        if trainer.compile:
            module = torch.compile(module, mode=trainer.compile if isinstance(trainer.compile, str) else "default")
        self.module, self.stepper = fabric.setup(module, self.optimizer)  # Fabric compiles outside of DDP
        self.surgery = Surgery(fabric, self.objective) if trainer.surgery else None
        self.ema = None if trainer.ema is None else EMA(self.objective.map, trainer.ema)
        self.validation = None
        if trainer.valid_data is not None:
            size = trainer.batch_size // (fabric.world_size * trainer.accumulation)
            self.validation = Validation(trainer.valid_data, trainer.valid_examples, size, trainer.seed)
        self.window, self.step, self.seconds, self.latest = Window(), 0, 0.0, {}
        self.lowest, self.saved = float("inf"), None
        self.unmeasured = False  # whether a signal kept from measuring what was due at this step
        self.records: Records | None = None
        self.lock: Lock | None = None
        self.broken = torch.full((), NEVER, dtype=torch.int64, device=fabric.device)
        self.watchful = fabric.device.type == "cpu" and fabric.world_size == 1  # looking at numbers costs nothing
        self.mean = partial(reduced, fabric, how="mean")

    def begin(self, resume: bool) -> None:
        """Restore the newest checkpoint, and open the records at its step."""
        self.saved = on_first(self.fabric, lambda: self._prepare(resume))
        if self.saved is not None:
            self._restore(self.saved)
        if self.fabric.is_global_zero:
            self.records = Records(self.directory, self.step - self.unmeasured, self.trainer.tensorboard)
        self.drawn = self.rested = time.monotonic()
        self.started, self.rested_step = self.rested - self.seconds, self.step

    def train(self) -> Report:
        trainer = self.trainer
        depth = trainer.prefetch if trainer.prefetch is not None else 2 * (self.fabric.device.type != "cpu")
        devices = [self.fabric.device] if self.fabric.device.type == "cuda" else []
        reason = "seconds" if self._budget_spent() else "steps"  # if no update is left to be made
        last = self.step if reason == "seconds" else trainer.max_steps
        shown = trainer.progress and self.fabric.is_global_zero
        self.objective.train()
        with (torch.random.fork_rng(devices), Interrupt() as interrupt,
              Bar(self.step, trainer.max_steps, trainer.max_seconds, shown) as bar):
            if self.unmeasured and (found := self.attend(bar, interrupt)):
                reason, last = found, self.step
            with closing(ahead(self._data, range(self.step + 1, last + 1), depth)) as updates:
                for step, batches in enumerate(updates, start=self.step + 1):
                    self.update(step, batches)
                    self.step, self.seconds = step, time.monotonic() - self.started
                    bar.show(step, self.seconds)
                    if reason := self.attend(bar, interrupt):
                        break
        if self.records is not None and trainer.curves:
            self.records.draw()
        return self.report(reason)

    def update(self, step: int, batches: list[Any]) -> None:
        """One update of the weights, from this process's part of the batch."""
        device, broken, means = self.fabric.device, self.broken, {}
        for i, batch in enumerate(batches):
            batch, part = self.fabric.to_device(batch), self.fabric.global_rank * len(batches) + i
            draw = self.objective.draw(batch, generator(device, *self._draws(step, part)))
            seed_dropout(device, self.trainer.seed, step, part, "dropout")
            with self.fabric.no_backward_sync(self.module, enabled=i + 1 < len(batches)):
                values = self._backward(batch, draw, len(batches))
            for name, value in values.items():
                means[name] = means.get(name, 0.0) + value.detach().float() / len(batches)
            broken = torch.where(values["loss"].isfinite(), broken, broken.clamp(max=step))
        self.window.add(means)
        if self.surgery is not None:
            self.window.add({"gradient_cosine": self.surgery.operate()})
        norm = self.fabric.clip_gradients(self.module, self.stepper, max_norm=self.trainer.clip or float("inf"),
                                          error_if_nonfinite=False)
        assert norm is not None
        self.broken = torch.where(norm.isfinite(), broken, broken.clamp(max=step))
        if self.watchful:
            self._check_finite()
        self.window.add({"grad_norm": norm})
        self._set_rate(step)
        self.stepper.step()
        self.stepper.zero_grad(set_to_none=True)
        if hasattr(self.objective, "after_step"):
            self.objective.after_step()
        if self.ema is not None:
            self.ema.update_parameters(self.objective.map)

    def _backward(self, batch: Any, draw: Any, count: int) -> dict[str, Any]:
        """Add to the gradient, or to those of both losses, the share of one of ``count`` micro-batches."""
        total: dict[str, Any] = {}
        for part in [(batch, draw)] if self.surgery is None else self.objective.apart(batch, draw):
            values = self.module(*part)
            self.fabric.backward(values["loss"] / count)
            if self.surgery is not None:
                self.surgery.turn()
            loss = values["loss"].detach()
            total |= {**values, "loss": total["loss"] + loss if total else loss}
        return total

    def attend(self, bar: Bar, interrupt: Interrupt) -> str:
        """After an update: what is due, and the reason to stop, if any."""
        step, trainer = self.step, self.trainer
        last = step == trainer.max_steps
        reason = self._reason(interrupt, last)
        finished = last or reason == "seconds"
        recording = last or step % trainer.log_every == 0
        validating = self.validation is not None and (finished or step % trainer.validate_every == 0)
        evaluating = trainer.evaluate is not None and (
            finished or trainer.evaluate_every is not None and step % trainer.evaluate_every == 0)
        saving = bool(reason) or step % trainer.save_every == 0
        if recording or validating or evaluating or saving:
            self._check_finite()
        window = self.window
        row = self._training_row() if recording else {}
        if validating or evaluating:
            bar.note("measuring")
            measured = self._measured(validating, evaluating, reason, interrupt)
            reason = agreed(self.fabric, interrupt.name or reason)
            self.unmeasured = measured is None
            row |= measured or {}
            if measured is None:  # the whole record is due again
                self.window, row = window, {}
            monitored = row.get(trainer.monitor)
            if monitored is not None and monitored < self.lowest:
                self.lowest, saving = monitored, True
        saving = saving or bool(reason)
        if row or saving:
            self._keep({"step": step, **row} if row else {}, saving, bar)
            self.rested, self.rested_step = time.monotonic(), step
        return reason

    def report(self, reason: str) -> Report:
        return Report(self.step, reason, self.seconds, dict(self.latest), self.saved, checkpoint.best(self.parent),
                      self._trained().eval(), self.fabric.is_global_zero)

    def close(self) -> None:
        """Close the records and give the folder back."""
        if self.records is not None:
            self.records.close()
        if self.lock is not None:
            self.lock.release()

    @property
    def parent(self) -> Path:
        return self.directory / "checkpoint"

    # what is due after an update

    def _check_finite(self) -> None:
        step = int(reduced(self.fabric, self.broken, "min"))
        if step < NEVER:
            raise NonFiniteError(
                f"the loss or its gradient is not finite at step {step} (seed {key(*self._draws(step))}); last good "
                f"checkpoint: {self.saved or 'none yet'}; lower the learning rate or the clipping norm")

    def _training_row(self) -> dict[str, Any]:
        row = {f"train/{name}": value for name, value in self.window.means(self.mean).items()}
        self.window = Window()
        rate = (self.step - self.rested_step) * self.trainer.batch_size / (time.monotonic() - self.rested)
        return {**row, "train/lr": self.optimizer.param_groups[0]["lr"], "train/epoch": self.stream.epoch(self.step),
                "seconds": round(self.seconds, 3), "examples_per_second": round(rate, 1)}

    def _validation_row(self) -> dict[str, Any]:
        assert self.validation is not None
        share_buffers(self.fabric, self.objective, self._trained())
        self.objective.eval()
        try:
            row = {}
            if self.ema is None or self.trainer.validate_raw:
                name = "valid" if self.ema is None else "valid_raw"
                row |= flat(self.validation(self.computed, self.fabric), name)
            if self.ema is not None:
                with self.ema.lent_to(self.objective.map):
                    row |= flat(self.validation(self.computed, self.fabric), "valid")
            return row
        finally:
            self.objective.train()

    def _measured(self, validating: bool, evaluating: bool, reason: str, interrupt: Interrupt) -> dict[str, Any] | None:
        """Held-out loss and quality, as far as they are due; ``None`` if a signal asks to leave before they are known.

        Validation exchanges weights and takes its course; an evaluation, which may take minutes, is left at once.
        """
        if reason in SIGNALS:
            return None
        row = self._validation_row() if validating else {}
        if evaluating:
            quality = None if agreed(self.fabric, interrupt.name or "") else self._quality_row(interrupt)
            return None if quality is None else {**row, **quality}
        return row

    @torch.no_grad()
    def _quality_row(self, interrupt: Interrupt) -> dict[str, Any] | None:
        results = None
        if self.fabric.is_global_zero and self.trainer.evaluate is not None:
            self.objective.eval()
            try:
                with interrupt.at_once():
                    results = finite(flat(self.trainer.evaluate(self._trained(), self.step), "quality"))
            except Interrupted:
                pass
            finally:
                self.objective.train()
        return self.fabric.broadcast(results)

    def _keep(self, row: dict[str, Any], saving: bool, bar: Bar) -> None:
        """Record and save what is due, in another folder if that of the run is gone."""
        monitored = row.get(self.trainer.monitor)
        try:
            on_first(self.fabric, lambda: self.lock and self.lock.check())
            if row:
                self._record(row, bar)
            if saving:
                self._save(monitored)
        except CheckpointError:
            lost, self.directory = on_first(self.fabric, lambda: self._move(row))
            if lost is None:
                raise
            self._save(monitored)
            raise CheckpointError(f"{lost} while training went on; weights, optimiser and records up to update "
                                  f"{self.step} are in {self.directory}; continue there with --resume") from None

    def _move(self, row: dict[str, Any]) -> tuple[str | None, Path]:
        """What became of the folder of the run, and where the run is now, with its records, if it is lost."""
        assert self.lock is not None and self.records is not None
        lost = self.lock.lost()
        if lost is None:
            return None, self.directory
        place = refuge(self.directory)
        self.records = self.records.moved(place, row)
        return lost, place

    def _record(self, row: dict[str, Any], bar: Bar) -> None:
        self.latest |= row
        loss = ", ".join(f"{name} {row[name]:.4g}" for name in ("train/loss", "valid/loss") if name in row)
        bar.note(loss)
        if self.fabric.is_global_zero:
            log.info("step %d of %d: %s", self.step, self.trainer.max_steps, loss)
        on_first(self.fabric, lambda: self.records and self.records.write(row))

    def _save(self, monitored: float | None) -> None:
        finite_weights = torch.stack([parameter.isfinite().all() for parameter in self.objective.parameters()]).all()
        if not finite_weights:
            raise NonFiniteError(f"a weight is not finite after step {self.step}; last good checkpoint: "
                                 f"{self.saved or 'none yet'}; lower the learning rate or the clipping norm")
        total = self.window.total(self.mean)
        state = finite(self._state(monitored))

        def write() -> Path:
            records, flow_map = self.records, self.objective.map
            assert records is not None
            records.flush()
            tensors = {checkpoint.MODEL: flow_map.state_dict(),
                       checkpoint.TRAINING: training_tensors(self.objective, self.optimizer, total)}
            if self.ema is not None:
                tensors[checkpoint.EMA_MODEL] = self.ema.module.state_dict()
            documents = {checkpoint.CONFIG: dict(self.trainer.config), checkpoint.STATE: state}
            folder = checkpoint.write(self.parent, self.step, tensors, documents)
            checkpoint.prune(self.parent, self.trainer.keep)
            if self.trainer.curves and time.monotonic() - self.drawn > 60:
                records.draw()
                self.drawn = time.monotonic()
            return folder

        self.saved = on_first(self.fabric, write)

    # what a checkpoint keeps

    def _state(self, monitored: float | None) -> dict[str, Any]:
        return {
            "step": self.step, "seconds": self.seconds, "epoch": self.stream.epoch(self.step),
            **self._identity(), "draw_seed_of_next_step": key(*self._draws(self.step + 1)),
            "processes": self.fabric.world_size, "accumulation": self.trainer.accumulation,
            "precision": self.trainer.precision, "ema_updates": 0 if self.ema is None else self.ema.updates,
            "window": dict(sorted(self.window.counts.items())), "metrics": self.latest,
            "monitor": {"name": self.trainer.monitor, "value": monitored}, "unmeasured": self.unmeasured,
            "versions": versions(),
        }

    def _identity(self) -> dict[str, int | str]:
        identity = {"seed": self.trainer.seed, "batch_size": self.trainer.batch_size, "examples": self.stream.size,
                    "averaged": self.ema is not None}
        return identity if self.data is None else {**identity, "data": self.data}

    def _prepare(self, resume: bool) -> Path | None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.lock = Lock(self.directory)
            found = taken(self.directory)
            if found and not resume:
                raise CheckpointError(f"{self.directory} already holds {found}; resume that run, or choose another "
                                      "directory")
            self.parent.mkdir(exist_ok=True)
            sweep(self.directory)
            folder = checkpoint.newest(self.parent)
            if resume and folder is None:
                log.warning("%s holds no checkpoint: starting at update 1", self.parent)
            checkpoint.tidy(self.parent, checkpoint.step_of(folder) if folder else 0, self.trainer.keep)
        except OSError as error:
            raise CheckpointError(unwritable(self.parent, error, "nothing was changed")) from error
        return folder

    def _restore(self, folder: Path) -> None:
        state = checkpoint.read_state(folder)
        needed = ("step", "seconds", "window", "metrics", *(("ema_updates",) if self.ema is not None else ()))
        if lacking := [name for name in needed if state.get(name) is None]:
            raise CheckpointError(f"{folder / checkpoint.STATE} lacks {', '.join(lacking)}; it holds no training to "
                                  "resume; start in another directory")
        learned = [config.get("state", {}) for config in (checkpoint.read_config(folder), self.trainer.config)]
        if found := changes(*(part if isinstance(part, Mapping) else {} for part in learned)):
            raise CheckpointError(f"{folder} was trained on other data: {found}; restore those data and resume, or "
                                  "start in another directory")
        check_same_run(state, self._identity(), folder)
        if "64-true" in (state.get("precision"), self.trainer.precision):  # weights of another type
            check_same_run(state, {"precision": self.trainer.precision}, folder)
        restore(self.objective.map.state_dict(), folder / checkpoint.MODEL)
        if self.ema is not None:
            restore(self.ema.module.state_dict(), folder / checkpoint.EMA_MODEL)
            self.ema.updates = state["ema_updates"]
        total = restore_training(folder / checkpoint.TRAINING, self.objective, self.optimizer)
        self.window = Window(state["window"], total.to(self.fabric.device).unbind())
        self.step, self.seconds, self.latest = state["step"], state["seconds"], state["metrics"]
        self.unmeasured = state.get("unmeasured", False)
        self._set_rate(self.step)
        if self.fabric.is_global_zero:
            warn_of_parts(state, self.stream.parts)
        leader = checkpoint.best(self.parent)
        if leader is not None:
            self.lowest = checkpoint.read_state(leader)["monitor"]["value"]

    # small parts

    def _trained(self) -> nn.Module:
        return self.objective.map if self.ema is None else self.ema.module

    def _draws(self, step: int, part: int = 0) -> tuple[int | str, ...]:
        """What the noise of one part of the batch is seeded by, whichever process it falls to."""
        return self.trainer.seed, step, part, "draw"

    def _data(self, step: int) -> list[Any]:
        """The micro-batches of this process, in pinned memory where they will be copied to an accelerator."""
        count, rank = self.trainer.accumulation, self.fabric.global_rank
        batches = [self.trainer.train_data.batch(self.stream.index(step, rank * count + i)) for i in range(count)]
        return [pinned(batch) for batch in batches] if self.fabric.device.type == "cuda" else batches

    def _set_rate(self, step: int) -> None:
        factor = self.trainer.schedule(step, self.trainer.max_steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def _budget_spent(self) -> bool:
        return self.trainer.max_seconds is not None and self.seconds >= self.trainer.max_seconds

    def _reason(self, interrupt: Interrupt, last: bool) -> str:
        """Why to stop now, on all processes alike: several ask each other only when they meet for a record anyway."""
        if self.fabric.world_size > 1 and self.step % self.trainer.log_every and not last:
            return ""
        return agreed(self.fabric, interrupt.name or ("steps" if last else "seconds" if self._budget_spent() else ""))
