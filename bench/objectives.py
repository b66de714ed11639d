r"""Every objective on finite laws whose truth is known: same network, same budget, total variation to the exact law.

python bench/objectives.py                      # the table in bench/results/objectives.md
python bench/objectives.py --quick              # one small law, one seed, a minute
python bench/objectives.py --laws 4^6 --objectives "PSD-KL|LSD" --seeds 0 --steps 2000
python bench/objectives.py --seconds 20         # equal processor time instead of equal numbers of steps
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import multiprocessing
import platform
import resource
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowmaps.data import CategoricalData
from flowmaps.fields import Batch
from flowmaps.maps import EndpointMap, FlowMap, VelocityMap
from flowmaps.networks.mlp import MLP
from flowmaps.objectives import (
    Average,
    EndpointConsistency,
    EndpointKernel,
    Eulerian,
    EulerianKL,
    GapCurriculum,
    Lagrangian,
    LagrangianCE,
    LagrangianKL,
    Objective,
    SelfDistillation,
    Semigroup,
    SemigroupKL,
)
from flowmaps.oracles import FiniteLaw
from flowmaps.paths import GeodesicPath
from flowmaps.samplers import Argmax, Categorical, Euler, Heun, Jumps, Sampler
from flowmaps.spaces import OneHot
from flowmaps.train import AdamW, Cosine, Trainer
from records import commit, over_seeds, require_whole

STEPS = (1, 2, 4, 8)
LARGEST = 2**20  # examples where a budget of time does not say how many updates there will be

# Name: categories, positions, seed of the energies. The seeds were chosen, before any training, among those whose law
# is farthest from the product of its marginals (total variation .63 to .74).
LAWS = {"4^3": (4, 3, 196), "4^4": (4, 4, 62), "4^5": (4, 5, 164), "4^6": (4, 6, 10)}

Case = Callable[[GeodesicPath, MLP], Objective]


def endpoint(consistency: Callable[[], Any] | None = None, **options: Any) -> Case:
    """Self-distillation of an endpoint map; without a consistency the diagonal alone."""
    if consistency is None:
        return lambda path, network: SelfDistillation(EndpointMap(path, network), share=1.0)
    return lambda path, network: SelfDistillation(EndpointMap(path, network), consistency(), **options)


def averaged(consistency: Callable[[], Any], average: Callable[[FlowMap], Average], **parts: Callable[[], Any]) -> Case:
    """Self-distillation of an endpoint map whose targets come from a running average, with more parts made anew."""

    def build(path: GeodesicPath, network: MLP) -> Objective:
        flow_map, made = EndpointMap(path, network), {name: part() for name, part in parts.items()}
        return SelfDistillation(flow_map, consistency(), teacher=average(flow_map), **made)

    return build


def midpoint() -> SemigroupKL:
    return SemigroupKL(fraction=0.5)


CASES: dict[str, Case] = {
    "diagonal": endpoint(),
    "LSD": endpoint(Lagrangian),
    "LSD-CE": endpoint(LagrangianCE),
    "LSD-KL": endpoint(LagrangianKL),
    "ECLD": endpoint(EndpointConsistency),
    "ECLD (1; 1/2)": endpoint(lambda: EndpointConsistency(endpoint=1.0, drift=0.5)),
    "ESD": endpoint(Eulerian),
    "ESD-KL": endpoint(EulerianKL),
    "PSD-KL": endpoint(SemigroupKL),
    "PSD-KL midpoint": endpoint(midpoint),
    "PSD": endpoint(Semigroup),
    "naive": lambda path, network: SelfDistillation(VelocityMap(path, network), Lagrangian()),
    "PSD-KL midpoint, averaged": averaged(midpoint, Average),
    "PSD-KL midpoint, averaged, short gaps first": averaged(midpoint, Average, weight=GapCurriculum),
    "PSD-KL midpoint, averaged, distribution": averaged(midpoint, Average, matching=EndpointKernel),
    "LSD, averaged": averaged(Lagrangian, Average),
}


def build_law(name: str) -> FiniteLaw:
    K, positions, seed = LAWS[name]
    return FiniteLaw.dependent(K, positions, generator=torch.Generator().manual_seed(seed)).float()


def dependence(law: FiniteLaw) -> float:
    """Total variation between the law and the product of its marginals."""
    p, one_hot = law.log_p.exp(), law.one_hot.unflatten(1, (*law.atoms.shape[1:], law.K))
    marginals = (p[:, None, None] * one_hot).sum(0)
    product = (one_hot * marginals).sum(-1).prod(-1)
    return 0.5 * float((p - product).abs().sum())


def distance(law: FiniteLaw, x_1: Tensor) -> float:
    """Total variation between the law and the histogram of samples."""
    frequencies = torch.bincount(law.index(x_1), minlength=len(law.log_p)) / len(x_1)
    return 0.5 * float((frequencies - law.log_p.exp()).abs().sum())


def train(law: FiniteLaw, case: Case, seed: int, o: argparse.Namespace) -> tuple[FlowMap, dict[str, float]]:
    """The averaged map after ``o.steps`` updates (or ``o.seconds`` of processor time), and what it cost."""
    torch.manual_seed(seed)
    network = MLP((*law.atoms.shape[1:], law.K), width=o.width, depth=o.depth)
    objective = case(GeodesicPath(OneHot(law.K)), network)
    generator = torch.Generator().manual_seed(1000 + seed)
    fresh = law.sample(LARGEST if o.seconds else o.steps * o.batch, generator)  # each example is seen once
    report = Trainer(
        objective,
        CategoricalData(fresh),
        max_steps=len(fresh) if o.seconds else o.steps,
        max_cpu_seconds=o.seconds or None,
        batch_size=o.batch,
        seed=seed,
        optimizer=AdamW(lr=o.lr, weight_decay=0.0),
        schedule=Cosine(warmup=100),
        ema=o.ema,
        accelerator="cpu",
        progress=False,
    ).fit()
    require_whole(report)
    cost = {"steps": report.step, "wall_seconds": report.seconds, "processor_seconds": report.cpu_seconds}
    if seed == o.seeds[0]:  # memory does not depend on the seed, and the profiler is slow to start
        batch = Batch(law.sample(o.batch, generator))
        cost["peak_mb"] = peak_of(lambda: objective(batch, objective.draw(batch, generator))["loss"].backward()) / 2**20
    return report.flow_map, cost


def peak_of(function: Callable[[], Any]) -> int:
    """Most bytes of tensors alive at one time, above what was alive before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    alive = peak = 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


