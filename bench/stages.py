r"""Ways to few jumps at equal processor time: one stage, two, or jumps regressed on stored paths of the first.

    python bench/stages.py law --seeds 0 1 2
    python bench/stages.py digits --seconds 60 --seeds 0 1
    python bench/stages.py qm9 --seconds 150
    python bench/stages.py text --seconds 150
    python bench/stages.py digits --ways "stored paths"    # this row again, the others stay

Every way trains the same network with the same optimiser and batches from the same seed. Those of two stages spend half
of the time on the diagonal alone, once for all of them, and start from its average; stored paths are made in the second
half, and the time it takes is part of it. Samples are equal jumps of the averaged map, and Euler steps of its diagonal.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from flowmaps.data import CategoricalData, Dataset
from flowmaps.fields import Data
from flowmaps.maps import EndpointMap, FlowMap
from flowmaps.networks import MLP, UNet
from flowmaps.objectives import Average, EndpointKernel, GapCurriculum, SelfDistillation, SemigroupKL
from flowmaps.paths import GeodesicPath
from flowmaps.samplers import Categorical, Euler, Jumps, Sampler, generate
from flowmaps.spaces import OneHot
from flowmaps.tasks.images import Images
from flowmaps.tasks.molecules import Molecules
from flowmaps.tasks.text import Text
from flowmaps.times import DecodeRateClock, FullJump, LogitNormal, OnClock, PairOnClock, TimeLaw
from flowmaps.train import AdamW, Cosine, FromTrajectories, Muon, Report, Trainer, TwoStage
from flowmaps.train.stream import generator
from flowmaps.train.trajectories import make_trajectories
from flowmaps.train.two_stage import load_base
from objectives import build_law, distance
from records import FOREVER, Record, by_metric, require_whole

DISTRIBUTION = "one stage, distribution late"
FULL = 0.1  # share of the jumps that go from noise to data
SHARE = 0.75  # of a batch on the diagonal, in one stage
SECOND = 0.25  # and in the second of two
SAMPLERS: dict[str, Sampler] = {"1": Jumps(1), "2": Jumps(2), "4": Jumps(4), "8": Jumps(8), "ode64": Euler(64)}


class Law:
    """A known law, measured by its total variation to drawn samples."""

    def __init__(self, name: str):
        self.law = build_law(name)
        self.train_data: Dataset = CategoricalData(self.law.sample(2**17, generator("cpu", 0, "law")))

    def build_map(self) -> EndpointMap:
        K, positions = self.law.K, self.law.atoms.shape[1:]
        return EndpointMap(GeodesicPath(OneHot(K)), MLP((*positions, K), width=96, depth=2))

    def sample(self, flow_map: FlowMap, n: int, sampler: Sampler, generator: torch.Generator) -> Data:
        return generate(flow_map, sampler, (n, *self.law.atoms.shape[1:]), generator, decoder=Categorical())

    def quality(self, samples: Data) -> dict[str, float]:
        return {"tv": distance(self.law, samples)}  # pyright: ignore[reportArgumentType]  (one field)


@dataclass(frozen=True)
class Setting:
    """What a kind of data is trained and judged by.

    Arguments:
        task: With ``build_map``, ``train_data``, ``sample`` and ``quality``.
        shown: Metrics of the table, with their titles and by how much they are multiplied.
        times: Law of time on the diagonal.
        clock: Of a task, on which times are uniform instead.
        optimizer: And its rates.
        paths: How many a second of the budget are stored.
        kernel: Positions that the kernel of the distribution compares; 0 where it cannot: several fields, or too many.
    """

    task: Callable[[], Any]
    seconds: float
    n: int
    shown: Mapping[str, tuple[str, float]]
    paths: int
    optimizer: AdamW | Muon = field(default_factory=lambda: AdamW(lr=3e-3))
    batch: int = 64
    ema: float = 0.995
    times: TimeLaw | None = None
    clock: Callable[[Any], DecodeRateClock] | None = None
    kernel: int = 0


digits = partial(Images, "digits", network=partial(UNet, width=32, lower=(64, 128), depth=1, shape=(8, 8)))
muon = Muon(lr=1e-2, others=AdamW(lr=3e-3, betas=(0.9, 0.99), weight_decay=0.0))
SETTINGS = {
    "law": Setting(partial(Law, "4^6"), 16, 10_000, {"tv": ("Total variation", 1)}, 512, AdamW(lr=2e-3), 256,
                   kernel=6),
    "digits": Setting(digits, 60, 359, {"frechet": ("Fréchet distance", 1), "precision": ("Precision", 1),
                                        "class_coverage": ("Smallest class share over 1/10", 1)}, 24, muon, kernel=8),
    "qm9": Setting(partial(Molecules, "qm9", width=64, edge=32, depth=4), 150, 1000,
                   {"valid_connected": ("Valid and connected, per cent", 100),
                    "aromatic": ("Aromatic, per cent of the valid and connected", 100)}, 12,
                   times=LogitNormal(0.8, 1.0)),
    "text": Setting(partial(Text, "tiny_shakespeare", None, "letters", length=64, width=128, depth=3, given=False),
                    150, 256,
                    {"word_validity": ("Words that are words, per cent", 100),
                     "entropy": ("Entropy of a sample, nats", 1)}, 4,
                    AdamW(lr=5e-3), 32, clock=lambda task: DecodeRateClock(task.tokeniser.size)),
}  # fmt: skip


def midpoint() -> SemigroupKL:
    return SemigroupKL(fraction=0.5)


class Comparison:
    """One kind of data and one seed: all ways from the same start."""

    def __init__(self, s: Setting, task: Any, seed: int, seconds: float, place: Path):  # noqa: ANN401  (a task, or a law)
        self.s, self.task, self.seed, self.seconds, self.place = s, task, seed, seconds, place
        self.clock = s.clock and s.clock(task)

    def build(self) -> EndpointMap:
        torch.manual_seed(self.seed)
        return self.task.build_map()

    def laws(self) -> dict[str, Any]:
        """Of time, on and off the diagonal."""
        times, pairs = self.s.times, FullJump(probability=FULL)
        return {"times": times, "pairs": pairs} if self.clock is None else {
            "times": OnClock(self.clock), "pairs": PairOnClock(self.clock, pairs)}  # fmt: skip

    def fit(self, objective: Any, seconds: float, folder: Path | None = None) -> Report:  # noqa: ANN401  (any objective)
        s = self.s
        trainer = Trainer(objective, self.task.train_data, directory=folder, max_steps=FOREVER, max_cpu_seconds=seconds,
                          batch_size=s.batch, seed=self.seed, optimizer=s.optimizer, schedule=Cosine(warmup=50),
                          ema=s.ema, accelerator="cpu", progress=False, curves=False, tensorboard=False)  # fmt: skip
        report = trainer.fit()
        require_whole(report)
        return report

    def one(self, **parts: Any) -> Report:  # noqa: ANN401  (parts of an objective)
        flow_map = self.build()
        parts = {"share": SHARE, "teacher": Average(flow_map), **self.laws(), **parts}
        return self.fit(SelfDistillation(flow_map, midpoint(), **parts), self.seconds)

    def first(self) -> Path:
        """The diagonal alone, for half of the time."""
        folder = self.place / "first"
        if not folder.exists():
            self.fit(SelfDistillation(self.build(), share=1.0, times=self.laws()["times"]), self.seconds / 2, folder)
        return folder

    def two(self) -> Report:
        objective = TwoStage(self.build(), str(self.first()), midpoint(), share=SECOND, decay=0.99, **self.laws())
        return self.fit(objective, self.seconds / 2)

    def stored(self) -> Report:
        first, begun = str(self.first()), time.process_time()
        load_base(flow_map := self.build(), first)
        times = torch.linspace(0, 1, 17, dtype=torch.float64)
        if self.clock is not None:
            times[1:-1] = self.clock.inverse(times[1:-1].float()).double()
        n = round(self.s.paths * self.seconds)
        make_trajectories(self.place / "paths", flow_map.eval(), self.task.train_data, times.tolist(), n, {}, batch=256)
        objective = FromTrajectories(self.build(), first, str(self.place / "paths"), share=SECOND, **self.laws())
        return self.fit(objective, self.seconds / 2 - (time.process_time() - begun))


Way = Callable[[Comparison], Report]
WAYS: dict[str, Way] = {
    "diagonal": lambda c: c.fit(SelfDistillation(c.build(), share=1.0, times=c.laws()["times"]), c.seconds),
    "one stage": Comparison.one,
    "one stage, short gaps first": lambda c: c.one(weight=GapCurriculum(mean=2 / 3 * (1 - FULL))),
    DISTRIBUTION: lambda c: c.one(matching=EndpointKernel(strength=1.0, jumps=32, start=0.7, positions=c.s.kernel)),
    "two stages": Comparison.two,
    "stored paths": Comparison.stored,
}


def run(o: argparse.Namespace) -> None:
    """Every way and seed; the record is written after each."""
    s = SETTINGS[o.kind]
    task, seconds, n = s.task(), o.seconds or s.seconds, o.n or s.n
    shown = s.shown
    record = Record(o.out or Path(f"bench/results/stages_{o.kind}"), {"data": o.kind, "seconds": seconds, "n": n},
                    lambda result: by_metric(result, f"Ways to few jumps: {o.kind}", shown))  # fmt: skip
    for seed in o.seeds:
        with TemporaryDirectory() as place:
            comparison = Comparison(s, task, seed, seconds, Path(place))
            for name in o.ways or [name for name in WAYS if name != DISTRIBUTION or s.kernel]:
                report = WAYS[name](comparison)
                row: dict[str, Any] = {"objective": name, "seed": seed, "updates": report.step}
                row["seconds"] = round(report.cpu_seconds, 1)
                row["by_steps"] = {
                    key: task.quality(task.sample(report.flow_map, n, sampler, generator("cpu", seed, "sample")))
                    for key, sampler in SAMPLERS.items()
                }
                record.add(row)
                first = next(iter(shown))
                told = {key: round(values[first], 3) for key, values in row["by_steps"].items()}
                print(o.kind, name, seed, report.step, row["seconds"], told, flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("kind", choices=list(SETTINGS))
    p.add_argument("--ways", nargs="+", choices=list(WAYS), help="by default all that the kind can be trained by")
    p.add_argument("--seeds", nargs="+", type=int, default=[0])
    p.add_argument("--seconds", type=float, default=0.0, help="processor time of one way; by default that of the kind")
    p.add_argument("--n", type=int, default=0, help="samples a column")
    p.add_argument("--out", type=Path)
    torch.set_num_threads(1)
    run(p.parse_args())


if __name__ == "__main__":
    main()
