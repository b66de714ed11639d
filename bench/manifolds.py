r"""Generalised flow maps against Riemannian flow matching and MeanFlow at equal processor time, by data set.

    python bench/manifolds.py --sets earthquake volcano flood fire rna protein --seconds 120 --seeds 0 1

Every run trains the network of its preset from the same seed with Adam and a cosine schedule over the time budget;
samples come from the running average of the weights. `mmd` is the root of the V-statistic with k = exp(-d²), with as
many samples as test points (4,000 at most), mean over five draws; its floor is what as many training points score.
`excess` is its square without what finite samples add, in units of 1e-4. NLL is that of the test points by the
probability flow of the diagonal, in nats per point.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import mean, stdev

import torch

from flowmaps.data.earth import CATALOGUES
from flowmaps.data.torsions import SOURCES
from flowmaps.files import write_json
from flowmaps.maps import FlowMap
from flowmaps.metrics.manifolds import PAIRS, excess, mmd
from flowmaps.networks import PointNetwork
from flowmaps.objectives import Eulerian, Lagrangian, Objective, SelfDistillation, Semigroup
from flowmaps.objectives.named import mean_flow
from flowmaps.paths import Independent, MinibatchOT
from flowmaps.samplers import Euler, Jumps
from flowmaps.tasks.earth import Earth
from flowmaps.tasks.manifolds import OnManifold
from flowmaps.tasks.torsions import Torsions
from flowmaps.times import FullJump, Triangle
from flowmaps.train import AdamW, Cosine, Trainer
from records import require_whole

DRAWS = 5
SIZES = {"width": 192, "depth": 4, "frequencies": 96}


def network(band: float) -> Callable[..., PointNetwork]:
    return lambda dim, **more: PointNetwork(dim, band=band, **SIZES, **more)


def earth(name: str) -> Callable[[], OnManifold]:
    return lambda: Earth(name, network=network(4.0))


def torsions(name: str) -> Callable[[], OnManifold]:
    return lambda: Torsions(name, network=network(1.5))


TASKS = {name: earth(name) for name in CATALOGUES} | {name: torsions(name) for name in SOURCES}
METHODS: dict[str, Callable[..., Objective]] = {
    "RFM": lambda flow_map, coupling: SelfDistillation(flow_map, share=1.0, coupling=coupling),
    "G-LSD": lambda flow_map, coupling: SelfDistillation(flow_map, Lagrangian(), coupling=coupling, **OFF),
    "G-ESD": lambda flow_map, coupling: SelfDistillation(flow_map, Eulerian(), coupling=coupling, **OFF),
    "G-PSD": lambda flow_map, coupling: SelfDistillation(flow_map, Semigroup(fraction=0.5), coupling=coupling, **OFF),
    "MeanFlow": lambda flow_map, coupling: mean_flow(flow_map, coupling=coupling, **OFF),
}
OFF = {"share": 0.5, "pairs": FullJump(Triangle(), probability=0.1)}
STEPS = (1, 2, 8)


def train(task: OnManifold, method: str, group: int, seconds: float, seed: int, rate: float) -> tuple[FlowMap, int]:
    """The averaged map after ``seconds`` of processor time, and its number of updates."""
    task.state()
    torch.manual_seed(seed)
    report = Trainer(
        METHODS[method](task.build_map(), MinibatchOT(group) if group else Independent()),
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
    samplers = {str(n): (Euler if method == "RFM" else Jumps)(n) for n in STEPS} | {"ode100": Euler(100)}
    kernel = task.kernels["mmd"]
    for name, sampler in samplers.items():
        runs = []
        for seed in range(DRAWS):
            x = task.sample(flow_map, PAIRS, sampler, torch.Generator().manual_seed(seed))
            square = excess(task.points(x), task.held_out, kernel)
            runs.append({**task.quality(x[: task.samples]), "excess": 1e4 * square})
        found[name] = {key: mean(run[key] for run in runs) for key in runs[0]}
        found[name] |= {f"{key}_spread": stdev(run[key] for run in runs) for key in runs[0]}
    return found


def floors(task: OnManifold) -> dict[str, float]:
    """What points for training score in the place of samples."""
    x = task.real(PAIRS)
    return {
        **{name: mmd(task.points(x[: task.samples]), task.held_out, k) for name, k in task.kernels.items()},
        "excess": 1e4 * excess(task.points(x), task.held_out, task.kernels["mmd"]),
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sets", nargs="+", default=list(TASKS), choices=list(TASKS))
    p.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    p.add_argument("--seconds", type=float, default=120.0)
    p.add_argument("--group", type=int, default=0, help="pairs of noise and data that transport assigns at a time")
    p.add_argument("--rate", type=float, default=2e-3)
    p.add_argument("--seeds", type=int, nargs="+", default=[0])
    p.add_argument("--out", type=Path, default=Path("bench/results/manifolds"))
    arguments = p.parse_args()
    torch.set_num_threads(1)
    path = arguments.out.with_suffix(".json")
    rows = json.loads(path.read_text())["runs"] if path.exists() else []
    for name, method, seed in product(arguments.sets, arguments.methods, arguments.seeds):
        task = TASKS[name]()
        flow_map, updates = train(task, method, arguments.group, arguments.seconds, seed, arguments.rate)
        row = {"set": name, "method": method, "seed": seed, "seconds": arguments.seconds, "rate": arguments.rate}
        row |= {"group": arguments.group}
        rows.append({**row, "updates": updates, "floor": floors(task), "by_steps": measure(task, flow_map, method)})
        print(json.dumps(rows[-1]), flush=True)
        write_json(path, {"machine": platform.machine(), "torch": torch.__version__, "runs": rows})


if __name__ == "__main__":
    main()
