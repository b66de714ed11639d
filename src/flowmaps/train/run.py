"""The loop of one run on one process: update, record, validate, save, stop."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..data import Identified
from ..data.text_known import PartlyKnown
from ..fields import Batch
from ..maps import FlowMap
from . import checkpoint
from .clock import Clock
from .home import Content, Folder, Home, Nowhere
from .interrupt import Interrupt
from .learner import Learner, NonFiniteError
from .logs import Row, finite
from .measure import Measure
from .parallel import agreed, pinned, together
from .precision import settled
from .progress import Bar, Pace
from .settings import Plan
from .state import changes, check_same_run, versions, warn_of_parts
from .stream import Stream, ahead, key
from .tensors import CheckpointError

if TYPE_CHECKING:
    from lightning.fabric import Fabric

log = logging.getLogger("flowmaps.train")


class Report(NamedTuple):
    """How a run ended.

    Arguments:
        step: Updates made.
        reason: ``"steps"``, ``"seconds"`` (a budget of time used up), or the signal that ended it (``"SIGTERM"``,
            ``"SIGINT"``).
        seconds: Time of all sessions of the run.
        metrics: The last record of each name.
        checkpoint, best: The last and the best checkpoint folder.
        flow_map: The trained map in evaluation mode, with averaged weights if there are any; where weights are sharded
            the first process alone has it.
        first: Whether this is the first process of the run: it alone should report and write results.
        cpu_seconds: Processor time of the updates of all sessions, measuring and saving left out.
        records: All records, in order.
    """

    step: int
    reason: str
    seconds: float
    metrics: Row
    checkpoint: Path | None
    best: Path | None
    flow_map: FlowMap
    first: bool = True
    cpu_seconds: float = 0.0
    records: Sequence[Row] = ()


def fit(fabric: Fabric, plan: Plan, resume: bool) -> Report:
    """Carry out ``plan`` on the devices of ``fabric``."""
    plan = replace(plan, precision=settled(plan.precision, fabric.device))
    run = Run(fabric, plan)
    try:
        run.begin(resume)
        with together(fabric):
            return run.train()
    except NonFiniteError as error:
        raise NonFiniteError(
            f"{error}; last good checkpoint: {run.home.saved or 'none yet'}; "
            "lower the learning rate or the clipping norm"
        ) from error
    finally:
        run.home.close()


class Due(NamedTuple):
    """What is to be done after an update."""

    record: bool
    validate: bool
    evaluate: bool
    save: bool


class Run:
    """State of a run: what a checkpoint keeps, and what is built anew around it."""

    def __init__(self, fabric: Fabric, plan: Plan):
        if fabric.world_size > 1 and plan.max_cpu_seconds is not None:
            raise ValueError("max_cpu_seconds counts the time of one process, but there are several; use max_seconds")
        self.fabric, self.plan = fabric, plan
        parts = fabric.world_size * plan.accumulation
        self.stream = Stream(len(plan.train_data), plan.batch_size, plan.seed, parts)
        self.identity = _identity(plan)
        self.learner = Learner(fabric, plan)
        self.measure = Measure(fabric, plan, self.learner)
        directory = plan.directory
        self.home: Home = Nowhere(fabric) if directory is None else Folder(fabric, plan, Path(directory))
        self.clock = Clock(plan)
        self.step = 0
        self.latest, self.lowest = Row(), float("inf")
        self.unmeasured = False  # whether a signal kept from measuring what was due at this step

    def begin(self, resume: bool) -> None:
        """Restore the newest checkpoint, and open the records at its step."""
        found = self.home.begin(resume)
        if found is not None:
            self._restore(found)
        self.home.open(self.step - self.unmeasured)
        self.clock = Clock(self.plan, self.step, self.clock.seconds, self.clock.cpu_seconds)

    def train(self) -> Report:
        """Make updates until the budget is spent or a signal comes."""
        plan = self.plan
        depth = plan.prefetch if plan.prefetch is not None else 2 * (self.fabric.device.type != "cpu")
        devices = [self.fabric.device] if self.fabric.device.type == "cuda" else []
        reason = "seconds" if self.clock.spent() else "steps"  # if no update is left to be made
        last = self.step if reason == "seconds" else plan.max_steps
        shown = plan.progress and self.fabric.is_global_zero
        self.learner.objective.train()
        with torch.random.fork_rng(devices), Interrupt() as interrupt, Bar(self._pace(), self.step, shown) as bar:
            if self.unmeasured and (found := self.attend(bar, interrupt)):
                reason, last = found, self.step
            with closing(ahead(self._data, range(self.step + 1, last + 1), depth)) as updates:
                self.clock.resume()
                for step, batches in enumerate(updates, start=self.step + 1):
                    self.learner.update(step, self.clock.steps(step), batches)
                    self.step = step
                    self.clock.tick()
                    bar.show(step)
                    if reason := self.attend(bar, interrupt):
                        break
                    self.clock.resume()
        self.home.finish()
        return self.report(reason)

    def _pace(self) -> Pace:
        data = self.plan.train_data
        rows = data.data if isinstance(data, PartlyKnown) else data  # which comes with several choices of each row
        return Pace(self.clock, self.step, self.plan.batch_size, len(rows))

    def attend(self, bar: Bar, interrupt: Interrupt) -> str:
        """After an update: what is due, and the reason to stop, if any."""
        reason = self._reason(interrupt)
        due = self._due(reason)
        if any(due):
            self.learner.check_finite()
        window = self.learner.window
        row = self._training_row() if due.record else Row()
        saving = due.save
        if due.validate or due.evaluate:
            bar.note("measuring")
            measured = self.measure(self.step, due.validate, due.evaluate, reason, interrupt)
            reason = agreed(self.fabric, interrupt.name or reason)
            self.unmeasured = measured is None
            if measured is None:  # the whole record is due again
                self.learner.window, row = window, Row()
            else:
                row |= measured
            saving = self._improved(row) or saving
        saving = saving or bool(reason)
        if row or saving:
            self._keep({"step": self.step, **row} if row else {}, saving, bar)
            self.clock.rest(self.step)
        return reason

    def report(self, reason: str) -> Report:
        return Report(
            self.step,
            reason,
            self.clock.seconds,
            dict(self.latest),
            self.home.saved,
            self.home.best(),
            self.learner.strategy.whole(self.learner.trained).eval(),
            self.fabric.is_global_zero,
            self.clock.cpu_seconds,
            self.home.records(),
        )

    # what is due after an update

    def _reason(self, interrupt: Interrupt) -> str:
        """Why to stop now, on all processes alike: several ask each other only when they meet for a record anyway."""
        last = self.step == self.plan.max_steps
        if self.fabric.world_size > 1 and self.step % self.plan.log_every and not last:
            return ""
        return agreed(self.fabric, interrupt.name or ("steps" if last else "seconds" if self.clock.spent() else ""))

    def _due(self, reason: str) -> Due:
        step, plan = self.step, self.plan
        last = step == plan.max_steps
        finished = last or reason == "seconds"
        regular = plan.evaluate_every is not None and step % plan.evaluate_every == 0
        return Due(
            record=last or step % plan.log_every == 0,
            validate=plan.valid_data is not None and (finished or step % plan.validate_every == 0),
            evaluate=plan.evaluate is not None and (finished or regular),
            save=bool(reason) or step % plan.save_every == 0,
        )

    def _training_row(self) -> Row:
        row = {f"train/{name}": value for name, value in self.learner.means().items()}
        return {
            **row,
            "train/lr": self.learner.optimizer.param_groups[0]["lr"],
            "train/epoch": self.stream.epoch(self.step),
            "seconds": round(self.clock.seconds, 3),
            "cpu_seconds": round(self.clock.cpu_seconds, 3),
            "examples_per_second": round(self.clock.rate(self.step) * self.plan.batch_size, 1),
        }

    def _improved(self, row: Row) -> bool:
        """Whether the monitored number is the lowest so far."""
        monitored = row.get(self.plan.monitor)
        if monitored is None or not monitored < self.lowest:
            return False
        self.lowest = monitored
        return True

    def _keep(self, row: Row, saving: bool, bar: Bar) -> None:
        """Show a record, and keep it and a checkpoint."""
        if row:
            self.latest |= row
            loss = ", ".join(f"{name} {row[name]:.4g}" for name in ("train/loss", "valid/loss") if name in row)
            bar.note(loss)
            if self.fabric.is_global_zero:
                left = bar.pace.left(self.step)
                log.info(
                    "step %d of about %d: %s%s", self.step, bar.pace.updates(self.step), loss, left and f", {left}"
                )
        self.home.keep(row, saving, lambda: self._content(row.get(self.plan.monitor)))

    # what a checkpoint keeps

    def _content(self, monitored: float | None) -> Content:
        self.learner.check_weights(self.step)
        sums = self.learner.sums()
        documents = {checkpoint.CONFIG: dict(self.plan.config), checkpoint.STATE: finite(self._state(monitored))}
        return Content(self.step, self.learner.tensors(sums), documents)

    def _state(self, monitored: float | None) -> dict[str, object]:
        learner = self.learner
        return {
            "step": self.step,
            "seconds": self.clock.seconds,
            "cpu_seconds": self.clock.cpu_seconds,
            "epoch": self.stream.epoch(self.step),
            **self.identity,
            "draw_seed_of_next_step": key(*learner.draws(self.step + 1)),
            "processes": self.fabric.world_size,
            "accumulation": self.plan.accumulation,
            "precision": self.plan.precision,
            "ema_updates": 0 if learner.ema is None else int(learner.ema.updates),
            "window": dict(sorted(learner.window.counts.items())),
            "metrics": self.latest,
            "monitor": {"name": self.plan.monitor, "value": monitored},
            "unmeasured": self.unmeasured,
            "versions": versions(),
        }

    def _restore(self, folder: Path) -> None:
        state = checkpoint.read_state(folder)
        needed = ("step", "seconds", "window", "metrics", *(("ema_updates",) if self.plan.ema is not None else ()))
        if lacking := [name for name in needed if state.get(name) is None]:
            raise CheckpointError(
                f"{folder / checkpoint.STATE} lacks {', '.join(lacking)}; it holds no training to "
                "resume; start in another directory"
            )
        learned = [config.get("state", {}) for config in (checkpoint.read_config(folder), self.plan.config)]
        if found := changes(*(part if isinstance(part, Mapping) else {} for part in learned)):
            raise CheckpointError(
                f"{folder} was trained on other data: {found}; restore those data and resume, or "
                "start in another directory"
            )
        check_same_run(state, self.identity, folder)
        if "64-true" in (state.get("precision"), self.plan.precision):  # weights of another type
            check_same_run(state, {"precision": self.plan.precision}, folder)
        self.learner.restore(folder, state)
        self.step, self.latest = state["step"], state["metrics"]
        self.clock = Clock(self.plan, self.step, state["seconds"], state.get("cpu_seconds") or 0.0)
        self.unmeasured = state.get("unmeasured", False)
        self.learner.set_rate(self.step, self.clock.steps(self.step))
        if self.fabric.is_global_zero:
            warn_of_parts(state, self.stream.parts)
        leader = self.home.best()
        if leader is not None:
            self.lowest = checkpoint.read_state(leader)["monitor"]["value"]

    def _data(self, step: int) -> list[Batch]:
        """The micro-batches of this process, in pinned memory where they will be copied to an accelerator."""
        count, rank = self.plan.accumulation, self.fabric.global_rank
        batches = [self.plan.train_data.batch(self.stream.index(step, rank * count + i)) for i in range(count)]
        return [pinned(batch) for batch in batches] if self.fabric.device.type == "cuda" else batches


def _identity(plan: Plan) -> dict[str, int | str]:
    """What a run cannot change when it is resumed."""
    data = plan.train_data
    known = {"data": data.fingerprint()} if isinstance(data, Identified) else {}
    averaged = plan.ema is not None
    return {"seed": plan.seed, "batch_size": plan.batch_size, "examples": len(data), "averaged": averaged, **known}
