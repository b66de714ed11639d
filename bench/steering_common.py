r"""What the comparisons of steering methods share: runs at equal evaluations, and their report."""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from flowmaps.fields import Condition, fieldwise, select
from flowmaps.maps import FlowMap
from flowmaps.samplers import Jumps, Renoise
from flowmaps.steering import BestOf, FeynmanKac, LookAhead, Method, Reward, Tilted, maximum
from flowmaps.tasks.base import Problem
from records import commit

TOGETHER = 256  # particles alive at one time that do not know of each other


class Setting(NamedTuple):
    """What is compared on one plot.

    Arguments:
        title: In a few words.
        flow_map: What is steered.
        reward: What counts, and what methods without gradients see.
        led: What methods with gradients see: the same, or one led by a stand-in. They are left out if it has none.
        strength: λ.
        ascent: λ of methods that follow a gradient without weights: nothing holds them to the law of the map.
        problem: Shape and conditions of so many particles.
        views: What else to know of the samples handed back, by name.
        show: Lines of Markdown about samples by method, for a report at a path; may write a picture there.
        finished: Samples of a population, with their conditions, as the views and the report want them.
    """

    title: str
    flow_map: FlowMap
    reward: Reward
    led: Reward
    strength: float
    ascent: float
    problem: Callable[[int, torch.Generator], Problem]
    views: Callable[[Any], dict[str, float]]
    show: Callable[[dict[str, Any], Path], list[str]]
    finished: Callable[[Any, Condition], Any] = lambda samples, condition: fieldwise(lambda x: x.cpu(), samples)

    @property
    def device(self) -> torch.device:
        return next(self.flow_map.parameters()).device


# -- methods at equal evaluations ----------------------------------------------------------------------------------

Entry = Callable[[int], tuple[Method, int]]  # from a budget to a method and its number of particles


