"""What a modality brings to the command line: data, a map, metrics, and a way to show a sample."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from typing_extensions import TypeVar as Defaulted

from ..data import Dataset, Identified
from ..fields import FREE, Batch, Condition, Data, Shape, fieldwise, moved
from ..likelihood import Bound, CutOff, Estimate, OwnScore, Proposal, Row, score
from ..maps import EndpointMap, FlowMap, Transport
from ..maps.flow import M
from ..networks import Network
from ..paths import GeodesicPath
from ..reading import Document, expect
from ..samplers import Decoder, Euler, Jumps, Sampler
from ..steering import Reward
from ..train.logs import finite
from ..train.state import changes
from .aims import Aim


class Splits(Protocol):
    """Data in three disjoint parts."""

    @property
    def train(self) -> Identified: ...

    @property
    def valid(self) -> Identified: ...

    @property
    def test(self) -> Identified: ...


Kind = Callable[[GeodesicPath, nn.Module, nn.Module | None, int | None], FlowMap]  # of a map: what a network predicts
P = TypeVar("P", bound=Splits)
D = TypeVar("D", bound=Data)
M_in = Defaulted("M_in", bound=Transport, contravariant=True, default=FlowMap)


class Problem(NamedTuple):
    """The arguments of a steering method that follow from the modality, as in :class:`~flowmaps.steering.Method`."""

    shape: Shape
    condition: Condition = FREE
    given: Data | None = None
    decoder: Decoder | None = None


class Outline(NamedTuple, Generic[M]):
    """What a training is planned by.

    Arguments:
        build: The untrained map.
        batch: So many examples for it, whatever they hold.
    """

    build: Callable[[], M]
    batch: Callable[[int], Batch]


class Study(Protocol[M_in]):
    """A measurement of a modality's own beside the quality of samples."""

    def __call__(
        self,
        flow_map: M_in,
        rows: Mapping[str, Sampler],
        n: int,
        seed: int,
        data: Mapping[str, float],
        directory: Path,
    ) -> tuple[object, list[Path]]:
        """What was found, as JSON values, and the files that were written.

        Arguments:
            rows: The ways of sampling, by name.
            n: Samples of each.
            data: The quality of as many real ones.
            directory: Where files go.
        """
        ...


class ChangedData(ValueError):
    """The data are not those that a checkpoint was trained on."""


