"""Train on two processes through Fabric's launcher, which starts this script again for the second one.

Run as ``python two_processes.py DIRECTORY``. Several runs in one script, because starting processes is what takes long.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

from flowmaps.data import CategoricalData
from flowmaps.train import CheckpointError, NonFiniteError
from train.test_self_distillation import sequences, with_learned_times
from train.toys import Broken, LeastSquares, Linear, Pairs, Signalling, Torn, trainer

torch.set_num_threads(1)
warnings.filterwarnings("ignore", module="lightning")
FIRST = os.environ.get("LOCAL_RANK", "0") == "0"


def fit(directory: Path, *arguments, resume: bool = False, **settings):
    return trainer(directory, *arguments, devices=2, strategy="ddp", **settings).fit(resume)


def failure(kind: type[Exception], directory: Path, *arguments, **settings) -> str:
    try:
        fit(directory, *arguments, **settings)
    except kind as error:
        return str(error)
    return "no failure"


def main(directory: Path) -> None:
    told: dict[str, object] = {}
    for accumulation in (1, 2):
        fit(directory / f"linear_{accumulation}", Linear(), accumulation=accumulation)
        fit(directory / f"noisy_{accumulation}", LeastSquares(norm=nn.LayerNorm), accumulation=accumulation)
        fit(directory / f"torn_{accumulation}", Torn(), accumulation=accumulation, surgery=True)
    rows = CategoricalData(sequences(256, 0))
    fit(directory / "times", with_learned_times(), rows, rows)
    told["unbroken"] = fit(directory / "unbroken").step
    data = Signalling(17) if FIRST else Pairs()  # only one of the processes gets the signal
    stopped = fit(directory / "stopped", None, data)
    told["stopped"], told["reason"] = stopped.step, stopped.reason
    told["resumed"] = fit(directory / "stopped", resume=True).step
    told["not_finite"] = failure(NonFiniteError, directory / "not_finite", Broken(13))
    told["unwritable"] = failure(CheckpointError, directory / "linear_1" / "metrics.csv" / "below")
    told["without_files"] = len(trainer(None, devices=2, strategy="ddp").fit().records)
    told["processor_time"] = failure(ValueError, directory / "counted", max_cpu_seconds=1.0)
    lonely = Torn()
    lonely.log_weight = torch.nn.Parameter(torch.zeros(()))
    told["lonely"] = failure(ValueError, directory / "lonely", lonely, surgery=True)
    (directory / f"told_by_{int(not FIRST)}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
