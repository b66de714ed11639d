"""Whether a training can have learned anything: what is said before it starts, in its end, and of its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FEWEST = 200  # updates below which no map of this package has made a sample worth looking at
SHORT = 1_000  # updates below which every example should at least be seen once
FALL = 0.98  # a loss that is not below this share of its first value has not fallen


def too_short(updates: int, passes: float) -> str:
    """What is wrong with a budget; empty if nothing is.

    Arguments:
        updates: How many it allows.
        passes: How often they go through the training examples.

    >>> too_short(150, 0.5)
    'far too short: about 150 updates, 0.5 passes over the training examples; a map needs 1,000 updates or more'
    >>> too_short(4000, 0.5)
    ''
    """
    if updates >= FEWEST and (updates >= SHORT or passes >= 1):
        return ""
    counted = f"about {updates:,} updates, {in_words(passes)} over the training examples"
    return f"far too short: {counted}; a map needs {SHORT:,} updates or more"


def in_words(passes: float) -> str:
    """How often the training examples are gone through.

    >>> in_words(0.52), in_words(1.0), in_words(284.1)
    ('0.52 passes', '1 pass', '284 passes')
    """
    return "1 pass" if round(passes, 2) == 1 else f"{passes:,.0f} passes" if passes >= 10 else f"{passes:.2g} passes"


def nothing_learned(step: int, config: Mapping[str, object], records: Sequence[Mapping[str, object]] = ()) -> str:
    """That a training has come to nothing, in one line; empty if it has not.

    Arguments:
        step: Updates made.
        config: Of the checkpoint; what was begun from another model is never called empty.
        records: Of the run, where they are at hand: a loss that has not fallen is named.
    """
    objective = config.get("objective")
    settings = objective.get("init_args") if isinstance(objective, Mapping) else None
    if isinstance(settings, Mapping) and settings.get("base"):
        return ""
    if step < FEWEST:
        return f"{step:,} updates: nothing learned yet, samples are noise; give the training more time"
    first, last = _ends(records)
    if 0 < FALL * first <= last:
        went = f"the loss went from {first:.4g} to {last:.4g}"
        return f"{step:,} updates: nothing learned yet, {went}; try another learning rate"
    return ""


def _ends(records: Sequence[Mapping[str, object]]) -> tuple[float, float]:
    """The first and the last loss of a denoiser, of no jump: that of a jump begins at nothing."""
    for name in ("train/diagonal", "train/loss"):
        losses = [value for row in records if isinstance(value := row.get(name), float)]
        if len(losses) > 1:
            return losses[0], losses[-1]
    return 0.0, 0.0
