r"""Reward against network evaluations for every steering method, on a checkpoint of any modality.

    python bench/steering_models.py runs/mnist --reward class --label 3
    python bench/steering_models.py runs/qm9 --reward qed                     # gradients by a trained surrogate
    python bench/steering_models.py runs/shakespeare --reward keyword --word the
    python bench/steering_models.py runs/text8 --reward likelihood --budgets 16,64 --runs 4    # any reward of `steer`

One *run* spends a number of network evaluations (a gradient counts as one more) and hands back its sample of the
highest reward. Beside the reward stand judges that did not give it, and the diversity of what different runs hand
back. Writes `results/steering_NAME.{json,md,png}`; `bench/steering.py` does the same for a map that it trains itself.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowmaps.data.base import CategoricalData
from flowmaps.fields import FREE, Condition
from flowmaps.files import cache_folder
from flowmaps.hub import Model, load
from flowmaps.metrics.images import ImageClassifier, cached_classifier, nearest_distance
from flowmaps.pictures import sample_grid
from flowmaps.tasks.base import Problem
from flowmaps.tasks.steering import reward
from steering_common import Setting, budget_options, compare

PROPERTIES = ("logp", "qed", "rings", "weight")  # of molecules, with a surrogate
STRENGTHS = {"class": 10.0, "log-class": 1.0, "ink": 30.0, "qed": 30.0, "logp": 3.0, "rings": 2.0, "weight": 0.2,
             "similar": 20.0, "keyword": 3.0, "likelihood": 20.0}  # fmt: skip
ASCENTS = {"class": 100.0, "log-class": 10.0, "qed": 3.0}  # step lengths, by trial on small models


def differing(x: Tensor) -> float:
    """Mean share of positions in which two samples differ."""
    flat = x.flatten(1)
    return float((flat.unsqueeze(0) != flat.unsqueeze(1)).double().mean(-1).sum() / (len(flat) * (len(flat) - 1)))


def image_views(judge: ImageClassifier, label: int | None, train: Tensor) -> Callable[[Tensor], dict[str, float]]:
    """What a second classifier thinks, distances between samples, and those to the nearest training image."""

    def views(x: Tensor) -> dict[str, float]:
        p, pixels = judge.inspect(x)[1], x.flatten(1).double() / (judge.levels - 1)
        opinion = p.amax(1).mean() if label is None else (p.argmax(1) == label).double().mean()
        told = "confidence of a second classifier" if label is None else f"share called {label} by a second classifier"
        return {
            told: float(opinion),
            "diversity (distance)": float(torch.cdist(pixels, pixels).sum() / (len(x) * (len(x) - 1))),
            "nearest training image": nearest_distance(x, train, judge.levels),
        }

    return views


def image_grid(title: str, data: Tensor, levels: int) -> Callable[[dict[str, Any], Path], list[str]]:
    def show(best: dict[str, Tensor], out: Path) -> list[str]:
        path = out.with_name(f"{out.name}-{title.replace(' ', '-')}.png")
        rows = {name.split(" (")[0]: x for name, x in best.items()}
        sample_grid(path, {**rows, "data": data[:12]}, levels=levels, columns=12)
        return [f"![samples at the largest budget]({path.name})"]

    return show


def of_images(opened: Model, o: argparse.Namespace) -> Setting:
    task: Any = opened.task
    splits, (name, _, argument) = task.splits, o.reward.partition(":")
    parts = (splits.valid, splits.test)  # images that the classifier of the reward has not seen
    label = Condition(label=torch.cat([part.condition.label for part in parts]))
    held_out = CategoricalData(torch.cat([part.x_1 for part in parts]), label.label)
    kept = cache_folder() / "classifiers"
    judge = cached_classifier(kept, held_out, splits.levels, splits.classes, steps=500, seed=2)
    wanted = reward(task, o.reward, opened.device)
    views = image_views(judge, int(argument) if name.endswith("class") else None, splits.train.x_1)
    shape = tuple(task.state()["shape"])
    return Setting(
        o.reward.replace(":", " "), opened.flow_map, wanted, wanted, o.strength, o.ascent,
        lambda n, generator: Problem(shape, FREE, None, task.decoder),  # without a label, should the model know any
        views, image_grid("samples", splits.test.x_1, splits.levels),
    )  # fmt: skip


def of_text(opened: Model, o: argparse.Namespace) -> Setting:
    from flowmaps.metrics.text_judges import NgramJudge

    task: Any = opened.task
    held_out = np.concatenate([part.tokens(2_000_000) for part in (task.splits.valid, task.splits.test)])
    judge = NgramJudge(held_out, task.tokeniser.size, 5 if task.tokeniser.size <= 512 else 2)
    wanted = reward(task, o.reward, opened.device)

    def views(x: Tensor) -> dict[str, float]:
        nats = float(np.mean([row.mean() for row in judge.nats(x.numpy())]))
        return {"log-likelihood under held-out text": -nats, "diversity (share of positions)": differing(x)}

    def show(best: dict[str, Tensor], out: Path) -> list[str]:
        lines = [f"{name:24} | {' '.join(text.split())}" for name, x in best.items() for text in task.decoded(x[:2])]
        return ["```text", *lines, "```"]

    setting = lambda n, generator: task.problem(n, generator, prompt=o.prompt)  # noqa: E731
    return Setting(
        o.reward.replace(":", " "), opened.flow_map, wanted, wanted, o.strength, o.ascent, setting, views, show
    )


def of_molecules(opened: Model, o: argparse.Namespace) -> Setting:
    from flowmaps.metrics.molecules import diversity, inspect

    task: Any = opened.task
    training = set(task.splits.train.smiles)
    wanted = reward(task, o.reward, opened.device)
    property = o.reward.partition(":")[0] in PROPERTIES
    led = reward(task, o.reward, opened.device, surrogate=True) if property else wanted

    def whole(x: dict[str, Tensor]) -> list[str]:
        return [smiles for mol in task.decoded(x) if (smiles := inspect(mol).whole) is not None]

    def views(x: dict[str, Tensor]) -> dict[str, float]:
        found, n = whole(x), len(x["atoms"])
        return {
            "valid and connected": len(found) / n,
            "of these novel": sum(smiles not in training for smiles in found) / max(len(found), 1),
            "diversity (Tanimoto)": diversity(found).value if len(found) > 1 else 0.0,
        }

    def show(best: dict[str, Any], out: Path) -> list[str]:
        lines = [f"{name:24} | {'  '.join(whole(x)[:6])}" for name, x in best.items()]
        notes = [f"{name.replace('_', ' ')}: {value:.3f}" for name, value in led.about.items()]
        return [", ".join(notes), "", "```text", *lines, "```"]

    setting = lambda n, generator: task.problem(n, generator)  # noqa: E731
    title = o.reward.replace(":", " ")
    return Setting(
        title, opened.flow_map, wanted, led, o.strength, o.ascent, setting, views, show, opened.task.finished
    )


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkpoint", help="folder of a run, or one of its checkpoints")
    p.add_argument("--reward", required=True, help="as of `flowmaps steer`: class, class:3, qed, keyword:king, ...")
    p.add_argument("--label", help="argument of the reward class")
    p.add_argument("--word", help="argument of the reward keyword")
    p.add_argument("--prompt", help="text: how all samples begin")
    p.add_argument("--strength", type=float, help="of the reward in the exponent (default: by reward)")
    p.add_argument("--ascent", type=float, help="the same of look-ahead gradients without weights (default: by reward)")
    p.add_argument("--law", type=int, default=0, help="also compare effective samples at so many evaluations")
    p.add_argument("--best", action="store_true", help="the best checkpoint of a run instead of its newest")
    p.add_argument("--device", default="auto")
    p.add_argument("--name", help="of the results; by default that of the run and the reward")
    p.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="their folder")
    budget_options(p, (16, 64, 256), runs=8)
    o = p.parse_args()
    argument = o.label or o.word
    o.reward = o.reward if argument is None else f"{o.reward}:{argument}"
    o.strength = STRENGTHS.get(o.reward.partition(":")[0], 5.0) if o.strength is None else o.strength
    o.ascent = ASCENTS.get(o.reward.partition(":")[0], o.strength) if o.ascent is None else o.ascent
    name = o.name or f"{Path(o.checkpoint).resolve().name}-{re.sub(r'[^A-Za-z0-9.]+', '-', o.reward)}"
    o.out = o.results / f"steering_{name}"
    return o


def main() -> None:
    o = arguments()
    opened = load(o.checkpoint, o.device, best=o.best)
    kinds = {"Images": of_images, "Text": of_text, "Molecules": of_molecules}
    setting = kinds[type(opened.task).__name__](opened, o)
    of_parameters = sum(p.numel() for p in opened.flow_map.parameters())
    facts = {"checkpoint": opened.folder.name, "updates": opened.state.get("step"), "parameters": of_parameters}
    compare([setting], o, {"run": o.out.name.removeprefix("steering_"), **facts}, of_law=setting)


if __name__ == "__main__":
    main()
