import json

import pytest
import torch

from flowmaps.cli.main import main
from flowmaps.fields import Condition
from flowmaps.samplers import Renoise
from flowmaps.samplers.grids import TimeGrid
from flowmaps.steering import BestOf, FeynmanKac, Hard, LookAhead, Soft, Tilted
from flowmaps.tasks.images import Images
from flowmaps.tasks.steering import reward

pytestmark = pytest.mark.filterwarnings("default")  # what the parser of options deprecates is none of steering's


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A class-conditional map of digits after two updates."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    small = ["--task.width", "8", "--task.lower", "[8]", "--task.heads", "2", "--task.conditional", "true"]
    short = ["--trainer.max_steps", "2", "--trainer.batch_size", "8", "--trainer.valid_examples", "8"]
    assert main(["train", "digits", "--out", str(out), *small, *short]) == 0
    return out


def test_before_and_after(run, tmp_path, capsys):
    arguments = ["--reward", "ink", "--particles", "12", "--steps", "3", "--n", "4", "--strength", "30"]
    assert main(["steer", str(run), *arguments, "--out", str(tmp_path / "a")]) == 0
    told = capsys.readouterr().out
    assert "before: reward" in told and "ESS" in told and "log-normaliser" in told
    report = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert report["method"] == "Tilted" and (tmp_path / "a" / "samples.png").stat().st_size > 0
    assert report["before"]["evaluations"] == 36 and report["after"]["evaluations"] == 12 * (3 * 3 - 2)
    assert report["after"]["mean_reward"] > report["before"]["mean_reward"]
    assert 1 <= report["after"]["effective_size"] <= 12 and 0 < report["after"]["diversity"] <= 1
    assert main(["steer", str(run), *arguments, "--out", str(tmp_path / "b")]) == 0
    again = json.loads((tmp_path / "b" / "metrics.json").read_text())
    assert again["after"] == report["after"]


def test_every_method(run, tmp_path):
    common = ["--reward", "ink:0.4", "--particles", "4", "--steps", "2", "--n", "3", "--label", "7"]
    for method, name in (("best-of-n", "BestOf"), ("look-ahead", "LookAhead"), ("feynman-kac", "FeynmanKac")):
        assert main(["steer", str(run), *common, "--method", method, "--out", str(tmp_path / method)]) == 0
        assert json.loads((tmp_path / method / "metrics.json").read_text())["method"] == name


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "no reward; name one"),
        (["--reward", "clas:3"], "no reward 'clas' for images; there are class, log-class, ink"),
        (["--reward", "class:13"], "expected 0..9"),
        (["--reward", "class"], "written behind a colon, class:ARGUMENT"),
        (["--reward", "ink", "--label", "12"], "label is 12, expected 0..9"),
        (["--reward", "ink", "--prompt", "x"], "prompt"),
        (["--reward", "ink", "--particles", "0"], "particles is 0"),
        (["--reward", "ink", "--steps", "0"], "steps is 0"),
        (["--reward", "ink", "--strength", "-1"], "strength is -1"),
        (["--reward", "ink", "--noise", "2"], "eta is 2"),
        (["--reward", "ink", "--method", "magic"], "magic"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, capsys, arguments, message):
    assert main(["steer", str(run), *arguments, "--out", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and not (tmp_path / "new").exists()


def test_choice_of_the_method():
    from flowmaps.cli.steer import choose

    soft, hard = Soft(lambda pi: pi.sum((1, 2)), "s"), Hard(lambda x: x.sum(1), "h")
    assert isinstance(choose("auto", soft, TimeGrid.uniform(4), 0.5, 8), Tilted)
    assert type(choose("auto", hard, TimeGrid.uniform(4), 0.5, 8)) is FeynmanKac
    assert isinstance(choose("look-ahead", soft, TimeGrid.uniform(4), 0.5, 8), LookAhead)
    best = choose("best-of-n", hard, TimeGrid.uniform(4), 0.3, 8)
    assert isinstance(best, BestOf) and best.n == 8 and isinstance(best.sampler, Renoise) and best.sampler.eta == 0.3


def test_classes_in_turn_or_one_of_them():
    task = Images(conditional=True)
    g = torch.Generator()
    assert task.problem(12, g).condition.label.tolist() == [*range(10), 0, 1]
    assert task.problem(3, g, label=4).condition.label.tolist() == [4, 4, 4]
    assert task.problem(3, g).shape == (8, 8)


def test_the_classifier_is_the_reward_of_a_class():
    task = Images()
    images = task.train_data.batch(torch.arange(60)).x_1
    labels = task.splits.train.batch(torch.arange(60)).condition.label
    values = torch.stack([reward(task, f"class:{k}").of_sample(images, 17) for k in range(10)], dim=1)
    assert torch.allclose(values.sum(1), torch.ones(60), atol=1e-5)
    assert float((values.argmax(1) == labels).float().mean()) > 0.9


def test_molecules_are_finished_as_their_task_writes_them():
    pytest.importorskip("rdkit")
    mask = {"atoms": torch.tensor([[True, False]]), "bonds": torch.zeros(1, 2, 2, dtype=torch.bool)}
    samples = {"atoms": torch.tensor([[1, 2]]), "bonds": torch.ones(1, 2, 2, dtype=torch.int64)}
    from flowmaps.tasks.molecules import Molecules

    done = Molecules().finished(samples, Condition(mask=mask))
    assert done["atoms"].tolist() == [[1, -1]] and not done["bonds"].any()


def test_text_is_steered_towards_its_judge(tmp_path):
    (tmp_path / "saying.txt").write_text("the quick brown fox jumps over the lazy dog and runs away " * 60)
    out = tmp_path / "text"
    source = ["--task.source", str(tmp_path / "saying.txt"), "--task.cache", str(tmp_path / "shards")]
    small = ["--task.width", "16", "--task.depth", "1", "--task.heads", "2", "--task.length", "24"]
    short = ["--trainer.max_steps", "2", "--trainer.batch_size", "8", "--trainer.valid_examples", "8"]
    assert main(["train", "tiny-shakespeare", "--out", str(out), *source, *small, *short]) == 0
    arguments = ["--reward", "likelihood", "--particles", "24", "--steps", "3", "--n", "4", "--prompt", "the "]
    assert main(["steer", str(out), *arguments, "--strength", "30", "--out", str(tmp_path / "a")]) == 0
    report = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert report["method"] == "FeynmanKac" and report["after"]["mean_reward"] > report["before"]["mean_reward"]
    lines = [json.loads(line) for line in (tmp_path / "a" / "samples.jsonl").read_text().splitlines()]
    assert len(lines) == 8 and all(line["text"].startswith("the ") for line in lines)
