"""What the user can mend is told in one line with exit code 2, and files stay as they were."""

import hashlib
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import TINY
from train.toys import environment


def contents(directory: Path) -> dict:
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "no command 'nonsense'"),
        (["trian"], "did you mean 'train'?"),
        (["train"], "needs a preset first"),
        (["train", "digitz"], "did you mean 'digits'?"),
        (["train", "nowhere.yaml"], "no preset 'nowhere.yaml'"),
        (["train", "digits", "--trainer.max_stps=4"], "did you mean 'trainer.max_steps'?"),
        (["train", "digits", "--task.widht=4"], "has no argument 'widht' (did you mean 'width'?)"),
        (["train", "digits", "--trainer.max_steps=many"], "trainer.max_steps is many, expected a whole number;"),
        (["train", "digits", "--trainer.max_steps=1e400"], "trainer.max_steps is inf, expected a whole number;"),
        (["train", "digits", "--trainer.max_seconds=soon"], "trainer.max_seconds is soon, expected a number or null;"),
        (["train", "digits", "--trainer", "1e308"], "trainer is 1e308, expected values by name such as {a: 1};"),
        (["train", "digits", "--task.levels=5"], "levels is 5, expected Bernoulli or Quantised or Threshold or null;"),
        (["train", "digits", "--task.lower=[a]"], "task.lower is a, expected a whole number;"),
        (["train", "digits", "--task.source=nope"], "source is nope, expected one of 'digits', 'mnist', 'folder';"),
        (["train", "digits", "--objective.consistency=Lagrangina"], "(did you mean 'Lagrangian'?)"),
        (
            ["train", "digits", "--objective.times=never"],
            "times is never, expected ImportanceSampled or LogitNormal or ",
        ),
        (["train", "digits", "--objective.teacher.decay=a"], "objective.teacher.decay is a, expected a number;"),
        (["train", "digits", "--objective.emphasis=3"], "emphasis is 3, expected values by name such as {a: 1} or "),
        (["train", "digits", "--trainer.optimizer.others.betas=[1]"], "betas is [1], expected a tuple with 2 "),
        (["train", "digits", "--trainer.schedule.warmpu=1"], "has no argument 'warmpu' (did you mean 'warmup'?);"),
        (["train", "digits", "--trainer.seed=99999999999999999999"], "seed is 99999999999999999999, expected a whole "),
        (["train", "digits", "--trainer.seed=-1"], "seed is -1, expected a whole number from 0 to 9223372036854775807"),
        (["train", "digits", "--task.seed=4294967296"], "seed is 4294967296, expected a whole number from 0 to 4294"),
        (["train", "digits", "--trainer.batch_size=100000000000"], "batch_size is 100000000000, expected at most"),
        (["train", "digits", "--trainer.optimizer.lr=-1"], "lr is -1.0, expected a number of at least 0"),
        (["train", "digits", "--trainer.schedule.warmup=-3"], "warmup is -3, floor 0.01; expected at least 0"),
        (["train", "digits", "--trainer.compile=foo"], "compile is 'foo', expected true, false or one of default"),
        (["train", "digits", "--quality=99999999999"], "steps is 99999999999, expected 1 to 1048576"),
        (["train", "digits", "--task.width=0"], "width is 0, expected at least 1"),
        (
            ["train", "digits", "--task.drop_label=null"],
            "task.drop_label is null, expected a value; leave it out for 0.1",
        ),
        (["train", "digits", "--trainer.max_steps=0"], "max_steps is 0, expected a whole number of at least 1"),
        (["train", "digits", "--task.drop_label=2"], "drop_label is 2.0, expected a share in [0, 1]"),
        (["train", "digits", "--objective.consistency=torch.nn.Linear"], "is 'torch.nn.Linear', expected a class of"),
        (["train", "digits", "--trainer.optimizer=torch.optim.SGD"], "is 'torch.optim.SGD', expected a class of"),
        (["train", "digits", "--quality=0"], "steps is 0, expected at least 1"),
        (["sample", "nowhere"], "no checkpoint at nowhere"),
        (["quickstart", "--steps", "1,x"], "expected whole numbers separated by commas"),
    ],
)
def test_one_line_and_code_2(tell, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = tell(*arguments)
    assert (code, out) == (2, "") and err.count("\n") == 1 and message in err
    assert len(err) < 400 and not any(word in err for word in ("Namespace", "Union", "<class", "Traceback"))
    assert not list(tmp_path.iterdir()), "nothing was written"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "--steps=0"], "steps is 0, expected at least 1"),
        (["sample", "--n=0"], "n is 0, expected at least 1"),
        (["sample", "--times=0,1.5"], "expected increasing times within [0, 1]"),
        (["sample", "--times=0,half,1"], "expected numbers separated by commas"),
        (["sample", "--temperature=-1"], "temperature is -1.0, expected 0 or more"),
        (["sample", "--label=30"], "label is 30, expected 0..9"),
        (["sample", "--steps=1", "--times=0,1"], "exclude each other"),
        (["sample", "--seed=9223372036854775808"], "seed is 9223372036854775808, expected a whole number from 0"),
        (["evaluate", "--seed=9223372036854775807", "--seeds=2"], "seed is 9223372036854775808, expected"),
        (["sample", "--device=abacus"], "device 'abacus' is not there"),
        (["sample", "--prompt=hello"], "--prompt"),
        (["evaluate", "--steps=0"], "steps is 0, expected at least 1"),
        (["score", "--n=1"], "n is 1, expected at least 2"),
    ],
)
def test_mistakes_about_samples(trained, tell, tmp_path, arguments, message):
    before = contents(trained)
    code, _, err = tell(arguments[0], trained, *arguments[1:], "--out", tmp_path / "out")
    assert code == 2 and err.count("\n") == 1 and message in err
    assert contents(trained) == before and not contents(tmp_path)


