"""What the comparisons share."""

from pathlib import Path

import pytest

from train.toys import Signalling, trainer


def test_an_interrupted_training_is_refused_and_a_whole_one_is_not(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "bench")
    from whole import Interrupted, require_whole

    require_whole(trainer(tmp_path / "whole").fit())
    stopped = trainer(tmp_path / "stopped", data=Signalling(3)).fit()
    with pytest.raises(Interrupted, match=f"SIGTERM ended a training after {stopped.step} updates"):
        require_whole(stopped)
