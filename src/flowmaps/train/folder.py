"""The folder of a run: whether it is taken, and the lock by which one training at a time writes into it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import stat
import tempfile
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..files import beside, numbered, same_file
from . import checkpoint
from .tensors import CheckpointError, unwritable

LOCK, RECORDS = ".lock", "metrics.jsonl"
BEAT, SILENCE = 15.0, 300.0  # seconds between signs of life, and without one until a process elsewhere counts as gone
LACKING = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)  # answers of file systems without kernel locks


def taken(directory: Path) -> str | None:
    """What of an earlier run a folder holds, its newest checkpoint or its records; ``None`` if a new one may start."""
    found = checkpoint.steps(directory / "checkpoint")
    if found:
        return found[-1].name
    records = directory / RECORDS
    return RECORDS if records.is_file() and records.stat().st_size else None


class Holder(NamedTuple):
    """Who holds a lock; ``machine`` is one run of a system's kernel, ``started`` tells reused process numbers apart."""

    host: str
    machine: str
    process: int
    started: str

    @classmethod
    def here(cls) -> Holder:
        return cls(platform.node(), _machine(), os.getpid(), _started(os.getpid()))

    @classmethod
    def read(cls, content: bytes) -> Holder | None:
        """The holder that a lock names, or ``None`` if it names none."""
        try:
            found = json.loads(content)
            holder = cls(*(found[name] for name in cls._fields))
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        texts = (holder.host, holder.machine, holder.started)
        right = type(holder.process) is int and all(isinstance(text, str) for text in texts)
        return holder if right else None

    def lives(self, age: float, kernel: bool) -> bool:
        """Whether this process still holds the lock, whose last sign of life is ``age`` seconds old.

        On its own machine the kernel knows, and would not have given the lock away; elsewhere signs of life tell.
        """
        if self.machine == _machine():
            return not kernel and _started(self.process) == self.started
        return abs(age) < SILENCE


class Lock:
    """The right to write into a run's folder, held by one process at a time; its file names host and process.

    The kernel's lock on that file ends with its process, however that ends. Between machines it may not reach, so the
    file is also touched while the process lives, and a holder elsewhere counts as gone after ``SILENCE`` seconds.

    Arguments:
        directory: The folder, which must exist.
    Raises: CheckpointError if a living process holds it, naming that process, or if the lock cannot be written.
    """

    def __init__(self, directory: Path):
        self.path, self.directory = directory / LOCK, directory
        self._words = (json.dumps(Holder.here()._asdict()) + "\n").encode()
        try:
            # kept open, so that its number is not given to another folder
            self._folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._file = self._take()
            except BaseException:
                os.close(self._folder)
                raise
        except OSError as error:
            raise CheckpointError(unwritable(self.path, error, "nothing was changed")) from error
        self._released = threading.Event()
        threading.Thread(target=self._beat, daemon=True, name="lock").start()

    def check(self) -> None:
        """Raise CheckpointError if the folder is lost."""
        if lost := self.lost():
            raise CheckpointError(lost)

    def lost(self) -> str | None:
        """What became of the folder, or ``None`` while it is there and held by this process."""
        try:
            if same_file(self.path, self._file) and self.path.read_bytes() == self._words:
                return None
            if same_file(self.directory, self._folder) and not self.path.exists():  # only the lock was removed
                old, self._file = self._file, self._take()
                os.close(old)
                return None
        except (OSError, CheckpointError):
            pass
        with suppress(OSError):
            if same_file(self.directory, self._folder):
                return f"{self.directory} was taken over by another training"
            place = os.readlink(f"/proc/self/fd/{self._folder}")
            if same_file(Path(place), self._folder):
                return f"{self.directory} was renamed to {place}"
            if os.fstat(self._folder).st_nlink == 0:
                return f"{self.directory} was removed"
        return f"{self.directory} was removed or renamed"

    def release(self) -> None:
        """Give the folder back; a second time nothing happens."""
        if self._released.is_set():
            return
        self._released.set()
        with suppress(OSError):
            if os.path.samestat(os.stat(LOCK, dir_fd=self._folder), os.fstat(self._file)):
                os.unlink(LOCK, dir_fd=self._folder)
        os.close(self._file)
        os.close(self._folder)

    def _take(self) -> int:
        """The locked file, with the holder's name in it."""
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
            try:
                if self._won(file):
                    os.ftruncate(file, 0)
                    os.pwrite(file, self._words, 0)
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)  # it was removed by its last holder before it was locked here

    def _won(self, file: int) -> bool:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise CheckpointError(f"{self.path} is no regular file; remove it")
        kernel = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(self._refusal(Holder.read(os.pread(file, 4096, 0)))) from None
        except OSError as error:
            if error.errno not in LACKING:
                raise
            kernel = False
        holder = Holder.read(os.pread(file, 4096, 0))
        if holder is not None and holder.lives(age := self._age(file), kernel):
            sign = (
                f"; it showed a sign of life {max(age, 0):.0f} s ago, and counts as gone after {SILENCE:.0f} s without"
            )
            wait = "" if holder.machine == _machine() else sign
            raise CheckpointError(self._refusal(holder) + wait)
        return same_file(self.path, file)

    def _refusal(self, holder: Holder | None) -> str:
        who = "another process" if holder is None else f"process {holder.process} on {holder.host!r:.80}"
        return f"{self.directory} is in use by {who}, which trains there; wait for it, or choose another folder"

    def _age(self, file: int) -> float:
        """Seconds since the last sign of life, both by the clock of the disk."""
        probe = beside(self.path)
        probe.touch()
        try:
            return probe.stat().st_mtime - os.fstat(file).st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            with suppress(OSError):
                os.utime(self._file)


def check_free(directory: Path) -> None:
    """Refuse a folder in which a training goes on.

    Raises: CheckpointError naming the process.
    """
    if (directory / LOCK).exists():
        Lock(directory).release()


def refuge(directory: Path) -> Path:
    """A new folder for what was to go into ``directory``: beside it, else among the temporary files.

    Raises: CheckpointError if neither can be written.
    """
    name = f"{directory.absolute().name}-rescued"
    place = numbered(directory.absolute().parent / name)
    with suppress(OSError):
        place.mkdir(parents=True)
        return place
    place = numbered(Path(tempfile.gettempdir()) / name)
    try:
        place.mkdir()
    except OSError as error:
        raise CheckpointError(unwritable(place, error, "the last updates are lost")) from error
    return place


@cache
def _machine() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


def _started(process: int) -> str:
    """When a process began, in the words of its system; empty if it is not there."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        pass
    except (OSError, IndexError):
        return ""
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return ""
    except PermissionError:
        pass
    return "running"
