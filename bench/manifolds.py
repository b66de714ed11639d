r"""Generalised flow maps against Riemannian flow matching and MeanFlow at equal processor time, by data set.

    python bench/manifolds.py                                 # writes results/manifolds.json and .md
    python bench/manifolds.py --sets rna --methods "G-PSD, paired" RFM --seconds 300 --seeds 0

Every run trains the network of its preset from the same seed with AdamW and a cosine schedule over the processor time;
samples come from the running average of the weights: jumps of the map, Euler steps of flow matching. `mmd` is the root
of the V-statistic with k = exp(-d²), with as many samples as test points (4,000 at most), mean over two draws; its
floor is what as many training points score. `excess` is its square without what finite samples add, of 4,000 samples,
in units of 1e-4. NLL is that of test points by the probability flow of the diagonal, in nats per point.
The methods of the publications pair noise and data independently and have one of ten jumps go all the way; paired ones
assign noise to data by transport in groups of 128, and that of a map is the preset: a quarter of its jumps are whole.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from flowmaps.data.earth import CATALOGUES
from flowmaps.data.torsions import SOURCES
from flowmaps.files import write_json, write_text
from flowmaps.maps import FlowMap
from flowmaps.metrics.manifolds import PAIRS, excess, mmd
from flowmaps.networks import PointNetwork
from flowmaps.objectives import Eulerian, Lagrangian, Objective, SelfDistillation, Semigroup
from flowmaps.objectives.named import mean_flow
from flowmaps.paths import MinibatchOT
from flowmaps.samplers import Euler, Jumps
from flowmaps.tasks.earth import Earth
from flowmaps.tasks.hyperbolic import Hyperbolic
from flowmaps.tasks.manifolds import OnManifold
from flowmaps.tasks.rotations import Rotations
from flowmaps.tasks.torsions import Torsions
from flowmaps.times import FullJump, Triangle
from flowmaps.train import AdamW, Cosine, Trainer
from records import commit, over_seeds, remarks, require_whole

DRAWS = 2
STEPS = (1, 2, 8)
LIKELIHOODS = 300  # test points, at most, whose likelihood is integrated


def network(band: float, width: int = 192, depth: int = 4, frequencies: int = 96) -> Callable[..., PointNetwork]:
    """The network of a preset."""
    sizes = {"width": width, "depth": depth, "frequencies": frequencies}
    return lambda dim, **more: PointNetwork(dim, band=band, **sizes, **more)


TASKS: dict[str, Callable[[], OnManifold]] = {
    **{name: lambda name=name: Earth(name, network=network(6.0)) for name in CATALOGUES},
    **{name: lambda name=name: Torsions(name, network=network(1.5)) for name in SOURCES if name != "alanine"},
    "rna, from the data's normal": lambda: Torsions("rna", network=network(1.5), start="data"),
    "cones": lambda: Rotations(network=network(2.0)),
    "pair": lambda: Hyperbolic(network=network(2.0, 96, 3, 32)),
}
PUBLISHED = {"share": 0.5, "pairs": FullJump(Triangle(), probability=0.1)}
PAIRED = {"share": 0.5, "pairs": FullJump(Triangle(), probability=0.25), "coupling": MinibatchOT(128)}
METHODS: dict[str, Callable[[FlowMap], Objective]] = {
    "RFM": lambda flow_map: SelfDistillation(flow_map, share=1.0),
    "RFM, paired": lambda flow_map: SelfDistillation(flow_map, share=1.0, coupling=MinibatchOT(128)),
    "MeanFlow": lambda flow_map: mean_flow(flow_map, **PUBLISHED),
    "G-ESD": lambda flow_map: SelfDistillation(flow_map, Eulerian(), **PUBLISHED),
    "G-LSD": lambda flow_map: SelfDistillation(flow_map, Lagrangian(), **PUBLISHED),
    "G-PSD": lambda flow_map: SelfDistillation(flow_map, Semigroup(fraction=0.5), **PUBLISHED),
    "G-PSD, paired": lambda flow_map: SelfDistillation(flow_map, Semigroup(fraction=0.5), **PAIRED),
}
# In print, with other splits, networks and far longer trainings: NLL of places; one step per angle; NLL of rotations.
PRINTED = {
    "earthquake": "NLL: RFM -.28, MeanFlow -1.08, G-ESD -.67, G-LSD -.93, G-PSD -.63",
    "volcano": "NLL: RFM -7.93, MeanFlow -3.73, G-ESD -4.49, G-LSD -4.96, G-PSD -3.50",
    "flood": "NLL: RFM .42, MeanFlow -.72, G-ESD -.88, G-LSD -.38, G-PSD -.76",
    "fire": "NLL: RFM -1.86, MeanFlow -2.24, G-ESD -2.29, G-LSD -2.14, G-PSD -2.48",
    "rna": "one step, per angle: RFM .68, MeanFlow .20, G-ESD .45, G-LSD .08, G-PSD .14",
    "rna, from the data's normal": "nothing; flows start from the wrapped normal of the training points",
    "protein": "(on Top500) one step, per angle, general: RFM .45, MeanFlow .11, G-ESD .29, G-LSD .02, G-PSD .11",
    "cones": "(on other cones) mmd at 1, 2, 100 steps, NLL: RFM .147, .083, .042, -7.15; G-LSD .064, .059, .044, "
    "-7.11; G-PSD .121, .073, .039, -7.15",
}


def train(task: OnManifold, method: str, seconds: float, seed: int, rate: float) -> tuple[FlowMap, int]:
    """The averaged map after ``seconds`` of processor time, and its number of updates."""
    task.state()
    torch.manual_seed(seed)
    report = Trainer(
        METHODS[method](task.build_map()),
        task.train_data,
        max_steps=10**9,
        max_cpu_seconds=seconds,
        batch_size=512,
        seed=seed,
        optimizer=AdamW(lr=rate, weight_decay=0.0),
        schedule=Cosine(warmup=100),
        ema=0.999,
        accelerator="cpu",
        progress=False,
    ).fit()
    require_whole(report)
    return report.flow_map.eval(), report.step


@torch.no_grad()
def measure(task: OnManifold, flow_map: FlowMap, method: str) -> dict[str, dict[str, float]]:
    """Discrepancies by number of steps, with their spread over draws."""
    found: dict[str, dict[str, float]] = {}
    samplers = {str(n): (Euler if method.startswith("RFM") else Jumps)(n) for n in STEPS} | {"ode100": Euler(100)}
    for name, sampler in samplers.items():
        draws = [task.sample(flow_map, PAIRS, sampler, torch.Generator().manual_seed(seed)) for seed in range(DRAWS)]
        scores = [task.quality(x[: task.samples]) for x in draws]
        found[name] = {key: mean(score[key] for score in scores) for key in scores[0]}
        found[name] |= {f"{key}_spread": stdev(score[key] for score in scores) for key in scores[0]}
        if name == "1":
            square = excess(task.points(draws[0]), task.held_out, task.kernels["mmd"])
            found[name]["excess"] = 1e4 * square
    return found


def floors(task: OnManifold) -> dict[str, float]:
    """What points for training score in the place of samples."""
    x = task.real(PAIRS)
    return {
        **{name: mmd(task.points(x[: task.samples]), task.held_out, k) for name, k in task.kernels.items()},
        "excess": 1e4 * excess(task.points(x), task.held_out, task.kernels["mmd"]),
    }


def run(name: str, method: str, seed: int, seconds: float, rate: float) -> dict[str, Any]:
    """One training and what its map scores."""
    task = TASKS[name]()
    flow_map, updates = train(task, method, seconds, seed, rate)
    start = time.process_time()
    nll, exact = task.negative_log_likelihood(flow_map, LIKELIHOODS)
    row = {"set": name, "method": method, "seed": seed, "seconds": seconds, "rate": rate, "updates": updates}
    row |= {"floor": floors(task), "by_steps": measure(task, flow_map, method)}
    row |= {"nll": float(nll.mean()), "nll_error": float(nll.std() / len(nll) ** 0.5), "points": len(nll)}
    row |= {} if exact is None else {"exact_nll": float(exact.mean())}
    return row | {"seconds_of_evaluation": round(time.process_time() - start, 1)}


def cell(values: list[float], digits: int = 3) -> str:
    """Mean and deviation over seeds."""
    return re.sub(r"\b0\.", ".", over_seeds(values, f".{digits}f", f".{digits}f"))


def table(name: str, runs: list[dict[str, Any]]) -> list[str]:
    """One data set: methods by number of steps."""
    first = runs[0]
    floor = ", ".join(f"{key} {value:.3g}" for key, value in first["floor"].items())
    angles = "mmd_per_angle" in first["by_steps"]["1"]
    exact = f"; NLL of the true density {first['exact_nll']:.3f}" if "exact_nll" in first else ""
    heads = ["method", "updates", *(f"{n} step{'s' * (n > 1)}" for n in STEPS), "Euler 100", "excess, 1 step"]
    heads += ["1 step per angle"] * angles + [f"NLL, {first['points']} points"]
    lines = [
        f"\n## {name}, {first['seconds']:g} s: floor {floor}{exact}\n",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    for method in METHODS:
        some = [row for row in runs if row["method"] == method]
        if some:
            steps = {n: [row["by_steps"][n] for row in some] for n in first["by_steps"]}
            cells = [cell([found["mmd"] for found in steps[n]]) for n in steps]
            cells += [cell([found["excess"] for found in steps["1"]], 1)]
            cells += [cell([found["mmd_per_angle"] for found in steps["1"]])] if angles else []
            cells += [cell([row["nll"] for row in some], 2)]
            lines.append(f"| {method} | {round(mean(row['updates'] for row in some)):,} | {' | '.join(cells)} |")
    return [*lines, f"\nIn print: {PRINTED[name]}."] if name in PRINTED else lines


def write(path: Path, runs: list[dict[str, Any]]) -> None:
    """The records for programs and the tables for people."""
    about = {"hardware": f"one core of an {platform.machine()} CPU", "precision": "float32", "commit": commit(),
             "torch": torch.__version__, "date": datetime.date.today().isoformat()}  # fmt: skip
    write_json(path.with_suffix(".json"), {**about, "runs": runs})
    lines = [
        "# Curved spaces: every method on every set\n",
        __doc__,
        "Mean ± deviation over seeds.\n",
        json.dumps(about),
    ]
    for name, seconds in product(TASKS, sorted({row["seconds"] for row in runs})):
        some = [row for row in runs if (row["set"], row["seconds"]) == (name, seconds)]
        lines += table(name, some) if some else []
    page = path.with_suffix(".md")
    write_text(page, "\n".join(lines) + "\n" + remarks(page))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sets", nargs="+", default=list(TASKS), choices=list(TASKS))
    p.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    p.add_argument("--seconds", type=float, default=40.0, help="processor time of a training")
    p.add_argument("--rate", type=float, default=2e-3)
    p.add_argument("--seeds", type=int, nargs="+", default=[0])
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "manifolds")
    options = p.parse_args()
    torch.set_num_threads(1)
    path = options.out.with_suffix(".json")
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    done = {tuple(row[key] for key in ("set", "method", "seed", "seconds", "rate")) for row in runs}
    for seed, name, method in product(options.seeds, options.sets, options.methods):
        if (name, method, seed, options.seconds, options.rate) not in done:
            runs.append(run(name, method, seed, options.seconds, options.rate))
            print(json.dumps(runs[-1]), flush=True)
            write(options.out, runs)


if __name__ == "__main__":
    main()