def test_a_folder_in_use_is_left_alone(trained, tell):
    before = contents(trained)
    code, _, err = tell("train", "digits", "--out", trained, *TINY)
    assert code == 2 and "holds step-00000004 of an earlier run; add --resume" in err and contents(trained) == before


def test_another_seed_cannot_resume(trained, tell):
    before = contents(trained / "checkpoint")
    code, _, err = tell("train", "digits", "--out", trained, *TINY, "--resume", "--trainer.seed=9")
    assert code == 2 and "seed = 0, and now it is 9" in err.splitlines()[-1]
    assert contents(trained / "checkpoint") == before


def test_a_folder_is_taken_by_a_checkpoint_or_records_and_by_nothing_else(tell, tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "metrics.jsonl").touch()  # of a run that was killed before its first record
    assert tell("train", "digits", "--out", tmp_path, *TINY)[0] == 0
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    shutil.rmtree(tmp_path / "checkpoint")
    before = contents(tmp_path)
    code, _, err = tell("train", "digits", "--out", tmp_path, *TINY)
    assert code == 2 and "holds metrics.jsonl of an earlier run" in err and contents(tmp_path) == before


def test_a_file_where_a_folder_should_be(trained, tell, tmp_path):
    (tmp_path / "file").write_text("x")
    for arguments in (["train", "digits", *TINY], ["sample", trained]):
        for place in (tmp_path / "file", tmp_path / "file" / "below"):
            code, _, err = tell(*arguments, "--out", place)
            assert code == 2 and err.count("\n") == 1 and str(tmp_path / "file") in err
    assert (tmp_path / "file").read_text() == "x"


