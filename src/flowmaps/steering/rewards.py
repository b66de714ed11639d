"""Rewards: plain callables on endpoints, checked so that a bad value names the particle it came from."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..evaluation import wide
from ..fields import Data, State, Tree, first_leaf, take
from ..spaces.product import likeliest, vertices

Decode = Callable[[Tensor], str]
Score = Callable[..., object]  # endpoints or samples to one number each: what it returns is checked


class RewardError(ValueError):
    """A reward that raised, or returned something that is not one finite number per particle."""


class Reward(ABC):
    r"""A function r of endpoints, higher is better; its name appears in every complaint about it.

    Arguments:
        function: What computes it.
        name: How complaints call it; the function's own name by default.
    Invariant: values are finite, one per particle, float32 at least (``tests/steering/test_rewards.py``).
    """

    def __init__(self, function: Score, name: str | None = None):
        if not callable(function):
            raise ValueError(f"a reward is a callable on endpoints, not a {type(function).__name__}")
        self.function, self.name = function, name or getattr(function, "__name__", type(function).__name__)

    differentiable = False
    about: Mapping[str, object] = {}  # what reports should say of it, as JSON values

    @abstractmethod
    def of_endpoint(self, pi: State, first: int = 0) -> Tensor:
        """r of points of the simplex ``(n, *positions, K)`` per field; ``first`` is the number of the first one."""

    @abstractmethod
    def of_sample(self, x_1: Data, sizes: Tree[int | None], first: int = 0) -> Tensor:
        """r of categories ``(n, *positions)`` per field, ``sizes`` being the alphabets; shape ``(n,)``."""

    def _values(self, endpoints: Data, first: int) -> Tensor:
        n = len(first_leaf(endpoints))
        try:
            values = self.function(endpoints)
        except Exception as error:
            raise RewardError(self._raised(endpoints, n, first, error)) from error
        return self._checked(values, endpoints, n, first)

    def _raised(self, endpoints: Data, n: int, first: int, error: Exception) -> str:
        """Which particle it was: the first that raises when it is alone."""
        which = f"one of the particles {first} to {first + n - 1}"
        for i in range(n):
            try:
                self.function(take(endpoints, slice(i, i + 1)))
            except Exception as alone:
                which, error = f"particle {first + i}", alone
                break
        return f"reward {self.name!r} raised {type(error).__name__} at {which}: {error}"

    def _checked(self, returned: object, endpoints: Data, n: int, first: int) -> Tensor:
        device = first_leaf(endpoints).device
        try:
            values = torch.as_tensor(returned, device=device)
        except Exception as error:
            kind = type(returned).__name__
            raise RewardError(
                f"reward {self.name!r} returned a {kind} for particles {first} to {first + n - 1}; "
                "expected one number each"
            ) from error
        if values.shape != (n,):
            raise RewardError(
                f"reward {self.name!r} returned shape {tuple(values.shape)} for particles {first} to {first + n - 1}; "
                f"expected ({n},), one number each"
            )
        values = wide(values if values.is_floating_point() else values.float())
        bad = ~values.isfinite()
        if bool(bad.any()):
            i = int(bad.nonzero()[0])
            raise RewardError(
                f"reward {self.name!r} of particle {first + i} is {float(values[i].detach())}, expected a finite "
                "number; clamp it, or return a low one for samples that you refuse"
            )
        return values


class Soft(Reward):
    """A reward of soft one-hot vectors, differentiable: ``function(pi) -> (n,)`` with pi ``(n, *positions, K)``.

    Positions that do not exist (padding) are zero vectors.
    """

    differentiable = True

    def of_endpoint(self, pi: State, first: int = 0) -> Tensor:
        return self._values(pi, first)

    def of_sample(self, x_1: Data, sizes: Tree[int | None], first: int = 0) -> Tensor:
        return self._values(vertices(x_1, sizes), first)


class Hard(Reward):
    """A black-box reward of decoded samples, never differentiated: ``function(x_1) -> (n,)``, x_1 int64.

    Positions that do not exist (padding) are -1.
    """

    def of_endpoint(self, pi: State, first: int = 0) -> Tensor:
        return self._values(likeliest(pi), first)

    def of_sample(self, x_1: Data, sizes: Tree[int | None], first: int = 0) -> Tensor:
        return self._values(x_1, first)


class Led(Reward):
    r"""A black box on samples, with a differentiable stand-in on endpoints that leads there.

    .. math:: r(x_1) = \mathrm{reward}(x_1), \qquad r(\pi) = \mathrm{by}(\pi)

    The weighted methods stay exact for the black box: what the stand-in weighs on the way is taken back at the end.

    Arguments:
        reward: The black box.
        by: The stand-in, such as a surrogate that was trained on the black box.
        about: What reports should say of the stand-in.
    Invariant: weighted samples follow the tilt by the black box whatever the stand-in is
        (``tests/steering/test_rewards.py``).
    """

    differentiable = True

    def __init__(self, reward: Hard, by: Soft, about: Mapping[str, object] | None = None):
        super().__init__(reward.function, reward.name)
        self.reward, self.by, self.about = reward, by, about or {}

    def of_endpoint(self, pi: State, first: int = 0) -> Tensor:
        return self.by.of_endpoint(pi, first)

    def of_sample(self, x_1: Data, sizes: Tree[int | None], first: int = 0) -> Tensor:
        return self.reward.of_sample(x_1, sizes, first)


def each(function: Callable[..., float]) -> Callable[[Data], list[float]]:
    """A black box of one sample as one of a batch: ``Hard(each(function))``; a tree in, one sample of it each time."""

    def over(x_1: Data) -> list[float]:
        return [float(function(take(x_1, i))) for i in range(len(first_leaf(x_1)))]

    over.__name__ = getattr(function, "__name__", type(function).__name__)
    return over


# -- images ------------------------------------------------------------------------------------------------------------


def grey(pi: Tensor) -> Tensor:
    """Expected category of each position, as a number: what a classifier of grey levels reads from π."""
    return pi @ torch.arange(pi.shape[-1], dtype=pi.dtype, device=pi.device)


def class_probability(
    classifier: Callable[[Tensor], Tensor], label: int, read: Callable[[Tensor], Tensor] = grey, log: bool = False
) -> Soft:
    r"""The probability that a classifier gives to a class.

    .. math:: r(\pi) = \mathrm{softmax}(f(\mathrm{read}(\pi)))_{label}, \text{ or its logarithm}

    Arguments:
        classifier: f, from ``read(pi)`` to logits ``(n, classes)``, differentiable.
        label: The class that is wanted.
        read: From soft one-hots ``(n, *positions, K)`` to the classifier's input; the expected category by default.
        log: Use the log-probability; with strength 1 the tilted distribution is then the posterior given the
            class.
    """

    def class_probability(pi: Tensor) -> Tensor:
        log_p = wide(classifier(read(pi))).log_softmax(-1)
        if not 0 <= label < log_p.shape[-1]:
            raise ValueError(f"label is {label}, expected a class in 0..{log_p.shape[-1] - 1}")
        return log_p[:, label] if log else log_p[:, label].exp()

    return Soft(class_probability, f"class {label}")


def ink(target: float | None = None) -> Soft:
    """Mean category over the largest one, in [0, 1]; with a target, minus the distance to it."""

    def ink(pi: Tensor) -> Tensor:
        amount = grey(pi).flatten(1).mean(1) / max(pi.shape[-1] - 1, 1)
        return amount if target is None else -(amount - target).abs()

    return Soft(ink)


# -- text --------------------------------------------------------------------------------------------------------------


def of_text(function: Callable[[str], float], decode: Decode, name: str | None = None) -> Hard:
    """A reward of decoded text; ``decode`` turns the categories ``(positions,)`` of one sample into a string."""
    return Hard(each(lambda x_1: function(decode(x_1))), name or getattr(function, "__name__", "text"))


def keyword(word: str, decode: Decode) -> Hard:
    """How often a word occurs as a whole word, case-insensitive."""
    if not word:
        raise ValueError("the keyword is empty; name a word")
    pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
    return of_text(lambda text: float(len(pattern.findall(text))), decode, f"keyword {word}")


def matches(pattern: str, decode: Decode) -> Hard:
    """1 if a regular expression occurs in the text, else 0."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    return of_text(lambda text: float(compiled.search(text) is not None), decode, f"matches {pattern}")


