"""Trained models by name, by path or from a hub: ``flowmaps.load``, on which every command is built."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor

from ..configuration.parsing import task_from
from ..fields import Data
from ..maps import FlowMap
from ..reading import Document
from ..samplers import Jumps, Sampler
from ..samplers.grids import TimeGrid
from ..seeds import check_seed
from ..tasks.base import Task
from ..train import CheckpointError, Tuned, load_map, read_config, read_grids, read_state, resolve, size_of_map
from ..train.sizes import built
from ..train.state import versions
from .card import write
from .remote import NAME, check_name, download, upload

Choice = Literal["tuned", "uniform"]  # of a grid
MODELS = tuple(Path(__file__).parents[depth] / "models" for depth in (1, 3))  # of the package, of a working copy


@dataclass(frozen=True)
class Model:
    """A trained model.

    Arguments:
        task: The modality, with what its data taught; the data themselves are not loaded.
        flow_map: In evaluation mode, with averaged weights.
        folder: The checkpoint.
        config, state: Its configuration and records.
        device: Where the map is.
    """

    task: Task[Any, Any]
    flow_map: FlowMap
    folder: Path
    config: Document
    state: Document
    device: torch.device

    @property
    def shipped(self) -> bool:
        """Whether it came with the package, whose folder is not written to."""
        return self.folder.parent in MODELS

    def generator(self, seed: int) -> torch.Generator:
        """The source of randomness on the device of the map."""
        return torch.Generator(self.device).manual_seed(check_seed(seed))

    @property
    def grids(self) -> dict[int, Tuned]:
        """The grids that ``flowmaps tune`` found for the map, by their number of steps.

        Raises: CheckpointError if the file that keeps them is not as it was written.
        """
        return read_grids(self.folder)

    def grid(self, steps: int, choice: Choice = "tuned") -> tuple[TimeGrid, str]:
        """The grid of some jumps, and a line about it; an empty one where there was nothing to choose from.

        A number of steps that was not tuned has equal steps, and the line says so.

        Arguments:
            choice: ``tuned`` for the grids of the checkpoint, ``uniform`` for equal steps whatever it keeps.
        Raises: CheckpointError if the file that keeps them is not as it was written.
        """
        kept, equal = self.grids if choice == "tuned" else {}, TimeGrid.uniform(steps)
        if steps in kept:
            tuned = kept[steps]
            what = f"equal, tuning by {tuned.record['metric']} found no better grid"
            return tuned.grid, f"{equal.name}: {what if tuned.equal else f'tuned grid {tuned.grid}'}"
        others = "" if steps == 1 else ", ".join(map(str, kept))
        return equal, f"{equal.name}: equal, for grids of {others} steps were tuned" if others else ""

    @torch.no_grad()
    def sample(
        self,
        n: int,
        steps: int | Tensor = 1,
        seed: int = 0,
        sampler: Sampler | None = None,
        grid: Choice = "tuned",
        **options: object,
    ) -> Data:
        """``n`` samples as the modality gives them; a seed reproduces them exactly.

        Arguments:
            steps: Jumps of the flow map, on the grid that was tuned for it if there is one, which a line on standard
                error then says; or their times.
            sampler: Another way from noise to data; ``steps`` then say nothing.
            grid: ``uniform`` for equal steps.
            options: Of the modality, see the ``sample`` of its task.
        """
        if sampler is None and isinstance(steps, int):
            chosen, line = self.grid(steps, grid)
            sampler = chosen.sampler()
            _say(str(self.folder), line)
        return self.task.sample(self.flow_map, n, sampler or Jumps(steps), self.generator(seed), **options)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        half: bool = False,
        note: str | None = None,
        licence: str | None = None,
    ) -> Path:
        """Keep what sampling needs (safetensors, JSON, checksums) with a card. :func:`load` takes the folder.

        Arguments:
            folder: Where to write; its name is the model's. There must be nothing yet.
            half: Write weights in half precision, in half the space.
            note: Markdown that the card begins with.
            licence: Of the weights, as the hub names licences (``apache-2.0``, ``cc-by-4.0``); that of this package for
                the models that come with it, else ``unknown``.
        Returns: the folder.
        Raises: ValueError if the folder is there, or the checkpoint is none of a training.
        """
        return write(self, Path(folder).expanduser(), half, note, licence)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        private: bool = False,
        message: str = "Upload a flow map",
        token: str | None = None,
        half: bool = False,
        note: str | None = None,
        licence: str | None = None,
    ) -> str:
        """:meth:`save_pretrained` into a repository of a hub, from where :func:`from_pretrained` takes it.

        Arguments:
            repo_id: ``owner/name``; made if it is not there.
            revision: The branch; the main one by default.
            private: Whether a new repository is private.
            message: Of the commit.
            token: By default the one that ``hf auth login`` keeps.
        Returns: where to see it.
        Raises: CheckpointError in one line if the hub refuses or cannot be reached.
        """
        check_name(repo_id)
        with TemporaryDirectory() as place:
            folder = self.save_pretrained(Path(place) / repo_id.split("/")[1], half=half, note=note, licence=licence)
            return upload(folder, repo_id, revision, private, message, token)


def load(name: str | os.PathLike[str], device: str | torch.device = "auto", *, best: bool = False) -> Model:
    """The model of a checkpoint.

    Arguments:
        name: A model that comes with the package (``qm9``), the folder of a run, or one of its checkpoints.
        device: ``auto`` takes an accelerator where there is one.
        best: The best checkpoint of a run instead of its newest.
    Raises: CheckpointError, ValueError if it is missing, damaged or not of this package.
    """
    place, folder = find_device(device), find(name, best)
    config, state = read_config(folder), read_state(folder)
    with of_version(state):
        task = task_from(config)
        flow_map = built(task.build_map, 2 * size_of_map(folder) + 2**26)  # what its weights cannot fill is not built
        load_map(folder, flow_map)
    return Model(task, flow_map.to(place).eval(), folder, config, state, place)


def from_pretrained(
    name: str | os.PathLike[str],
    device: str | torch.device = "auto",
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | None = None,
) -> Model:
    """The model of a folder, of a name that comes with the package, or of a hub.

    Arguments:
        name: What :func:`load` takes; else ``owner/name`` of a model of a hub (``HF_ENDPOINT``).
        device: ``auto`` takes an accelerator where there is one.
        revision, cache_dir, local_files_only, token: Of a model of a hub, see :func:`~flowmaps.hub.remote.download`.
    Raises: CheckpointError, ValueError in one line if it is missing, damaged, of another version, or the hub cannot be
        reached. Nothing in a model is executed, whoever wrote it.
    """
    if packaged(name) or Path(name).expanduser().exists():
        if revision is not None:
            raise ValueError(f"{name} is a folder or comes with the package, which has no revision {revision!r}")
        return load(Path(name).expanduser(), device)
    if not NAME.fullmatch(str(name)):
        raise CheckpointError(f"no model {str(name)!r}; give a folder, one of {', '.join(shipped())}, or owner/name")
    return load(download(str(name), revision, cache_dir, local_files_only, token), device)


def shipped() -> list[str]:
    """The names of the models that come with the package."""
    return sorted({file.parent.name for place in MODELS for file in place.glob("*/config.json")})


@contextmanager
def of_version(state: Document) -> Iterator[None]:
    """Where a checkpoint of another version does not fit, say which version it is of.

    Raises: the ValueError of the block, with that version if there is one.
    """
    try:
        yield
    except ValueError as error:
        wrote = (state.get("versions") or {}).get("flowmaps")
        ours = versions()["flowmaps"]
        if wrote in (None, ours):
            raise
        remedy = f"install that one: pip install 'flowmaps=={wrote}'"
        raise type(error)(f"{error}; it was written by flowmaps {wrote} and this is {ours}, {remedy}") from error


def find(name: str | os.PathLike[str], best: bool = False) -> Path:
    """The checkpoint meant by a path, or the model of this name that comes with the package.

    Raises: CheckpointError if there is none or it is damaged.
    """
    shipped, which = packaged(name), "best" if best else "newest"
    if shipped is None or not Path(name).exists():
        return resolve(shipped or name, which)
    try:
        return resolve(name, which)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {name} here hides the model that comes with flowmaps, {shipped}") from None


def packaged(name: str | os.PathLike[str]) -> Path | None:
    """The folder of a model that comes with the package, if there is one of this name."""
    models = [place / name for place in MODELS if Path(name).name == str(name) and (place / name).is_dir()]
    return models[0] if models else None


@cache
def _say(folder: str, line: str) -> None:
    """Say a line once about each model."""
    if line:
        print(f"{Path(folder).name}: {line}", file=sys.stderr)


def find_device(name: str | torch.device) -> torch.device:
    """A device by name.

    Raises: ValueError if this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {str(name)!r} is not there ({str(error).splitlines()[0]}); use cpu or auto") from None