class Task(ABC, Generic[P, D, M]):
    """One modality bound together: data, network, map, decoder, metrics and rewards.

    Constructor arguments are the configuration schema; construction loads nothing. The keyword arguments that a
    modality adds to :meth:`sample`, :meth:`problem`, :meth:`rewards` and :meth:`studies` are options of the commands.

    A task learns from its data what a map needs to be built (the size of an alphabet, a tokeniser): that is its
    ``state``, kept in every checkpoint, so that a checkpoint samples on a machine that has no data. With it goes a
    fingerprint of each part of the data.

    Arguments:
        kinds: Suffixes of the files that samples are written as.
        files: Patterns of their names, and of the files of :meth:`studies`.
        headlines: Metrics that head the tables of ``flowmaps evaluate``; by default all that are no modes.
        ode: Steps of the differential equation that few steps stand beside in ``flowmaps evaluate``.
        drawn: Samples a row that are drawn at the end of a training.
        teaching: Pattern of what :meth:`learned` gives, see :func:`~flowmaps.reading.expect`.
    Invariant: with a restored ``state``, ``splits`` are the data that taught it, or ChangedData is raised
        (``tests/tasks/test_changed_data.py``).
    """

    kinds: ClassVar[tuple[str, ...]]
    files: ClassVar[tuple[str, ...]] = ("samples.*",)
    headlines: ClassVar[tuple[str, ...]] = ()
    ode: ClassVar[int] = 128
    drawn: ClassVar[int] = 16
    teaching: ClassVar[Document]
    _state: Document | None = None

    # -- data ----------------------------------------------------------------------------------------------------

    @classmethod
    def own_data(cls, path: str) -> dict[str, str]:
        """The constructor arguments that name a file or folder of the user's own."""
        return {"source": path}

    @abstractmethod
    def load(self) -> P:
        """The data, read from where they lie."""

    @cached_property
    def splits(self) -> P:
        """The data, loaded when first asked for, and passed through :meth:`unchanged`."""
        return self.unchanged(self.load())

    @cached_property
    def train_data(self) -> Dataset:
        """What the map is trained on: the training part, with its conditions."""
        return self.splits.train

    @cached_property
    def valid_data(self) -> Dataset:
        return self.splits.valid

    @cached_property
    def test_data(self) -> Dataset:
        return self.splits.test

    @abstractmethod
    def learned(self, splits: P) -> Document:
        """What a map and its samples need to know of the data."""

    def state(self) -> Document:
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

    def unchanged(self, splits: P) -> P:
        """The same data, if they teach what a restored state holds.

        A checkpoint of a version that kept no fingerprint is compared in the pieces it has.

        Raises: ChangedData naming each piece that differs.
        """
        if self._state is not None and (found := changes(self._state, self._taught(splits))):
            raise ChangedData(
                f"the data are not those of the training: {found}; restore those data, or train again on these"
            )
        return splits

    def _taught(self, splits: P) -> Document:
        parts = {"train": splits.train, "valid": splits.valid, "test": splits.test}
        prints = {name: f"{len(part):,} examples, {part.fingerprint()}" for name, part in parts.items()}
        return finite({**self.learned(splits), "data": prints})

    # -- model ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def build_map(self) -> M:
        """The untrained map; needs ``state`` alone."""

    def outline(self) -> Outline[M]:
        """What a training is planned by; a modality that knows its sizes without data gives them."""
        data = self.train_data
        return Outline(self.build_map, lambda n: data.batch(torch.arange(n) % len(data)))

    # -- samples -------------------------------------------------------------------------------------------------

    @abstractmethod
    def sample(self, flow_map: M, n: int, sampler: Sampler, generator: torch.Generator) -> D:
        """``n`` samples as categories (a tree of fields); a modality adds options of its own by name."""

    @abstractmethod
    def quality(self, samples: D) -> dict[str, float]:
        """Metrics of samples; the first is the headline. Loads the data if it compares with them.

        A name that ends in ``_error`` is the standard error of another, and ``modes/NAME`` is the share of a kind of
        example, which the data's own share stands beside (:mod:`~flowmaps.metrics.modes`).
        """

    @abstractmethod
    def of_data(self, n: int | None = None) -> dict[str, float]:
        """The same metrics of real data, as the reference beside a table of ``n`` samples (default: ``samples``)."""

    @abstractmethod
    def write(self, rows: Mapping[str, D], directory: Path, **options: object) -> list[Path]:
        """Write samples, one named row a step count, as files for programs and pictures for people; their paths.

        Arguments:
            options: Those of :meth:`sample` or :meth:`problem` that the rows were drawn with.
        """

    def remark(self, samples: D) -> str:
        """What somebody who gets the files of samples has to know, in half a line; empty if there is nothing."""
        return ""

    def studies(self) -> Mapping[str, Study[M]]:
        """What else ``flowmaps evaluate`` measures, by the name in its report; a modality adds options by name.

        Raises: ValueError if an option is out of its range; nothing is measured yet.
        """
        return {}

    @property
    @abstractmethod
    def samples(self) -> int:
        """How many samples a metric is taken over by default."""

    def aim(self) -> Aim:
        """What ``flowmaps tune`` chooses the grid of a map by.

        Raises: ValueError if the modality does not say.
        """
        raise ValueError(
            f"{type(self).__name__} does not say by what a grid is chosen; tune by the map's own path: --by path"
        )

    # -- steering ------------------------------------------------------------------------------------------------

    def problem(self, particles: int, generator: torch.Generator) -> Problem:
        """What is to be steered; a modality adds options of its own by name.

        Raises: ValueError if the modality cannot be steered by name.
        """
        raise ValueError(
            f"{type(self).__name__} does not say what is to be steered; call flowmaps.steering from Python"
        )

    def rewards(self, device: torch.device) -> Mapping[str, Callable[[str], Reward]]:
        """What builds each reward from its argument, by name; a modality adds options of its own by name.

        Arguments:
            device: Where the map runs.
        """
        return {}

    def finished(self, samples: D, condition: Condition) -> D:
        """Samples of a population as :meth:`sample` gives them, on the CPU."""
        return fieldwise(lambda x: x.cpu(), samples)  # pyright: ignore[reportReturnType]  (the fields of the samples)

    # -- shared --------------------------------------------------------------------------------------------------

    def rows(self, steps: Sequence[int], ode: int | None = 128) -> dict[str, Sampler]:
        """Samplers by the key of their row in tables and ``metrics.json``: few-step jumps and the diagonal's ODE."""
        jumps: dict[str, Sampler] = {str(n): Jumps(n) for n in steps}
        return jumps if ode is None else {**jumps, f"ode{ode}": Euler(ode)}

    def likelihood(
        self,
        flow_map: EndpointMap,
        generator: torch.Generator,
        bound: Bound | None = None,
        n: int = 1024,
        batch: int = 256,
    ) -> Estimate:
        """A bound on the negative log-likelihood of held-out data, with its error."""
        return score(flow_map, self._batches(self.test_data, n, batch, generator.device), bound or CutOff(), generator)

    def own_likelihood(
        self, flow_map: M, generator: torch.Generator, bound: Bound | None, n: int | None, path: str | None = None
    ) -> OwnScore | None:
        """What a modality knows of the likelihood of data without the bounds of flow maps; ``None`` for nothing.

        Arguments:
            bound: The bound that is asked for, if any.
            n: Rows at most; ``None`` for all.
            path: A file of the modality's data; held-out data without.
        Raises: ValueError if a bound is asked for that the map does not have, or the file is none of such data.
        """
        return None

    def scored(self, path: str | None, context: int = 0) -> Iterator[Row] | None:
        """Rows that can be scored one by one: those of a file, or of the held-out part; ``None`` where held-out data
        are scored as a whole, by :meth:`likelihood`.

        Arguments:
            context: Positions before a row that are given to it.
        Raises: ValueError if the modality reads no such file, or has no context.
        """
        if path is not None or context:
            what = "context" if context else "a file"
            raise ValueError(f"{type(self).__name__} cannot score with {what}; leave it out to score the held-out data")
        return None

    def proposal(self, flow_map: EndpointMap, generator: torch.Generator) -> Proposal:
        """The density of u that suits the bounds of a map; uniform, unless a modality finds a better one."""
        return Proposal()

    @staticmethod
    def _batches(data: Dataset, n: int, batch: int, device: torch.device) -> Iterator[Batch]:
        for index in torch.arange(min(n, len(data))).split(batch):
            yield moved(data.batch(index), device)


