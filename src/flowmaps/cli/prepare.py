"""``flowmaps prepare PRESET``"""

from __future__ import annotations

from collections.abc import Sequence

from ..configuration.parsing import parse
from .config import experiment, training_parser
from .presets import find_preset

HELP = """Make the data of a preset ready for training: downloads, tokens, splits. Nothing is done twice: a preparation
that was interrupted goes on where it was, and `flowmaps train` with the same settings finds what it needs. Subwords are
tokenised on all cores, or on --task.processes."""


def run(arguments: Sequence[str]) -> int:
    p = training_parser("prepare PRESET", HELP)
    p.add_argument(
        "--data.path", type=str | None, help="a file, folder or URL of one's own instead of the preset's data"
    )
    if not arguments or arguments[0].startswith("-"):
        if {"-h", "--help"} & set(arguments):
            p.print_help()
            return 0
        raise ValueError("prepare needs a preset first: flowmaps prepare openwebtext; `flowmaps presets` lists them")
    given = [f"--config={find_preset(arguments[0])}", *arguments[1:]]
    cfg = parse(p, given)
    if cfg.data.path:
        own = experiment(p, cfg).task.own_data(cfg.data.path)
        cfg = parse(p, [*given, *(f"--task.{name}={value}" for name, value in own.items())])
    task = experiment(p, cfg).task
    parts = {"training": task.train_data, "validation": task.valid_data, "test": task.test_data}
    print(
        f"{arguments[0]} is ready: " + ", ".join(f"{len(data):,} examples for {name}" for name, data in parts.items())
    )
    return 0
