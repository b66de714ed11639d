r"""Laws of times and weights of the loss on real text, on equal processor time.

    python bench/text_times.py --seconds 20 --out bench/results/text_times

Each run trains a letter model by PSD-KL from scratch, all with the same network, data, seeds and seconds of processor
time. All are then measured alike, whatever they were trained by: the cross-entropy of the diagonal and the loss off it
on held-out windows, at times uniform on the clock of the alphabet and on the same noise, and the judge perplexity of 1
and 4 jumps. Errors are standard errors over seeds.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from flowmaps.files import write_json, write_text
from flowmaps.maps import EndpointMap
from flowmaps.objectives import AdaptiveWeight, GapCurriculum, LearnedWeight, SelfDistillation, SemigroupKL
from flowmaps.samplers import Jumps
from flowmaps.tasks.text import Text
from flowmaps.times import FullJump, LogitNormal, OnClock, PairLaw, PairOnClock, TimeLaw, Triangle, Uniform
from flowmaps.train import AdamW, Cosine, Trainer

Ways = dict[str, tuple[Callable[[], TimeLaw], Callable[[], PairLaw], Callable[[], nn.Module] | None]]
WAYS: Ways = {
    "uniform": (Uniform, Triangle, None),
    "logit-normal": (LogitNormal, Triangle, None),
    "clock": (OnClock, PairOnClock, None),
    "clock, 5 % full jumps": (OnClock, lambda: PairOnClock(law=FullJump(0.05)), None),
    "clock, learned weight": (OnClock, PairOnClock, LearnedWeight),
    "clock, adaptive weight": (OnClock, PairOnClock, AdaptiveWeight),
    "clock, short gaps first": (OnClock, PairOnClock, GapCurriculum),
}
MEASURES = {"diagonal": "diagonal, nats", "off_diagonal": "off it, nats", "1": "perplexity, 1 jump", "4": "4 jumps"}


def trained(task: Text, way: str, seed: int, seconds: float) -> tuple[EndpointMap, int]:
    """A map, and how many updates the time was enough for."""
    torch.manual_seed(seed)
    times, pairs, weight = WAYS[way]
    objective = SelfDistillation(
        task.build_map(), SemigroupKL(), times=times(), pairs=pairs(), weight=weight and weight()
    )  # fmt: skip
    report = Trainer(
        objective, task.train_data, max_steps=100_000, max_cpu_seconds=seconds, batch_size=32, seed=seed,
        optimizer=AdamW(lr=5e-3), schedule=Cosine(warmup=20), ema=0.99, progress=False,
    ).fit()  # fmt: skip
    assert isinstance(report.flow_map, EndpointMap)
    return report.flow_map, report.step


@torch.no_grad()
def measured(task: Text, flow_map: EndpointMap, n: int) -> dict[str, float]:
    """The same numbers of any map."""
    judge = SelfDistillation(flow_map, SemigroupKL(), times=OnClock(), pairs=PairOnClock()).eval()
    batch = task.valid_data.batch(torch.arange(n) % len(task.valid_data))
    values = judge(batch, judge.draw(batch, torch.Generator().manual_seed(0)))
    found = {name: float(values[name]) for name in ("diagonal", "off_diagonal")}
    for jumps in (1, 4):
        samples = task.sample(flow_map, 128, Jumps(jumps), torch.Generator().manual_seed(0))
        found[str(jumps)] = task.quality(samples)["judge_perplexity"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = Text("tiny_shakespeare", length=64, width=96, depth=2, heads=4, given=False, n=128)
    head = f"| times and weight | updates | {' | '.join(MEASURES.values())} |"
    lines, rows = [head, "|" + "---|" * (len(MEASURES) + 2)], []
    for way in WAYS:
        found, updates = [], []
        for seed in options.seeds:
            flow_map, steps = trained(task, way, seed, options.seconds)
            updates.append(steps)
            found.append(measured(task, flow_map, 1024))
            rows.append({"way": way, "seed": seed, "updates": steps, **found[-1]})
        lines.append(f"| {way} | {statistics.mean(updates):.0f} | {' | '.join(cell(found, m) for m in MEASURES)} |")
        print(lines[-1], flush=True)
    if options.out:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        setting = (
            f"`python bench/text_times.py --seconds {options.seconds:g}`, {time.strftime('%Y-%m-%d')}, commit "
            f"{commit}, one core of an {platform.machine()} CPU, torch {torch.__version__}, float32, seeds "
            f"{', '.join(map(str, options.seeds))}; tiny Shakespeare in 27 letters, windows of 64, transformer 2 x 96, "
            f"PSD-KL, batch 32; held-out perplexity of the judge {task.of_data()['judge_perplexity']:.3g}"
        )
        title = "# Laws of times and weights on equal processor time"
        write_text(options.out.with_suffix(".md"), "\n".join([title, "", setting + ".", "", *lines]) + "\n")
        write_json(options.out.with_suffix(".json"), {"setting": setting, "runs": rows})


def cell(found: list[dict[str, float]], name: str) -> str:
    """Mean and standard error."""
    values = [row[name] for row in found]
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.2g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4g}{error}"


if __name__ == "__main__":
    main()
