"""Train in children that are killed with SIGKILL at random moments, resume each time, and compare with an unbroken run.

Run as ``python killing.py DIRECTORY KILLS SEED PROCESSES``, where PROCESSES is 1, 2 or 1,2: each life then has one of
these numbers of processes, by chance. A process of its own, because a child may be forked safely only from a process
with one thread, and forking saves the seconds that importing torch takes in each of the children.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

torch.set_num_threads(1)
torch.multiprocessing.set_sharing_strategy("file_system")  # a report outlives the process that sends it

from flowmaps.train import CheckpointError  # noqa: E402
from flowmaps.train.checkpoint import steps  # noqa: E402
from flowmaps.train.folder import check_free  # noqa: E402
from train.toys import LeastSquares, Pairs, trainer  # noqa: E402


class Slow(Pairs):
    """Data that take a few milliseconds a batch, so that the run outlives the kills, and tell when training begins."""

    def __init__(self, begun: int):
        super().__init__()
        self.begun: int | None = begun

    def batch(self, index):
        if self.begun is not None:
            os.write(self.begun, b"x")
            self.begun = None
        time.sleep(0.002)
        return super().batch(index)


def train(directory: Path, max_steps: int, processes: int, begun: int) -> None:
    often = dict(validate_every=7, save_every=3, log_every=5, max_steps=max_steps, accumulation=2 // processes)
    spread = dict(devices=2, strategy="ddp_fork") if processes == 2 else {}
    trainer(directory, LeastSquares(norm=nn.LayerNorm), Slow(begun), **often, **spread).fit(resume=True)


def life(directory: Path, max_steps: int, processes: int, seconds: float | None, moment: str) -> tuple[bool, float]:
    """One training that lives until it is done, or for ``seconds`` since its start or since its first batch.

    With the moment ``"writing"`` it then lives on until a checkpoint is half written.

    Returns: whether it was killed, and how long it trained.
    """
    read, begun = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        try:
            train(directory, max_steps, processes, begun)
            os._exit(0)
        except BaseException:  # never return into the parent's code
            traceback.print_exc()
            os._exit(1)
    with suppress(PermissionError):  # it did so itself
        os.setpgid(child, child)
    os.close(begun)
    if moment != "starting":
        os.read(read, 1)
    start = time.monotonic()
    if seconds is not None:
        time.sleep(seconds)
        while (
            moment == "writing"
            and not half_written(directory)
            and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        ):
            time.sleep(0.0002)
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(read)
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit("a child failed")
    wait_for_the_last(directory)
    return os.WIFSIGNALED(status), time.monotonic() - start


def half_written(directory: Path) -> bool:
    return any((directory / "checkpoint").glob(".step-*"))


def wait_for_the_last(directory: Path) -> None:
    """Processes that are killed together do not end together; the lock tells when all have."""
    for _ in range(1000):
        with suppress(CheckpointError):
            return check_free(directory)
        time.sleep(0.01)
    raise SystemExit("the folder is still held")


def main(directory: Path, kills: int, seed: int, processes: list[int]) -> None:
    from lightning.fabric import Fabric  # noqa: F401  (imported once, before the forks)

    start, max_steps = time.monotonic(), 12 * kills
    _, whole = life(directory / "unbroken", max_steps, processes[0], None, "training")
    longest = 1.4 * whole / kills  # long enough to get far, and rarely to the end
    chance, lives, halves, numbers = random.Random(seed), [], 0, {1: 0, 2: 0}
    killed = directory / "killed"
    while len(lives) < kills:
        moment = chance.choices(["starting", "training", "writing"], [2, 5, 3])[0]
        number, seconds = chance.choice(processes), chance.uniform(0.0, longest)
        if life(killed, max_steps, number, seconds, moment)[0]:
            found = steps(killed / "checkpoint")
            lives.append(found[-1].name if found else None)
            halves += half_written(killed)
            numbers[number] += 1
        else:  # the machine got faster: begin again with shorter lives
            shutil.rmtree(killed)
            longest, lives, halves, numbers = longest / 2, [], 0, {1: 0, 2: 0}
    life(killed, max_steps, processes[-1], None, "training")
    print(
        json.dumps(
            {
                "killed": len(lives),
                "newest_after_each": lives,
                "half_written": halves,
                "by_processes": numbers,
                "seconds": time.monotonic() - start,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), [int(text) for text in sys.argv[4].split(",")])
