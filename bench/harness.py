"""Does a text model prefer how held-out novels go on? Scored by lm-evaluation-harness through ``flowmaps evaluate-lm``.

    python bench/harness.py runs/novels

makes multiple-choice questions of the held-out part of the text that a run was trained on: a passage, and how it goes
on against one corruption. ``letters``: the letters of each word in another order. ``words``: the words in another
order. ``elsewhere``: as much of another passage. Each is a question of two choices, so chance is one half.
"""

import argparse
import json
import math
import random
import tempfile
from pathlib import Path

import yaml

import flowmaps
from flowmaps.cli.main import main as command

KINDS = ("letters", "words", "elsewhere")


def passages(run: str, n: int, before: int, after: int, seed: int) -> list[tuple[str, str]]:
    """Contexts and their continuations, whole words, of the test part."""
    task = flowmaps.load(run, "cpu").task
    text = task.tokeniser.decode(task.splits.test.tokens().tolist())
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
    """A continuation as it does not go on, never the same as it does."""
    text = texts[i]
    while text == texts[i]:
        words = texts[i].split()
        if kind == "elsewhere":
            text = texts[dice.randrange(len(texts))]
        elif kind == "words":
            text = " " + " ".join(dice.sample(words, len(words)))
        else:
            text = " " + " ".join("".join(dice.sample(word, len(word))) for word in words)
    return text


def write_tasks(folder: Path, found: list[tuple[str, str]], seed: int) -> None:
    texts = [text for _, text in found]
    for kind in KINDS:
        dice = random.Random(seed)
        rows = []
        for i, (context, text) in enumerate(found):
            choices, gold = [text, corrupted(kind, texts, i, dice)], dice.randrange(2)
            rows.append({"context": context, "choices": choices[::-1] if gold else choices, "gold": gold})
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = {"data_files": {"test": str(folder / f"{kind}.jsonl")}, "cache_dir": str(folder / "cache")}
        task = {"task": kind, "dataset_path": "json", "dataset_kwargs": files, "test_split": "test",
                "output_type": "multiple_choice", "doc_to_text": "{{context}}", "doc_to_choice": "{{choices}}",
                "doc_to_target": "{{gold}}", "target_delimiter": "", "metric_list": [{"metric": "acc"}]}  # fmt: skip
        (folder / f"{kind}.yaml").write_text(yaml.safe_dump(task))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("run")
    p.add_argument("--n", type=int, default=200)
    p.add_argument("--before", type=int, default=32, help="letters of a passage, at most")
    p.add_argument("--after", type=int, default=28, help="letters of how it goes on, at most")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", default=Path(__file__).parent / "results" / "harness.json", type=Path)
    cfg = p.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_tasks(folder, passages(cfg.run, cfg.n, cfg.before, cfg.after, cfg.seed), cfg.seed)
        out = folder / "out"
        command(["evaluate-lm", cfg.run, "--tasks", ",".join(KINDS), "--include-path", place, "--steps=0",
                 "--device=cpu", f"--seed={cfg.seed}", f"--out={out}"])  # fmt: skip
        found = json.loads((out / "metrics.json").read_text())["results"]
    rows = {kind: {"right": round(cfg.n * found[kind]["acc"]), "n": cfg.n} for kind in KINDS}
    print("| corruption | right | share ± binomial error | above chance, in errors of chance |\n|---|---|---|---|")
    for kind, row in rows.items():
        share = row["right"] / cfg.n
        error, chance = math.sqrt(share * (1 - share) / cfg.n), math.sqrt(0.25 / cfg.n)
        print(f"| {kind} | {row['right']} of {cfg.n} | {share:.3f} ± {error:.3f} | {(share - 0.5) / chance:.1f} |")
    cfg.out.write_text(json.dumps({"n": cfg.n, "seed": cfg.seed, "tasks": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
