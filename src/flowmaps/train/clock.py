"""What a run has spent of its budget, by the clock on the wall and by that of the processor."""

from __future__ import annotations

import time

from .settings import Budget


class Clock:
    """The time of all sessions of a run.

    Arguments:
        budget: What may be spent.
        step, seconds, cpu_seconds: Updates made in earlier sessions, and what they took.
    """

    def __init__(self, budget: Budget, step: int = 0, seconds: float = 0.0, cpu_seconds: float = 0.0):
        self.budget, self.seconds, self.cpu_seconds = budget, seconds, cpu_seconds
        self._started = time.monotonic() - seconds
        self._resumed = time.process_time()
        self.rest(step)

    def tick(self) -> None:
        """An update is over; processor time counts again from :meth:`resume`."""
        self.seconds = time.monotonic() - self._started
        self.cpu_seconds += time.process_time() - self._resumed
        self._resumed = time.process_time()

    def resume(self) -> None:
        """What came since the last update was no update."""
        self._resumed = time.process_time()

    def rest(self, step: int) -> None:
        """A record begins here, after ``step`` updates."""
        self._rested = step, time.monotonic()

    def rate(self, step: int) -> float:
        """Updates a second since the last record or checkpoint."""
        since, moment = self._rested
        return (step - since) / (time.monotonic() - moment)

    def spent(self) -> bool:
        """Whether a budget of time is used up."""
        limits = ((self.seconds, self.budget.max_seconds), (self.cpu_seconds, self.budget.max_cpu_seconds))
        return any(limit is not None and spent >= limit for spent, limit in limits)

    def share(self, step: int) -> float:
        """How much of the run is behind it after ``step`` updates, by the budget that is used up first."""
        limits = ((self.seconds, self.budget.max_seconds), (self.cpu_seconds, self.budget.max_cpu_seconds))
        return max(step / self.budget.max_steps, *(spent / limit for spent, limit in limits if limit is not None), 0.0)

    def steps(self, step: int) -> int:
        """The updates of the whole run that the schedule of update ``step`` is stretched over.

        All of ``max_steps``, or as many as the time that it is stretched over is seen to allow, if these are fewer.
        """
        budget, most = self.budget, self.budget.max_steps
        limits = [
            (self.cpu_seconds, budget.max_cpu_seconds),
            (self.seconds, budget.max_seconds if budget.stretch else None),
        ]
        share = max((spent / limit for spent, limit in limits if limit), default=0.0)
        return max(step, round(min(most, (step - 1) / share))) if share else most
