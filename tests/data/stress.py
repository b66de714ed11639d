"""Tokenise a text into many shards and train on them, killed by SIGKILL again and again, on one to three processes.

Run as ``python stress.py DIRECTORY SHARDS KILLS``; ``test_stress.py`` reads what it leaves. The text is its own proof:
each window of eight bytes is a number, so a token that is lost, repeated or moved shows. Processes are forked from one
that imported all.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

torch.set_num_threads(1)
warnings.filterwarnings("ignore")

from lightning.fabric import Fabric, strategies  # noqa: E402, F401  (imported once, before the forks)
from torch import nn  # noqa: E402

from flowmaps.data.text_shards import Shards, prepare  # noqa: E402
from flowmaps.data.text_tokens import Bytes  # noqa: E402
from flowmaps.data.text_windows import Windows  # noqa: E402
from flowmaps.fields import Batch  # noqa: E402
from flowmaps.objectives import Objective  # noqa: E402
from flowmaps.train import Trainer  # noqa: E402
from flowmaps.train.checkpoint import steps  # noqa: E402
from train.launched import ends, start  # noqa: E402

PIECES, NUMBERS, LENGTH = 64, 3, 8  # pieces of a shard, numbers of a piece, bytes of a number
BATCH = 96


def pieces(shards: int) -> list[str]:
    return ["".join(f"{NUMBERS * i + j:7d} " for j in range(NUMBERS)) for i in range(PIECES * shards)]


class Told(Windows):
    """Windows that write down which numbers they gave, a line a batch."""

    def __init__(self, shards: Shards, file: Path):
        super().__init__(shards, 0, len(shards), LENGTH)
        self.file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def batch(self, index: torch.Tensor) -> Batch:
        batch = super().batch(index)
        numbers = [int(Bytes().decode(row)) for row in batch.x_1.tolist()]
        os.write(self.file, f"{json.dumps(numbers)}\n".encode())
        return batch


class Mean(Objective):
    """The mean of the bytes: the least that can be learned of them."""

    def __init__(self) -> None:
        super().__init__()
        self.flow_map = nn.Linear(1, 1)  # pyright: ignore[reportAttributeAccessIssue]  (no flow, but it has weights)

    def draw(self, batch: Batch, generator: torch.Generator) -> None:
        return None

    def forward(self, batch: Batch, draw: None) -> dict[str, torch.Tensor]:
        x = batch.x_1.float().mean(1, keepdim=True) / 256
        return {"loss": (self.flow_map(x) - x).square().mean()}


def until(children: list[int], reached: Callable[[], bool]) -> None:
    """Kill processes as soon as something is reached."""
    while not reached():
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            raise SystemExit("the work was over before it was killed")
        time.sleep(0.001)
    for child in children:
        os.kill(child, signal.SIGKILL)
    if ends(children) != [-signal.SIGKILL] * len(children):
        raise SystemExit("a process ended by itself")


def prepared(directory: Path, shards: int, kills: int) -> None:
    """Shards made by 1 to 3 processes in turn, each of which but the last is killed."""
    folder = directory / "shards"
    for life in range(kills + 1):
        work = partial(prepare, partial(pieces, shards), Bytes(), folder, "numbers", processes=1 + (life + 1) % 3)
        children = start(1, lambda rank: work())  # noqa: B023  (called in the loop)
        if life < kills:
            most = (life + 1) * shards // (kills + 1)
            until(children, lambda: len(list(folder.glob("*.bin"))) >= most)  # noqa: B023
        elif ends(children) != [0]:
            raise SystemExit("the last preparation failed")


def train(directory: Path, life: int, processes: int, max_steps: int, rank: int) -> None:
    data = Told(Shards(directory / "shards"), directory / f"life-{life}-{rank}")
    spread = dict(strategy="ddp") if processes > 1 else {}
    run = Trainer(
        Mean(), data, directory=directory / "run", batch_size=BATCH, max_steps=max_steps, accumulation=6 // processes,
        save_every=7, log_every=10, ema=None, accelerator="cpu", curves=False, tensorboard=False, progress=False,
        **spread,
    )  # fmt: skip
    run.fit(resume=True)


def trained(directory: Path, shards: int, kills: int, epochs: int = 2) -> list[dict[str, int]]:
    """Lives of one training on 2, 1 and 3 processes in turn: where each began, and how many processes it had."""
    max_steps, lives = epochs * shards * PIECES * NUMBERS // BATCH, []
    for life in range(kills + 1):
        saved = steps(directory / "run" / "checkpoint") if (directory / "run" / "checkpoint").exists() else []
        begun, processes = int(saved[-1].name.removeprefix("step-")) if saved else 0, (2, 1, 3)[life % 3]
        lives.append({"begun": begun, "processes": processes})
        children = start(processes, partial(train, directory, life, processes, max_steps))
        if life < kills:
            lines = (6 // processes) * ((life + 1) * max_steps // (kills + 1) - begun)
            file = directory / f"life-{life}-{processes - 1}"
            until(children, lambda: file.exists() and file.read_bytes().count(b"\n") >= lines)  # noqa: B023
        elif ends(children) != [0] * processes:
            raise SystemExit("the last life failed")
    return lives


def main(directory: Path, shards: int, kills: int) -> None:
    directory.mkdir(exist_ok=True)
    prepared(directory, shards, kills)
    lives = trained(directory, shards, kills)
    (directory / "lives.json").write_text(json.dumps(lives))


if __name__ == "__main__":
    logging.getLogger("lightning").setLevel(logging.ERROR)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
