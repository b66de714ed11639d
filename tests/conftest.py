"""What holds for all tests."""

import random
from collections.abc import Generator
from pathlib import Path

import numpy
import pytest
import torch
from _pytest.doctest import DoctestModule


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(
    file_path: Path, parent: pytest.Collector
) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """No doctests in files of tests: where one could not be imported, ``--doctest-ignore-import-errors`` would leave
    half of the module behind, the file would pass for one without tests, and the error would go unseen."""
    found = yield
    return [each for each in found if not isinstance(each, DoctestModule)]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draws without a generator of their own are the same in every order of the tests and on any number of workers."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
