"""What every comparison asks of a training before it records it."""

from __future__ import annotations

from flowmaps.train import Report


class Interrupted(Exception):
    """A signal ended a training before its budget: nothing of it may be recorded."""


def require_whole(report: Report) -> None:
    """Refuse a training that did not come to the end of its budget.

    A trainer answers SIGTERM and Ctrl-C by ending early and in order, as a run should that is continued later. A row of
    a table would have had less than its budget, and nobody could tell.

    Raises: Interrupted if a signal ended it.
    """
    if report.reason not in ("steps", "seconds"):
        raise Interrupted(
            f"{report.reason} ended a training after {report.step} updates, before its budget: not recorded"
        )
