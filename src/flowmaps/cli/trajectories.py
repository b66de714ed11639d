"""``flowmaps trajectories CHECKPOINT``"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from ..configuration.parsing import parse
from ..data.base import fingerprint
from ..hub import load
from ..maps import EndpointMap
from ..samplers.grids import TimeGrid
from ..steering import LogitGuidance
from ..tasks.base import preparing
from ..train.checkpoint import run_of
from ..train.trajectories import make_trajectories, require_one_hot
from .checkpoints import model_parser, open_checkpoint

HELP = """Paths of a trained flow, solved once and stored: noise, and what the diagonal of the map predicts at each
step of Euler's method. FromTrajectories learns few jumps from them. A run that was interrupted goes on where it was; a
larger --n adds paths to a folder."""


def run(arguments: Sequence[str]) -> int:
    p = model_parser("trajectories", HELP)
    p.add_argument("--n", type=int, default=8192, help="number of paths")
    p.add_argument("--times", type=str | None, help="of the steps, like 0,.5,.7,.8,1 (default: equal steps)")
    p.add_argument("--steps", type=int, default=16, help="equal steps of a path, where no times are given")
    p.add_argument("--temperature", type=float, default=1.0, help="of the predictions; below 1 they are surer")
    p.add_argument("--weaker", type=str | None, help="a less trained map of the same task, to guide away from")
    p.add_argument("--scale", type=float, default=1.5, help="of that guidance; 1 is none")
    p.add_argument("--seed", type=int, default=0, help="of the noise")
    p.add_argument("--batch", type=int, default=32, help="paths at a time")
    p.add_argument("--out", type=str | None, help="folder of the paths (default: trajectories in the run's folder)")
    cfg = parse(p, arguments)
    grid = TimeGrid.read(cfg.times) if cfg.times else TimeGrid.uniform(cfg.steps)
    opened = open_checkpoint(cfg)
    flow_map = cast("EndpointMap", opened.flow_map)
    require_one_hot(flow_map)
    origin = {"flow": fingerprint(*flow_map.state_dict().values()), "data": opened.task.state()["data"]["train"]}
    if cfg.weaker:
        weaker = cast("EndpointMap", load(cfg.weaker, cfg.device).flow_map)
        origin |= {"weaker": fingerprint(*weaker.state_dict().values()), "scale": f"{cfg.scale:g}"}
        flow_map = LogitGuidance(flow_map, cfg.scale, weaker)
    folder = Path(cfg.out or (run_of(opened.folder) or Path()) / "trajectories")
    with preparing("trajectories", cfg.n) as told:
        paths = make_trajectories(
            folder, flow_map, opened.task.train_data, grid.times, cfg.n, origin, temperature=cfg.temperature,
            seed=cfg.seed, batch=cfg.batch, tell=told,
        )  # fmt: skip
    print(f"{len(paths):,} paths of {paths.steps} steps in {folder}")
    return 0
