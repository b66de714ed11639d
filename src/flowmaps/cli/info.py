"""``flowmaps info CHECKPOINT``"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..configuration.parsing import parse
from ..hub import Model
from ..reading import Document
from .checkpoints import model_parser, open_model

HELP = """What a checkpoint is: step, time, seed, versions, size, settings and last records."""


def run(arguments: Sequence[str]) -> int:
    p = model_parser("info", HELP)
    p.add_argument("--json", action="store_true", help="everything as JSON")
    cfg = parse(p, arguments)
    opened = open_model(cfg)
    if cfg.json:
        print(json.dumps(facts(opened), indent=2))
        return 0
    import yaml

    shown = facts(opened)
    shown["config"] = {name: part for name, part in shown["config"].items() if name != "state"}
    print(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip())
    return 0


def facts(opened: Model) -> Document:
    """A checkpoint in plain values."""
    state = opened.state
    return {
        "checkpoint": str(opened.folder),
        "parameters": sum(parameter.numel() for parameter in opened.flow_map.parameters()),
        "bytes": sum(path.stat().st_size for path in opened.folder.iterdir()),
        **{name: state.get(name) for name in ("step", "epoch", "seconds", "seed", "precision", "versions", "metrics")},
        "grids": {steps: str(tuned.grid) for steps, tuned in opened.grids.items()},
        "config": opened.config,
    }
