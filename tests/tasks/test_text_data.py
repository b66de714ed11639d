"""A text that was prepared is trained on from where it lies, packed, and mixed with others by weight."""

import pytest
import torch

from flowmaps.cli.main import main
from flowmaps.data.mixture import Mixture
from flowmaps.objectives import SelfDistillation, SemigroupKL
from flowmaps.tasks.text import Text
from flowmaps.train import Trainer

SMALL = {"length": 24, "width": 16, "depth": 1, "heads": 2}


@pytest.fixture
def texts(tmp_path):
    for name in ("verse", "prose"):
        (tmp_path / name).mkdir()
        for i in range(40):
            (tmp_path / name / f"{i:02}.txt").write_text(f"{name} number {i} " + f"and {name[0]} " * (i % 9))
    return tmp_path


def task(texts, **options):
    return Text(str(texts / "verse"), tokeniser="bytes", cache=str(texts / "shards"), **{**SMALL, **options})


def test_prepared_shards_bring_their_alphabet(texts):
    first = task(texts)
    folder = first.splits.train.shards.folder
    for place in (folder, f"file://{folder}"):
        again = Text(str(place), **SMALL)
        assert again.tokeniser.describe() == first.tokeniser.describe()
        assert again.splits.train.fingerprint() == first.splits.train.fingerprint()
    with pytest.raises(ValueError, match="written in another alphabet"):
        _ = Text(str(texts / "prose"), mixed={str(folder): 0.1}, cache=str(texts / "shards"), **SMALL).train_data


def test_mixed_and_packed_windows_are_trained_on(texts):
    mixed = task(texts, packed=True, mixed={str(texts / "prose"): 0.25})
    data = mixed.train_data
    assert isinstance(data.data, Mixture)  # pyright: ignore[reportAttributeAccessIssue]
    rows = data.batch(torch.arange(len(data)))
    shown = [mixed.tokeniser.decode(x[m]) for x, m in zip(rows.x_1, rows.condition.mask, strict=True)]
    share = sum("p " in row and "v " not in row or "prose" in row for row in shown) / len(shown)
    assert share == pytest.approx(0.25, abs=0.05)
    objective = SelfDistillation(mixed.build_map(), SemigroupKL())
    report = Trainer(
        objective,
        data,
        mixed.valid_data,
        max_steps=3,
        batch_size=8,
        validate_every=3,
        progress=False,
        accelerator="cpu",
    ).fit()
    assert 0 < report.metrics["valid/loss"] < 10


def test_shares_that_leave_nothing_are_refused(texts):
    for share in (1.0, -0.1):
        with pytest.raises(ValueError, match="leave some of 1 to the source"):
            _ = task(texts, mixed={str(texts / "prose"): share}).train_data


def test_prepare_makes_what_training_finds(texts, capsys):
    def tell(*arguments):
        return main([str(argument) for argument in arguments]), capsys.readouterr().out

    options = ["--data.path", texts / "verse", "--task.tokeniser", "bytes", "--task.length", 24, "--task.cache",
               texts / "cli"]  # fmt: skip
    code, out = tell("prepare", "tiny-shakespeare", *options)
    assert code == 0 and "examples for training" in out
    made = {path: path.stat().st_mtime_ns for path in (texts / "cli").rglob("*.bin")}
    assert len(made) == 1
    assert tell("prepare", "tiny-shakespeare", *options)[1] == out
    assert all(path.stat().st_mtime_ns == time for path, time in made.items())
    assert tell("prepare")[0] == 2 and tell("prepare", "--help")[0] == 0