@contextmanager
def preparing(name: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """A bar on a terminal while data are prepared; call it with what is done and, once known, with all there is."""
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        job = bar.add_task(f"preparing {name}", total=total)
        yield lambda done, total=None: bar.update(job, completed=done, total=total)


def in_batches(n: int, batch: int) -> Iterator[Tensor]:
    """The numbers of ``n`` samples, ``batch`` at a time, each made when it is its turn.

    Raises: ValueError if either is below 1.
    """
    if n < 1 or batch < 1:
        raise ValueError(f"n is {n} and batch {batch}, expected at least 1 of each")
    return (torch.arange(start, min(start + batch, n)) for start in range(0, n, batch))


def fitted(
    network: Callable[..., Network], *sizes: int, settings: Mapping[str, object] | None = None, **of_data: object
) -> Network:
    """The network that ``network`` makes for the data.

    Arguments:
        sizes, of_data: What follows from the data, by place and by name.
        settings: Those of the network that are to differ from its own; what is ``None`` is left to it.
    Raises: ValueError if the network does not take one of them, or was given another value of what the data decide.
    """
    chosen = network.keywords if isinstance(network, partial) else {}
    for name, value in of_data.items():
        if chosen.get(name) not in (None, value):
            raise ValueError(
                f"{name} of the network is {chosen[name]!r}, but follows from the task: {value!r}; leave it out"
            )
    given = {name: value for name, value in (settings or {}).items() if value is not None}
    try:
        return network(*sizes, **of_data, **given)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ValueError(f"the network does not fit: {error}; leave it out, or choose another network") from error
