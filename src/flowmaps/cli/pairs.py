"""``flowmaps pairs CHECKPOINT``"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..configuration.parsing import parse
from ..data.base import fingerprint
from ..data.pairs import Draw, make_pairs, optimal, pushed
from ..fields import one_field
from ..hub import Model
from ..maps import Bijection
from ..paths import WrappedNormal
from ..samplers import Decoder, Jumps, Sampler
from ..samplers.base import decoder_of
from ..spaces import is_categorical
from ..tasks.base import preparing
from ..train.checkpoint import run_of
from .checkpoints import model_parser, open_checkpoint

By = Literal["flow", "ot"]
HELP = """Pairs of source and data points, on which RegFlow trains a bijection: where a trained map carries noise in
a few jumps, or what optimal transport makes of noise and the data of its task. They are made once; a run that was
interrupted goes on where it was, and a larger --n adds pairs to a folder."""


def run(arguments: Sequence[str]) -> int:
    p = model_parser("pairs", HELP)
    p.add_argument("--by", type=By, default="flow", help="flow: where the map carries noise; ot: optimal transport")
    p.add_argument("--n", type=int, default=100_000, help="number of pairs")
    p.add_argument("--steps", type=int, default=4, help="jumps of the map")
    p.add_argument("--sampler", type=Sampler | None, help="another way from noise to data: --sampler Dopri5")
    p.add_argument("--seed", type=int, default=0, help="of the noise")
    p.add_argument("--out", type=str | None, help="folder of the pairs (default: pairs in the run's folder)")
    cfg = parse(p, arguments)
    chosen = p.instantiate(cfg)
    opened = open_checkpoint(cfg)
    draw, origin = made_by(opened, cfg.by, chosen.sampler or Jumps(cfg.steps), cfg.n)
    folder = Path(cfg.out or (run_of(opened.folder) or Path()) / "pairs")
    with preparing("pairs", cfg.n) as told:
        pairs = make_pairs(folder, draw, cfg.n, origin, cfg.seed, tell=told)
    print(f"{len(pairs):,} pairs in {folder}")
    return 0


def made_by(opened: Model, by: By, sampler: Sampler, n: int) -> tuple[Draw, dict[str, str]]:
    """What makes pairs, and its names and fingerprints.

    Raises: ValueError if the states of the map are no points.
    """
    flow_map, path = opened.flow_map, opened.flow_map.path
    if is_categorical(path.space):
        raise ValueError("pairs are of points with coordinates, but the map is of categories; train another map")
    origin = {"data": opened.task.state()["data"]["train"]}
    if isinstance(path.source, WrappedNormal):
        origin["source"] = "wrapped normal"
    if by == "ot":
        train = opened.task.train_data
        chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: min(n, 2**20)]
        x_1 = one_field(train.batch(chosen.sort().values).x_1)
        return optimal(path.cpu(), x_1), origin | {"by": "optimal transport"}
    positions = tuple(one_field(opened.task.train_data.batch(torch.arange(1)).x_1).shape[1:-1])
    weights = fingerprint(*flow_map.state_dict().values())
    how = (
        "one step"
        if isinstance(flow_map, Bijection)
        else f"{type(sampler).__name__}, {sampler.evaluations} evaluations"
    )
    draw = pushed(path, _push(opened, sampler, decoder_of(flow_map)), positions)
    return draw, origin | {"by": how, "flow": weights}


def _push(opened: Model, sampler: Sampler, decoder: Decoder) -> Callable[[Tensor], Tensor]:
    """Where noise goes, on the device of the map, as points on the CPU."""
    flow_map, device = opened.flow_map, opened.device

    def push(x_0: Tensor) -> Tensor:
        x = x_0.to(device)
        if isinstance(flow_map, Bijection):
            return flow_map.push(x).cpu()
        generator = torch.Generator(device)
        return one_field(
            decoder(sampler.from_noise()(flow_map, x, generator=generator), generator, flow_map.chunk)
        ).cpu()

    return push
