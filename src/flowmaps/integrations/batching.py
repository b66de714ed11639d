"""Requests that wait are drawn together: one thread owns the map, and takes as many texts at a time as fit a batch."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from torch import Tensor

from ..samplers import Sampler
from ..tasks.text_prompts import Wish


class Crowded(Exception):
    """More texts wait than may."""


class Waiting(NamedTuple):
    """Texts of one request that wait; ``key`` is equal where they can be drawn with those of another."""

    key: str
    sampler: Sampler
    wishes: Sequence[Wish]
    future: Future[list[Tensor]]


class Batcher:
    """A queue in front of a map.

    Whatever waits while a batch is drawn goes into the next one, the oldest first, with others of its key. A request of
    more texts than a batch is drawn by itself, in pieces.

    Arguments:
        draw: Draws texts by one sampler.
        batch: Texts of one call of ``draw``.
        most: Texts that may wait.
    """

    def __init__(self, draw: Callable[[Sampler, Sequence[Wish]], list[Tensor]], batch: int = 32, most: int = 512):
        self.draw, self.batch, self.most = draw, batch, most
        self.batches, self.texts, self.cpu_seconds = 0, 0, 0.0
        self._waiting: deque[Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="flowmaps-batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Texts that wait."""
        with self._changed:
            return sum(len(one.wishes) for one in self._waiting)

    def submit(self, key: str, sampler: Sampler, wishes: Sequence[Wish]) -> Future[list[Tensor]]:
        """Texts to come.

        Raises: Crowded if too many wait already, or the queue was closed.
        """
        future: Future[list[Tensor]] = Future()
        with self._changed:
            waiting = sum(len(one.wishes) for one in self._waiting)
            if self._closed or waiting and waiting + len(wishes) > self.most:
                raise Crowded(f"{waiting} texts wait already, more than {self.most} may not; try again later")
            self._waiting.append(Waiting(key, sampler, wishes, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Draw what waits, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _next(self) -> list[Waiting]:
        """The oldest request and others that fit beside it; none once the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            taken: list[Waiting] = []
            kept: deque[Waiting] = deque()
            for one in self._waiting:
                room = self.batch - sum(len(other.wishes) for other in taken)
                fits = not taken or one.key == taken[0].key and len(one.wishes) <= room
                (taken if fits else kept).append(one)
            self._waiting = kept
            return taken

    def _run(self) -> None:
        while taken := self._next():
            alive = [one for one in taken if one.future.set_running_or_notify_cancel()]
            if not alive:
                continue
            begin = time.thread_time()
            try:
                wishes = [wish for one in alive for wish in one.wishes]
                pieces = [wishes[i : i + self.batch] for i in range(0, len(wishes), self.batch)]
                drawn = [text for piece in pieces for text in self.draw(alive[0].sampler, piece)]
            except Exception as error:  # belongs to the requests, whatever it is; the thread lives on
                for one in alive:
                    one.future.set_exception(error)
                continue
            finally:
                self.cpu_seconds += time.thread_time() - begin
                self.batches += 1
            self.texts += len(wishes)
            for one in alive:
                one.future.set_result(drawn[: len(one.wishes)])
                drawn = drawn[len(one.wishes) :]
