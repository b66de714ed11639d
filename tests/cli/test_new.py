"""``flowmaps new``: files of every kind become settings that train, and what cannot be used is refused in one line."""

import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from flowmaps.cli import new
from flowmaps.cli.config import experiment, training_parser
from flowmaps.configuration.parsing import parse
from flowmaps.train import progress
from flowmaps.train.clock import Clock
from flowmaps.train.progress import Pace
from flowmaps.train.settings import Budget
from flowmaps.train.verdict import nothing_learned
from train.toys import trainer

ALKANES = [f"{'C' * i}{end}" for i in range(1, 9) for end in ("", "O", "N", "F", "=O", "#N", "S", "Cl")]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """One small data set of each kind in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(new.LOOK, "max_steps", 3)
    random = np.random.default_rng(0)
    (tmp_path / "mine.csv").write_text("name,smiles\n" + "".join(f"m{i},{s}\n" for i, s in enumerate(ALKANES)))
    (tmp_path / "words.txt").write_text("".join(random.choice(list("abcde ÄÖ.\n"), 9000)))
    (tmp_path / "genes.fa").write_text(
        "".join(f">g{i}\n{''.join(random.choice(list('ACGT'), 40))}\n" for i in range(60))
    )
    for i in range(40):
        place = tmp_path / "pictures" / ("light" if i % 2 else "dark")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (6, 5), dtype=np.uint8)).save(place / f"{i}.png")
    return tmp_path


FOUND = {
    "smiles mine.csv": ["of 1 to", "kinds of atoms (C, "],
    "text words.txt": ["9,000 characters, 10 different", "an alphabet of 10 characters"],
    "images pictures": ["40 images of 6 x 5 pixels", "2 classes"],
    "dna genes.fa": ["60 sequences of up to 40 bases"],
}


@pytest.mark.parametrize("what", FOUND)
def test_settings_are_fitted_explained_and_train(data, tell, what):
    if what.startswith("smiles"):
        pytest.importorskip("rdkit")
    code, said, _ = tell("new", *what.split(), "--minutes", "0.05", "--size", "small", "--out", "own.yaml")
    assert code == 0 and all(part in said for part in FOUND[what])
    assert "start with:  flowmaps train own.yaml" in said and "warning: that is far too short" in said
    text = (data / "own.yaml").read_text()
    assert text.count("#") > 10 and f"# flowmaps new {what}" in text
    few = ("--trainer.max_steps=3", "--trainer.curves=false", "--trainer.valid_examples=4", "--trainer.accelerator=cpu")
    code, said, _ = tell("train", "own.yaml", *few)
    assert code == 0 and "3 updates: nothing learned yet, samples are noise" in said
    code, _, error = tell("sample", "runs/own", "--n", "2")
    assert code == 0 and "3 updates: nothing learned yet" in error


def test_an_earlier_file_is_kept(data, tell):
    kind = ("text", "words.txt", "--size", "small", "--minutes", "1")
    assert tell("new", *kind)[0] == 0
    code, _, error = tell("new", *kind)
    assert code == 2 and "words.yaml is there already" in error and error.count("\n") == 1
    assert yaml.safe_load((data / "words.yaml").read_text())["task"]["init_args"]["source"] == str(data / "words.txt")


@pytest.mark.parametrize("arguments, complaint", [
    ("smiles nowhere.csv", "nowhere.csv does not exist"),
    ("smiles genes.fa", "no row could be read as a molecule"),
    ("smiles mine.csv --column 7", "there is no column 7"),
    ("text pictures", "is no text file and no folder"),
    ("images mine.csv", "holds no .png file"),
    ("dna mine.csv", "mine.csv"),
    ("sounds mine.csv", "kind is sounds, expected one of 'smiles', 'text', 'images', 'dna'"),
    ("smiles", "required: file"),
    ("smiles mine.csv --minutes 0", "minutes is 0"),
    ("smiles mine.csv --out own.txt", "expected the name of a .yaml file"),
])  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_line(data, tell, arguments, complaint):
    code, _, error = tell("new", *arguments.split())
    assert code == 2 and complaint in error.splitlines()[-1] and not list(data.glob("*.yaml"))


def test_names_with_signs_of_yaml_come_through(data, tell):
    shutil.move(data / "words.txt", data / 'we: "said" #1.txt')
    code, said, _ = tell("new", "text", 'we: "said" #1.txt', "--size", "small", "--minutes", "1", "--out", "own.yaml")
    assert code == 0 and "alphabet of 10" in said
    p = training_parser("train", "")
    chosen = experiment(p, parse(p, ["--config=own.yaml"]))
    assert len(chosen.task.splits.train) > 0 and chosen.trainer["max_seconds"] == 60


def test_the_rate_is_told_soon_and_a_budget_too_small_for_the_data_is_warned_of(monkeypatch, caplog):
    monkeypatch.setattr(progress, "SOON", 0.0)
    with caplog.at_level("INFO", logger="flowmaps"):
        trainer(None, max_steps=150, log_every=150, validate_every=150).fit()
    first, second = caplog.messages[:2]
    assert " left; about 150 updates in all, 38 passes over the examples" in first
    assert second.startswith("the budget is far too short: about 150 updates, 38 passes over the training examples")


class Beats:
    """A clock of seconds that a test turns."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("budget, left", [
    (Budget(max_steps=1000), "1 min 30 s left"),             # 10 updates a second
    (Budget(max_steps=10**6, max_seconds=40.0), "30 s left"),
])  # fmt: skip
def test_the_time_left_is_that_of_the_limit_which_is_reached_first(monkeypatch, budget, left):
    beats = Beats()
    monkeypatch.setattr("time.monotonic", beats)
    clock = Clock(budget)
    pace = Pace(clock, 0, 32, 3200)
    for step in range(1, 101):
        beats.now += 0.1
        clock.tick()
        pace.tick(step)
    total = 1000 if budget.max_seconds is None else 400
    assert pace.left(100) == left and pace.updates(100) == total and pace.passes(100) == total / 100
    assert pace.outlook(100).startswith(f"10.0 updates a second, {left}; about {total:,} updates in all, ")


def test_what_has_learned_nothing_is_called_so():
    assert "47 updates: nothing learned yet" in nothing_learned(47, {})
    assert not nothing_learned(47, {"objective": {"init_args": {"base": "qm9"}}})  # a second stage began with something
    fallen, flat = ([{"train/diagonal": x} for x in losses] for losses in ((2.0, 1.0), (2.0, 1.99)))
    assert not nothing_learned(5000, {}, fallen) and not nothing_learned(5000, {})
    assert "5,000 updates: nothing learned yet, the loss went from 2 to 1.99" in nothing_learned(5000, {}, flat)
