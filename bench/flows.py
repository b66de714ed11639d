r"""Maximum likelihood, RegFlow and few-step maps with a density at equal processor time, on a mixture that is known.

    python bench/flows.py                                  # writes results/flows.json and .md
    python bench/flows.py --seconds 60 --seeds 0 1 2 3 4
    python bench/flows.py --methods "few-step map, 4 jumps" --add
    python bench/flows.py --example                        # docs/flows-example.png: values without densities

The mixture has five equal normal modes on a circle. Maximum likelihood and RegFlow train the same neural spline flow
(six couplings); the few-step map is a velocity map trained by self-distillation with a cycle loss; it jumps four times.
A budget is processor time of updates and of the making of pairs: the plan of optimal transport counts, and so does the
teacher of a reflow, a velocity map that has half the time. Samples of all methods come with their log-densities.

- **ESS**: effective sample size of 10,000 samples weighted by p/q, as a share; 1 is exact.
- **W1**: optimal transport between 1,000 samples and 1,000 exact points, Euclidean, mean of three draws; the floor is
  that between exact points.
- **NLL**: of 4,000 held-out points in nats, less that of the true density: the excess. That of the few-step map is of
  points found back by its own jumps, and once more with three steps of Newton's method; beside it its cycle error (mean
  distance) and the excess by the probability flow of its diagonal.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowmaps.data.base import Dataset, fingerprint
from flowmaps.data.pairs import Draw, Pairs, make_pairs, optimal, pushed
from flowmaps.data.points import PointSplits, Ring, drawn
from flowmaps.files import write_json, write_text
from flowmaps.likelihood import ProbabilityFlow
from flowmaps.maps import NSF, Bijection, FewStep, Oscillating, VelocityMap
from flowmaps.networks import PointNetwork
from flowmaps.objectives import (
    Cycle,
    LogDeterminant,
    MaximumLikelihood,
    Objective,
    RegFlow,
    SelfDistillation,
    Semigroup,
)
from flowmaps.paths import GeodesicPath
from flowmaps.pictures import blank, save
from flowmaps.spaces import Euclidean
from flowmaps.times import FullJump, Triangle
from flowmaps.train import AdamW, Cosine, Trainer
from records import commit, over_seeds, require_whole

RESULTS = Path(__file__).parent / "results"
RING = Ring(modes=5, radius=2.0, spread=0.35)
PAIRS, JUMPS = 2**14, 4


def path() -> GeodesicPath[Tensor]:
    return GeodesicPath(Euclidean(2))


def fit(objective: Objective, data: Dataset, seconds: float, seed: int, rate: float) -> tuple[Any, int]:
    """The averaged map after ``seconds`` of processor time, and its number of updates."""
    report = Trainer(objective, data, max_steps=10**6, max_cpu_seconds=max(seconds, 0.5), batch_size=256, seed=seed,
                     optimizer=AdamW(lr=rate, weight_decay=0.0), schedule=Cosine(warmup=30), ema=0.99,
                     log_every=10**6, progress=False, accelerator="cpu").fit()  # fmt: skip
    require_whole(report)
    return report.flow_map.eval(), report.step


def spline_flow() -> NSF:
    return NSF(path(), (2,), layers=6, width=48, depth=1)


def velocity_map() -> VelocityMap[Tensor]:
    return VelocityMap(path(), PointNetwork(2, width=96, depth=3, frequencies=16, band=1.5))


def likelihood(splits: PointSplits, seconds: float, seed: int) -> tuple[Bijection, int]:
    return fit(MaximumLikelihood(spline_flow()), splits.train, seconds, seed, 3e-3)


def regression(draw: Draw, name: str, regularizer: bool, seconds: float, seed: int) -> tuple[Bijection, int]:
    """RegFlow on pairs that are made first; their time counts."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        pairs = make_pairs(folder, draw, PAIRS, {"flow": name}, seed)
    left = seconds - (time.process_time() - start)
    objective = RegFlow(spline_flow(), LogDeterminant() if regularizer else None, jitter=0.02)
    return fit(objective, pairs, left, seed, 3e-3)


