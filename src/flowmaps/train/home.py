"""Where a run keeps its records and checkpoints: in a folder of its own, or nowhere but in memory."""

from __future__ import annotations

import logging
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from ..files import sha256, sweep
from . import checkpoint, shards
from .folder import Lock, refuge, taken
from .logs import Records, Row, finite
from .monitors import monitors
from .parallel import each, on_first
from .settings import Plan
from .tensors import CheckpointError, canonical, unwritable

if TYPE_CHECKING:
    from lightning.fabric import Fabric

log = logging.getLogger("flowmaps.train")


class Content(NamedTuple):
    """What a checkpoint is to hold.

    Arguments:
        step: Updates behind it.
        tensors: Its files of tensors, by name.
        documents: Its other files.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    documents: Mapping[str, Mapping[str, object]]


class Home(ABC):
    """Records and checkpoints of a run; every process calls every method."""

    saved: Path | None = None  # the last checkpoint

    @abstractmethod
    def begin(self, resume: bool) -> Path | None:
        """Take possession. Returns: the checkpoint to continue from.

        Raises: CheckpointError if that is not possible.
        """

    @abstractmethod
    def open(self, step: int) -> None:
        """Begin the records, after those up to ``step``."""

    @abstractmethod
    def keep(self, row: Row, saving: bool, content: Callable[[], Content]) -> None:
        """Record ``row``, if it is not empty, and save a checkpoint, if one is due."""

    @abstractmethod
    def records(self) -> list[Row]:
        """All records so far; on other processes than the first, none."""

    def best(self) -> Path | None:
        """The checkpoint with the lowest monitored value."""
        return None

    def finish(self) -> None:  # noqa: B027
        """The run has ended well."""

    def close(self) -> None:  # noqa: B027
        """Leave, however the run ended."""


class Nowhere(Home):
    """A run that writes no file."""

    def __init__(self, fabric: Fabric):
        self.fabric, self.rows = fabric, list[Row]()

    def begin(self, resume: bool) -> Path | None:
        if resume:
            raise CheckpointError("a run without a directory keeps no checkpoint to resume from; give it a directory")
        return None

    def open(self, step: int) -> None: ...

    def keep(self, row: Row, saving: bool, content: Callable[[], Content]) -> None:
        if row and self.fabric.is_global_zero:
            self.rows.append(finite(row))
        if saving:
            content()  # which also looks whether the weights are finite

    def records(self) -> list[Row]:
        return list(self.rows)


class Folder(Home):
    """A folder that one training at a time writes into: ``checkpoint/``, ``metrics.jsonl``, ``metrics.csv``.

    Arguments:
        fabric: The devices.
        plan: Which files are written and kept.
        directory: The folder; it is made if it is not there.
    """

    def __init__(self, fabric: Fabric, plan: Plan, directory: Path):
        self.fabric, self.plan, self.directory = fabric, plan, directory
        self.lock: Lock | None = None
        self.written: Records | None = None
        self.drawn = time.monotonic()

    @property
    def parent(self) -> Path:
        return self.directory / "checkpoint"

    def begin(self, resume: bool) -> Path | None:
        self.saved = on_first(self.fabric, lambda: self._prepare(resume))
        return self.saved

    def open(self, step: int) -> None:
        if self.fabric.is_global_zero:
            self.written = Records(self.directory, step, monitors(self.plan, self.directory, step))

    def keep(self, row: Row, saving: bool, content: Callable[[], Content]) -> None:
        """Record and save what is due, in another folder if that of the run is gone."""
        try:
            on_first(self.fabric, lambda: self.lock and self.lock.check())
            if row:
                on_first(self.fabric, lambda: self.written and self.written.write(row))
            if saving:
                self._save(content())
        except CheckpointError:
            lost, self.directory = on_first(self.fabric, lambda: self._move(row))
            if lost is None:
                raise
            last = content()
            self._save(last)
            raise CheckpointError(
                f"{lost} while training went on; weights, optimiser and records up to update "
                f"{last.step} are in {self.directory}; continue there with --resume"
            ) from None

    def records(self) -> list[Row]:
        return [] if self.written is None else list(self.written.rows)

    def best(self) -> Path | None:
        return checkpoint.best(self.parent)

    def finish(self) -> None:
        if self.written is not None and self.plan.curves:
            self.written.draw()

    def close(self) -> None:
        """Close the records and give the folder back."""
        if self.written is not None:
            self.written.close()
        if self.lock is not None:
            self.lock.release()

    def _prepare(self, resume: bool) -> Path | None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.lock = Lock(self.directory)
            found = taken(self.directory)
            if found and not resume:
                raise CheckpointError(
                    f"{self.directory} already holds {found}; resume that run, or choose another directory"
                )
            self.parent.mkdir(exist_ok=True)
            sweep(self.directory)
            folder = checkpoint.newest(self.parent)
            if resume and folder is None:
                log.warning("%s holds no checkpoint: starting at update 1", self.parent)
            checkpoint.tidy(self.parent, checkpoint.step_of(folder) if folder else 0, self.plan.keep)
        except OSError as error:
            raise CheckpointError(unwritable(self.parent, error, "nothing was changed")) from error
        return folder

    def _save(self, content: Content) -> None:
        sums = self._shards(content)

        def write() -> Path:
            assert self.written is not None
            self.written.flush()
            folder = checkpoint.write(self.parent, *content, sums)
            checkpoint.prune(self.parent, self.plan.keep)
            if self.plan.curves and time.monotonic() - self.drawn > 60:
                self.written.draw()
                self.drawn = time.monotonic()
            return folder

        self.saved = on_first(self.fabric, write)

    def _shards(self, content: Content) -> dict[str, str]:
        """Write what lies in shards, if anything does, where the rest will be; the checksums of all shards."""
        spread = {
            file: {name: tensor for name, tensor in canonical(group)[0].items() if shards.is_spread(tensor)}
            for file, group in content.tensors.items()
        }
        if not any(spread.values()):
            return {}
        place = checkpoint.place_of(self.parent, content.step)
        temporary = on_first(self.fabric, lambda: checkpoint.begun(place))
        try:
            own = {path.name: sha256(path) for path in shards.write(temporary, spread)}
        except OSError as error:
            on_first(self.fabric, lambda: shutil.rmtree(temporary, ignore_errors=True))
            raise CheckpointError(unwritable(place, error, "earlier checkpoints are untouched")) from error
        return {name: digest for part in each(self.fabric, own) for name, digest in part.items()}

    def _move(self, row: Row) -> tuple[str | None, Path]:
        """What became of the folder of the run, and where the run is now, with its records, if it is lost."""
        assert self.lock is not None and self.written is not None
        lost = self.lock.lost()
        if lost is None:
            return None, self.directory
        place = refuge(self.directory)
        self.written = self.written.moved(place, row)
        return lost, place
