"""The order of the data is a function of integers: every example once an epoch, however the update is cut."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmaps.train.stream import SHUFFLED, Stream, ahead, generator, key, permutation, scattered


@settings(deadline=None)
@given(size=st.integers(1, 40), count=st.integers(1, 6), parts=st.sampled_from([1, 2, 3, 4]), seed=st.integers(0, 99))
def test_parts_of_all_updates_are_the_epochs_in_order(size, count, parts, seed):
    stream = Stream(size, count * parts, seed, parts)
    updates = 2 + 2 * size // (count * parts)
    rows = torch.cat([stream.index(step, part) for step in range(1, updates + 1) for part in range(parts)])
    epochs = torch.cat([permutation(size, seed, epoch) for epoch in range(len(rows) // size + 1)])
    assert torch.equal(rows, epochs[: len(rows)])


@settings(deadline=None)
@given(size=st.integers(1, 40), step=st.integers(1, 1000), seed=st.integers(0, 99))
def test_any_number_of_processes_sees_the_same_update(size, step, seed):
    whole = Stream(size, 12, seed).index(step)
    for parts in (2, 3, 4, 6, 12):
        stream = Stream(size, 12, seed, parts)
        assert torch.equal(torch.cat([stream.index(step, part) for part in range(parts)]), whole)


def test_epochs_and_seeds_differ_and_an_epoch_holds_every_example_once():
    orders = [permutation(50, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert all(torch.equal(order.sort().values, torch.arange(50)) for order in orders)


@settings(deadline=None)
@given(size=st.integers(1, 3000), seed=st.integers(0, 2**53))
def test_places_are_scattered_over_all_of_them_once(size, seed):
    assert torch.equal(scattered(torch.arange(size), size, seed).sort().values, torch.arange(size))


def test_scattered_places_are_those_of_a_shuffle():
    """First places of many orders are uniform, and neighbours no nearer than others (chi-square, 5 standard errors)."""
    size, seeds = 1000, 4000
    places = torch.stack([scattered(torch.arange(2), size, seed) for seed in range(seeds)])
    for values in (places[:, 0], (places[:, 1] - places[:, 0]) % size):
        counts = torch.bincount(values // 50, minlength=20).double()
        chi2 = float(((counts - seeds / 20).square() / (seeds / 20)).sum())
        assert abs(chi2 - 19) < 5 * (2 * 19) ** 0.5


def test_more_examples_than_memory_have_an_order():
    """An epoch of 10^13 examples in a few bytes: parts of an update agree, and no example comes twice."""
    size = 10**13
    assert size > SHUFFLED
    whole = Stream(size, 4096, 0).index(size // 4096)
    assert torch.equal(whole, torch.cat([Stream(size, 4096, 0, 4).index(size // 4096, part) for part in range(4)]))
    assert len(whole.unique()) == 4096 and 0 <= int(whole.min()) and int(whole.max()) < size
    assert abs(float(whole.double().mean()) / size - 0.5) < 5 / (12 * 4096) ** 0.5


@pytest.mark.parametrize(
    "size, batch_size, parts, match", [(0, 4, 1, "0 examples"), (4, 6, 4, "multiple of 4"), (4, 0, 1, "batch_size 0")]
)
def test_impossible_streams_are_refused(size, batch_size, parts, match):
    with pytest.raises(ValueError, match=match):
        Stream(size, batch_size, 0, parts)


def test_seeds_of_steps_processes_and_purposes_differ():
    keys = {
        key(seed, step, rank, purpose)
        for seed in range(3)
        for step in range(50)
        for rank in range(4)
        for purpose in ("draw", "dropout")
    }
    assert len(keys) == 3 * 50 * 4 * 2 and max(keys) < 2**53
    assert key(1, 12) != key(11, 2)
    assert torch.equal(torch.rand(3, generator=generator("cpu", 5)), torch.rand(3, generator=generator("cpu", 5)))


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_ahead_keeps_the_order_and_passes_errors_on(depth):
    assert list(ahead(lambda n: n * n, range(7), depth)) == [n * n for n in range(7)]
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda n: 1 // (3 - n), range(7), depth))


def test_ahead_works_ahead_in_one_thread_and_stops_when_closed():
    seen, names = [], set()

    def make(n):
        seen.append(n)
        names.add(threading.current_thread().name)
        return n

    items = ahead(make, range(100), 2)
    assert next(items) == 0
    deadline = time.monotonic() + 5
    while len(seen) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    items.close()
    assert seen == [0, 1, 2] and len(names) == 1