def test_full_disk(trained, tell, tmp_path):
    assert tell("sample", trained, "--out", tmp_path)[0] == 0
    before = contents(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))  # the system refuses larger files, as a full disk would
    try:
        code, _, err = tell("sample", trained, "--n", 64, "--seed", 1, "--out", tmp_path, "--overwrite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2 and "free some space" in err and contents(tmp_path) == before


@pytest.fixture
def copy(trained, tmp_path):
    """One checkpoint that may be spoilt."""
    return Path(shutil.copytree(trained / "checkpoint" / "step-00000004", tmp_path / "step-00000004"))


def sign(folder: Path) -> None:
    """Renew the checksums, as a forger would."""
    files = [path for path in sorted(folder.iterdir()) if path.name != "SHA256SUMS"]
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(sums))


def change(folder: Path, *keys: str, value) -> None:
    config = json.loads((folder / "config.json").read_text())
    part = config
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))
    sign(folder)


def test_truncated_checkpoint(copy, tell):
    weights = copy / "ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    code, _, err = tell("sample", copy)
    assert code == 2 and err.count("\n") == 1 and "ema.safetensors is damaged" in err


def test_wrong_shape(copy, tell, tmp_path):
    change(copy, "task", "init_args", "width", value=12)
    code, _, err = tell("sample", copy, "--out", tmp_path / "out")
    assert code == 2 and err.count("\n") == 1 and "does not fit this model" in err


@pytest.mark.parametrize("path", ["os.system", "flowmaps.train.checkpoint.os.system", "subprocess.Popen", 3])
def test_a_checkpoint_cannot_name_foreign_code(copy, tell, path):
    change(copy, "task", "class_path", value=path)
    code, _, err = tell("sample", copy)
    assert code == 2 and err.count("\n") == 1 and "expected a class of this package" in err
    change(copy, "task", value={"class_path": "flowmaps.tasks.images.Images", "init_args": {
        "decoder": {"class_path": path}}})  # fmt: skip
    assert "task.init_args.decoder has class_path" in tell("info", copy)[2]


def test_a_checkpoint_without_a_task(copy, tell):
    change(copy, "task", value=None)
    code, _, err = tell("info", copy)
    assert code == 2 and "has no task and state" in err


@pytest.mark.parametrize(("keys", "value", "message"), [
    (["state"], {}, "state of config.json has no 'levels', expected a whole number from 2 to 256 of"),
    (["state", "levels"], "17", "state of config.json.levels is '17', expected a whole number"),
    (["state", "levels"], 10**12, "levels is 1000000000000, expected a whole number from 2 to 256"),
    (["state", "classes"], None, "classes is None, expected a whole number from 0 to 65535"),
    (["state", "shape"], [8], "shape has 1 values, expected 2"),
    (["state", "shape"], 8, "shape is 8, expected a list"),
    (["state", "shape"], [8, True], "shape[1] is True, expected a whole number from 1 to"),
    (["state"], [], "has no task and state"),
])  # fmt: skip
def test_what_a_checkpoint_says_has_its_form(copy, tell, keys, value, message):
    change(copy, *keys, value=value)
    code, out, err = tell("sample", copy)
    assert (code, out) == (2, "") and err.count("\n") == 1 and message in err


@pytest.mark.parametrize(("file", "content"), [
    ("config.json", "[" * 100_000), ("state.json", '{"a":' * 100_000), ("state.json", '{"step": NaN}'),
    ("state.json", ""),
])  # fmt: skip
def test_what_is_no_json_is_told(copy, tell, file, content):
    (copy / file).write_text(content)
    sign(copy)
    code, out, err = tell("info", copy)
    assert (code, out) == (2, "") and err.count("\n") == 1 and file in err and "write it again" in err


def test_broken_yaml(tell, tmp_path):
    (tmp_path / "broken.yaml").write_text("task: [")
    code, _, err = tell("train", tmp_path / "broken.yaml")
    assert code == 2 and err.count("\n") == 1 and "broken.yaml" in err


def test_the_process_itself():
    done = subprocess.run(
        [sys.executable, "-m", "flowmaps.cli.main", "sample", "nowhere"],
        env=environment(), capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
