"""``flowmaps plot RUN``"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..configuration.parsing import parse, parser
from ..pictures import curves
from ..train.logs import TIMINGS, read_records
from .checkpoints import check_absent

HELP = """Draw what a run recorded, as a PNG with a panel for each name: by update, by epoch, or by time. It may still
be going on."""


def run(arguments: Sequence[str]) -> int:
    p = parser("plot", HELP)
    p.add_argument("run", type=str, help="folder of the run")
    p.add_argument("--names", type=str | None, help="of records, separated by commas; valid means all that begin so")
    p.add_argument(
        "--x", type=Literal["step", "train/epoch", "seconds", "cpu_seconds"], default="step", help="abscissa"
    )
    p.add_argument("--out", type=str | None, help="the PNG file (default: plot.png in the folder of the run)")
    p.add_argument("--overwrite", action="store_true", help="replace an earlier file at --out")
    cfg = parse(p, arguments)
    folder = Path(cfg.run)
    file = folder / "metrics.jsonl"
    rows = read_records(file)
    if not rows:
        raise ValueError(f"{file} holds no record; give the folder of a run, such as runs/digits")
    place = Path(cfg.out) if cfg.out else folder / "plot.png"
    if place.suffix != ".png":
        raise ValueError(f"out is {place}, expected the name of a .png file")
    if cfg.out:
        check_absent([place], cfg.overwrite)
    names = chosen(cfg.names, [name for name in dict.fromkeys(name for row in rows for name in row) if name != cfg.x])
    curves(place, [{name: row[name] for name in (cfg.x, *names) if row.get(name) is not None} for row in rows], cfg.x)
    print(f"wrote {place}: {', '.join(names)} of {len(rows)} records up to update {rows[-1]['step']:,}")
    return 0


def chosen(asked: str | None, known: Sequence[str]) -> list[str]:
    """The names to draw: all but timings, or those that are asked for by name or by what they begin with.

    Raises: ValueError naming one that there is not.
    """
    if asked is None:
        return [name for name in known if name not in (*TIMINGS, "step", "train/epoch")]
    found: list[str] = []
    for part in asked.split(","):
        same = [name for name in known if name == part or name.startswith(f"{part}/")]
        if not same:
            raise ValueError(f"names has {part!r}, expected some of {', '.join(known)}")
        found += same
    return found
