r"""Fisher-Flow, few-step Fisher flow maps in both forms, categorical flow maps and the linear baseline on known laws.

    python bench/fisher.py                                       # writes results/fisher.json and .md
    python bench/fisher.py --K 5 --seconds 10 --seeds 0          # a few minutes
    python bench/fisher.py --methods "Fisher flow map" --workers 2

The law has four independent positions, each softmax(u) of K uniform numbers u, drawn once (Davis et al. 2024, *Fisher
flow matching*, arXiv 2405.14664). Every method trains the same residual perceptron from the same seed for the same
processor time, with the same optimiser and schedule; samples come from the running average of the weights and are
decoded by arg-max. The metric is the mean over positions of KL(histogram of samples || truth) in nats; as many exact
samples score (K - 1)/(2 n) on average: the floor. The first four methods take Euler steps, flow maps take jumps.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowmaps.data import CategoricalData
from flowmaps.files import write_json, write_text
from flowmaps.maps import EndpointMap, VelocityMap
from flowmaps.networks import MLP
from flowmaps.objectives import Average, Eulerian, Lagrangian, Objective, SelfDistillation, Semigroup, SemigroupKL
from flowmaps.paths import Dirichlet, GeodesicPath, MinibatchOT
from flowmaps.samplers import Euler, Jumps, Sampler, generate
from flowmaps.spaces import FisherSphere, OneHot
from flowmaps.times import OnClock, PairOnClock
from flowmaps.train import AdamW, Cosine, Trainer
from records import commit, jumps, over_seeds, remarks, require_whole

POSITIONS, EXAMPLES = 4, 2**18
FULL = 0.1  # share of full jumps off the diagonal
Build = Callable[[int, Callable[[int], MLP]], Objective]


def flow(space: Callable[[int], Any], source: type | None = None, group: int = 0) -> Build:
    """The diagonal alone: flow matching of a velocity."""

    def build(K: int, network: Callable[[int], MLP]) -> Objective:
        path = GeodesicPath(space(K), source() if source else None)
        coupling = MinibatchOT(group) if group else None
        return SelfDistillation(VelocityMap(path, network(1)), share=1.0, coupling=coupling)

    return build


def fisher(kind: type, consistency: Callable[[], Any]) -> Build:
    """A Fisher flow map: the diagonal of its form and an identity between states."""

    def build(K: int, network: Callable[[int], MLP]) -> Objective:
        flow_map = kind(GeodesicPath(FisherSphere(K)), network(1))
        identity = consistency()
        return SelfDistillation(flow_map, identity, pairs=jumps(identity, flow_map, FULL), teacher=averaged)

    return build


def categorical(consistency: Callable[[], Any], clock: bool = False) -> Build:
    def build(K: int, network: Callable[[int], MLP]) -> Objective:
        flow_map = EndpointMap(GeodesicPath(OneHot(K)), network(K))
        identity = consistency()
        laws: dict[str, Any] = {"pairs": jumps(identity, flow_map, FULL)}
        if clock:
            laws = {"pairs": PairOnClock(law=laws["pairs"]), "times": OnClock()}
        return SelfDistillation(flow_map, identity, teacher=averaged, **laws)

    return build


def averaged(flow_map: Any) -> Average:
    return Average(flow_map, 0.99)


def midpoint() -> Semigroup:
    return Semigroup(fraction=0.5)


METHODS: dict[str, Build] = {
    "linear": flow(OneHot, Dirichlet),
    "Fisher-Flow": flow(FisherSphere),
    "Fisher-Flow, OT": flow(FisherSphere, group=64),
    "SFM: simplex prior, OT": flow(FisherSphere, Dirichlet, group=64),
    "Fisher flow map, velocity, LSD": fisher(VelocityMap, Lagrangian),
    "Fisher flow map, velocity, ESD": fisher(VelocityMap, Eulerian),
    "Fisher flow map, velocity, PSD": fisher(VelocityMap, midpoint),
    "Fisher flow map, endpoint, LSD": fisher(EndpointMap, Lagrangian),
    "Fisher flow map, endpoint, ESD": fisher(EndpointMap, Eulerian),
    "Fisher flow map, endpoint, PSD": fisher(EndpointMap, midpoint),
    "categorical flow map, LSD": categorical(Lagrangian),
    "categorical flow map, PSD-KL": categorical(lambda: SemigroupKL(fraction=0.5)),
    "categorical flow map, PSD-KL, clock": categorical(lambda: SemigroupKL(fraction=0.5), clock=True),
}
STEPS = (1, 2, 4, 8, 32)


def samplers(name: str, steps: list[int]) -> dict[int, Sampler]:
    """Of a method by number of steps; more than eight jumps of a map are left out, eight of them say as much."""
    few = "map" in name
    return {n: Jumps(n) if few else Euler(n) for n in steps if n <= 8 or not few}


def law(K: int) -> Tensor:
    """Probabilities ``(4, K)``."""
    u = torch.rand(POSITIONS, K, generator=torch.Generator().manual_seed(K), dtype=torch.float64)
    return u.softmax(-1)


def kl(x: Tensor, p: Tensor) -> float:
    """Mean over positions of KL(histogram || truth), in nats."""
    values = []
    for column, truth in zip(x.mT, p, strict=True):
        q = torch.bincount(column, minlength=len(truth)).double() / len(column)
        values.append(float(torch.special.xlogy(q, q / truth).sum()))
    return statistics.mean(values)


def slope(x: Tensor, p: Tensor) -> float:
    """Mean over positions of the slope of the histogram on the truth: 1 if that is right, 0 of a uniform law."""
    values = []
    for column, truth in zip(x.mT, p, strict=True):
        q, apart = torch.bincount(column, minlength=len(truth)).double() / len(column), truth - truth.mean()
        values.append(float((q * apart).sum() / apart.square().sum()))
    return statistics.mean(values)


def run(job: tuple[str, int, int, argparse.Namespace]) -> dict[str, Any]:
    """One training and its samples."""
    name, K, seed, options = job
    torch.set_num_threads(1)
    p = law(K)
    draw = torch.Generator().manual_seed(seed)
    data = CategoricalData(torch.stack([torch.multinomial(row, EXAMPLES, True, generator=draw) for row in p], dim=1))
    torch.manual_seed(seed)
    network = lambda scale: MLP((POSITIONS, K), options.width, options.depth, K=scale)  # noqa: E731
    report = Trainer(
        METHODS[name](K, network),
        data,
        max_steps=10**6,
        max_cpu_seconds=options.seconds,
        batch_size=256,
        seed=seed,
        optimizer=AdamW(lr=options.lr, weight_decay=0.0),
        schedule=Cosine(warmup=50),
        ema=0.995,
        log_every=10**6,
        progress=False,
        accelerator="cpu",
    ).fit()
    require_whole(report)
    flow_map, row = report.flow_map.eval(), {"method": name, "K": K, "seed": seed, "updates": report.step}
    for steps, sampler in samplers(name, options.steps).items():
        start, shape = time.process_time(), (options.samples, POSITIONS)
        parts = [generate(flow_map, sampler, (1024, POSITIONS), torch.Generator().manual_seed(1000 * seed + i))
                 for i in range(options.samples // 1024)]  # fmt: skip
        x = torch.cat(parts)
        assert x.shape == shape
        row |= {f"kl_{steps}": kl(x, p), f"slope_{steps}": slope(x, p)}
        row |= {f"seconds_{steps}": round(time.process_time() - start, 2)}
    return row


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every run; those that are recorded are kept."""
    kept = [row for row in read(options)["runs"] if row["method"] in METHODS]
    done = {(row["method"], row["K"], row["seed"]) for row in kept}
    yield from kept
    names = [name for name in METHODS if any(part in name for part in options.methods.split("|"))]
    jobs = [(name, K, seed, options) for seed in options.seeds for K in options.K for name in names
            if (name, K, seed) not in done]  # fmt: skip
    if options.workers == 1:
        yield from map(run, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        yield from pool.imap_unordered(run, jobs, chunksize=1)


def read(options: argparse.Namespace) -> dict[str, Any]:
    """Earlier results of the same setting."""
    path = options.out.with_suffix(".json")
    found = json.loads(path.read_text()) if path.exists() else {}
    return found if found.get("setting", {}) == setting(options) else {"runs": []}


def setting(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("seconds", "samples", "width", "depth", "lr")}


def table(runs: list[dict[str, Any]], samples: int) -> str:
    """KL by method and steps for each K, in 1e-3 nats, with the deviation over seeds."""
    lines = []
    for K in sorted({row["K"] for row in runs}):
        floor = (K - 1) / (2 * samples)
        uniform = floor - float((K * law(K)).log().mean())
        lines.append(f"\n## K = {K}: sampling floor {1e3 * floor:.2f}, samples of a uniform law {1e3 * uniform:.1f}\n")
        lines.append("| method | " + " | ".join(map(str, STEPS)) + " | updates |\n" + "|---" * (len(STEPS) + 2) + "|")
        for name in METHODS:
            some = [row for row in runs if row["K"] == K and row["method"] == name]
            if some:
                cells = [
                    over_seeds([1e3 * row[f"kl_{steps}"] for row in some if f"kl_{steps}" in row]) for steps in STEPS
                ]
                updates = round(statistics.mean(row["updates"] for row in some))
                lines.append(f"| {name} | " + " | ".join(cells) + f" | {updates:,} |")
    return "\n".join(lines)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--K", type=int, nargs="+", default=[5, 20, 160])
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    p.add_argument("--methods", default="")
    p.add_argument("--seconds", type=float, default=8.0, help="processor time of a training")
    p.add_argument("--samples", type=int, default=2**13)
    p.add_argument("--width", type=int, default=64)
    p.add_argument("--depth", type=int, default=2)
    p.add_argument("--lr", type=float, default=8e-3)
    p.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    p.add_argument("--workers", type=int, default=1)
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fisher")
    p.add_argument("--hardware", default=f"one core of an {platform.machine()} CPU")
    options = p.parse_args()
    runs, code = [], commit()
    for row in rows(options):
        runs.append(row)
        about = {"setting": setting(options), "hardware": options.hardware, "commit": code, "precision": "float32",
                 "torch": torch.__version__, "date": datetime.date.today().isoformat()}  # fmt: skip
        write_json(options.out.with_suffix(".json"), {**about, "runs": runs})
        print(row, flush=True)
        page = options.out.with_suffix(".md")
        head = f"{__doc__}\nKL in 1e-3 nats, mean ± deviation over seeds.\n\n{json.dumps(about)}\n"
        text = "# Fisher flow maps on known laws\n\n" + head + table(runs, options.samples) + "\n"
        write_text(page, text + remarks(page))


if __name__ == "__main__":
    main()
