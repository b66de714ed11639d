"""A normalising flow of two angles, through the command line: trained, sampled, measured."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from flowmaps.cli.main import main
from flowmaps.data.sources import data_folder
from flowmaps.data.torsions import torsions
from flowmaps.hub import load
from identities.cases import seeded

SMALL = ["--task.flow.width=16", "--task.flow.layers=2", "--task.flow.bins=4", "--trainer.batch_size=256",
         "--trainer.max_steps=60", "--trainer.curves=false", "--trainer.valid_examples=256"]  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Angles around one place, near where they begin anew."""
    noise = torch.randn(600, 2, generator=seeded())
    path = tmp_path_factory.mktemp("angles") / "angles.csv"
    lines = [f"{(175 + 20 * a + 180) % 360 - 180:.3f},{-60 + 10 * b:.3f}\n" for a, b in noise.tolist()]
    path.write_text("phi,psi\n" + "".join(lines))
    return path


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "flow"
    assert main(["train", "ramachandran", "--data.path", str(table), "--out", str(folder), *SMALL]) == 0
    return folder


def test_it_learns_and_writes_a_picture_and_a_table(run):
    with open(run / "samples-1.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["phi", "psi"] and len(rows) == 5001 and (run / "samples.png").stat().st_size > 5000
    nll = json.loads((run / "metrics.json").read_text())["last"]["valid/nll"]
    law = math.log(2 * math.pi * math.e) + math.log(math.radians(20) * math.radians(10))
    assert law - 0.1 < nll < 2 * math.log(2 * math.pi) - 1  # no better than the truth, far better than uniform


def test_its_likelihood_is_exact_and_it_takes_one_step(run, table, tmp_path, capsys):
    assert main(["evaluate", str(run), "--nll=50", "--n=200", "--out", str(tmp_path / "e")]) == 0
    found = json.loads((tmp_path / "e/metrics.json").read_text())
    model = load(run)
    x = torsions(str(table)).test.original(50)
    with torch.no_grad():
        assert math.isclose(found["nll"]["nats"], -float(model.flow_map.log_prob(x.float()).mean()), rel_tol=1e-5)
    assert set(found["by_steps"]) == {"1", "data"}
    for command in (["sample", str(run), "--steps=4"], ["tune", str(run)]):
        assert main(command) == 2
        assert "a bijection samples in one step" in capsys.readouterr().err


def test_angles_of_a_file_are_scored_exactly(run, table, tmp_path, capsys):
    own = tmp_path / "own.csv"
    own.write_text("frame,psi,phi\n" + "".join(f"{i},{-60 + i},{175 + 3 * i}\n" for i in range(5)))
    assert main(["score", str(run), "--data", str(own), "--out", str(tmp_path / "s")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "s/scores.jsonl").read_text().splitlines()]
    x = torch.tensor([[175 + 3 * i, -60 + i] for i in range(5)], dtype=torch.float64).deg2rad()
    x = torch.atan2(x.sin(), x.cos()).float()  # columns by name, angles begin anew at 180 degrees
    with torch.no_grad():
        exact = load(run).flow_map.log_prob(x)
    assert [row["nats"] for row in rows] == pytest.approx((-exact).tolist(), abs=1e-4)
    told = json.loads((tmp_path / "s/metrics.json").read_text())["bounds"]["exact"]
    assert told["nats"] == pytest.approx(-float(exact.mean()), abs=1e-4)
    assert told["bits_per_position"] == pytest.approx(told["nats"] / 2 / math.log(2))
    assert main(["score", str(run), "--n=20", "--out", str(tmp_path / "held-out")]) == 0
    wrong = {"three.csv": "1,2,3\n4,5,6\n", "one.csv": "phi,psi\n1,2\n", "damaged.csv": "phi,psi\n1,nan\n2,3\n"}
    said = {"three.csv": "3 columns of angles, expected 2: phi, psi", "one.csv": "there is 1 row to score",
            "damaged.csv": "line 2", "none.csv": "none.csv"}  # fmt: skip
    for name, message in said.items():
        if name in wrong:
            (tmp_path / name).write_text(wrong[name])
        _refused(["--data", str(tmp_path / name)], message, run, tmp_path, capsys)
    _refused(["--bound", "Grid"], "a bijection is exact, leave --bound out", run, tmp_path, capsys)
    _refused(["--context", "3"], "cannot score with context", run, tmp_path, capsys)


def _refused(options, message, run, tmp_path, capsys):
    capsys.readouterr()
    assert main(["score", str(run), *options, "--out", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not (tmp_path / "none").exists()


def test_an_objective_that_does_not_fit_is_refused(table, tmp_path, capsys):
    wrong = "--objective=flowmaps.objectives.SelfDistillation"
    arguments = ["train", "ramachandran", "--data.path", str(table), "--out", str(tmp_path / "r"), wrong, *SMALL]
    assert main(arguments) == 2
    assert "SelfDistillation trains jumps, but the map is a CircularNSF" in capsys.readouterr().err


def test_pairs_of_a_flow_train_another_one(run, table, tmp_path, capsys):
    """Reflow through the command line; pairs of other data are refused in one line."""
    folder = tmp_path / "pairs"
    assert main(["pairs", str(run), "--n=600", "--out", str(folder)]) == 0
    regression = ["--objective=flowmaps.objectives.RegFlow", f"--task.paired={folder}", *SMALL]
    arguments = ["train", "ramachandran", "--data.path", str(table), "--out", str(tmp_path / "r"), *regression]
    assert main(arguments) == 0
    last = json.loads((tmp_path / "r/metrics.json").read_text())["last"]
    assert last["valid/distance"] < 2.0  # independent pairs are at 2 * π²/3 = 6.6 from uniform noise
    assert main(["pairs", str(run), "--by=ot", "--n=100", "--out", str(folder)]) == 2
    assert "holds pairs of another flow" in capsys.readouterr().err
    assert main(["pairs", str(run), "--by=ot", "--n=100", "--out", str(tmp_path / "ot")]) == 0
    other = tmp_path / "other.csv"
    other.write_text(table.read_text() + "10,10\n")
    arguments = ["train", "ramachandran", "--data.path", str(other), "--out", str(tmp_path / "s"), *regression]
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "pairs of another flow: their data is" in said and said.count("\n") == 1
    index = json.loads((folder / "pairs.json").read_text())
    (folder / "pairs.json").write_text(json.dumps({**index, "origin": {**index["origin"], "source": "wrapped normal"}}))
    assert main([*arguments[:3], str(table), "--out", str(tmp_path / "u"), *regression]) == 2
    assert "the pairs start from a wrapped normal, a bijection from random points" in capsys.readouterr().err
    plain = ["train", "ramachandran", "--data.path", str(table), "--out", str(tmp_path / "t"), regression[0], *SMALL]
    assert main(plain) == 2 and "the data are points; make pairs first" in capsys.readouterr().err


def test_trajectories_of_alanine_are_not_mixed():
    if not (data_folder("peptide") / "ala2_phipsi.npz").exists():
        pytest.skip("needs peptide/ala2_phipsi.npz; set FLOWMAPS_DATA")
    splits = torsions("alanine")
    assert [len(part) for part in (splits.train, splits.valid, splits.test)] == [40_000, 10_000, 10_000]
    assert float(splits.train.original(40_000).abs().max()) <= math.pi


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((4, 2))}, "expected three of φ and ψ"),
        ({name: np.zeros((4, 3)) for name in "abc"}, r"shape \[\(4, 3\).*expected three"),
        ({name: np.full((4, 2), np.nan) for name in "abc"}, "not finite; leave those frames out"),
    ],
)
def test_damaged_angles_are_told_in_one_line(arrays, message, tmp_path):
    np.savez(tmp_path / "ala2_phipsi.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        torsions("alanine", tmp_path)
