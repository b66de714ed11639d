"""What the comparisons share."""

from pathlib import Path

import pytest

from train.toys import Signalling, trainer


def test_an_interrupted_training_is_refused_and_a_whole_one_is_not(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "bench")
    from records import Interrupted, require_whole

    require_whole(trainer(tmp_path / "whole").fit())
    stopped = trainer(tmp_path / "stopped", data=Signalling(3)).fit()
    with pytest.raises(Interrupted, match=f"SIGTERM ended a training after {stopped.step} updates"):
        require_whole(stopped)


def test_conclusions_stay_when_a_table_is_written_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "bench")
    from records import remarks

    page = tmp_path / "page.md"
    assert remarks(page) == ""
    page.write_text("# Table\n\nold\n\n## What it says\n\nNothing.\n")
    page.write_text("# Table\n\nnew\n" + remarks(page))
    assert page.read_text() == "# Table\n\nnew\n\n## What it says\n\nNothing.\n"
    page.write_text("# Table\n\nnothing yet\n")
    assert remarks(page) == ""
