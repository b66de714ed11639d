"""Runs side by side: what is grouped, means and spread by hand, and the files that are written."""

import csv
import json
from statistics import mean, stdev

import pytest
from PIL import Image

from cli.conftest import TINY
from flowmaps.cli.compared import grouped, read_run, series, summary
from flowmaps.cli.main import main
from flowmaps.train.logs import read_records

FRECHET = {"a": 2.0, "b": 3.0, "wide": 1.0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three tiny runs, of which two differ by their seed, as if they had been evaluated."""
    root = tmp_path_factory.mktemp("compared")
    options = {"a": ["--trainer.seed=0"], "b": ["--trainer.seed=1"], "wide": ["--task.width=16"]}
    for name, option in options.items():
        assert main(["train", "digits", "--out", str(root / name), *TINY, "--trainer.log_every=2", *option]) == 0
        rows = {way: {"frechet": FRECHET[name] / k, "frechet_error": 0.25, "recall": 0.5, "modes/class_1": 0.1}
                for way, k in (("1", 1), ("4", 2))}  # fmt: skip
        (root / name / "evaluation").mkdir()
        report = {"n": 10, "seeds": [0], "by_steps": {**rows, "data": {"frechet": 0.5}}}
        (root / name / "evaluation" / "metrics.json").write_text(json.dumps(report))
    return root


def test_seeds_are_grouped_and_their_spread_is_over_trainings(runs, tmp_path, tell):
    code, said, _ = tell("compare", runs / "a", runs / "b", runs / "wide", "--out", tmp_path / "c")
    assert code == 0
    assert "a, n = 2 (seeds 0, 1)" in said and "wide, n = 1" in said and "task.init_args.width: 8, 16" in said
    assert "2.5 ± 0.71" in said and "1 ± 0.25" in said and "modes" not in said  # of trainings; of samples
    tables = json.loads((tmp_path / "c" / "comparison.json").read_text())["tables"]
    both, single = tables["4"]["a, n = 2 (seeds 0, 1)"], tables["4"]["wide, n = 1"]
    assert both["frechet"] == 1.25 and both["frechet_spread"] == pytest.approx(stdev([1.0, 1.5]))
    assert "frechet_error" not in both and (single["frechet"], single["frechet_error"]) == (0.5, 0.25)
    losses = [read_records(runs / name / "metrics.jsonl")[-1]["train/loss"] for name in "ab"]
    ended = tables["training"]["a, n = 2 (seeds 0, 1)"]
    assert ended["train/loss"] == pytest.approx(mean(losses)) and ended["updates"] == 4
    with open(tmp_path / "c" / "comparison.csv") as file:
        lines = list(csv.DictReader(file))
    assert {"table": "1", "runs": "data", "metric": "frechet", "value": "0.5", "spread": "", "error": ""} in lines
    text = (tmp_path / "c" / "comparison.md").read_text()
    assert "## Samples: 4 steps" in text and "| task.init_args.width | 8 | 16 |" in text
    for name in ("curves.png", "metrics.png"):
        assert min(Image.open(tmp_path / "c" / name).size) > 200
    assert tell("compare", runs / "a", runs / "b", "--out", tmp_path / "c")[0] == 2  # earlier files stay


def test_curves_of_a_group_are_where_all_its_runs_have_records(runs):
    (group,) = grouped([read_run(str(runs / name)) for name in "ab"])
    found = series(group, "train/loss")
    rows = [read_records(run.folder / "metrics.jsonl") for run in group.runs]
    assert [step for step, _, _ in found] == [2, 4]
    assert found[0][1:] == pytest.approx(
        (mean(r[0]["train/loss"] for r in rows), stdev(r[0]["train/loss"] for r in rows))
    )
    group.runs[1].records.pop()
    assert [step for step, _, _ in series(group, "train/loss")] == [2]


def test_a_metric_that_one_training_lacks_is_not_averaged():
    assert summary([{"fcd": 1.0, "qed": 2.0}, {"fcd": 3.0}]) == {"fcd": 2.0, "fcd_spread": stdev([1.0, 3.0])}


def test_runs_of_one_name_keep_their_folders(runs, tmp_path, tell, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said, _ = tell("compare", runs / "a", "qm9", "--metrics", "frechet")
    assert code == 0 and "qm9, n = 1" in said and (tmp_path / "comparison" / "comparison.md").exists()


@pytest.mark.parametrize("arguments, complaint", [
    (["{runs}/a"], "two runs or more"),
    (["{runs}/a", "{runs}/nothing"], "no checkpoint at"),
    (["{runs}/a", "{runs}/b", "--metrics", "beauty"], "metrics has 'beauty', expected some of frechet"),
])  # fmt: skip
def test_mistakes(runs, tmp_path, tell, monkeypatch, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    code, _, error = tell("compare", *(text.format(runs=runs) for text in arguments))
    assert code == 2 and complaint in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_plot(runs, tmp_path, tell):
    code, said, _ = tell(
        "plot", runs / "a", "--names", "train/loss,valid", "--x", "seconds", "--out", tmp_path / "p.png"
    )
    assert code == 0 and "train/loss, valid/diagonal, valid/loss" in said and "update 4" in said
    assert min(Image.open(tmp_path / "p.png").size) > 200
    assert tell("plot", runs / "a")[0] == 0 and (runs / "a" / "plot.png").exists()
    for arguments, complaint in ((["a", "--names", "x"], "names has 'x'"), (["c"], "holds no record"),
                                 (["a", "--out", "p.txt"], "expected the name of a .png")):  # fmt: skip
        code, _, error = tell("plot", runs / arguments[0], *arguments[1:])
        assert code == 2 and complaint in error and error.count("\n") == 1