def word_length(decode: Decode, target: float | None = None) -> Hard:
    """Mean length of the words; with a target, minus the distance to it. A text without words has length 0."""

    def length(text: str) -> float:
        words = re.findall(r"\w+", text)
        mean = sum(map(len, words)) / len(words) if words else 0.0
        return mean if target is None else -abs(mean - target)

    return of_text(length, decode, "word length")


def likelihood(
    nats: Callable[..., Sequence[NDArray]],
    decode: Decode | None = None,
    name: str = "likelihood",
    least: float = -20.0,
) -> Hard:
    r"""Mean log-likelihood per token under a judge, a whole batch at a time.

    .. math:: r(x_1) = \frac{1}{L} \sum_{i=1}^{L} \log p(x_1^i \mid x_1^{<i})

    Repetition is likely too: look at the diversity of what is found.

    Arguments:
        nats: -log p of every token, one array per sample: ``nats`` of a judge of :mod:`flowmaps.metrics.text_judges`.
        decode: For a judge of strings; without it the judge is given the categories ``(n, positions)``.
        least: The reward of a sample in which the judge finds no token.
    """

    def rates(x_1: Tensor) -> Tensor:
        judged = nats(x_1.cpu().numpy() if decode is None else [decode(row) for row in x_1])
        return torch.tensor([-float(row.mean()) if len(row) else least for row in judged])

    return Hard(rates, name)