def many(method: Method, cost: int) -> Entry:
    """As many particles as the budget allows, one costing so many evaluations."""
    return lambda budget: (method, budget // cost)


METHODS: dict[str, Entry] = {
    "best of n, 1 step": many(BestOf(1, Jumps(1)), 1),
    "best of n, 4 steps": many(BestOf(1, Jumps(4)), 4),
    "look-ahead, one path": lambda budget: (LookAhead((budget + 2) // 3), 1),
    "look-ahead, best of n": many(LookAhead(6), 16),
    "Feynman-Kac, difference": many(FeynmanKac(Renoise(4, 0.5)), 7),
    "Feynman-Kac, maximum": many(FeynmanKac(Renoise(4, 0.5), maximum), 7),
    "tilted (FMTT), 4 steps": many(Tilted(Renoise(4, 0.5)), 10),
    "tilted (FMTT), 6 steps": many(Tilted(Renoise(6, 0.5)), 16),
}
EXACT: dict[str, Entry] = {
    "importance, 1 step": many(Tilted(Renoise(1)), 1),
    "importance, 4 steps": many(Tilted(Renoise(4, 0.0)), 4),
    "Feynman-Kac": many(FeynmanKac(Renoise(4, 0.5)), 7),
    "tilted (FMTT), 4 steps": many(Tilted(Renoise(4, 0.5)), 10),
}


def needs_gradient(method: Method) -> bool:
    return isinstance(method, LookAhead) or (isinstance(method, Tilted) and not method.sampler.still)


def methods(setting: Setting) -> list[str]:
    """Those that the reward allows."""
    return [name for name, entry in METHODS.items() if setting.led.differentiable or not needs_gradient(entry(64)[0])]


def run(setting: Setting, name: str, budget: int, seed: int, runs: int) -> tuple[dict[str, Any], Any]:
    """Let ``runs`` runs spend a budget each; a record, and the samples that they hand back."""
    method, n = METHODS[name](budget)
    generator, start = torch.Generator(setting.device).manual_seed(1000 * seed + budget), time.perf_counter()
    todo = setting.problem(runs * n, generator)._asdict() | {"particles": runs * n, "generator": generator}
    todo["strength"] = setting.ascent if isinstance(method, LookAhead) else setting.strength
    todo["population"] = n if isinstance(method, FeynmanKac) else TOGETHER
    result = method(setting.flow_map, setting.led if needs_gradient(method) else setting.reward, **todo)
    rewards = result.rewards.reshape(runs, n).cpu()
    index = (rewards.argmax(1) + n * torch.arange(runs)).to(setting.device)
    best = setting.finished(fieldwise(lambda x: x[index], result.samples), select(result.condition, index))
    row = {"method": name, "budget": budget, "seed": seed, "evaluations": result.evaluations / runs}
    row |= {"reward": float(rewards.amax(1).mean()), **setting.views(best)}
    return {**row, "seconds": time.perf_counter() - start}, best


def law(setting: Setting, evaluations: int, seed: int) -> Iterator[dict[str, Any]]:
    """Effective samples of the tilted law for equal evaluations, by the methods that represent it."""
    for name, entry in EXACT.items():
        method, n = entry(evaluations)
        gradient = name.startswith("tilted")  # importance sampling is Tilted too, but has no gradient to follow
        if gradient and not setting.led.differentiable:
            continue
        generator = torch.Generator(setting.device).manual_seed(seed)
        todo = setting.problem(n, generator)._asdict() | {"particles": n, "generator": generator, "population": 500}
        found = method(setting.flow_map, setting.led if gradient else setting.reward, strength=setting.strength, **todo)
        row = {"method": name, "seed": seed, "evaluations": found.evaluations, "lowest_ess": float(found.ess.min())}
        yield {**row, **{key: getattr(found, key) for key in ("effective_size", "log_normaliser", "error")}}


def compare(
    settings: Sequence[Setting], o: argparse.Namespace, facts: dict[str, Any], of_law: Setting | None = None
) -> None:
    """Every method on every setting for every budget and seed of ``o``; the report is written after each seed."""
    about = {s.title: f"{s.reward.name}, strength {s.strength:g}, ascent {s.ascent:g}" for s in settings}
    report: dict[str, Any] = {"setting": {**facts, **machine(), "runs": o.runs, "seeds": len(o.seeds)},
                              "rewards": about, "tasks": {s.title: [] for s in settings}, "law": []}  # fmt: skip
    shown: dict[str, list[str]] = {}
    o.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in o.seeds:
        for setting in settings:
            for budget in o.budgets:
                best = {}
                for name in methods(setting):
                    if METHODS[name](budget)[1] < 1:
                        continue
                    row, best[name] = run(setting, name, budget, seed, o.runs)
                    report["tasks"][setting.title].append(row)
                    print(setting.title, budget, f"{name:24} {row['reward']:.3f} {row['seconds']:.1f} s", flush=True)
            shown[setting.title] = setting.show(best, o.out)
        if of_law is not None and o.law:
            report["law"] += law(of_law, o.law, seed)
        o.out.with_suffix(".json").write_text(json.dumps(report, indent=1))
        o.out.with_suffix(".md").write_text(markdown(report, shown))
        picture(report, o.out.with_suffix(".png"))
    if not all(math.isfinite(r["reward"]) for rows in report["tasks"].values() for r in rows):
        raise SystemExit("a reward is not finite")


# -- the report ----------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "precision": "float32",
        "hardware": names[0] if names else platform.processor(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
    }


def measured(rows: list[dict[str, Any]]) -> list[str]:
    """The reward, and what was seen besides."""
    return [key for key in rows[0] if key not in ("method", "budget", "seed", "evaluations", "seconds")]


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


def table(rows: list[dict[str, Any]], key: str) -> list[str]:
    budgets = sorted({r["budget"] for r in rows})
    lines = [f"| {key} | " + " | ".join(map(str, budgets)) + " |", "|---" * (len(budgets) + 1) + "|"]
    for name in dict.fromkeys(r["method"] for r in rows):
        cells = [[r[key] for r in rows if (r["method"], r["budget"]) == (name, b)] for b in budgets]
        lines.append(f"| {name} | " + " | ".join(spread(c) if c else "" for c in cells) + " |")
    return [*lines, ""]


def markdown(report: dict[str, Any], shown: dict[str, list[str]]) -> str:
    lines = ["# Steering", "", ", ".join(f"{k} {v}" for k, v in report["setting"].items()), ""]
    lines += ["One run spends the evaluations of its column and hands back its sample of the highest reward: mean over "
              "runs, ± standard deviation over seeds.", ""]  # fmt: skip
    for task, rows in report["tasks"].items():
        lines += [f"## {task}", "", f"Reward: {report['rewards'][task]}.", ""]
        for key in measured(rows):
            lines += table(rows, key)
        lines += [*shown.get(task, []), ""]
    if report["law"]:
        lines += ["## The tilted law itself, by weights, at equal evaluations", ""]
        lines += ["| method | effective samples | log-normaliser | its error | evaluations |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(r["method"] for r in report["law"]):
        rows = [r for r in report["law"] if r["method"] == name]
        cells = [spread([r[key] for r in rows]) for key in ("effective_size", "log_normaliser", "error")]
        lines.append(f"| {name} | {' | '.join(cells)} | {rows[0]['evaluations']} |")
    return "\n".join([*lines, ""])


def picture(report: dict[str, Any], path: Path) -> None:
    """A row of panels a task: the reward, the judges, the diversity, each against evaluations."""
    columns = max(len(measured(rows)) for rows in report["tasks"].values())
    figure = Figure(figsize=(4.6 * columns, 4.0 * len(report["tasks"])), dpi=110, layout="constrained")
    panels = figure.subplots(len(report["tasks"]), columns, squeeze=False)
    for line, (task, rows) in zip(panels, report["tasks"].items(), strict=True):
        for axis, key in zip(line, measured(rows), strict=False):
            for name in dict.fromkeys(r["method"] for r in rows):
                own = [r for r in rows if r["method"] == name]
                groups = {b: [r for r in own if r["budget"] == b] for b in sorted({r["budget"] for r in own})}
                x = [statistics.mean(r["evaluations"] for r in group) for group in groups.values()]
                y = [statistics.mean(r[key] for r in group) for group in groups.values()]
                error = [statistics.stdev(r[key] for r in g) if len(g) > 1 else 0.0 for g in groups.values()]
                axis.errorbar(x, y, error, marker="o", markersize=3, linewidth=1.2, capsize=2, label=name)
            axis.set(xscale="log", xlabel="network evaluations of a run", title=f"{task}: {key}")
            axis.set_xticks(ticks := sorted({r["budget"] for r in rows}), [str(b) for b in ticks])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
        for axis in line[len(measured(rows)) :]:
            axis.set_axis_off()
    panels[0][0].legend(fontsize=8)
    with open(path, "wb") as file:
        FigureCanvasAgg(figure).print_png(file)


# -- options --------------------------------------------------------------------------------------------------------


def budget_options(p: argparse.ArgumentParser, budgets: Sequence[int], runs: int) -> None:
    """Options of every comparison."""
    numbers = lambda text: [int(n) for n in text.split(",")]  # noqa: E731
    p.add_argument("--budgets", type=numbers, default=list(budgets), help="network evaluations of a run")
    p.add_argument("--runs", type=int, default=runs, help="runs of each method, budget and seed")
    p.add_argument("--seeds", type=numbers, default=[0, 1, 2])
