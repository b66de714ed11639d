"""Reads damaged inputs in a process of its own, under a limit of memory and time, and says what came of each."""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from flowmaps.cli.boundary import explain

SECONDS, MEMORY = 10, 2**30
# What the interpreter says, and no message of ours may say, about a value from outside.
BARE = ("object has no attribute", "not subscriptable", "not iterable", "unhashable", "to unpack", "list index",
        "indices must", "invalid literal", "could not convert", "codec can't", "must be str", "argument must", "zip()",
        "NoneType", "positional argument", "unsupported operand", "<class '", "Namespace(", "Traceback")  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """One way into the library.

    Arguments:
        make: Writes a sound input into an empty folder, once.
        spoil: Damages a copy of it.
        read: Reads it; returns something that can be compared, and raises AssertionError if it is not sound.
        guarded: The format carries checksums: what differs from the sound input must be refused.
    """

    make: Callable[[Path], None]
    spoil: Callable[[Random, Path], None]
    read: Callable[[Path], Any]
    guarded: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of one input: ``refused``, ``same``, ``reported``, ``accepted``, or a fault, with its story."""

    kind: str
    story: str = ""

    @property
    def fault(self) -> bool:
        return self.kind not in ("refused", "same", "reported", "accepted")


def run(name: str, reader: Reader, seeds: Iterable[int], folder: Path) -> dict[int, Outcome]:
    """The outcome of each seed, read in child processes; one that dies or hangs is replaced."""
    sound, seeds, found = folder / "sound", list(seeds), dict[int, Outcome]()
    sound.mkdir(parents=True)
    reader.make(sound)
    context = multiprocessing.get_context("fork")
    while left := [seed for seed in seeds if seed not in found]:
        mine, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_work, args=(name, reader, left, sound, folder, theirs), daemon=False)
        child.start()
        theirs.close()
        if not mine.poll(60) or (problem := mine.recv()):
            raise RuntimeError(f"{name}: the sound input is not read ({problem})")
        for seed in left:
            try:
                found[seed] = mine.recv() if mine.poll(2 * SECONDS + 10) else Outcome("hang", "no answer at all")
            except EOFError:
                child.join(5)
                found[seed] = Outcome("death", f"exit code {child.exitcode}")
            if found[seed].kind in ("hang", "death"):
                break
        if child.is_alive():
            child.kill()
        child.join()
        mine.close()
    return found


def counts(found: Iterable[Outcome]) -> Counter[str]:
    """How many inputs came to each end."""
    return Counter("fault" if outcome.fault else outcome.kind for outcome in found)


def _work(name: str, reader: Reader, seeds: list[int], sound: Path, folder: Path, pipe: Connection) -> None:
    place = folder / "spoilt"
    try:
        expected = _read_at(reader, sound, place)
    except BaseException as error:
        pipe.send(repr(error))
        return
    pipe.send("")
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
    if pages is not None:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    signal.signal(signal.SIGALRM, _too_long)
    for seed in seeds:
        outcome = _one(name, reader, seed, sound, place, expected)
        if (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) * 1024 > MEMORY:
            outcome = Outcome("memory", outcome.story)
        pipe.send(outcome)


def _read_at(reader: Reader, source: Path, place: Path) -> Any:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(source, place, symlinks=True)
    return reader.read(place)


def _one(name: str, reader: Reader, seed: int, sound: Path, place: Path, expected: Any) -> Outcome:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(sound, place, symlinks=True)
    reader.spoil(Random(f"{name}/{seed}"), place)
    with warnings.catch_warnings(record=True) as reported:
        warnings.simplefilter("always")
        signal.alarm(SECONDS)
        try:
            value = reader.read(place)
        except TooLong:
            return Outcome("slow", f"more than {SECONDS} s")
        except AssertionError as error:
            return Outcome("unsound", str(error))
        except BaseException as error:  # the panics of other languages, too
            return _judge(error)
        finally:
            signal.alarm(0)
    if value == expected:
        return Outcome("same")
    if reported:
        return Outcome("reported", str(reported[0].message))
    return Outcome("silent", "read as something else") if reader.guarded else Outcome("accepted")


def _judge(error: BaseException) -> Outcome:
    text = explain(error)
    if not text:
        return Outcome("traceback", "".join(traceback.format_exception(error))[-1500:])
    if len(text) > 480 or not text.isprintable() or any(words in text for words in BARE):
        return Outcome("bare", f"{type(error).__name__}: {text[:600]!r}")
    return Outcome("refused", text) if ";" in text or "expected" in text else Outcome("bare", f"no remedy: {text}")


class TooLong(BaseException):
    """Raised by the alarm; no reader may catch it."""


def _too_long(*_: object) -> None:
    raise TooLong
