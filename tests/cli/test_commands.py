"""Every command does what its help says, through the real entry point."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import yaml

import flowmaps
from cli.conftest import TINY
from flowmaps import hub
from flowmaps.cli.config import as_json, experiment, steps_list, training_parser
from flowmaps.cli.main import COMMANDS
from flowmaps.cli.presets import find_preset, presets
from flowmaps.cli.quickstart import step_aside
from flowmaps.configuration.parsing import parse
from flowmaps.hub.card import measured, portable
from flowmaps.objectives import SelfDistillation, SemigroupKL
from flowmaps.tasks.images import Images
from flowmaps.train import read_config


def numbers(path):
    return json.loads(path.read_text())


def test_help_and_version(tell):
    code, out, _ = tell("--help")
    assert code == 0 and all(name in out for name in COMMANDS)
    assert tell("--version")[:2] == (0, f"flowmaps {flowmaps.__version__}\n")
    assert tell("presets")[1].startswith("aef-digits") and "\ndigits" in tell("presets")[1]


def test_presets_say_what_they_are():
    for path in presets().values():
        assert re.match(r"# \S", path.read_text()), f"{path.name} opens with a line that says what it is"


@pytest.mark.parametrize("name", sorted(presets()))
def test_config_to_yaml_to_config(name, tmp_path):
    p = training_parser("train", "")
    try:
        cfg = parse(p, [f"--config={find_preset(name)}", "--trainer.ema=null", "--trainer.clip=0.5"])
    except ValueError as error:
        if "is missing; install the extra" in str(error):
            pytest.skip(str(error))
        raise
    config = as_json(p, cfg)
    assert config["trainer"]["ema"] is None and config["trainer"]["clip"] == 0.5
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(config))
    again = parse(training_parser("train", ""), [f"--config={tmp_path / 'again.yaml'}"])
    assert as_json(p, again) == config


def test_print_config_is_a_preset(tell, capsys, tmp_path):
    with pytest.raises(SystemExit) as left:
        tell("train", "digits", *TINY, "--print_config")
    assert left.value.code == 0
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    values = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert values["task"]["init_args"]["width"] == 8 and values["trainer"]["max_steps"] == 4
    with pytest.raises(SystemExit):
        tell("train", tmp_path / "mine.yaml", "--print_config")
    assert yaml.safe_load(capsys.readouterr().out) == values


def test_overrides_reach_the_objects():
    p = training_parser("train", "")
    cfg = parse(p, [f"--config={find_preset('digits')}", "--task.width=8", "--objective.share=0.5",
                    "--objective.consistency=Lagrangian", "--objective.teacher=null"])  # fmt: skip
    chosen = experiment(p, cfg)
    assert isinstance(chosen.task, Images) and chosen.task.sizes["width"] == 8
    objective = chosen.objective(chosen.task.build_map())
    assert isinstance(objective, SelfDistillation) and objective.share == 0.5
    assert type(objective.consistency).__name__ == "Lagrangian"
    assert chosen.config["objective"]["init_args"]["consistency"]["class_path"].startswith("flowmaps.")
    plain = experiment(p, parse(p, [f"--config={find_preset('digits')}"])).objective(chosen.task.build_map())
    assert isinstance(plain.consistency, SemigroupKL)


def test_train_writes_for_programs_and_people(trained):
    found = numbers(trained / "metrics.json")
    assert found["steps"] == 4 and found["seed"] == 0 and found["train_seconds"] > 0
    assert (trained / "samples.png").stat().st_size > 1000
    with np.load(trained / "samples.npz") as samples:
        assert set(samples) == {"1", "2", "4", "8"} and samples["1"].shape == (16, 8, 8)
    config = numbers(trained / "checkpoint" / "step-00000004" / "config.json")
    assert config["state"].items() >= {"levels": 17, "classes": 10, "shape": [8, 8]}.items()


def test_sample_is_reproducible_and_needs_no_data(trained, tell, tmp_path):
    for name in ("a", "b"):
        code, out, _ = tell("sample", trained, "--n", 3, "--steps", "1,2", "--seed", 5, "--out", tmp_path / name)
        assert code == 0 and "2 network evaluations" in out
    assert tell("sample", trained, "--n", 3, "--steps", "1,2", "--seed", 6, "--out", tmp_path / "c")[0] == 0
    a, b, c = (np.load(tmp_path / name / "samples.npz") for name in "abc")
    assert all((a[key] == b[key]).all() for key in ("1", "2")) and (a["1"] != c["1"]).any()
    assert numbers(tmp_path / "a" / "metrics.json")["by_steps"]["2"]["evaluations"] == 2


@pytest.mark.slow
def test_two_processes_tell_and_write_once(tmp_path):
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--out", tmp_path / "run"]
    command = [sys.executable, "-m", "flowmaps", "train", "digits", *TINY, *map(str, two)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.count("4 updates in") == 1
    assert (tmp_path / "run" / "samples.png").stat().st_size > 1000


@pytest.mark.filterwarnings("always:.*rows are left out")
def test_a_preset_takes_a_file_of_ones_own(tell, tmp_path, monkeypatch):
    pytest.importorskip("rdkit")
    monkeypatch.setenv("FLOWMAPS_DATA", str(tmp_path / "cache"))
    rows = ["C" * (k % 5 + 1) + "O" * (k // 25 % 2) + "C" * (k // 5 % 5) + "N" * (k // 50) for k in range(100)]
    (tmp_path / "my.csv").write_text("\n".join(["smiles", *rows, "nonsense"]))
    size = ["--task.width=16", "--task.edge=8", "--task.depth=1", "--task.heads=2", "--task.held_out=8"]
    short = ["--trainer.max_steps=2", "--trainer.batch_size=8", "--trainer.valid_examples=8"]
    run = ["train", "smiles", "--data.path", tmp_path / "my.csv", "--out", tmp_path / "run", *size, *short]
    code, _, error = tell(*run)
    assert code == 0 and "1 of 101 rows are left out" in error
    config = read_config(hub.find(str(tmp_path / "run")))
    assert config["task"]["init_args"]["source"] == str(tmp_path / "my.csv")
    assert Images.own_data("pictures") == {"source": "folder", "path": "pictures"}


def test_samples_go_to_files_by_name(trained, tell, tmp_path):
    picture, numbers = tmp_path / "grid.png", tmp_path / "all.npz"
    assert tell("sample", trained, "--n", 3, "--steps", "1,2", "--seed", 5, "--out", picture, numbers)[0] == 0
    assert tell("sample", trained, "--n", 3, "--steps", "1,2", "--seed", 5, "--out", tmp_path / "v1.2")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.npz", "grid.png", "v1.2"]
    assert picture.read_bytes() == (tmp_path / "v1.2" / "samples.png").read_bytes()
    with np.load(numbers) as named, np.load(tmp_path / "v1.2" / "samples.npz") as plain:
        assert all(np.array_equal(named[row], plain[row]) for row in ("1", "2"))
    code, _, error = tell("sample", trained, "--out", picture, tmp_path / "molecules.smi")
    assert code == 2 and "molecules.smi: samples of Images are .png, .npz" in error


def test_results_of_a_second_command_stand_beside_those_of_the_first(trained, tell, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained / "checkpoint", run / "checkpoint")
    for number in ("", "-2", "-3"):
        assert f"samples{number}/samples.png" in tell("sample", run, "--n", 2, "--seed", number[1:] or 1)[1]
        assert numbers(run / f"samples{number}" / "metrics.json")["seed"] == int(number[1:] or 1)
    assert tell("sample", run, "--n", 2, "--seed", 9, "--overwrite")[0] == 0
    assert numbers(run / "samples" / "metrics.json")["seed"] == 9 and not (run / "samples-4").exists()


@pytest.mark.parametrize("command", ["sample --n=2", "score --n=4", "steer --reward=ink:0.4 --particles=2 --steps=1"])
def test_every_file_of_a_result_guards_its_folder(trained, tell, tmp_path, command):
    name, *options = command.split()
    assert tell(name, trained, *options, "--out", tmp_path / "first")[0] == 0
    for path in list((tmp_path / "first").iterdir()):
        alone = tmp_path / path.name.replace(".", "-")
        alone.mkdir()
        kept = path.rename(alone / path.name).read_bytes()
        code, _, err = tell(name, trained, *options, "--out", alone)
        assert code == 2 and f"{path.name} is there already; choose another --out, or add --overwrite" in err
        assert [file.read_bytes() for file in alone.iterdir()] == [kept]


def test_a_card_tells_the_last_evaluation(tmp_path):
    folder = tmp_path / "checkpoint" / "step-00000004"
    for moment, name in enumerate(("evaluation-10", "evaluation", "evaluation-2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({"name": name}))
        os.utime(tmp_path / name / "metrics.json", (moment, moment))
    assert measured(folder) == {"name": "evaluation-2"}


def test_named_files_are_replaced_only_when_asked(trained, tell, tmp_path):
    picture = tmp_path / "grid.png"
    picture.write_text("mine")
    code, _, err = tell("sample", trained, "--n", 2, "--out", picture, tmp_path / "all.npz")
    assert code == 2 and "grid.png is there already" in err and picture.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]
    assert tell("sample", trained, "--n", 2, "--out", picture, "--overwrite")[0] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_sample_with_another_sampler(trained, tell, tmp_path):
    heun = tell("sample", trained, "--n", 2, "--sampler", "Heun", "--sampler.times", 3, "--out", tmp_path)
    assert heun[0] == 0 and "heun: 2 samples, 5 network evaluations" in heun[1]
    grid = tell("sample", trained, "--n", 2, "--times", "0,0.7,1", "--temperature", 0.8, "--out", tmp_path / "grid")
    assert grid[0] == 0 and "2 network evaluations" in grid[1]


def test_score_puts_bounds_side_by_side(trained, tell, tmp_path):
    assert tell("score", trained, "--n", 32, "--out", tmp_path)[0] == 0
    bounds = numbers(tmp_path / "metrics.json")["bounds"]
    assert 0 < bounds["B1"]["nats"] < bounds["B3"]["nats"], "B3 is the looser bound"
    assert bounds["B1"]["nats_error"] > 0 and bounds["B1"]["n"] == 32
    assert bounds["B1"]["bits_per_position"] == pytest.approx(bounds["B1"]["nats"] / 64 / np.log(2))
    grid = ("--bound", "Grid", "--bound.steps", 4, "--overwrite")
    assert tell("score", trained, "--n", 8, *grid, "--out", tmp_path)[0] == 0
    assert list(numbers(tmp_path / "metrics.json")["bounds"]) == ["B4"]


def test_info(trained, tell):
    code, out, _ = tell("info", trained)
    assert code == 0 and yaml.safe_load(out)["step"] == 4
    told = json.loads(tell("info", trained, "--json")[1])
    assert told["parameters"] > 1000 and told["config"]["task"]["init_args"]["width"] == 8


def test_evaluate_beside_real_data(trained, tell, tmp_path):
    code, out, _ = tell("evaluate", trained, "--steps", 1, "--ode", 2, "--n", 24, "--seeds", 2, "--out", tmp_path)
    assert code == 0 and "frechet" in out and "±" in out
    rows = numbers(tmp_path / "metrics.json")["by_steps"]
    assert set(rows) == {"1", "ode2", "data"}
    assert "metrics.json is there already" in tell("evaluate", trained, "--out", tmp_path)[2]
    assert rows["1"]["frechet_spread"] > 0 and rows["data"]["frechet"] < rows["1"]["frechet"]


def test_who_interrupts_an_evaluation_has_the_rows_that_are_done(trained, tell, tmp_path, monkeypatch):
    draw, rows = Images.sample, []

    def sample(*arguments, **options):
        rows.append(arguments)
        if len(rows) == 3:
            raise KeyboardInterrupt
        return draw(*arguments, **options)

    monkeypatch.setattr(Images, "sample", sample)
    code, _, err = tell("evaluate", trained, "--steps", "1,2,4", "--ode", 0, "--n", 24, "--out", tmp_path)
    assert code == 130 and err.count("24 samples drawn") == 2
    report = numbers(tmp_path / "metrics.json")
    assert set(report["by_steps"]) == {"1", "2", "data"}
    assert report["by_steps"]["2"]["frechet"] > 0 and report["n"] == 24


def test_a_command_has_the_options_of_the_modality_alone(trained, tell):
    for command, option in (("evaluate", "temperatures"), ("steer", "prompt"), ("sample", "atoms")):
        code, _, error = tell(command, trained, f"--{option}", "1")
        assert code == 2 and f"--{option}" in error


def test_ctrl_c_saves_and_resume_continues(tell, tmp_path):
    settings = (*TINY, "--trainer.log_every=1", "--trainer.validate_every=1000")
    directory = tmp_path / "run"

    def interrupt():
        records = directory / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (records.exists() and records.stat().st_size):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    code, _, err = tell("train", "digits", "--out", directory, *settings, "--trainer.max_steps=100000")
    thread.join()
    assert code == 130 and "--resume" in err.splitlines()[-1]
    (saved,) = (directory / "checkpoint").iterdir()
    step = int(saved.name.removeprefix("step-"))
    more = f"--trainer.max_steps={step + 2}"
    assert tell("train", "digits", "--out", directory, *settings, more, "--resume")[0] == 0
    assert (directory / "checkpoint" / f"step-{step + 2:08d}").is_dir()


def test_quickstart(tell, tmp_path):
    out = tmp_path / "quick"
    small = ("--out", out, "--steps", "1,2", "--ode", 3, *TINY, "--trainer.curves=true")
    code, told, _ = tell("quickstart", *small, "--baseline")
    assert code == 0 and "naive" in told
    found = numbers(out / "metrics.json")
    assert {"train_seconds", "seed", "versions", "nll_bits_per_dim", "nll_bits_per_dim_error"} <= set(found)
    assert set(found["by_steps"]) == {"1", "2", "ode3", "data"}
    assert set(found["naive"]["by_steps"]) == {"1", "2", "ode3"}
    for row in found["by_steps"].values():
        assert {"frechet", "classifier_confidence", "class_coverage", "nearest_train_distance"} <= set(row)
    assert (out / "samples.png").is_file() and (out / "curves.png").is_file() and (out / "checkpoint").is_dir()


def test_quickstart_keeps_earlier_runs(tmp_path, capsys):
    for text in ("first", "second"):
        (tmp_path / "quick" / "checkpoint" / "step-00000004").mkdir(parents=True)
        (tmp_path / "quick" / "metrics.json").write_text(text)
        step_aside(tmp_path / "quick")
    assert not (tmp_path / "quick").exists() and "is kept as" in capsys.readouterr().out
    assert [(tmp_path / f"quick-{i}" / "metrics.json").read_text() for i in (1, 2)] == ["first", "second"]


def test_steps_list():
    assert steps_list("1,4,1") == [1, 4]


def test_an_exported_model_draws_the_same_samples_by_name(tell, trained, tmp_path, monkeypatch):
    note = tmp_path / "note.md"
    note.write_text("Eight by eight.\n")
    code, out, _ = tell("export", trained, tmp_path / "models" / "small", "--note", note)
    assert code == 0 and "wrote" in out
    card = (tmp_path / "models" / "small" / "README.md").read_text()
    assert card.startswith("---\nlicense: unknown\n") and "---\n\n# small\n\nEight by eight.\n" in card
    again, _, error = tell("export", trained, tmp_path / "models" / "small")
    assert again == 2 and "is there already" in error
    monkeypatch.setattr(hub.models, "MODELS", (tmp_path / "models",))
    monkeypatch.chdir(tmp_path)
    assert tell("sample", "small", "--n", 3)[0] == 0
    assert tell("sample", trained, "--n", 3, "--out", tmp_path / "plain")[0] == 0
    one, other = (np.load(folder / "samples.npz") for folder in (tmp_path / "samples/small", tmp_path / "plain"))
    np.testing.assert_array_equal(one["1"], other["1"])
    assert not (tmp_path / "models" / "small" / "samples").exists(), "nothing is written beside the model"
    assert not (tmp_path / "runs").exists(), "nor into the folder of a run that has its name"
    (tmp_path / "small").mkdir()
    code, _, error = tell("sample", "small", "--n", 3)
    assert code == 2 and f"small here hides the model that comes with flowmaps, {tmp_path / 'models/small'}" in error


def test_the_shipped_model_keeps_its_word(tell, tmp_path):
    """Its card says 87 % of one-step samples are valid and connected; 400 have a standard error of 1.7 %."""
    pytest.importorskip("rdkit")
    assert tell("sample", "qm9", "--n", 400, "--out", tmp_path)[0] == 0
    assert tell("sample", "qm9", "--n", 9, "--steps", "1,4", "--out", tmp_path / "my.smi", tmp_path / "my.png")[0] == 0
    assert {path.name for path in tmp_path.glob("my*")} == {"my-1.smi", "my-4.smi", "my.png"}
    whole = [line for line in (tmp_path / "molecules-1.smi").read_text().splitlines() if "." not in line.split()[0]]
    assert 0.80 < len(whole) / 400 < 0.94


def test_an_exported_configuration_holds_no_path_of_the_machine():
    learned = {
        "base": "/a/b/first",
        "trajectories": "/a/paths",
        "guide": {"init_args": {"weaker": "/c/weak", "scale": 2}},
    }
    task = {"path": "/a", "width": 3, "source": "/my/own.csv", "judge": "/a/judge", "test": ["/a/test.csv", "b/c.csv"]}
    config = {"task": {"init_args": task}, "objective": {"init_args": learned}}
    named = {"base": "first", "trajectories": "paths", "guide": {"init_args": {"weaker": "weak", "scale": 2}}}
    kept = {"path": None, "width": 3, "source": "own.csv", "judge": "judge", "test": ["test.csv", "b/c.csv"]}
    assert portable(config) == {"task": {"init_args": kept}, "objective": {"init_args": named}}
    assert config["task"]["init_args"]["path"] == "/a", "that of the run stays"
