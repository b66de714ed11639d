"""``flowmaps evaluate-lm CHECKPOINT``"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from ..configuration.parsing import parse
from ..files import write_json, write_text
from ..likelihood import Bound
from ..train.logs import finite
from .checkpoints import check_out, checkpoint_parser, open_checkpoint, origin, results

HELP = """Language benchmarks of a text model by lm-evaluation-harness (extra eval), whose log-likelihoods are bounds:
multiple choice, cloze, rolling perplexity and generation, its own tasks or those of a folder. Example: flowmaps
evaluate-lm runs/novels --tasks my_choices,my_perplexity --include-path tasks"""
SAMPLES = "samples-*.jsonl"


def _parser() -> ArgumentParser:
    p = checkpoint_parser("evaluate-lm", HELP)
    p.add_argument("--tasks", type=str, required=True, help="names of tasks or groups of the harness, by commas")
    p.add_argument("--include-path", type=str | None, help="folder of task files (YAML), taken in place of its own")
    p.add_argument("--limit", type=int | None, help="questions of each task at most")
    p.add_argument("--num_fewshot", type=int | None, help="solved questions before each; the task's own by default")
    p.add_argument("--bound", type=Bound | None, help="the bound (default: B1, of --draws points where they matter)")
    p.add_argument("--draws", type=int, default=16, help="points of the default bound; more make less noise")
    p.add_argument("--steps", type=int, default=4, help="jumps of generated answers; 0: none is called greedy")
    p.add_argument("--batch", type=int, default=128, help="states of one network evaluation")
    return p


def run(arguments: Sequence[str]) -> int:
    p = _parser()
    cfg = parse(p, arguments)
    bound = p.instantiate(cfg).bound
    opened = open_checkpoint(cfg)
    check_out(cfg, opened.task, SAMPLES)
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    from ..integrations.harness import HarnessModel

    model = HarnessModel(opened, bound, cfg.steps, cfg.seed, cfg.batch, cfg.draws)
    manager = TaskManager(include_path=cfg.include_path, include_defaults=cfg.include_path is None)
    names = [name.strip() for name in cfg.tasks.split(",")]
    missing = [name for name in names if not manager.match_tasks([name])]
    if missing:
        raise ValueError(f"there is no task {', '.join(missing)}; those of --include-path replace the harness's own")
    seeds = {f"{name}_random_seed": cfg.seed for name in ("numpy", "torch", "fewshot")}
    found: Any = simple_evaluate(model, tasks=names, limit=cfg.limit, num_fewshot=cfg.num_fewshot,
                                 task_manager=manager, bootstrap_iters=1000, random_seed=cfg.seed, **seeds)  # fmt: skip
    directory = results(cfg, opened, "evaluation-lm")
    for name, rows in found["samples"].items():
        lines = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        write_text(directory / f"samples-{name}.jsonl", "".join(lines))
    values = {name: numbers(row) for name, row in found["results"].items()}
    bound_of = {"bound": model.bound.symbol, "draws": model.bound.draws}
    told = {**origin(opened), "seed": cfg.seed, **bound_of, "steps": cfg.steps, "results": values}
    write_json(directory / "metrics.json", finite(told))
    show(values)
    print(f"wrote {directory / 'metrics.json'} and {directory / SAMPLES}")
    return 0


def numbers(row: Mapping[str, object]) -> dict[str, float]:
    """The metrics of one task by name, each error as ``..._error``, as elsewhere in this package."""
    found: dict[str, float] = {}
    for key, value in row.items():
        metric, _, chosen = key.partition(",")
        name = metric.removesuffix("_stderr") + (f",{chosen}" if chosen not in ("", "none") else "")
        if isinstance(value, int | float):
            found[name + "_error" * metric.endswith("_stderr")] = float(value)
    return found


def show(values: Mapping[str, Mapping[str, float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "metric", "value")
    for name, row in values.items():
        for metric, value in row.items():
            if not metric.endswith("_error") and metric != "sample_len":
                error = row.get(f"{metric}_error")
                table.add_row(name, metric, f"{value:.4g}" + ("" if error is None else f" ± {error:.2g}"))
    Console(width=100).print(table)
