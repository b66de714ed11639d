"""Does a text model prefer how held-out novels go on? Scored by lm-evaluation-harness through ``flowmaps evaluate-lm``.

    python bench/harness.py novels --seeds 0 1
    python bench/harness.py runs/novels --seeds 0 1

makes multiple-choice questions of the held-out part of the text that a model was trained on: a passage, and how it goes
on against one corruption. ``letters``: the letters of each word in another order. ``words``: the words in another
order. ``elsewhere``: as many letters of another passage. Each is a question of two choices, so chance is one half.

Every seed draws other noise for the bounds, over the same questions. Two seeds or more say how much of a difference of
two scores is noise: the mean of the seeds is what the harness gets with as many times the draws. An n-gram model
of the training text answers the same questions by its exact likelihood. ``harness.json`` keeps all models; one that is
there already is not scored again.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

import flowmaps
from flowmaps.cli.main import main as command
from flowmaps.files import write_text
from flowmaps.metrics.text_judges import NgramJudge
from flowmaps.tasks.text import Text
from records import commit

KINDS = ("letters", "words", "elsewhere")
JUDGED, ORDER = 20_000_000, 6  # letters of the training text that the n-gram model has read, and its longest n-gram
Question = dict[str, Any]


def passages(text: str, n: int, before: int, after: int, seed: int) -> list[tuple[str, str]]:
    """Contexts and their continuations, whole words."""
    dice, found = random.Random(seed), []
    while len(found) < n:
        start = text.find(" ", dice.randrange(len(text) - 4 * (before + after))) + 1
        middle = text.rfind(" ", start, start + before)
        end = text.rfind(" ", middle, middle + after)
        words = text[middle:end].split()
        if len(words) > 2 and any(len(set(word)) > 2 for word in words):
            found.append((text[start:middle], text[middle:end]))
    return found


def corrupted(kind: str, texts: list[str], i: int, dice: random.Random) -> str:
    """A continuation as it does not go on: never the same as it does, and as long."""
    text = texts[i]
    others = sorted({other for other in texts if len(other) == len(text)} - {text})
    while text == texts[i]:
        words = texts[i].split()
        if kind == "elsewhere":
            text = dice.choice(others)
        elif kind == "words":
            text = " " + " ".join(dice.sample(words, len(words)))
        else:
            text = " " + " ".join("".join(dice.sample(word, len(word))) for word in words)
    return text


def questions(text: str, n: int, before: int, after: int, seed: int) -> dict[str, list[Question]]:
    """The rows of each kind."""
    found = passages(text, n, before, after, seed)
    texts = [continuation for _, continuation in found]
    rows: dict[str, list[Question]] = {}
    for kind in KINDS:
        dice, rows[kind] = random.Random(seed), []
        for i, (context, continuation) in enumerate(found):
            choices, gold = [continuation, corrupted(kind, texts, i, dice)], dice.randrange(2)
            rows[kind].append({"context": context, "choices": choices[::-1] if gold else choices, "gold": gold})
    return rows


def write_tasks(folder: Path, asked: dict[str, list[Question]]) -> None:
    for kind, rows in asked.items():
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = {"data_files": {"test": str(folder / f"{kind}.jsonl")}, "cache_dir": str(folder / "cache")}
        task = {"task": kind, "dataset_path": "json", "dataset_kwargs": files, "test_split": "test",
                "output_type": "multiple_choice", "doc_to_text": "{{context}}", "doc_to_choice": "{{choices}}",
                "doc_to_target": "{{gold}}", "target_delimiter": "", "metric_list": [{"metric": "acc"}]}  # fmt: skip
        (folder / f"{kind}.yaml").write_text(yaml.safe_dump(task))


def by_harness(model: str, asked: dict[str, list[Question]], seed: int) -> dict[str, dict[str, Any]]:
    """How many questions the harness finds right, and by how many nats it finds each truth likelier."""
    with TemporaryDirectory() as place:
        out = Path(place) / "out"
        write_tasks(Path(place), asked)
        command(["evaluate-lm", model, "--tasks", ",".join(asked), "--include-path", place, "--steps=0",
                 "--device=cpu", f"--seed={seed}", f"--out={out}"])  # fmt: skip
        result = json.loads((out / "metrics.json").read_text())["results"]
        found = {}
        for kind, rows in asked.items():
            lines = map(json.loads, (out / f"samples-{kind}.jsonl").read_text().splitlines())
            told = sorted((line["doc_id"], [float(r[0]) for r in line["filtered_resps"]]) for line in lines)
            nats = [ahead(row, scores) for row, (_, scores) in zip(rows, told, strict=True)]
            found[kind] = {"right": round(len(rows) * result[kind]["acc"]), "nats": [round(x, 3) for x in nats]}
    return found


def ahead(row: Question, scores: Sequence[float]) -> float:
    """By how much the truth has the better score."""
    return scores[row["gold"]] - scores[1 - row["gold"]]


def by_judge(task: Text, asked: dict[str, list[Question]]) -> dict[str, list[float]]:
    """By how many nats an n-gram model of the training text finds each truth likelier."""
    judge = NgramJudge(task.splits.train.tokens(JUDGED), task.tokeniser.size, ORDER)

    def score(row: Question, choice: str) -> float:
        nats = judge.nats([task.tokeniser.spell(row["context"] + choice)])[0]
        return -float(nats[len(row["context"]) :].sum())

    return {kind: [round(ahead(row, [score(row, choice) for choice in row["choices"]]), 3) for row in rows]
            for kind, rows in asked.items()}  # fmt: skip


def tested(right: int, n: int) -> str:
    """Cells of a count: its share with the binomial error, and the exact chance of as many by guessing."""
    share = right / n
    p = binomtest(right, n, 0.5, alternative="greater").pvalue
    return f"{right} | {share:.3f} ± {(share * (1 - share) / n) ** 0.5:.3f} | {p:.1g}"


def line(kind: str, name: str, nats: NDArray[np.floating], right: int | None = None) -> str:
    """A row of the table, of differences of score ``(passes, questions)``.

    What one pass has right, and the mean of all with its test; the mean difference with its error over questions;
    deviations over questions, of the noise of a pass and of what is left without it, and the share right without it.
    """
    passes, n = nats.shape
    mean, exact = nats.mean(0), right is None
    one = "" if exact else f"{right}, p = {binomtest(right, n, 0.5, alternative='greater').pvalue:.1g}"
    cells = [one, "exact" if exact else str(passes), tested(int((mean > 0).sum()), n),
             f"{mean.mean():+.2f} ± {mean.std(ddof=1) / n**0.5:.2f}"]  # fmt: skip
    if passes > 1 or exact:
        noise = 0.0 if exact else float(nats.var(0, ddof=1).mean())
        between = max(float(mean.var(ddof=1)) - noise / passes, 1e-9) ** 0.5
        cells += [f"{noise**0.5:.1f}", f"{between:.1f}", f"{norm.cdf(mean.mean() / between):.2f}"]
    else:
        cells += [""] * 3
    return f"| {kind} | {name} | {' | '.join(cells)} |"


HEAD = ("| corruption | model | right, one pass | passes | right, their mean | share ± binomial error | p of guessing "
        "| truth ahead, nats | noise of a pass | deviation without noise | right without noise, if normal |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|")  # fmt: skip


def table(record: dict[str, Any]) -> str:
    lines = [HEAD]
    for kind in KINDS:
        for model, row in record["models"].items():
            if passes := [one[kind] for one in row["passes"].values() if kind in one]:
                nats = np.array([one["nats"] for one in passes])
                lines.append(line(kind, model, nats, passes[0]["right"]))
        lines.append(line(kind, f"{record['judge']['order']}-grams", np.array([record["judge"]["nats"][kind]])))
    return "\n".join(lines)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", help="a run, or a model by name")
    p.add_argument("--n", type=int, default=200, help="questions of each kind")
    p.add_argument("--before", type=int, default=32, help="letters of a passage, at most")
    p.add_argument("--after", type=int, default=28, help="letters of how it goes on, at most")
    p.add_argument("--seed", type=int, default=0, help="of the questions")
    p.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the noise")
    p.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    p.add_argument("--out", default=Path(__file__).parent / "results" / "harness.json", type=Path)
    cfg = p.parse_args()
    settings = {name: getattr(cfg, name) for name in ("n", "before", "after", "seed")}
    record: dict[str, Any] = json.loads(cfg.out.read_text()) if cfg.out.exists() else {"settings": settings}
    if record.get("settings") != settings:
        raise SystemExit(f"{cfg.out} is of {record.get('settings')}, expected {settings}; name another file with --out")
    opened = flowmaps.load(cfg.model, "cpu")
    if not isinstance(task := opened.task, Text):
        raise SystemExit(f"{cfg.model} is a model of {type(task).__name__}, expected one of Text")
    asked = questions(task.tokeniser.decode(task.splits.test.tokens().tolist()), **settings)
    if "judge" not in record:
        record["judge"] = {"order": ORDER, "letters": JUDGED, "nats": by_judge(task, asked)}
        write_text(cfg.out, json.dumps(record) + "\n")
    weights = sum(parameter.numel() for parameter in opened.flow_map.parameters())
    row = record.setdefault("models", {}).setdefault(cfg.model, {"weights": weights, "passes": {}})
    for seed in map(str, cfg.seeds):
        done = row["passes"].setdefault(seed, {})
        if left := {kind: asked[kind] for kind in cfg.kinds if kind not in done}:
            begun = time.process_time()
            done |= by_harness(cfg.model, left, int(seed))
            row |= {"commit": commit(), "date": time.strftime("%Y-%m-%d")}
            row["seconds_a_choice"] = round((time.process_time() - begun) / (2 * len(left) * cfg.n), 3)
            write_text(cfg.out, json.dumps(record) + "\n")
    print(table(record))


if __name__ == "__main__":
    main()
