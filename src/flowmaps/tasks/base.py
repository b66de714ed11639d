"""What a modality brings to the command line: data, a map, metrics, and a way to show a sample."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from ..data import Dataset
from ..fields import Batch
from ..likelihood import Bound, CutOff, Estimate, score
from ..maps import EndpointMap, FlowMap
from ..samplers import Euler, Jumps, Sampler


class Task(ABC):
    """One modality bound together. Constructor arguments are the configuration schema; construction loads nothing.

    A task learns from its data what a map needs to be built (the size of an alphabet, a tokeniser): that is its
    ``state``, kept in every checkpoint, so that a checkpoint samples on a machine that has no data.

    Arguments:
        kinds: Suffixes of the files that samples are written as.
    """

    kinds: ClassVar[tuple[str, ...]]

    # -- data ----------------------------------------------------------------------------------------------------

    @classmethod
    def own_data(cls, path: str) -> dict[str, str]:
        """The constructor arguments that name a file or folder of the user's own."""
        return {"source": path}

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
    def state(self) -> dict[str, Any]:
        """What the data taught, as plain JSON values; loads the data if need be."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a ``state`` without loading data."""

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
