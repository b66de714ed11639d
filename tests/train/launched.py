"""Several processes as ``torchrun`` starts them, by fork, which spares each of them the seconds of importing torch."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment_of(rank: int, world: int, port: int) -> dict[str, str]:
    """What ``torchrun`` tells a process."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0}
    return {**{name: str(value) for name, value in told.items()}, "TORCHELASTIC_RUN_ID": "test",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip


def start(world: int, function: Callable[[int], object]) -> list[int]:
    """Start ``function(rank)`` in so many processes. Returns: their ids."""
    port, children = free_port(), []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            try:
                os.environ.update(environment_of(rank, world, port))
                function(rank)
                os._exit(0)
            except BaseException:  # never return into the parent's code
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    return children


def ends(children: list[int]) -> list[int]:
    """The exit codes of processes, when all have ended; minus the signal of one that was killed."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def launch(world: int, function: Callable[[int], object]) -> None:
    """Run ``function(rank)`` in so many processes, none of which may fail."""
    codes = ends(start(world, function))
    if any(codes):
        raise SystemExit(f"processes ended with {codes}")
