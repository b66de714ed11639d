r"""Reward against network evaluations for every steering method, on handwritten digits.

    python bench/steering.py                        # trains a map, then bench/results/steering.{json,md,png}
    python bench/steering.py --quick                # one seed, few runs, a few minutes
    python bench/steering.py --map digits.pt        # keep the trained map there, or take it from there

One *run* spends a number of network evaluations (a gradient counts as one more) and hands back its sample of the
highest reward. Rewards come from one classifier; a second one, trained on other images, says whether the samples still
are what was asked for.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from flowmaps.data.images import digits
from flowmaps.fields import Batch
from flowmaps.maps import EndpointMap
from flowmaps.metrics.images import ImageClassifier, nearest_distance, train_classifier
from flowmaps.networks import MLP, UNet
from flowmaps.objectives import SelfDistillation, SemigroupKL
from flowmaps.paths import LinearPath
from flowmaps.pictures import sample_grid
from flowmaps.samplers import Jumps, Renoise
from flowmaps.spaces import OneHot
from flowmaps.steering import BestOf, FeynmanKac, LookAhead, Reward, Soft, Steered, Tilted, maximum
from flowmaps.steering.rewards import class_probability, grey
from flowmaps.train.ema import EMA
from flowmaps.train.optim import Cosine

K, SHAPE = 17, (8, 8)
BUDGETS = (16, 32, 64, 128, 256)


# -- the map ----------------------------------------------------------------------------------------------


def build(small: bool) -> EndpointMap:
    network = MLP((*SHAPE, K), width=192, depth=2) if small else UNet(K, width=32, lower=(64,), heads=4, out=K)
    return EndpointMap(LinearPath(OneHot(K)), network)


def trained(images: Tensor, o: argparse.Namespace) -> EndpointMap:
    """The averaged map after ``o.train`` updates, from the file ``o.map`` if there is one."""
    if o.map and o.map.exists():
        map = build(o.small)
        map.load_state_dict(torch.load(o.map, weights_only=True))
        return map.eval()
    torch.manual_seed(0)
    objective = SelfDistillation(build(o.small), SemigroupKL())
    ema = EMA(objective.map, decay=0.998)
    optimiser = torch.optim.AdamW(objective.parameters(), lr=1e-3, weight_decay=1e-2, fused=True)
    generator, schedule, start = torch.Generator().manual_seed(0), Cosine(warmup=100), time.perf_counter()
    for step in range(1, o.train + 1):
        optimiser.param_groups[0]["lr"] = 1e-3 * schedule(step, o.train)
        batch = Batch(images[torch.randint(len(images), (64,), generator=generator)])
        loss = objective(batch, objective.draw(batch, generator))["loss"]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimiser.step()
        ema.update_parameters(objective.map)
        if step % 200 == 0:
            spent = time.perf_counter() - start
            print(f"train {step}/{o.train}: {float(loss.detach()):.4f}, {spent:.0f} s", flush=True)
    map: Any = ema.module
    if o.map:
        torch.save(map.state_dict(), o.map)
    return map.eval()


# -- what is compared ----------------------------------------------------------------------------------------------

Entry = tuple[Callable[[int], Any], int]  # a method for a number of candidates, and evaluations of one candidate

METHODS: dict[str, Entry] = {
    "best of n, 1 step": (lambda n: BestOf(n, Jumps(1)), 1),
    "best of n, 4 steps": (lambda n: BestOf(n, Jumps(4)), 4),
    "look-ahead, best of n": (lambda n: LookAhead(6), 16),
    "Feynman-Kac": (lambda n: FeynmanKac(Renoise(4, 0.5)), 7),
    "Feynman-Kac, maximum": (lambda n: FeynmanKac(Renoise(4, 0.5), maximum), 7),
    "tilted (FMTT), 4 steps": (lambda n: Tilted(Renoise(4, 0.5)), 10),
    "tilted (FMTT), 6 steps": (lambda n: Tilted(Renoise(6, 0.5)), 16),
}


class Referee:
    """The classifier that rewards, and one that has seen none of its images and judges."""

    def __init__(self, splits: Any):
        everything = splits.train.batch(torch.arange(len(splits.train)))
        half = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(0))
        cut = len(half) // 2
        self.images = everything.x_1
        self.reward = train_classifier(splits.train.subset(half[:cut]), K, 10, seed=1)
        self.judge = train_classifier(splits.train.subset(half[cut:]), K, 10, seed=2)

    def agreement(self, x: Tensor, label: int) -> float:
        """Share of samples that the judge calls ``label``."""
        return float((self.judge.inspect(x)[1].argmax(1) == label).float().mean())


def log_probability(classifier: ImageClassifier, label: int) -> Callable[[Tensor], Tensor]:
    return class_probability(classifier, label, log=True).function


def tasks(referee: Referee) -> dict[str, tuple[Reward, int, float]]:
    """Reward, wanted class and strength λ of each task."""
    common, rare = log_probability(referee.reward, 3), log_probability(referee.reward, 1)

    def heavy(pi: Tensor) -> Tensor:
        """A one in nearly twice the usual ink: both together hardly occur."""
        amount = grey(pi).flatten(1).mean(1) / (K - 1)
        return rare(pi).clamp(min=-10) - 50 * (amount - 0.5).abs()

    return {
        "class 3": (Soft(lambda pi: common(pi).exp(), "probability of 3"), 3, 10.0),
        "heavy 1": (Soft(heavy, "log-probability of 1, less 50 |ink - 0.5|"), 1, 1.0),
    }


def run(
    map: EndpointMap, referee: Referee, task: tuple[Reward, int, float], name: str, budget: int, seed: int, runs: int
) -> dict[str, Any]:
    """Let ``runs`` runs spend a budget each, and describe the samples that they hand back."""
    reward, label, strength = task
    build, cost = METHODS[name]
    n = budget // cost
    method = build(n)
    alone = isinstance(method, BestOf)
    start, generator = time.perf_counter(), torch.Generator().manual_seed(1000 * seed + budget)
    result: Steered = method(
        map, reward, SHAPE, runs if alone else runs * n, generator, strength=strength, population=None if alone else n
    )
    rewards = result.rewards.reshape(runs, -1)
    x = result.samples.reshape(runs, -1, *SHAPE)[torch.arange(runs), rewards.argmax(1)]
    pixels = x.flatten(1).double() / (K - 1)
    return {
        "method": name,
        "budget": budget,
        "seed": seed,
        "evaluations": result.evaluations / runs,
        "reward": float(rewards.amax(1).mean()),
        "agreement": referee.agreement(x, label),
        "diversity": float(torch.cdist(pixels, pixels).sum() / (runs * (runs - 1))),
        "nearest_train_distance": nearest_distance(x, referee.images, K),
        "seconds": time.perf_counter() - start,
        "samples": x[:16].tolist(),
    }


def law(map: EndpointMap, referee: Referee, evaluations: int, seed: int) -> Iterator[dict[str, Any]]:
    """Effective samples of p(x | class 3), by reward log p(3 | x) and strength 1, for equal evaluations."""
    reward = class_probability(referee.reward, 3, log=True)
    exact = {
        "importance, 1 step": (Tilted(Renoise(1)), 1),
        "importance, 4 steps": (Tilted(Renoise(4, 0.0)), 4),
        "Feynman-Kac": (FeynmanKac(Renoise(4, 0.5)), 7),
        "tilted (FMTT), 4 steps": (Tilted(Renoise(4, 0.5)), 10),
    }
    for name, (method, cost) in exact.items():
        generator = torch.Generator().manual_seed(seed)
        found = method(map, reward, SHAPE, evaluations // cost, generator, population=500)
        yield {
            "method": name,
            "seed": seed,
            "evaluations": found.evaluations,
            "effective_size": found.effective_size,
            "log_normaliser": found.log_normaliser,
            "error": found.error,
            "lowest_ess": float(found.ess.min()),
        }


# -- the report ----------------------------------------------------------------------------------------------


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


def table(rows: list[dict[str, Any]], key: str) -> list[str]:
    budgets = sorted({r["budget"] for r in rows})
    lines = ["| method | " + " | ".join(map(str, budgets)) + " |", "|---" * (len(budgets) + 1) + "|"]
    for name in METHODS:
        cells = [[r[key] for r in rows if (r["method"], r["budget"]) == (name, b)] for b in budgets]
        lines.append(f"| {name} | " + " | ".join(spread(c) if c else "" for c in cells) + " |")
    return [*lines, ""]


def markdown(report: dict[str, Any]) -> str:
    lines = ["# Steering digits", "", ", ".join(f"{k} {v}" for k, v in report["setting"].items()), ""]
    lines += ["One run spends the evaluations of its column and hands back its sample of the highest reward.", ""]
    for task, rows in report["tasks"].items():
        lines += [f"## {task}: {report['rewards'][task]}", "", "### Reward", "", *table(rows, "reward")]
        lines += ["### Share that an independent classifier calls so", "", *table(rows, "agreement")]
        lines += ["### Diversity (mean distance between samples of different runs)", "", *table(rows, "diversity")]
    lines += ["## The law itself: p(x | class 3) by weights, at equal evaluations", ""]
    lines += ["| method | effective samples | log-normaliser | its error | evaluations |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(r["method"] for r in report["law"]):
        rows = [r for r in report["law"] if r["method"] == name]
        column = lambda key, rows=rows: spread([r[key] for r in rows])  # noqa: E731
        lines.append(
            f"| {name} | {column('effective_size')} | {column('log_normaliser')} | {column('error')} | "
            f"{rows[0]['evaluations']} |"
        )
    return "\n".join([*lines, ""])


def picture(report: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(6.0 * len(report["tasks"]), 4.2), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(report["tasks"]), squeeze=False)[0]
    for axis, (task, rows) in zip(axes, report["tasks"].items(), strict=True):
        for name in METHODS:
            points = sorted({r["budget"] for r in rows if r["method"] == name})
            groups = [[r["reward"] for r in rows if (r["method"], r["budget"]) == (name, b)] for b in points]
            means = [statistics.mean(g) for g in groups]
            errors = [statistics.stdev(g) if len(g) > 1 else 0.0 for g in groups]
            axis.errorbar(points, means, errors, marker="o", markersize=3, linewidth=1.2, capsize=2, label=name)
        axis.set(xscale="log", xlabel="network evaluations of a run", ylabel="reward of its best sample", title=task)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    with open(path, "wb") as file:
        FigureCanvasAgg(figure).print_png(file)


def write(report: dict[str, Any], referee: Referee, out: Path) -> None:
    """Everything so far, as JSON, Markdown and pictures."""
    for task, rows in report["tasks"].items():
        last = {r["method"].split(" (")[0]: torch.tensor(r["samples"]) for r in rows[-len(METHODS) :]}
        path = out.with_name(f"{out.name}-{task.replace(' ', '-')}.png")
        sample_grid(path, {**last, "data": referee.images[:12]}, levels=K, columns=12)
    tasks = {
        task: [{k: v for k, v in r.items() if k != "samples"} for r in rows] for task, rows in report["tasks"].items()
    }
    out.with_suffix(".json").write_text(json.dumps({**report, "tasks": tasks}, indent=1))
    out.with_suffix(".md").write_text(markdown(report))
    picture(report, out.with_suffix(".png"))


def facts(o: argparse.Namespace) -> dict[str, Any]:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "network": "perceptron" if o.small else "U-Net",
        "updates": o.train,
        "runs": o.runs,
        "seeds": len(o.seeds),
        "precision": "float32",
        "hardware": names[0] if names else platform.processor(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "commit": subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown",
    }


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--train", type=int, default=1600, help="updates of the map")
    p.add_argument("--map", type=Path, help="file of the trained map")
    p.add_argument("--small", action="store_true", help="a perceptron in place of the U-Net: a tenth of the time")
    p.add_argument("--runs", type=int, default=16)
    p.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[0, 1, 2])
    p.add_argument("--budgets", type=lambda text: [int(n) for n in text.split(",")], default=list(BUDGETS))
    p.add_argument("--law", type=int, default=10_000, help="evaluations for the table of the law")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "steering")
    p.add_argument("--quick", action="store_true", help="one seed, few runs")
    o = p.parse_args()
    if o.quick:
        o.seeds, o.runs, o.budgets, o.law = [0], 8, [16, 64], 2000
    return o


def main() -> None:
    o = arguments()
    splits = digits()
    referee = Referee(splits)
    map = trained(referee.images, o)
    work = tasks(referee)
    report: dict[str, Any] = {
        "setting": facts(o),
        "rewards": {task: f"{reward.name}, strength {strength:g}" for task, (reward, _, strength) in work.items()},
        "tasks": {task: [] for task in work},
        "law": [],
    }
    o.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in o.seeds:
        for task, setting in work.items():
            for budget in o.budgets:
                for name, (_, cost) in METHODS.items():
                    if budget // cost < 1:
                        continue
                    row = run(map, referee, setting, name, budget, seed, o.runs)
                    report["tasks"][task].append(row)
                    print(task, budget, f"{name:24} {row['reward']:.3f} judge {row['agreement']:.2f}", flush=True)
        report["law"] += law(map, referee, o.law, seed)
        write(report, referee, o.out)
    if not all(math.isfinite(r["reward"]) for rows in report["tasks"].values() for r in rows):
        raise SystemExit("a reward is not finite")


if __name__ == "__main__":
    main()
