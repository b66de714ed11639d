r"""Reward against network evaluations for every steering method, on handwritten digits.

    python bench/steering.py                        # trains a map, then bench/results/steering.{json,md,png}
    python bench/steering.py --quick                # one seed, few runs, a few minutes
    python bench/steering.py --map digits.pt        # keep the trained map there, or take it from there

One *run* spends a number of network evaluations (a gradient counts as one more) and hands back its sample of the
highest reward. Rewards come from one classifier; a second one, trained on other images, says whether the samples still
are what was asked for. `bench/steering_models.py` does the same for any checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowmaps.data import CategoricalData
from flowmaps.data.images import digits
from flowmaps.maps import EndpointMap, FlowMap
from flowmaps.metrics.images import train_classifier
from flowmaps.networks import MLP, UNet
from flowmaps.objectives import SelfDistillation, SemigroupKL
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import OneHot
from flowmaps.steering import Soft
from flowmaps.steering.rewards import class_probability, grey
from flowmaps.tasks.base import Problem
from flowmaps.train import AdamW, Cosine, Trainer
from records import require_whole
from steering_common import Setting, budget_options, compare
from steering_models import image_grid, image_views

K, SHAPE = 17, (8, 8)
BUDGETS = (16, 32, 64, 128, 256)


# -- the map ----------------------------------------------------------------------------------------------


def build(small: bool) -> EndpointMap:
    network = MLP((*SHAPE, K), width=192, depth=2) if small else UNet(K, width=32, lower=(64,), heads=4, out=K)
    return EndpointMap(GeodesicPath(OneHot(K)), network)


def trained(images: Tensor, o: argparse.Namespace) -> FlowMap:
    """The averaged map after ``o.train`` updates, from the file ``o.map`` if there is one."""
    if o.map and o.map.exists():
        flow_map = build(o.small)
        flow_map.load_state_dict(torch.load(o.map, weights_only=True))
        return flow_map.eval()
    torch.manual_seed(0)
    report = Trainer(
        SelfDistillation(build(o.small), SemigroupKL()),
        CategoricalData(images),
        max_steps=o.train,
        batch_size=64,
        optimizer=AdamW(lr=1e-3, betas=(0.9, 0.999)),
        schedule=Cosine(warmup=100),
        ema=0.998,
        accelerator="cpu",
    ).fit()
    require_whole(report)
    if o.map:
        torch.save(report.flow_map.state_dict(), o.map)
    return report.flow_map


# -- what is compared ----------------------------------------------------------------------------------------------


class Referee:
    """The classifier that rewards, and one that has seen none of its images and judges."""

    def __init__(self, splits: Any):
        everything = splits.train.batch(torch.arange(len(splits.train)))
        half = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(0))
        cut = len(half) // 2
        self.images = everything.x_1
        self.reward = train_classifier(splits.train.subset(half[:cut]), K, 10, seed=1)
        self.judge = train_classifier(splits.train.subset(half[cut:]), K, 10, seed=2)

    def log_probability(self, label: int) -> Soft:
        return class_probability(self.reward, label, log=True)


def settings(flow_map: FlowMap, referee: Referee) -> tuple[list[Setting], Setting]:
    """What is compared, and the law p(x | class 3) for which effective samples are counted."""
    common, rare = (referee.log_probability(label).function for label in (3, 1))

    def heavy(pi: Tensor) -> Tensor:
        """A one in nearly twice the usual ink: both together hardly occur."""
        amount = grey(pi).flatten(1).mean(1) / (K - 1)
        return rare(pi).clamp(min=-10) - 50 * (amount - 0.5).abs()

    def setting(title: str, reward: Soft, label: int, strength: float, ascent: float) -> Setting:
        views = image_views(referee.judge, label, referee.images)
        show = image_grid(title.replace(" ", "-"), referee.images, K)
        return Setting(title, flow_map, reward, reward, strength, ascent, lambda n, g: Problem(SHAPE), views, show)

    tasks = [
        setting("class 3", Soft(lambda pi: common(pi).exp(), "probability of 3"), 3, 10.0, 100.0),
        setting("heavy 1", Soft(heavy, "log-probability of 1, less 50 |ink - 0.5|"), 1, 1.0, 1.0),
    ]
    return tasks, setting("p(x | class 3)", referee.log_probability(3), 3, 1.0, 1.0)


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--train", type=int, default=1600, help="updates of the map")
    p.add_argument("--map", type=Path, help="file of the trained map")
    p.add_argument("--small", action="store_true", help="a perceptron in place of the U-Net: a tenth of the time")
    p.add_argument("--law", type=int, default=10_000, help="evaluations for the table of the law")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "steering")
    p.add_argument("--quick", action="store_true", help="one seed, few runs")
    budget_options(p, BUDGETS, runs=16)
    o = p.parse_args()
    if o.quick:
        o.seeds, o.runs, o.budgets, o.law = [0], 8, [16, 64], 2000
    return o


def main() -> None:
    o = arguments()
    referee = Referee(digits())
    tasks, of_law = settings(trained(referee.images, o), referee)
    compare(tasks, o, {"network": "perceptron" if o.small else "U-Net", "updates": o.train}, of_law)


if __name__ == "__main__":
    main()
