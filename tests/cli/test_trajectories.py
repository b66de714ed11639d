"""Paths of a flow are stored by a command, continued, refused where they are of another, and learned from."""

import pytest
import torch

from flowmaps.cli.main import main
from flowmaps.train.trajectories import read_trajectories

SMALL = ("--trainer.max_steps=2", "--trainer.batch_size=8", "--trainer.valid_examples=8", "--trainer.curves=false",
         "--trainer.accelerator=cpu")  # fmt: skip
DIGITS = ("--task.width=8", "--task.lower=[16]", "--task.depth=1")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, steps in (("strong", 3), ("weak", 1)):
        options = (*SMALL, *DIGITS, f"--trainer.max_steps={steps}", "--out", str(folder / name))
        assert main(["train", "digits", *options]) == 0
    return folder


def test_paths_are_made_once_and_learned_from(runs, tmp_path, capsys):
    run, paths = str(runs / "strong"), tmp_path / "paths"
    guided = ("--weaker", str(runs / "weak"), "--scale", "2", "--temperature", ".7", "--out", str(paths))
    make = ["trajectories", run, "--n=70", "--times=0,.5,.8,1", *guided]
    assert main(make) == 0 and f"70 paths of 3 steps in {paths}" in capsys.readouterr().out
    first = read_trajectories(paths)
    assert first.pi.shape[:2] == (70, 3) and first.origin["scale"] == "2" and first.origin["temperature"] == "0.7"
    assert main(make) == 0 and torch.equal(read_trajectories(paths).pi, first.pi)
    capsys.readouterr()
    assert main([*make[:-2], "--temperature=.6", "--out", str(paths)]) == 2
    assert "holds trajectories of another flow: origin" in capsys.readouterr().err
    second = ["--objective", "FromTrajectories", "--objective.base", run, "--objective.trajectories", str(paths)]
    assert main(["train", "digits", *SMALL, *DIGITS, *second, "--out", str(tmp_path / "second")]) == 0
    assert main(["sample", str(tmp_path / "second"), "--n=4", "--out", str(tmp_path / "samples")]) == 0


def test_molecules_keep_their_sizes_and_given_parts(tmp_path):
    smiles = ["C" * i + x + "C" * j for x in "ONS" for i in range(1, 9) for j in range(i)]
    (tmp_path / "own.csv").write_text("\n".join(["smiles", *smiles]) + "\n")
    small = ("--task.width=16", "--task.depth=1", "--task.edge=8", "--task.heads=2", "--data.path",
             str(tmp_path / "own.csv"))  # fmt: skip
    run, paths = str(tmp_path / "run"), str(tmp_path / "paths")
    assert main(["train", "qm9", *SMALL, *small, "--out", run]) == 0
    assert main(["trajectories", run, "--n=60", "--steps=2", "--out", paths]) == 0
    mask = read_trajectories(paths).condition.mask
    assert len(mask["atoms"].sum(1).unique()) > 3
    second = ["--objective", "FromTrajectories", "--objective.base", run, "--objective.trajectories", paths]
    assert main(["train", "qm9", *SMALL, *small, *second, "--out", str(tmp_path / "second")]) == 0


def test_a_map_without_endpoints_is_refused_in_a_line(tmp_path, capsys):
    run = str(tmp_path / "run")
    assert main(["train", "checkerboard", *SMALL, "--task.width=8", "--task.depth=1", "--out", run]) == 0
    capsys.readouterr()
    assert main(["trajectories", run, "--n=8", "--steps=2"]) == 2
    assert "this is a VelocityMap on Euclidean; train its jumps by TwoStage" in capsys.readouterr().err
