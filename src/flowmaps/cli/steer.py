"""``flowmaps steer CHECKPOINT --reward NAME``"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser

from ..configuration.parsing import parse
from ..fields import Data, fieldwise, leaves, select
from ..files import write_json
from ..reading import Document
from ..samplers.grids import TimeGrid
from ..steering import BestOf, FeynmanKac, LookAhead, Method, Reward, Steered, Tilted
from ..tasks.base import Task
from ..tasks.steering import reward
from .checkpoints import (
    add_grid,
    add_options,
    check_out,
    checkpoint_parser,
    chosen_options,
    grid_of,
    modality,
    open_checkpoint,
    origin,
    results,
)

HELP = """Steer samples by a reward, such as class:3, qed, keyword:king or ink:0.4, and compare with plain samples.
feynman-kac and tilted represent the plain distribution times exp(strength * reward) by weighted particles; look-ahead
and best-of-n only raise the reward."""
METHODS = ("auto", "tilted", "feynman-kac", "look-ahead", "best-of-n")


def _parser() -> ArgumentParser:
    p = checkpoint_parser("steer", HELP)
    p.add_argument("--reward", type=str, help="its name, with an argument behind a colon; a wrong name lists them all")
    p.add_argument("--strength", type=float, default=5.0, help="of the reward in the exponent; 0 is plain sampling")
    p.add_argument("--particles", type=int, default=64, help="particles, or draws for each sample of best-of-n")
    p.add_argument("--population", type=int | None, help="particles alive at one time (default: all)")
    p.add_argument("--steps", type=int, default=8, help="steps of the flow map")
    p.add_argument("--noise", type=float | None, help="how far steps overshoot, in [0, 1] (default: as tuned, or 0.5)")
    add_grid(p)
    p.add_argument("--method", type=Literal[METHODS], default="auto", help="auto: tilted if r has a gradient")
    p.add_argument("--n", type=int, default=16, help="samples to write, before and after")
    return p


def run(arguments: Sequence[str]) -> int:
    p = _parser()
    kind = modality(arguments)
    of_problem, of_rewards = add_options(p, kind, "problem"), add_options(p, kind, "rewards")
    cfg = parse(p, arguments)
    for name in ("n", "particles", "steps"):
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name} is {getattr(cfg, name)}, expected at least 1")
    if cfg.reward is None:
        raise ValueError("no reward; name one, such as --reward class:3, --reward qed or --reward keyword:king")
    opened, chosen = open_checkpoint(cfg), p.instantiate(cfg)
    check_out(cfg, opened.task)
    wanted = reward(opened.task, cfg.reward, opened.device, **chosen_options(chosen, of_rewards))
    generator, options = opened.generator(cfg.seed), chosen_options(chosen, of_problem)
    method = choose(cfg.method, wanted, grid_of(opened, cfg.steps, cfg.grid), cfg.noise, cfg.particles)
    count = cfg.n if isinstance(method, BestOf) else cfg.particles
    setting = opened.task.problem(count, generator, **options)
    common: dict[str, Any] = {**setting._asdict(), "particles": count, "population": cfg.population}
    plain = BestOf(1, method.sampler)(
        opened.flow_map, wanted, generator=opened.generator(cfg.seed), strength=0.0, **common
    )
    steered = method(opened.flow_map, wanted, generator=opened.generator(cfg.seed), strength=cfg.strength, **common)
    directory = results(cfg, opened, "steered")
    shown = {"before": _first(opened.task, plain, cfg.n), "after": _drawn(opened.task, steered, cfg.n, generator)}
    paths = opened.task.write(shown, directory, **options)
    report = {**origin(opened), "reward": cfg.reward, "strength": cfg.strength, "steps": cfg.steps, "seed": cfg.seed}
    report |= {**wanted.about, "method": type(method).__name__, "before": measures(opened.task, plain)}
    report["after"] = measures(opened.task, steered)
    write_json(directory / "metrics.json", report)
    for name, value in wanted.about.items():
        print(f"{name}: {value:.3f}")
    print(f"before: reward {plain.mean_reward:.4g}, {plain.evaluations} network evaluations")
    print(f"after:  {steered.describe()}")
    print("wrote " + ", ".join(str(path) for path in (*paths, directory / "metrics.json")))
    return 0


def choose(name: str, wanted: Reward, grid: TimeGrid, noise: float | None, particles: int) -> Method:
    """The method by its name; without ``noise`` steps overshoot as the grid does, or by half where it does not."""
    if name == "auto":
        name = "tilted" if wanted.differentiable else "feynman-kac"
    if name == "look-ahead":
        return LookAhead(torch.tensor(grid.times))
    sampler = grid.stochastic(noise)
    if name == "best-of-n":
        return BestOf(particles, sampler)
    return Tilted(sampler) if name == "tilted" else FeynmanKac(sampler)


def measures(task: Task, result: Steered) -> Document:
    """What is worth knowing of a result, in plain values."""
    finite = lambda x: x if math.isfinite(x) else None  # noqa: E731
    return {
        "mean_reward": result.mean_reward,
        "best_reward": float(result.rewards.max()),
        "diversity": diversity(task, result),
        "effective_size": result.effective_size,
        "ess": result.ess.tolist(),
        "collapsed": result.collapsed,
        "error_trusted": result.trusted,
        "log_normaliser": finite(result.log_normaliser),
        "log_normaliser_error": finite(result.error),
        "evaluations": result.evaluations,
        "resampled": result.resampled,
    }


def diversity(task: Task, result: Steered) -> float:
    """Weighted mean share of positions in which two particles differ; 0 for a single sample."""
    flat = torch.cat([leaf.flatten(1) for (leaf,) in leaves(task.finished(result.samples, result.condition))], dim=1)
    rows = flat[: min(len(flat), 512)]
    weights = result.weights[: len(rows)].cpu().double()
    weights = weights / weights.sum()
    differ = torch.stack([(row != rows).double().mean(1) for row in rows])
    return float(weights @ differ @ weights)


def _first(task: Task, result: Steered, n: int) -> Data:
    part = fieldwise(lambda x: x[:n], result.samples)
    return task.finished(part, select(result.condition, slice(n)))


def _drawn(task: Task, result: Steered, n: int, generator: torch.Generator) -> Data:
    """Samples of equal weight, with their conditions."""
    index = result.choose(n, generator)
    return task.finished(fieldwise(lambda x: x[index], result.samples), select(result.condition, index))
