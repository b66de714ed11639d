r"""Which identity, and which pairing of noise and data, learns the checkerboard best at equal processor time.

    python bench/checkerboard.py --seconds 45 --seeds 0 --out bench/results/checkerboard_objectives
    python bench/checkerboard.py --measure runs/checkerboard --out bench/results/checkerboard

Every run trains the network of the preset `checkerboard` from the same seed with Adam, a cosine schedule over the time
budget, batches of 512 and a quarter of the jumps from 0 to 1; samples come from the running average of the weights. KL
is that of the exact density from the histogram of 40,000 points with 32 cells on a side; its floor is beside it.

With `--measure` runs of the presets are measured instead: 100,000 samples a row, in histograms of three resolutions.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch

from flowmaps.data.points import Checkerboard, drawn
from flowmaps.files import write_json, write_text
from flowmaps.hub import load
from flowmaps.maps import FlowMap, VelocityMap
from flowmaps.metrics.points import floor, histogram_kl
from flowmaps.networks import PointNetwork
from flowmaps.objectives import Average, Eulerian, Lagrangian, SelfDistillation, Semigroup
from flowmaps.paths import GeodesicPath, Independent, MinibatchOT
from flowmaps.pictures import blank, save
from flowmaps.samplers import Euler, Jumps, generate
from flowmaps.spaces import Euclidean
from flowmaps.times import FullJump
from flowmaps.train import AdamW, Cosine, Trainer
from records import require_whole

RESOLUTIONS = (16, 32, 64)
BOARD, BINS, N, BATCH, RATE = Checkerboard(), 32, 40_000, 512, 6e-3
RUNS = {
    "Semigroup, midpoint": lambda: {"consistency": Semigroup(fraction=0.5)},
    "Semigroup, midpoint, averaged": lambda: {"consistency": Semigroup(fraction=0.5), "teacher": average},
    "Lagrangian": lambda: {"consistency": Lagrangian()},
    "Eulerian": lambda: {"consistency": Eulerian()},
    "Eulerian, normalised": lambda: {"consistency": Eulerian(normalise=0.1)},
}
COUPLINGS = {"paired": lambda: MinibatchOT(128), "independent": Independent}
SAMPLERS = {"1": Jumps(1), "2": Jumps(2), "4": Jumps(4), "8": Jumps(8), "16": Jumps(16), "ode32": Euler(32)}


def average(flow_map: VelocityMap) -> Average:
    return Average(flow_map, decay=0.99)


def train(run: str, coupling: str, seconds: float, seed: int) -> tuple[FlowMap, int]:
    """The averaged map after ``seconds`` of processor time, and its number of updates."""
    torch.manual_seed(seed)
    data = drawn(BOARD, 2**20, 1000, seed).train
    flow_map = VelocityMap(GeodesicPath(Euclidean(2)), PointNetwork(2, frequencies=64, band=6.0))
    options = {**RUNS[run](), "coupling": COUPLINGS[coupling](), "pairs": FullJump(probability=0.25), "share": 0.6}
    objective = SelfDistillation(flow_map, **options)
    report = Trainer(
        objective,
        data,
        max_steps=10**9,
        max_cpu_seconds=seconds,
        batch_size=BATCH,
        seed=seed,
        optimizer=AdamW(lr=RATE, weight_decay=0.0),
        schedule=Cosine(warmup=100),
        ema=0.999,
        accelerator="cpu",
        progress=False,
    ).fit()
    require_whole(report)
    return report.flow_map, report.step


@torch.no_grad()
def measure(flow_map: FlowMap, seed: int) -> dict[str, float]:
    """KL by the number of steps."""
    generators = {name: torch.Generator().manual_seed(seed) for name in SAMPLERS}
    scale = BOARD.deviation
    return {
        name: histogram_kl(generate(flow_map, sampler, (N,), generators[name]) * scale, BOARD, BINS).kl
        for name, sampler in SAMPLERS.items()
    }


@torch.no_grad()
def measured(folder: str) -> dict[str, Any]:
    """What a run of a preset says of itself, and KL by resolution and number of steps."""
    model = load(folder, "cpu")
    task, flow_map, config, state = model.task, model.flow_map, dict(model.config), model.state
    kl: dict[str, dict[str, tuple[float, float]]] = {str(bins): {} for bins in RESOLUTIONS}
    other: dict[str, dict[str, float]] = {}
    for name, sampler in SAMPLERS.items():
        x = task.sample(flow_map.eval(), 100_000, sampler, torch.Generator().manual_seed(0))
        for bins in RESOLUTIONS:
            found = histogram_kl(x, BOARD, bins)
            kl[str(bins)][name] = found.kl, found.error
        other[name] = {key: value for key, value in task.quality(x).items() if not key.startswith("kl")}
    facts = {name: state.get(name) for name in ("step", "seconds", "seed", "versions")}
    return {"run": Path(folder).name, **facts, "kl": kl, "other": other, "config": config}


def write_measured(folders: list[str], out: Path) -> None:
    """Tables of trained runs; ``exact`` is what as many exact points score."""
    rows = [measured(folder) for folder in folders]
    exact = {str(bins): floor(BOARD, 100_000, bins) for bins in RESOLUTIONS}
    write_json(out.with_suffix(".json"), {"n": 100_000, "exact": exact, "runs": rows})
    head = [f"| {' | '.join(SAMPLERS)} | exact |", "|---" * (len(SAMPLERS) + 1) + "|"]
    lines = ["# Runs of the checkerboard's presets", ""]
    for row in rows:
        lines += [
            f"## {row['run']}: {row['step']:,} updates, {row['seconds']:,.0f} s on the clock, seed {row['seed']}",
            "",
        ]
        lines += ["| KL | " + head[0].removeprefix("| "), "|---" + head[1]]
        for bins in map(str, RESOLUTIONS):
            cells = [f"{value:.3f} ± {error:.3f}" for value, error in row["kl"][bins].values()]
            lines.append(f"| {bins} cells a side | {' | '.join(cells)} | {exact[bins]:.4f} |")
        for metric in ("outside", "least_mode", "energy"):
            cells = [f"{row['other'][name][metric]:.3g}" for name in SAMPLERS]
            lines.append(f"| {metric.replace('_', ' ')} | {' | '.join(cells)} | |")
        lines.append("")
    write_text(out.with_suffix(".md"), "\n".join(lines))
    draw(rows[0], exact, out.with_suffix(".png"))


def draw(row: dict[str, Any], exact: dict[str, float], path: Path) -> None:
    """KL against the number of steps, a line for each resolution, dotted where exact points are."""
    figure = blank(4.6, 3.4, dpi=110, layout="constrained")
    axis = figure.subplots()
    for bins, values in row["kl"].items():
        steps = [name for name in values if name.isdigit()]
        line = axis.plot([int(name) for name in steps], [values[name][0] for name in steps], marker=".")[0]
        line.set_label(f"{bins} cells a side")
        axis.axhline(exact[bins], color=line.get_color(), linestyle=":", linewidth=1)
    axis.set(xscale="log", yscale="log", xlabel="steps", ylabel="KL, nats")
    axis.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
    axis.legend()
    save(figure, path)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seconds", type=float, default=20.0)
    p.add_argument("--seeds", type=int, nargs="+", default=[0])
    p.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    p.add_argument("--couplings", nargs="+", default=list(COUPLINGS), choices=list(COUPLINGS))
    p.add_argument("--out", type=Path, default=Path("bench/results/checkerboard_objectives"))
    p.add_argument("--measure", nargs="+", help="folders of trained runs")
    arguments = p.parse_args()
    torch.set_num_threads(1)
    if arguments.measure:
        write_measured(arguments.measure, arguments.out)
        return
    level = floor(BOARD, N, BINS)
    rows = []
    for coupling in arguments.couplings:
        for run in arguments.runs:
            for seed in arguments.seeds:
                flow_map, updates = train(run, coupling, arguments.seconds, seed)
                kl = measure(flow_map, seed)
                rows.append({"run": run, "coupling": coupling, "seed": seed, "updates": updates, "kl": kl})
                print(coupling, run, seed, updates, {name: round(value, 3) for name, value in kl.items()}, flush=True)
                write(arguments, rows, level)


def write(arguments: argparse.Namespace, rows: list[dict], level: float) -> None:
    """Everything measured so far, as JSON and as a table; other runs of the same setting stay."""
    machine = platform.processor() or platform.machine()
    setting = {"seconds": arguments.seconds, "batch": BATCH, "rate": RATE, "n": N, "bins": BINS, "floor": level}
    setting |= {"threads": 1, "machine": machine, "torch": torch.__version__}
    path = arguments.out.with_suffix(".json")
    kept = json.loads(path.read_text()) if path.exists() else {"runs": []}
    if {name: value for name, value in kept.items() if name != "runs"} == setting:
        made = {(row["run"], row["coupling"], row["seed"]) for row in rows}
        rows = [row for row in kept["runs"] if (row["run"], row["coupling"], row["seed"]) not in made] + rows
    rows = sorted(rows, key=lambda row: (list(COUPLINGS).index(row["coupling"]), list(RUNS).index(row["run"])))
    write_json(path, {**setting, "runs": rows})
    lines = [f"# The checkerboard by objective, {arguments.seconds:.0f} s of processor time each", ""]
    lines += [f"KL in nats; exact samples score {level:.3f}. " + " ".join((__doc__ or "").split("\n\n")[2].split()), ""]
    lines += [f"| pairing | objective | seed | updates | {' | '.join(SAMPLERS)} |", "|---" * (4 + len(SAMPLERS)) + "|"]
    lines += [
        f"| {row['coupling']} | {row['run']} | {row['seed']} | {row['updates']:,} | "
        + " | ".join(f"{row['kl'][name]:.3f}" for name in SAMPLERS) + " |"
        for row in rows
    ]  # fmt: skip
    write_text(arguments.out.with_suffix(".md"), "\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
