"""What a modality brings to the command line: data, a map, metrics, and a way to show a sample."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from ..data import Dataset, Identified
from ..fields import Batch
from ..likelihood import Bound, CutOff, Estimate, score
from ..maps import EndpointMap, FlowMap
from ..reading import expect
from ..samplers import Euler, Jumps, Sampler
from ..train.logs import finite
from ..train.state import changes


class Splits(Protocol):
    """Data in three disjoint parts."""

    @property
    def train(self) -> Identified: ...

    @property
    def valid(self) -> Identified: ...

    @property
    def test(self) -> Identified: ...


S = TypeVar("S", bound=Splits)


class ChangedData(ValueError):
    """The data are not those that a checkpoint was trained on."""


class Task(ABC):
    """One modality bound together. Constructor arguments are the configuration schema; construction loads nothing.

    A task learns from its data what a map needs to be built (the size of an alphabet, a tokeniser): that is its
    ``state``, kept in every checkpoint, so that a checkpoint samples on a machine that has no data. With it goes a
    fingerprint of each part of the data.

    Arguments:
        kinds: Suffixes of the files that samples are written as.
        teaching: Pattern of what :meth:`learned` gives, see :func:`~flowmaps.reading.expect`.
    Invariant: with a restored ``state``, ``splits`` are the data that taught it, or ChangedData is raised
        (``tests/tasks/test_changed_data.py``).
    """

    kinds: ClassVar[tuple[str, ...]]
    teaching: ClassVar[dict[str, Any]]
    _state: dict[str, Any] | None = None

    # -- data ----------------------------------------------------------------------------------------------------

    @classmethod
    def own_data(cls, path: str) -> dict[str, str]:
        """The constructor arguments that name a file or folder of the user's own."""
        return {"source": path}

    @property
    @abstractmethod
    def splits(self) -> Splits:
        """The data, loaded when first asked for, and passed through :meth:`unchanged`."""

    @property
    @abstractmethod
    def train_data(self) -> Dataset: ...

    @property
    @abstractmethod
    def valid_data(self) -> Dataset: ...

    @property
    @abstractmethod
    def test_data(self) -> Dataset: ...

    @abstractmethod
    def learned(self, splits: Any) -> dict[str, Any]:
        """What a map and its samples need to know of the data."""

    def state(self) -> dict[str, Any]:
        """What the data taught, and their fingerprints, as plain JSON values; loads the data if need be."""
        if self._state is None:
            self._state = self._taught(self.splits)
        return self._state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a ``state`` without loading data.

        Raises: ValueError if it is not what the data of such a task teach.
        """
        expect(state, self.teaching, "state of config.json")
        self._state = dict(state)

    def unchanged(self, splits: S) -> S:
        """The same data, if they teach what a restored state holds.

        A checkpoint of a version that kept no fingerprint is compared in the pieces it has.

        Raises: ChangedData naming each piece that differs.
        """
        if self._state is not None and (found := changes(self._state, self._taught(splits))):
            raise ChangedData(
                f"the data are not those of the training: {found}; restore those data, or train again on these"
            )
        return splits

    def _taught(self, splits: Splits) -> dict[str, Any]:
        parts = {"train": splits.train, "valid": splits.valid, "test": splits.test}
        prints = {name: f"{len(part):,} examples, {part.fingerprint()}" for name, part in parts.items()}
        return finite({**self.learned(splits), "data": prints})

    # -- model ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def build_map(self) -> FlowMap:
        """The untrained flow map; needs ``state`` alone."""

    # -- samples -------------------------------------------------------------------------------------------------

    @abstractmethod
    def sample(self, map: FlowMap, n: int, sampler: Sampler, generator: torch.Generator, **options: Any) -> Any:
        """``n`` samples as categories (a tree of fields); further ``options`` of the modality by name."""

    @abstractmethod
    def quality(self, samples: Any) -> dict[str, float]:
        """Metrics of samples; the first is the headline. Loads the data if it compares with them."""

    @abstractmethod
    def of_data(self, n: int | None = None) -> dict[str, float]:
        """The same metrics of real data, as the reference beside a table of ``n`` samples (default: ``samples``)."""

    @abstractmethod
    def write(self, rows: Mapping[str, Any], directory: Path, **options: Any) -> list[Path]:
        """Write samples, one named row a step count, as files for programs and pictures for people; their paths.

        Arguments:
            options: Those of :meth:`sample` that the rows were drawn with.
        """

    @property
    @abstractmethod
    def samples(self) -> int:
        """How many samples a metric is taken over by default."""

    # -- shared --------------------------------------------------------------------------------------------------

    def rows(self, steps: Sequence[int], ode: int | None = 128) -> dict[str, Sampler]:
        """Samplers by the key of their row in tables and ``metrics.json``: few-step jumps and the diagonal's ODE."""
        jumps: dict[str, Sampler] = {str(n): Jumps(n) for n in steps}
        return jumps if ode is None else {**jumps, f"ode{ode}": Euler(ode)}

    def likelihood(
        self, map: EndpointMap, generator: torch.Generator, bound: Bound | None = None, n: int = 1024, batch: int = 256
    ) -> Estimate:
        """A bound on the negative log-likelihood of held-out data, with its error."""
        return score(map, self._batches(self.test_data, n, batch, generator.device), bound or CutOff(), generator)

    @staticmethod
    def _batches(data: Dataset, n: int, batch: int, device: Any) -> Iterator[Batch]:
        for index in torch.arange(min(n, len(data))).split(batch):
            yield _to(data.batch(index), device)


@contextmanager
def preparing(name: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """A bar on a terminal while data are prepared; call it with what is done and, once known, with all there is."""
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        job = bar.add_task(f"preparing {name}", total=total)
        yield lambda done, total=None: bar.update(job, completed=done, total=total)


def _to(tree: Any, device: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.to(device)
    if isinstance(tree, dict):
        return {name: _to(leaf, device) for name, leaf in tree.items()}
    if isinstance(tree, tuple):
        return type(tree)(*(_to(part, device) for part in tree))
    return tree
