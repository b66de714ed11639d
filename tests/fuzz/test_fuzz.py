"""Damaged inputs end in a line, in time and in memory, or in what they hold: a share always, all of them when there is
time. ``python tests/fuzz/table.py FOLDER`` prints the table of docs/reliability.md."""

import pytest

from fuzz.harness import Outcome, run
from fuzz.readers import COUNTS, USUAL, readers

SHARE = 3  # inputs of each reader in the quick test
NAMES = sorted(readers(None))


def faults(found: dict[int, Outcome]) -> dict[int, Outcome]:
    return {seed: outcome for seed, outcome in found.items() if outcome.fault}


@pytest.mark.parametrize("name", NAMES)
def test_a_share(name, trained, tmp_path):
    found = run(name, readers(trained)[name], range(SHARE), tmp_path)
    assert len(found) == SHARE and not faults(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_all(name, trained, tmp_path):
    count = COUNTS.get(name, USUAL)
    found = run(name, readers(trained)[name], range(count), tmp_path)
    assert len(found) == count and not faults(found)


def test_there_are_enough():
    assert sum(COUNTS.get(name, USUAL) for name in NAMES) >= 2000