@torch.no_grad()
def evaluate(law: FiniteLaw, flow_map: FlowMap, seed: int, o: argparse.Namespace, diagonal: bool) -> dict[str, float]:
    """Total variation by sampler and decoder."""
    samplers: dict[str, Sampler] = {str(n): (Euler if diagonal else Jumps)(n) for n in STEPS}
    samplers["ode"] = Heun(o.ode)
    result = {}
    for name, sampler in samplers.items():
        generator = torch.Generator().manual_seed(2000 + seed)
        x = flow_map.path.start(flow_map.path.noise((o.samples, *law.atoms.shape[1:]), generator))
        scores = sampler(flow_map, x, generator=generator)
        result[name] = distance(law, Argmax()(scores, generator))
        if isinstance(flow_map, EndpointMap) and name != "ode":
            result[f"{name} drawn"] = distance(law, Categorical()(scores, generator))
    return result


def run(job: tuple[str, str, int, argparse.Namespace]) -> dict[str, Any]:
    """Train and evaluate one objective on one law with one seed."""
    law_name, name, seed, o = job
    torch.set_num_threads(1)
    law = build_law(law_name)
    flow_map, cost = train(law, CASES[name], seed, o)
    tv = evaluate(law, flow_map, seed, o, diagonal=name == "diagonal")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "law": law_name,
        "objective": name,
        "seed": seed,
        "commit": commit(),
        **cost,
        "resident_mb": memory,
        "tv": tv,
    }


def jobs(o: argparse.Namespace, done: set[tuple]) -> Iterator[tuple[str, str, int, argparse.Namespace]]:
    """What is not done yet; seeds outermost, so that an interrupted run is still balanced."""
    for seed in o.seeds:
        for law in o.laws:
            for name in o.objectives:
                if (law, name, seed) not in done:
                    yield law, name, seed, o


def describe(law_name: str, samples: int) -> dict[str, float]:
    """How hard a law is, and what exact samples score."""
    law, generator = build_law(law_name), torch.Generator().manual_seed(0)
    floor = statistics.mean(distance(law, law.sample(samples, generator)) for _ in range(3))
    return {"entropy": float(law.entropy()), "dependence": dependence(law), "floor": floor}


def processor_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def table(report: dict[str, Any], suffix: str) -> list[str]:
    """Markdown tables of total variation, one per law; ``suffix`` selects the decoder."""
    lines = []
    for law, facts in report["laws"].items():
        lines += [
            f"### {law}: sampling floor {facts['floor']:.3f}, "
            f"product of marginals {facts['dependence']:.3f}, entropy {facts['entropy']:.2f} nats",
            "",
            "| objective | 1 step | 2 | 4 | 8 | own ODE | seeds | updates | CPU s | wall s | peak MiB |",
            "|" + "---|" * 11,
        ]
        for name in CASES:
            runs = [r for r in report["runs"] if (r["law"], r["objective"]) == (law, name)]
            keys = [f"{n}{suffix}" for n in STEPS]
            if not runs or keys[0] not in runs[0]["tv"]:
                continue
            columns = [over_seeds([r["tv"][key] for r in runs], ".3f", ".3f") for key in [*keys, "ode"]]
            keys = ("steps", "processor_seconds", "wall_seconds", "peak_mb")
            cost = [statistics.mean(r[key] for r in runs if key in r) for key in keys]
            columns += [f"{len(runs)}", f"{cost[0]:.0f}", *(f"{value:.1f}" for value in cost[1:])]
            lines.append(" | ".join(["| " + name, *columns]) + " |")
        lines.append("")
    return lines


