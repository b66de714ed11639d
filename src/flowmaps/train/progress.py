"""What a training says while it goes on: its rate and the time left, in lines, and as a bar on a terminal."""

from __future__ import annotations

import logging
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .clock import Clock
from .verdict import in_words, too_short

log = logging.getLogger("flowmaps.train")
SOON = 5.0  # seconds after which the rate is told


class Pace:
    """How fast a session of a run is, by the budget that is used up first.

    Arguments:
        clock: That of the run.
        step: Updates made before.
        batch: Examples of an update.
        examples: To train on.
    """

    def __init__(self, clock: Clock, step: int, batch: int, examples: int):
        self.clock, self.batch, self.examples = clock, batch, examples
        self._started = time.monotonic()
        self._begun = step, clock.share(step), self._started
        self._first, self._told = True, False

    def tick(self, step: int) -> None:
        """After an update: tell the rate once, as soon as it is known."""
        now = time.monotonic()
        early = now - self._started < SOON
        if self._first and early:  # the first update also makes ready what all of them use
            self._begun = step, self.clock.share(step), now
        elif not early and not self._told and self.clock.share(step) < 1:
            self._told = True
            log.info("%s", self.outlook(step))
            if short := too_short(self.updates(step), self.passes(step)):
                log.warning("the budget is %s", short)
        self._first = False

    def updates(self, step: int) -> int:
        """How many the run will have made."""
        begun, share, _ = self._begun
        done = self.clock.share(step) - share
        return (
            max(step, round(begun + (step - begun) * (1 - share) / done)) if done > 0 else self.clock.budget.max_steps
        )

    def passes(self, step: int) -> float:
        """Over the training examples, in all."""
        return self.updates(step) * self.batch / self.examples

    def left(self, step: int) -> str:
        """The time to the end in words; nothing as long as that is unknown."""
        _, share, moment = self._begun
        now = self.clock.share(step)
        return f"{in_time((time.monotonic() - moment) * (1 - now) / (now - share))} left" if share < now < 1 else ""

    def outlook(self, step: int) -> str:
        """Rate, time left, and what the budget comes to."""
        begun, _, moment = self._begun
        rate = (step - begun) / max(time.monotonic() - moment, 1e-9)
        each = f"{rate:.1f} updates a second" if rate >= 1 else f"{1 / rate:.1f} seconds an update"
        much = f"about {self.updates(step):,} updates in all, {in_words(self.passes(step))} over the examples"
        return f"{each}, {self.left(step)}; {much}"


def in_time(seconds: float) -> str:
    """A duration in words.

    >>> in_time(42.2), in_time(247), in_time(7510)
    ('42 s', '4 min 7 s', '2 h 5 min')
    """
    whole = round(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


class Bar:
    """A progress bar over the share of the run that is done.

    Arguments:
        pace: Of the session.
        step: Updates done.
        shown: Whether to draw it at all.
        console: Where to draw it; standard error by default.
    """

    def __init__(self, pace: Pace, step: int, shown: bool = True, console: Console | None = None):
        self.pace = pace
        console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.fields[step]}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not (shown and console.is_terminal),
            transient=False,
        )
        self._task = self._progress.add_task("", total=1.0, step="", note="")
        self._draw(step)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, step: int) -> None:
        """After ``step`` updates."""
        self.pace.tick(step)
        self._draw(step)

    def _draw(self, step: int) -> None:
        done = self.pace.clock.share(step)
        text = f"step {step:,} of about {self.pace.updates(step):,}"
        self._progress.update(self._task, completed=min(done, 1.0), step=text)

    def note(self, text: str) -> None:
        self._progress.update(self._task, note=text)
