"""What the page answers: pictures with captions, the same noise at several numbers of steps, and text to take home."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeVar

COMPARED = (1, 2, 4, 8)  # numbers of steps that start from the same noise
STEPS = 16  # at most, of one request
SEEDS = 2**31
D = TypeVar("D")


class Panel(NamedTuple):
    """One sample.

    Arguments:
        body: HTML that shows it, of trusted parts and escaped text.
        caption, note: Plain text below it: what it is as text, and what is known of it.
        good: Whether it is what it should be, where that can be said.
        mark: The word for that, such as ``valid``.
    """

    body: str
    caption: str = ""
    note: str = ""
    good: bool | None = None
    mark: str = ""


class Strip(NamedTuple):
    """Samples from the same noise by one number of steps.

    Arguments:
        name: What it shows, such as ``4 steps``.
        seconds: How long they took, by the clock.
        panels: In the order of the noise.
    """

    name: str
    seconds: float
    panels: Sequence[Panel]


class File(NamedTuple):
    """Something to download: the name, the media type, and the text."""

    name: str
    kind: str
    text: str


class Answer(NamedTuple):
    """What the page shows of one request.

    Arguments:
        lead: Sentences of plain text: what was asked, and how long it took.
        panels: The samples.
        rows: The same noise at 1, 2, 4 and 8 steps.
        shape: How panels are laid out: ``cards``, small ``images``, ``lines`` of text, or wide ``maps``.
        text: The samples as text to copy.
        files: What can be downloaded.
    """

    lead: str
    panels: Sequence[Panel]
    rows: Sequence[Strip]
    shape: Literal["cards", "images", "lines", "maps"]
    text: str = ""
    files: Sequence[File] = ()


def timed(draw: Callable[[], D]) -> tuple[D, float]:
    """What ``draw`` gives, and how many seconds it took by the clock."""
    start = time.perf_counter()
    found = draw()
    return found, time.perf_counter() - start


def whole(name: str, value: object, least: int, most: int) -> int:
    """A whole number within limits.

    Raises: ValueError naming the limits.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53 or value != int(value):
        raise ValueError(f"{name} is {value!r}, expected a whole number from {least} to {most}")
    if not least <= value <= most:
        raise ValueError(f"{name} is {int(value):,}, expected {least:,} to {most:,}")
    return int(value)


def real(name: str, value: object, least: float, most: float) -> float:
    """A number within limits.

    Raises: ValueError naming the limits.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}, expected a number from {least:g} to {most:g}")
    return float(value)


def typed(name: str, value: object, least: float, most: float) -> float | None:
    """A number that was typed; ``None`` if nothing was.

    Raises: ValueError naming the limits.
    """
    text = str("" if value is None else value).strip().replace(",", ".")
    if not text:
        return None
    try:
        return real(name, float(text), least, most)
    except ValueError:
        raise ValueError(f"{name} is {text[:40]!r}, expected a number from {least:g} to {most:g}") from None


def short(name: str, value: object, most: int) -> str | None:
    """A text without spaces around it; ``None`` if nothing is left.

    Raises: ValueError if it is too long.
    """
    text = str(value or "").strip()
    if len(text) > most:
        raise ValueError(f"{name} has {len(text):,} characters, expected at most {most:,}")
    return text or None


def png(content: bytes, says: str) -> str:
    """HTML of a PNG file; ``says`` is read where it is not seen."""
    return f'<img alt="{says}" src="data:image/png;base64,{b64encode(content).decode()}">'


def seconds(value: float) -> str:
    """A duration for people.

    >>> seconds(0.0312), seconds(1.26)
    ('31 ms', '1.3 s')
    """
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s"