def transported(regularizer: bool) -> Callable[[PointSplits, float, int], tuple[Bijection, int]]:
    def run(splits: PointSplits, seconds: float, seed: int) -> tuple[Bijection, int]:
        x_1 = splits.train.batch(torch.arange(PAIRS)).x_1
        return regression(optimal(path(), x_1), "optimal transport", regularizer, seconds, seed)

    return run


def reflow(regularizer: bool) -> Callable[[PointSplits, float, int], tuple[Bijection, int]]:
    def run(splits: PointSplits, seconds: float, seed: int) -> tuple[Bijection, int]:
        teacher = few_step(splits, seconds / 2, seed)[0]
        name = fingerprint(*teacher.state_dict().values())
        return regression(pushed(path(), teacher.push), name, regularizer, seconds / 2, seed)

    return run


def few_step(splits: PointSplits, seconds: float, seed: int, strength: float = 1.0) -> tuple[FewStep, int]:
    """Jumps of a map that is trained with a cycle loss of this strength."""
    semigroup = Semigroup(fraction=0.5)
    objective = SelfDistillation(velocity_map(), Cycle(semigroup, strength) if strength else semigroup, share=0.5,
                                 pairs=FullJump(Triangle(), probability=0.1))  # fmt: skip
    flow_map, updates = fit(objective, splits.train, seconds, seed, 4e-3)
    return FewStep(flow_map, JUMPS), updates


METHODS: dict[str, Callable[[PointSplits, float, int], tuple[Bijection, int]]] = {
    "maximum likelihood": likelihood,
    "RegFlow, optimal transport": transported(True),
    "RegFlow, reflow from 4 jumps": reflow(True),
    "few-step map, 4 jumps": few_step,
    "RegFlow, optimal transport, no regulariser": transported(False),
    "few-step map, cycle x 10": partial(few_step, strength=10.0),
    "few-step map, no cycle loss": partial(few_step, strength=0.0),
}


def log_density(x: Tensor) -> Tensor:
    """Of the mixture, in standardised units."""
    deviation = RING.deviation
    centres, spread = RING.centres / deviation, RING.spread / deviation
    square = torch.cdist(x.double(), centres).square()
    normal = -square / (2 * spread**2) - torch.tensor(2 * torch.pi * spread**2).double().log()
    return normal.logsumexp(1) - torch.tensor(float(RING.modes)).double().log()


def exact(n: int, seed: int) -> Tensor:
    return RING.sample(n, seed) / RING.deviation


def w1(x: Tensor, y: Tensor) -> float:
    """Exact optimal transport of points, Euclidean."""
    import ot

    return float(ot.emd2([], [], torch.cdist(x.double(), y.double()).numpy()))


def ess(log_p: Tensor, log_q: Tensor) -> float:
    w = (log_p - log_q.double()).softmax(0)
    return float(1 / w.square().sum() / len(w))


@torch.no_grad()
def measure(f: Bijection, splits: PointSplits, seed: int) -> dict[str, float]:
    x, log_q = f.sample((10_000,), torch.Generator().manual_seed(seed))
    held_out = splits.test.batch(torch.arange(4000)).x_1
    true = log_density(held_out)
    row = {"ESS": ess(log_density(x), log_q)}
    row["W1"] = statistics.mean(w1(x[1000 * i : 1000 * (i + 1)], exact(1000, 900 + i)) for i in range(3))
    if isinstance(f, FewStep):
        found, sharp = f.scored(held_out), FewStep(f.flow_map, f.times, newton=3).scored(held_out)
        row |= {"NLL": float((true - found.log_prob).mean()), "cycle": float(found.cycle.mean())}
        row |= {"NLL, Newton": float((true - sharp.log_prob).mean()), "cycle, Newton": float(sharp.cycle.mean())}
        row["folded"] = float(f.sampled(x[:2000]).folded.float().mean())
        part = held_out[:500]
        row["NLL, flow"] = float((true[:500] - ProbabilityFlow()(f.flow_map, part)).mean())
    else:
        row["NLL"] = float((true - f.log_prob(held_out)).mean())
    return row


def run(name: str, seconds: float, seed: int) -> dict[str, Any]:
    """One training and its measures."""
    splits = drawn(RING, 2**20, 10_000, seed)
    torch.manual_seed(seed)
    f, updates = METHODS[name](splits, seconds, seed)
    return {"method": name, "seed": seed, "seconds": seconds, "updates": updates, **measure(f, splits, seed)}


