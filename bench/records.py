"""What comparisons share that keep records."""

from __future__ import annotations

from pathlib import Path

from flowmaps.maps import EndpointMap, FlowMap
from flowmaps.objectives import Consistency
from flowmaps.objectives.lagrangian import LagrangianFamily
from flowmaps.times import FullJump, PairLaw, Triangle
from flowmaps.train import Report

SAID = "\n## What it says\n"


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


def remarks(page: Path) -> str:
    """What a person has concluded from a page of results, with its heading: kept when the table is written again.

    Empty where there is no page, or no such heading.
    """
    _, heading, text = page.read_text().partition(SAID) if page.exists() else ("", "", "")
    return heading + text


def jumps(consistency: Consistency | None, flow_map: FlowMap, probability: float) -> PairLaw:
    """Some full jumps, but not where nothing is asked of them.

    At t = 1 the Lagrangian identity of an endpoint map holds for whatever it decodes, so its loss leaves such jumps
    out. A comparison on equal budgets draws others in their place.
    """
    blind = isinstance(consistency, LagrangianFamily) and isinstance(flow_map, EndpointMap)
    return Triangle() if blind else FullJump(probability=probability)
