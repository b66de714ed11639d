"""``flowmaps prepare PRESET``"""

from __future__ import annotations

from collections.abc import Sequence

from .config import add_own_data, experiment, parse_with_own_data, preset_of, training_parser

HELP = """Make the data of a preset ready for training: downloads, tokens, splits. Nothing is done twice: a preparation
that was interrupted goes on where it was, and `flowmaps train` with the same settings finds what it needs. Subwords are
tokenised on all cores, or on --task.processes."""


def run(arguments: Sequence[str]) -> int:
    p = training_parser("prepare PRESET", HELP)
    add_own_data(p)
    preset = preset_of(p, arguments, "flowmaps prepare openwebtext")
    if preset is None:
        return 0
    task = experiment(p, parse_with_own_data(p, preset, arguments)).task
    parts = {"training": task.train_data, "validation": task.valid_data, "test": task.test_data}
    print(
        f"{arguments[0]} is ready: " + ", ".join(f"{len(data):,} examples for {name}" for name, data in parts.items())
    )
    return 0