COLUMNS = ("ESS", "W1", "NLL", "cycle", "NLL, Newton", "cycle, Newton", "folded", "NLL, flow", "updates")


def table(runs: list[dict[str, Any]], floor: float) -> str:
    head = ["| method | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name in METHODS:
        rows = [row for row in runs if row["method"] == name]
        if rows:
            head.append(
                f"| {name} | " + " | ".join(over_seeds([row[c] for row in rows if c in row]) for c in COLUMNS) + " |"
            )
    return "\n".join([*head, f"| exact points | 1 | {floor:.3g} | 0 |" + " |" * (len(COLUMNS) - 3)])


def report(runs: list[dict[str, Any]], seconds: float) -> None:
    floor = statistics.mean(w1(exact(1000, 800 + i), exact(1000, 900 + i)) for i in range(3))
    setting = {"seconds": seconds, "pairs": PAIRS, "jumps": JUMPS, "batch": 256, "mixture": repr(RING),
               "W1 floor": floor,
               "seeds": sorted({row["seed"] for row in runs}), "hardware": f"one core of an {platform.machine()} CPU",
               "precision": "float32", "torch": torch.__version__, "commit": commit(),
               "date": str(datetime.date.today())}  # fmt: skip
    write_json(RESULTS / "flows.json", {"setting": setting, "runs": runs})
    text = "\n\n".join(["# Flows with exact likelihood on a known mixture", str(__doc__).strip(),
                          f"Mean ± deviation over seeds, {seconds:g} s of processor time a run.",
                          table(runs, floor), json.dumps(setting)])  # fmt: skip
    write_text(RESULTS / "flows.md", text + "\n")


def example() -> None:
    """f_m(x) = x + a sin(mx)/m: values, log-densities, and what regression makes of a."""
    figure = blank(9.5, 2.8, dpi=110, layout="constrained")
    axes = figure.subplots(1, 3)
    x = torch.linspace(-1.5, 1.5, 3000, dtype=torch.float64).unsqueeze(1)
    for m in (5.0, 20.0, 80.0):
        f = Oscillating(GeodesicPath(Euclidean(1)), m).double()
        y, log_det = f(x)
        axes[0].plot(x, y.detach(), label=f"m = {m:g}", lw=1)
        axes[1].plot(x, (f.log_source(x) - log_det.detach()).detach(), lw=0.8)
    axes[1].plot(x, f.log_source(x), "k--", lw=1)
    axes[0].set(title="values", xlabel="x", ylabel="f(x)")
    axes[1].set(title="log-densities of f(x)", xlabel="x", ylim=(-4, 3))
    axes[0].legend(frameon=False)
    for name, regularizer in (("none", None), ("log-determinant", LogDeterminant())):
        axes[2].plot(amplitudes(regularizer), label=name)
    axes[2].set(title="RegFlow, m = 10,000", xlabel="updates", ylabel="a", ylim=(0, 1))
    axes[2].legend(frameon=False)
    save(figure, RESULTS.parents[1] / "docs/flows-example.png")


def amplitudes(regularizer: LogDeterminant | None) -> list[float]:
    """The amplitude of the derivative along a training by plain gradient descent, from .95."""
    f = Oscillating(GeodesicPath(Euclidean(1)), 1e4).double()
    x = torch.randn(512, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    objective, optimiser, found = RegFlow(f, regularizer, strength=1e-5), torch.optim.SGD(f.parameters(), 1e3), []
    batch = Pairs(x, x, {}).batch(torch.arange(len(x)))
    for _ in range(400):
        optimiser.zero_grad()
        objective(batch, objective.draw(batch, torch.Generator()))["loss"].backward()
        optimiser.step()
        found.append(float(f.a.detach()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="processor time of a run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--example", action="store_true", help="draw the example alone")
    parser.add_argument("--add", action="store_true", help="keep the runs that are in the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.example:
        return example()
    runs: list[dict[str, Any]] = json.loads((RESULTS / "flows.json").read_text())["runs"] if options.add else []
    for seed in options.seeds:
        for name in options.methods:
            runs.append(run(name, options.seconds, seed))
            print(runs[-1], flush=True)
            report(runs, options.seconds)


if __name__ == "__main__":
    main()
