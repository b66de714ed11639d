"""``flowmaps tune CHECKPOINT``"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile

from rich.console import Console
from rich.progress import Progress as Bar

from ..configuration.parsing import parse
from ..files import beside
from ..hub import Model
from ..samplers.grids import TimeGrid
from ..seeds import check_seed
from ..tasks.tuning import By, Progress, Tuner
from ..train import Tuned, keep_grid, read_grids
from ..train.checkpoint import GRIDS, MODEL, verify
from .checkpoints import model_parser, open_model
from .config import steps_list

HELP = """Find the times of few jumps that suit a trained map, how far they overshoot before noise is added back, and
the spread of the noise they start from (less than 1 gives up the exact law for samples nearer to the modes).
The result is kept beside the weights (grids.json); sample, evaluate and steer use it unless --grid uniform is given.
Candidates are compared on noise that no evaluation draws; one that does not beat equal steps is not kept."""


def run(arguments: Sequence[str]) -> int:
    p = model_parser("tune", HELP)
    p.add_argument("--steps", type=str, default="1,2,4,8,16", help="numbers of jumps, each with a grid of its own")
    p.add_argument("--by", type=By, default="both", help="path: jumps near a fine path of the map; metric: search by the task's metric; both: the path proposes, the metric decides")  # fmt: skip  # noqa: E501
    p.add_argument("--propose", type=str | None, help='grids of your own instead of a search, each compared with equal steps: "0,.75,1:.5; 0,.6,.75,.85,1:.5" are two and four jumps with overshoot .5, "0,1:0:.8" one from noise of spread .8')  # fmt: skip  # noqa: E501
    p.add_argument("--n", type=int | None, help="samples that candidates are compared on (default: by the task)")
    p.add_argument("--seed", type=int, default=0, help="of the tuning's own noise, which no other command draws")
    p.add_argument("--out", type=str | None, help="a folder for a copy of the checkpoint that gets the grids instead")
    p.add_argument("--overwrite", action="store_true", help="tune again what was tuned before")
    cfg = parse(p, arguments)
    proposals = {one.steps: one for one in map(TimeGrid.read, cfg.propose.split(";"))} if cfg.propose else {}
    steps = list(proposals) or steps_list(cfg.steps)
    if cfg.n is not None and cfg.n < 2:
        raise ValueError(f"n is {cfg.n}, expected at least 2 samples")
    check_seed(cfg.seed)
    opened = open_model(cfg)
    folder = destination(opened, cfg.out)
    kept = {} if cfg.overwrite else read_grids(folder)
    with telling() as told:
        tuner = Tuner(opened.task, opened.flow_map, cfg.by, cfg.n, cfg.seed, told)
        for n in steps:
            if n == 1 and cfg.by == "path":
                print("1 step: one jump has no grid to choose by the path")
            elif n in kept:
                print(f"{line(kept[n])}; kept, --overwrite tunes again")
            else:
                begun = time.monotonic()
                found = tuner(n, proposals.get(n))
                keep_grid(folder, found)
                print(f"{line(found)}; {time.monotonic() - begun:.0f} s", flush=True)
    print(f"wrote {folder / GRIDS}")
    return 0


def destination(opened: Model, out: str | None) -> Path:
    """The folder that gets the grids: the checkpoint's own, or a copy at ``out``.

    Raises: ValueError if the checkpoint is part of the package and no copy is asked for, or ``out`` holds others.
    """
    if out is None:
        if opened.shipped:
            raise ValueError(f"{opened.folder.name} comes with the package; choose a folder for a copy of it by --out")
        return opened.folder
    place, names = Path(out), [path.name for path in opened.folder.iterdir() if path.is_file()]
    if place.exists():
        verify(place)
        if (place / MODEL).read_bytes() != (opened.folder / MODEL).read_bytes():
            raise ValueError(f"{place} holds other weights than {opened.folder}; choose another --out")
        return place
    temporary = beside(place)
    temporary.mkdir(parents=True)
    for name in names:
        copyfile(opened.folder / name, temporary / name)
    temporary.rename(place)
    return place


def line(found: Tuned) -> str:
    """What was found, and by how much it is better."""
    r, name = found.record, found.grid.name
    what = f"{r['metric']} {r['value']:.4g} ± {r['error']:.2g}"
    if found.equal:
        return f"{name}: equal, no grid is better; {what}"
    others = "".join(f", {key} {v['value']:.3g} (equal {v['uniform']:.3g})" for key, v in r["guards"].items())
    equal = f"equal steps {r['uniform']:.4g} ± {r['uniform_error']:.2g}"
    return f"{name}: tuned grid {found.grid}; {what}, {equal}{others}"


@contextmanager
def telling() -> Iterator[Callable[[Progress], None]]:
    """A line on a terminal that changes with each measurement; elsewhere a line for each over all samples."""
    console, column, terminal = Console(stderr=True), "{task.description}", sys.stderr.isatty()
    with Bar(column, console=console, transient=True, disable=not terminal) as bar:
        job = bar.add_task("", total=None)

        def told(found: Progress) -> None:
            what = "costs of all jumps" if found.grid is None else f"{found.grid.name}, {found.grid}"
            text = f"{what}: {found.value:.4g} over {found.samples:,} samples"
            bar.update(job, description=text)
            if not terminal and (found.grid is None or found.whole):
                print(text, file=sys.stderr, flush=True)

        yield told
