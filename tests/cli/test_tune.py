"""``flowmaps tune`` through the real entry point, and what every command then makes of the grids it kept."""

import json
import shutil

import numpy as np
import pytest
import torch

import flowmaps
from flowmaps.cli.tune import line
from flowmaps.hub import find
from flowmaps.samplers import Jumps, Renoise
from flowmaps.samplers.grids import TimeGrid
from flowmaps.train import Tuned, keep_grid, read_grids
from flowmaps.train.checkpoint import GRIDS, attach, resolve, verify

SPECIAL = TimeGrid((0.0, 0.6, 1.0), 0.5)
RECORD = {"by": "both", "metric": "frechet", "value": 1.0, "error": 0.1, "uniform": 2.0, "uniform_error": 0.2,
          "guards": {"fcd": {"value": 1.0, "error": 0.1, "uniform": 1.5, "uniform_error": 0.1}}, "n": 20, "seed": 0,
          "versions": {"torch": "2"}}  # fmt: skip


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the tiny run, with a grid of two steps."""
    shutil.copytree(trained, tmp_path / "run")
    keep_grid(find(tmp_path / "run"), Tuned(SPECIAL, RECORD))
    return tmp_path / "run"


@pytest.fixture
def plain(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "plain")
    return tmp_path / "plain"


def drawn(tell, run, out, *arguments):
    code, told, error = tell("sample", run, "--n", 6, "--seed", 3, "--out", out, *arguments)
    assert code == 0, error
    with np.load(out / "samples.npz") as rows:
        return {name: rows[name] for name in rows}, told


def test_a_tuning_is_kept_and_continues(plain, tell):
    tune = ["tune", plain, "--n", 24, "--device", "cpu"]
    code, out, error = tell(*tune, "--steps", "2")
    assert code == 0, error
    assert "2 steps: " in out and f"wrote {find(plain)}" in out
    kept = read_grids(find(plain))
    assert list(kept) == [2] and kept[2].record["metric"] == "frechet" and kept[2].record["n"] == 24
    assert verify(find(plain)) is None and kept[2].record["versions"]["torch"] == torch.__version__
    before = (find(plain) / GRIDS).read_bytes()
    again = tell(*tune, "--steps", "2")[1]
    assert "kept, --overwrite tunes again" in again and (find(plain) / GRIDS).read_bytes() == before
    assert tell(*tune, "--steps", "2", "--overwrite")[0] == 0
    assert (find(plain) / GRIDS).read_bytes() == before, "a seed gives the same grid"
    assert tell(*tune, "--steps", "3", "--by", "path")[0] == 0
    assert "1 step: one jump has no grid to choose by the path" in tell(*tune, "--steps", "1", "--by", "path")[1]
    kept = read_grids(find(plain))
    assert list(kept) == [2, 3] and kept[3].record["metric"] == "path" and kept[3].grid.overshoot == 0
    assert kept[3].record["value"] <= kept[3].record["uniform"]


def test_sampling_takes_the_grid_of_the_checkpoint_and_says_so(run, plain, tell, tmp_path):
    tuned, told = drawn(tell, run, tmp_path / "a", "--steps", "1,2,4")
    equal, silent = drawn(tell, run, tmp_path / "b", "--steps", "1,2,4", "--grid", "uniform")
    before, quiet = drawn(tell, plain, tmp_path / "c", "--steps", "1,2,4")
    assert "2 steps: tuned grid 0, .6, 1, overshoot .5\n" in told
    assert "4 steps: equal, for grids of 2 steps were tuned\n" in told and "1 step" not in told
    assert "steps: " not in silent + quiet
    assert all((equal[name] == before[name]).all() for name in ("1", "2", "4"))
    assert (tuned["1"] == equal["1"]).all() and (tuned["4"] == equal["4"]).all() and (tuned["2"] != equal["2"]).any()
    model = flowmaps.load(run, "cpu")
    assert torch.equal(
        torch.from_numpy(tuned["2"]).long(), model.sample(6, sampler=Renoise(SPECIAL_TIMES, 0.5), seed=3)
    )


SPECIAL_TIMES = torch.tensor(SPECIAL.times)


def test_two_lines_of_python_take_it_too(run, capsys):
    model = flowmaps.load(run, "cpu")
    tuned = model.sample(4, steps=2, seed=3)
    model.sample(4, steps=2, seed=4)
    told = capsys.readouterr()
    assert told.out == "" and told.err == f"{model.folder.name}: 2 steps: tuned grid 0, .6, 1, overshoot .5\n"
    assert torch.equal(tuned, model.sample(4, sampler=Renoise(SPECIAL_TIMES, 0.5), seed=3))
    assert torch.equal(model.sample(4, steps=2, grid="uniform"), model.sample(4, sampler=Jumps(2)))
    assert torch.equal(model.sample(4, steps=SPECIAL_TIMES), model.sample(4, sampler=Jumps(SPECIAL_TIMES)))


def test_an_evaluation_shows_equal_steps_beside(run, tell, tmp_path):
    arguments = ["--steps", "1,2", "--ode", 0, "--n", 16, "--seed", 1]
    assert tell("evaluate", run, *arguments, "--out", tmp_path / "a")[0] == 0
    assert tell("evaluate", run, *arguments, "--grid", "uniform", "--out", tmp_path / "b")[0] == 0
    tuned, equal = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in "ab")
    assert list(tuned["by_steps"]) == ["1", "2", "2 uniform", "data"] and list(equal["by_steps"]) == ["1", "2", "data"]
    assert tuned["by_steps"]["2 uniform"] == equal["by_steps"]["2"] != tuned["by_steps"]["2"]
    assert tuned["grids"]["2"] == {"times": [0, 0.6, 1], "overshoot": 0.5, "spread": 1.0}
    assert tell("evaluate", run, *arguments, "--uniform", "false", "--out", tmp_path / "c")[0] == 0
    alone = json.loads((tmp_path / "c" / "metrics.json").read_text())["by_steps"]
    assert alone == {name: row for name, row in tuned["by_steps"].items() if name != "2 uniform"}


def test_steering_takes_it_and_its_overshoot(run, tell, tmp_path):
    arguments = ["--reward", "ink", "--particles", 4, "--steps", 2, "--n", 2, "--method", "feynman-kac"]
    out = tell("steer", run, *arguments, "--out", tmp_path / "a")[1]
    assert "2 steps: tuned grid 0, .6, 1, overshoot .5" in out
    assert tell("steer", run, *arguments, "--noise", 0.5, "--out", tmp_path / "b")[0] == 0
    assert tell("steer", run, *arguments, "--noise", 0.9, "--out", tmp_path / "c")[0] == 0
    after = [json.loads((tmp_path / name / "metrics.json").read_text())["after"] for name in "abc"]
    assert after[0] == after[1] != after[2]


def test_grids_go_with_an_export_and_are_shown(run, tell, tmp_path):
    assert tell("export", run, tmp_path / "model")[0] == 0
    assert read_grids(resolve(tmp_path / "model")) == read_grids(find(run))
    assert "2: 0, .6, 1, overshoot .5" in tell("info", tmp_path / "model")[1]
    assert "2 steps: tuned grid" in tell("sample", tmp_path / "model", "--n", 2, "--steps", 2)[1]


def test_a_copy_gets_the_grids_and_the_original_stays(plain, tell, tmp_path):
    arguments = ["tune", plain, "--steps", 2, "--by", "path", "--n", 8, "--out", tmp_path / "copy"]
    assert tell(*arguments)[0] == 0 and read_grids(tmp_path / "copy") and not read_grids(find(plain))
    assert "kept" in tell(*arguments)[1]
    shutil.copytree(find(plain), tmp_path / "other")
    (tmp_path / "other" / "SHA256SUMS").write_text("nonsense")
    code, _, error = tell(*arguments[:-1], tmp_path / "other")
    assert code == 2 and "SHA256SUMS is damaged" in error


def test_a_model_of_the_package_is_not_written_to(tell):
    pytest.importorskip("rdkit")
    code, _, error = tell("tune", "qm9")
    assert code == 2 and "qm9 comes with the package; choose a folder for a copy of it by --out" in error


NONSENSE = {
    "no JSON": "{",
    "no mapping": "[1]",
    "no grids": "{}",
    "another number of steps": {"3": {**RECORD, "times": [0, 0.5, 1], "overshoot": 0}},
    "no number": {"two": {**RECORD, "times": [0, 0.5, 1], "overshoot": 0}},
    "falling times": {"3": {**RECORD, "times": [0, 0.5, 0.4, 1], "overshoot": 0}},
    "a late start": {"2": {**RECORD, "times": [0.1, 0.5, 1], "overshoot": 0}},
    "an early end": {"2": {**RECORD, "times": [0, 0.5, 0.9], "overshoot": 0}},
    "texts": {"2": {**RECORD, "times": [0, "half", 1], "overshoot": 0}},
    "too far": {"2": {**RECORD, "times": [0, 0.5, 1], "overshoot": 2}},
    "too wide": {"2": {**RECORD, "times": [0, 0.5, 1], "overshoot": 0, "spread": 2}},
    "a spread in words": {"2": {**RECORD, "times": [0, 0.5, 1], "overshoot": 0, "spread": "half"}},
    "no record": {"2": {"times": [0, 0.5, 1], "overshoot": 0}},
}


@pytest.mark.parametrize("kind", NONSENSE)
@pytest.mark.parametrize("listed", [True, False])
def test_nonsense_is_one_line_and_equal_steps_still_work(run, tell, tmp_path, kind, listed):
    folder, value = find(run), NONSENSE[kind]
    (folder / GRIDS).write_text(value if isinstance(value, str) else json.dumps({"grids": value}))
    if listed:  # written by someone who also wrote the checksum
        import hashlib

        sums = [one for one in (folder / "SHA256SUMS").read_text().splitlines() if not one.endswith(GRIDS)]
        digest = hashlib.sha256((folder / GRIDS).read_bytes()).hexdigest()
        (folder / "SHA256SUMS").write_text("\n".join([*sums, f"{digest}  {GRIDS}", ""]))
    code, out, error = tell("sample", run, "--n", 2, "--steps", 2, "--out", tmp_path / "out")
    assert code == 2 and out == "" and error.count("\n") == 1 and GRIDS in error and not (tmp_path / "out").exists()
    assert "tune again by `flowmaps tune`, remove the file, or ask for the grid uniform" in error
    assert tell("sample", run, "--n", 2, "--steps", 2, "--grid", "uniform", "--out", tmp_path / "out")[0] == 0
    keep_grid(folder, Tuned(SPECIAL, RECORD))
    assert read_grids(folder) == {2: Tuned(SPECIAL, {**RECORD, "times": [0, 0.6, 1], "overshoot": 0.5, "spread": 1.0})}


def test_a_removed_file_is_no_damage(run, tell, tmp_path):
    (find(run) / GRIDS).unlink()
    verify(find(run))
    assert "steps: " not in drawn(tell, run, tmp_path / "a", "--steps", 2)[1]


@pytest.mark.parametrize("write", [1, 2, 3])
def test_a_kill_while_grids_are_written_leaves_a_whole_checkpoint(run, monkeypatch, write):
    from flowmaps import files

    replace, count = files.os.replace, 0

    def killed(*arguments):
        nonlocal count
        count += 1
        if count == write:
            raise KeyboardInterrupt
        replace(*arguments)

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        keep_grid(find(run), Tuned(TimeGrid((0.0, 0.3, 0.7, 1.0)), RECORD))
    monkeypatch.setattr(files.os, "replace", replace)
    verify(find(run))
    assert flowmaps.load(run, "cpu").sample(2, steps=2, grid="uniform").shape == (2, 8, 8)
    keep_grid(find(run), Tuned(TimeGrid((0.0, 0.3, 0.7, 1.0)), RECORD))
    assert 3 in read_grids(find(run))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "two"], "expected whole numbers separated by commas"),
        (["--n", "1"], "n is 1, expected at least 2 samples"),
        (["--seed", "-1"], "seed is -1, expected a whole number from 0"),
        (["--by", "luck"], "by is luck, expected one of 'both', 'metric', 'path'"),
    ],
)
def test_mistakes(run, tell, arguments, message):
    code, _, error = tell("tune", run, *arguments)
    assert code == 2 and error.count("\n") == 1 and message in error


def test_a_line_for_each_result():
    found = Tuned(SPECIAL, RECORD)
    assert line(found) == ("2 steps: tuned grid 0, .6, 1, overshoot .5; frechet 1 ± 0.1, equal steps 2 ± 0.2, "
                           "fcd 1 (equal 1.5)")  # fmt: skip
    assert line(Tuned(TimeGrid.uniform(2), RECORD)) == "2 steps: equal, no grid is better; frechet 1 ± 0.1"


def test_a_proposed_grid_is_compared_with_equal_steps(plain, tell):
    code, out, error = tell("tune", plain, "--n", 24, "--device", "cpu", "--propose", "0,.7,1:.5; 0,.2,.4,.9,1")
    assert code == 0, error
    kept = read_grids(find(plain))
    assert list(kept) == [2, 4]
    assert {str(found.grid) for found in kept.values()} <= {"0, .7, 1, overshoot .5", "0, .2, .4, .9, 1",
                                                            "0, .5, 1", "0, .25, .5, .75, 1"}  # fmt: skip
    for text, said in (
        ("0,x,1", "'0,x,1' is no grid"),
        ("0,1:0:.5:1", "is no grid"),
        ("0,1:0:2", "spread is 2"),
        ("0,.9,.2,1", "increas"),
        ("0,.5,1:2", "eta is 2"),
    ):
        code, _, error = tell("tune", plain, "--propose", text)
        assert code == 2 and said in error, error
    code, _, error = tell("tune", plain, "--propose", "0,.7,1", "--by", "path", "--overwrite")
    assert code == 2 and "leave out --by path" in error


def test_one_jump_takes_a_spread_and_grids_of_older_files_have_none(run, tell, tmp_path):
    document = {"grids": {"2": {**RECORD, "times": [0, 0.6, 1], "overshoot": 0.5}}}
    attach(find(run), GRIDS, document)
    assert read_grids(find(run))[2].grid == SPECIAL, "a file without spreads"
    plain = drawn(tell, run, tmp_path / "plain", "--steps", 1)
    assert "steps: " not in plain[1], "one step was not tuned, and needs no word of it"
    keep_grid(find(run), Tuned(TimeGrid((0.0, 1.0), spread=0.5), RECORD))
    rows, told = drawn(tell, run, tmp_path / "narrow", "--steps", 1)
    assert "1 step: tuned grid 0, 1, spread .5" in told
    assert not np.array_equal(rows["1"], plain[0]["1"])
    assert np.array_equal(drawn(tell, run, tmp_path / "wide", "--steps", 1, "--grid", "uniform")[0]["1"], plain[0]["1"])


def test_a_tuning_of_one_jump_tries_spreads(plain, tell):
    code, out, error = tell("tune", plain, "--n", 24, "--device", "cpu", "--steps", "1")
    assert code == 0 and "1 step: " in out, error
    kept = read_grids(find(plain))[1]
    assert kept.grid.times == (0.0, 1.0) and kept.grid.overshoot == 0 and 0.6 <= kept.grid.spread <= 1
