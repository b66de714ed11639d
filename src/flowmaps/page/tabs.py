"""What a tab of the page is: the fields of its form, and the answer to a request, without any widget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import ClassVar, Generic, TypeVar

from ..hub import Model
from ..pictures import heading
from ..tasks.base import Task
from .answers import COMPARED, SEEDS, STEPS, Answer, Panel, Strip, timed, whole

Value = str | int | float | None


@dataclass(frozen=True)
class Field:
    """One line of a form.

    Arguments:
        name: Of the value in a request.
        label, info: What people read.
    """

    name: str
    label: str
    info: str


@dataclass(frozen=True)
class Slider(Field):
    """A number from ``least`` to ``most``, first ``start``; a lively one is answered as soon as it is let go."""

    start: float
    least: float
    most: float
    step: float = 1
    lively: bool = False


@dataclass(frozen=True)
class Choice(Field):
    """One of some texts, first the first."""

    options: Sequence[str]


@dataclass(frozen=True)
class Number(Field):
    """A number that is typed, first ``start``."""

    start: float


@dataclass(frozen=True)
class Line(Field):
    """A text that is typed, of one or several lines."""

    example: str = ""
    lines: int = 1


@dataclass(frozen=True, kw_only=True)
class Sketch(Line):
    """A text that is typed, or drawn by clicks on its picture.

    Arguments:
        tools: What a click can do; first the first.
        drawn: From the text, and why a click changed nothing, to HTML whose places have ``data-place``.
        clicked: From the text, a tool and a place to the text after a click; a ValueError says why there is none.
    """

    tools: Sequence[str]
    drawn: Callable[[str, str], str]
    clicked: Callable[[str, str, str], str]


T = TypeVar("T", bound=Task)
D = TypeVar("D")


class Tab(ABC, Generic[T]):
    """One model of one modality on the page.

    A request is answered from plain values alone, by one model that all users share; requests to one model wait for
    each other.

    Arguments:
        model: The trained model.
        name: What it is called on the page.
        kind: The tasks whose models belong here.
        packaged: Models that come with the package, or may.
        about: A sentence above the form.
        copied: What the text is that can be copied; empty if there is none.
        most, first: Most samples of a request, and how many are asked for at first.
    """

    kind: type[T]
    packaged: ClassVar[tuple[str, ...]] = ()
    about: ClassVar[str]
    copied: ClassVar[str] = "Samples as text"
    most: ClassVar[int] = 16
    first: ClassVar[int] = 8

    def __init__(self, model: Model, name: str):
        self.model, self.name, self.lock = model, name, Lock()

    @property
    def task(self) -> T:
        """The modality with what its data taught."""
        assert isinstance(self.model.task, self.kind)
        return self.model.task

    @abstractmethod
    def form(self) -> list[Field]:
        """The fields of the modality; those of every modality stand around them."""

    @abstractmethod
    def answer(self, n: int, steps: int, seed: int) -> Answer:
        """The answer to a request; a modality adds the values of its own fields by name.

        Raises: ValueError naming the value, and what was expected.
        """

    def drawn(self, draw: Callable[[int], D], steps: int) -> dict[int, tuple[D, float]]:
        """Samples at the compared numbers of steps and at ``steps``, each with the seconds it took by the clock."""
        longest_first = sorted({*COMPARED, steps}, reverse=True)  # where what a first call sets up counts least
        return {k: timed(lambda k=k: draw(k)) for k in longest_first}

    def compared(self, found: Mapping[int, tuple[D, float]], panels: Callable[[D], Sequence[Panel]]) -> list[Strip]:
        """What was drawn at the compared numbers of steps, each as its panels."""
        return [Strip(heading(str(k)), found[k][1], panels(found[k][0])) for k in COMPARED]

    def fields(self) -> list[Field]:
        """All fields of the form."""
        return [
            Slider("steps", "Steps", "Network evaluations for each sample.", 4, 1, STEPS, lively=True),
            Slider("n", "Samples", "", self.first, 1, self.most),
            *self.form(),
            Number("seed", "Seed", "Of the noise: a seed draws the same samples again.", 0),
        ]

    def ask(self, values: Mapping[str, Value]) -> Answer:
        """The answer to a request, one at a time.

        Raises: ValueError naming the value, and what was expected.
        """
        own = {name: value for name, value in values.items() if name not in ("n", "steps", "seed")}
        n = whole("the number of samples", values["n"], 1, self.most)
        steps = whole("the number of steps", values["steps"], 1, STEPS)
        seed = whole("the seed", values["seed"], 0, SEEDS - 1)
        with self.lock:
            return self.answer(n, steps, seed, **own)
