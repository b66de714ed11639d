"""The queue in front of a map: everyone gets their own texts, whatever else waits or fails."""

import threading

import pytest
import torch

from flowmaps.integrations.batching import Batcher, Crowded
from flowmaps.samplers import Argmax, Jumps
from flowmaps.tasks.text_prompts import Template, Wish

BLANK = Template(torch.zeros(3).long(), torch.zeros(3).bool())


def wishes(*seeds):
    return [Wish(BLANK, seed, Argmax()) for seed in seeds]


class Slow:
    """Draws a text that tells its seed, once it is let go."""

    def __init__(self):
        self.go, self.sizes = threading.Event(), []

    def __call__(self, sampler, asked):
        assert self.go.wait(30)
        self.sizes.append(len(asked))
        if any(wish.seed < 0 for wish in asked):
            raise RuntimeError("no such seed")
        return [torch.full((3,), wish.seed) for wish in asked]


def seeds_of(future):
    return [int(text[0]) for text in future.result(timeout=30)]


def test_what_waits_is_drawn_together():
    slow = Slow()
    batcher = Batcher(slow, batch=4, most=100)
    first = batcher.submit("a", Jumps(1), wishes(1))
    while batcher.waiting:  # until it is being drawn
        pass
    rest = [batcher.submit(key, Jumps(1), wishes(*seeds)) for key, seeds in
            [("a", (2, 3)), ("b", (4,)), ("a", (5,)), ("a", (6, 7)), ("a", range(10, 19))]]  # fmt: skip
    slow.go.set()
    assert [seeds_of(future) for future in [first, *rest]] == [[1], [2, 3], [4], [5], [6, 7], [*range(10, 19)]]
    assert slow.sizes == [1, 3, 1, 2, 4, 4, 1], "others of the key join while they fit; one of many goes in pieces"
    assert (batcher.batches, batcher.texts) == (5, 16)
    batcher.close()
    with pytest.raises(Crowded):
        batcher.submit("a", Jumps(1), wishes(1))


def test_a_fault_belongs_to_its_request_alone():
    slow = Slow()
    slow.go.set()
    batcher = Batcher(slow, batch=4)
    with pytest.raises(RuntimeError, match="no such seed"):
        batcher.submit("a", Jumps(1), wishes(-1)).result(timeout=30)
    assert seeds_of(batcher.submit("a", Jumps(1), wishes(8))) == [8]
    batcher.close()


def test_a_crowd_is_turned_away_and_who_left_is_not_served():
    slow = Slow()
    batcher = Batcher(slow, batch=2, most=3)
    first = batcher.submit("a", Jumps(1), wishes(1))
    while batcher.waiting:
        pass
    gone = batcher.submit("a", Jumps(1), wishes(2, 3))
    with pytest.raises(Crowded, match="2 texts wait already"):
        batcher.submit("a", Jumps(1), wishes(4, 5))
    last = batcher.submit("a", Jumps(1), wishes(6))
    assert gone.cancel()
    slow.go.set()
    assert seeds_of(first) == [1] and seeds_of(last) == [6] and slow.sizes == [1, 1]
    batcher.close()
