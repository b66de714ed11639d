"""``flowmaps export CHECKPOINT FOLDER``"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..configuration.parsing import parse
from .checkpoints import model_parser, open_model

HELP = """Keep what sampling needs of a checkpoint: averaged weights, configuration, and a card with what was measured
(of `flowmaps evaluate`, if it was run). Every command takes the folder in the place of a run."""


def run(arguments: Sequence[str]) -> int:
    p = model_parser("export", HELP)
    p.add_argument("folder", type=str, help="where to write; its name is the model's")
    p.add_argument("--half", action="store_true", help="write weights in half precision, in half the space")
    p.add_argument("--note", type=str | None, help="a file of Markdown that the card begins with")
    p.add_argument("--licence", type=str | None, help="of the weights, such as apache-2.0 or cc-by-4.0")
    p.add_argument("--push", type=str | None, help="also put it into a repository of a hub: owner/name")
    cfg = parse(p, arguments)
    place = Path(cfg.folder)
    if place.exists():
        raise ValueError(f"{place} is there already; choose another folder, or remove it")
    note = None if cfg.note is None else Path(cfg.note).read_text(encoding="utf-8")
    opened = open_model(cfg)
    opened.save_pretrained(place, half=cfg.half, note=note, licence=cfg.licence)
    size = sum(path.stat().st_size for path in place.iterdir())
    print(f"wrote {place}: {size / 1e6:.1f} MB; draw from it by `flowmaps sample {place}`")
    if cfg.push is not None:
        print(f"see {opened.push_to_hub(cfg.push, half=cfg.half, note=note, licence=cfg.licence)}")
    return 0
