"""A number that is not finite stops the run before anything of it is saved, and the message says where to look."""

from __future__ import annotations

import pytest
import torch

from flowmaps.train import NonFiniteError
from flowmaps.train.logs import read_records
from flowmaps.train.stream import key
from train.toys import Broken, LeastSquares, trainer


@pytest.mark.parametrize("how", ["both", "gradient", "value"])
def test_run_stops_at_the_update_and_names_it(tmp_path, how):
    objective = Broken(23, how)
    with pytest.raises(NonFiniteError) as caught:
        trainer(tmp_path, objective).fit()
    for part in ("at step 23", f"seed {key(0, 23, 0, 'draw')}", str(tmp_path / "checkpoint" / "step-00000020")):
        assert part in str(caught.value)
    assert all(p.isfinite().all() for p in objective.parameters()), "the update was not made"
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == ["step-00000010", "step-00000020"]
    assert [row["step"] for row in read_records(tmp_path / "metrics.jsonl")][-1] == 20


def test_without_a_checkpoint_it_says_so(tmp_path):
    with pytest.raises(NonFiniteError, match="at step 3 .*last good checkpoint: none yet"):
        trainer(tmp_path, Broken(3)).fit()


def test_weights_that_overflow_in_the_update_itself_are_not_saved(tmp_path):
    class Overflowing(LeastSquares):
        @torch.no_grad()
        def after_step(self) -> None:
            super().after_step()
            if int(self.updates) == 20:
                self.flow_map.decoder.weight[0, 0] = float("inf")

    with pytest.raises(NonFiniteError, match="a weight is not finite after step 20; last good .*step-00000010"):
        trainer(tmp_path, Overflowing()).fit()


def test_other_scalars_may_be_undefined_and_are_null(tmp_path):
    class Undefined(LeastSquares):
        def forward(self, batch, draw):
            return {**super().forward(batch, draw), "rate": torch.tensor(float("nan"))}

    trainer(tmp_path, Undefined(), max_steps=4).fit()
    rows = read_records(tmp_path / "metrics.jsonl")
    assert rows[-1]["train/rate"] is None and rows[-1]["valid/rate"] is None and rows[-1]["train/loss"] > 0
