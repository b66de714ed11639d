"""What follows from the data is written in no preset: another tokeniser needs no other edit."""

from __future__ import annotations

import pytest

from flowmaps.cli.config import experiment, training_parser
from flowmaps.cli.main import main
from flowmaps.cli.presets import presets
from flowmaps.configuration.parsing import parse
from flowmaps.times import DecodeRateClock

CONTENTS = {name: path.read_text() for name, path in presets().items()}
TEXTS = [name for name, text in CONTENTS.items() if "tasks.text.Text" in text and "TwoStage" not in text]


def test_no_preset_names_the_size_of_an_alphabet():
    assert not [name for name, text in CONTENTS.items() if "K:" in text or "DecodeRateClock" in text]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(("tokeniser", "K"), [("letters", 27), ("bytes", 256)])
def test_clocks_are_those_of_the_tokeniser(name, tokeniser, K):
    p = training_parser("train", "")
    small = ["--task.width=16", "--task.depth=1", "--task.heads=2", f"--task.tokeniser={tokeniser}"]
    small += ["--task.embedding=null", "--task.tied=false"]
    chosen = experiment(p, parse(p, [f"--config={presets()[name]}", *small]))
    chosen.task.restore({"tokeniser": {"name": tokeniser}, "given": True, "characters_per_token": 1.0})
    objective = chosen.objective(chosen.task.build_map())
    clocks = {path: part.K for path, part in objective.named_modules() if isinstance(part, DecodeRateClock)}
    assert set(clocks.values()) == {K} and any(path.startswith("times") for path in clocks)
    assert any(path.startswith("pairs") for path in clocks) or "share: 1.0" in CONTENTS[name]  # jumps


def test_a_first_stage_of_another_alphabet_is_refused(tell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = "ab cd. " * 200
    second = {"same": "cd ab. " * 210, "other": "ab ce. " * 200}  # as many characters in each
    setting = ("--task.tokeniser=characters", "--task.length=8", "--task.width=16", "--task.depth=1", "--task.heads=2",
               "--trainer.max_steps=1", "--trainer.batch_size=8", "--trainer.valid_examples=4",
               "--trainer.curves=false", "--trainer.accelerator=cpu", "--trainer.precision=32-true",
               "--task.cache=cache")  # fmt: skip
    for name, content in {"first": first, **second}.items():
        (tmp_path / f"{name}.txt").write_text(content)
    assert tell("train", "text8-base", "--data.path=first.txt", "--out=first", *setting)[0] == 0
    for name, expected in (("same", 0), ("other", 2)):
        code, _, err = tell("train", "text8-distilled", f"--data.path={name}.txt", f"--out={name}",
                            "--objective.base=first", *setting)  # fmt: skip
        assert code == expected, err
    assert "other categories: tokeniser.alphabet was ' .abcd' and is now ' .abce'" in err


def test_learned_subwords_are_those_of_the_checkpoint(tmp_path, monkeypatch):
    """Ties between subwords are broken by chance: a resumed run, and a score without the cache, keep the alphabet."""
    text = " ".join(f"{a}{b}{c}" for a in "bcdfg" for b in "aeiou" for c in "klmnp") + " "
    (tmp_path / "t.txt").write_text(text * 20)
    size = ["--task.width=16", "--task.depth=1", "--task.heads=2", "--task.length=16", "--task.n=8"]
    run = ["--trainer.batch_size=8", "--trainer.precision=32-true", f"--out={tmp_path / 'run'}"]
    first = ["--task.tokeniser=bpe", "--task.vocabulary=80", f"--data.path={tmp_path / 't.txt'}", *size, *run]
    for name, steps, more in (("a", 2, []), ("b", 3, ["--resume"])):
        monkeypatch.setenv("FLOWMAPS_DATA", str(tmp_path / name))  # prepared anew
        (tmp_path / name).mkdir()
        assert main(["train", "tiny-shakespeare", *first, f"--trainer.max_steps={steps}", *more]) == 0
    assert main(["score", str(tmp_path / "run"), "--n", "4"]) == 0
