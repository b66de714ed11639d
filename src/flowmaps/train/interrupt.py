"""SIGTERM and Ctrl-C become a request that the loop answers between two updates."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object] | int | None  # as :func:`signal.signal` gives and takes it


class Interrupted(BaseException):
    """A signal came within :meth:`Interrupt.at_once`; no handler of errors stops it."""


class Interrupt:
    """Within the block the first SIGTERM or SIGINT is noted in ``name``; a second one raises KeyboardInterrupt.

    Outside the main thread, where Python delivers no signals, nothing is changed.
    """

    signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[int, Handler] = {}
        self._at_once = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the block the first signal also raises :class:`Interrupted`, for work that can be done again."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        if self._at_once:
            raise Interrupted