def markdown(report: dict[str, Any]) -> str:
    found = {f"{key}s": sorted({r[key] for r in report["runs"]}) for key in ("seed", "commit")}
    facts = ", ".join(f"{key} {value}" for key, value in (report["setting"] | found).items())
    head = [
        "# Objectives on finite laws",
        "",
        "Total variation to the exact law (mean ± standard deviation over seeds); lower is better. ``diagonal`` has no",
        "jumps and is sampled by Euler steps. The ODE is solved with the map's own diagonal: what distillation can",
        "reach. ``averaged`` takes its targets from a running average of the weights with decay (1+n)/(10+n) at",
        "update n, all others from the current weights.",
        "Peak memory counts the tensors alive while one gradient is taken, above model, average and optimiser.",
        "",
        facts,
        "",
    ]
    parts = [*head, "## Arg-max decoding", "", *table(report, ""), "## Drawn from the last softmax", ""]
    return "\n".join([*parts, *table(report, " drawn")])


def arguments() -> argparse.Namespace:
    split = lambda mark: lambda text: [part.strip() for part in text.split(mark)]  # noqa: E731
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--laws", type=split(","), default=["4^6", "4^4", "4^3"], help=f"of {', '.join(LAWS)}")
    p.add_argument("--objectives", type=split("|"), default=list(CASES), help=f"of {' | '.join(CASES)}")
    p.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[0, 1, 2])
    p.add_argument("--steps", type=int, default=400, help="updates of every run")
    p.add_argument("--seconds", type=float, default=0.0, help="processor time of every run, in place of --steps")
    p.add_argument("--batch", type=int, default=256)
    p.add_argument("--width", type=int, default=96)
    p.add_argument("--depth", type=int, default=2)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--ema", type=float, default=0.995)
    p.add_argument("--samples", type=int, default=10_000)
    p.add_argument("--ode", type=int, default=8, help="steps of Heun's method")
    p.add_argument("--processes", type=int, default=1)
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "objectives")
    p.add_argument("--quick", action="store_true", help="4^3, one seed, 300 updates")
    o = p.parse_args()
    if o.quick:
        o.laws, o.seeds, o.steps, o.samples = ["4^3"], [0], 300, 5000
    for given, known in ((o.laws, LAWS), (o.objectives, CASES)):
        for name in given:
            if name not in known:
                p.error(f"unknown name {name!r}, expected one of {', '.join(known)}")
    return o


def begin(o: argparse.Namespace) -> dict[str, Any]:
    """An empty report, or the one in ``o.out`` if it has the same setting: then only what it lacks is run."""
    keys = ("steps", "seconds", "batch", "width", "depth", "lr", "ema", "samples", "ode")
    setting = {key: getattr(o, key) for key in keys} | {"precision": "float32", "threads": 1}
    where = {"hardware": processor_model(), "torch": torch.__version__}
    when = {"date": datetime.date.today().isoformat()}
    report = {"setting": setting | where | when, "laws": {}, "runs": []}
    path = o.out.with_suffix(".json")
    if path.exists():
        old = json.loads(path.read_text())
        if all(old["setting"].get(key) == value for key, value in (setting | where).items()):
            report = old | {"setting": setting | where | when}
    report["laws"] |= {name: describe(name, o.samples) for name in o.laws}
    return report


def main() -> None:
    o = arguments()
    o.out.parent.mkdir(parents=True, exist_ok=True)
    report = begin(o)
    done = {(r["law"], r["objective"], r["seed"]) for r in report["runs"]}
    # One process per run: what one run leaves in memory does not count for the next.
    with multiprocessing.get_context("fork").Pool(o.processes, maxtasksperchild=1) as pool:
        for result in pool.imap_unordered(run, jobs(o, done)):
            report["runs"].append(result)
            o.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
            o.out.with_suffix(".md").write_text(markdown(report))
            tv = " ".join(f"{result['tv'][str(n)]:.3f}" for n in (*STEPS, "ode"))
            line = f"{result['law']} {result['objective']:18} seed {result['seed']}: {tv}"
            print(line, f"{result['processor_seconds']:.1f} s", flush=True)
    if not all(math.isfinite(v) for r in report["runs"] for v in r["tv"].values()):
        raise SystemExit("a run ended with a total variation that is not finite")


if __name__ == "__main__":
    main()
