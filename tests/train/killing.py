"""Train in children that are killed with SIGKILL at random moments, resume each time, and compare with an unbroken run.

Run as ``python killing.py DIRECTORY KILLS SEED``. A process of its own, because a child may be forked safely only from
a process with one thread, and forking saves the seconds that importing torch takes in each of the children.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

torch.set_num_threads(1)

from flowmaps.train.checkpoint import steps  # noqa: E402
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
        time.sleep(0.004)
        return super().batch(index)


def train(directory: Path, max_steps: int, begun: int) -> None:
    often = dict(validate_every=7, save_every=3, log_every=5)
    trainer(directory, LeastSquares(), Slow(begun), max_steps=max_steps, **often).fit(resume=True)


def life(directory: Path, max_steps: int, seconds: float | None, started: bool) -> tuple[bool, float]:
    """One child that trains until it is done or has lived for ``seconds`` since its start or since its first batch.

    Returns: whether it was killed, and how long it trained.
    """
    read, begun = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            train(directory, max_steps, begun)
            os._exit(0)
        finally:  # an error has been printed; never return into the parent's code
            os._exit(1)
    os.close(begun)
    if started:
        os.read(read, 1)
    start = time.monotonic()
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(read)
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit("a child failed")
    return os.WIFSIGNALED(status), time.monotonic() - start


def main(directory: Path, kills: int, seed: int, max_steps: int = 240) -> None:
    from lightning.fabric import Fabric  # noqa: F401  (imported once, before the forks)

    start = time.monotonic()
    _, whole = life(directory / "unbroken", max_steps, None, started=True)
    longest = 1.4 * whole / kills  # long enough to get far, and rarely to the end
    moments, lives, leftovers = random.Random(seed), [], 0
    place = directory / "killed" / "checkpoint"
    while len(lives) < kills:
        seconds, started = moments.uniform(0.0, longest), moments.random() < 0.8  # the others may die while starting
        if life(directory / "killed", max_steps, seconds, started)[0]:
            lives.append(steps(place)[-1].name if steps(place) else None)
            leftovers += len(list(place.glob(".step-*")))
        else:  # the machine got faster: begin again with shorter lives
            shutil.rmtree(directory / "killed")
            longest, lives, leftovers = longest / 2, [], 0
    life(directory / "killed", max_steps, None, started=False)
    print(json.dumps({"killed": len(lives), "newest_after_each": lives, "half_written": leftovers,
                      "seconds": time.monotonic() - start}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
