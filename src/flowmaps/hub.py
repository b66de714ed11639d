"""Trained models by name or path: ``flowmaps.load``, on which every command is built."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .configuration.parsing import task_from
from .fields import Data
from .maps import FlowMap
from .reading import Document
from .samplers import Jumps, Sampler
from .samplers.grids import TimeGrid
from .seeds import check_seed
from .tasks.base import Task
from .train import Tuned, load_map, read_config, read_grids, read_state, resolve, size_of_map
from .train.sizes import built

Choice = Literal["tuned", "uniform"]  # of a grid
MODELS = tuple(Path(__file__).parents[depth] / "models" for depth in (0, 2))  # of the package, of a working copy


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
        kept = self.grids if choice == "tuned" and steps > 1 else {}
        if steps in kept:
            tuned = kept[steps]
            what = f"equal, tuning by {tuned.record['metric']} found no better grid"
            return tuned.grid, f"{steps} steps: {what if tuned.equal else f'tuned grid {tuned.grid}'}"
        others = ", ".join(map(str, kept))
        return TimeGrid.uniform(steps), f"{steps} steps: equal, for grids of {others} steps were tuned" if kept else ""

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


def load(name: str | os.PathLike[str], device: str | torch.device = "auto", *, best: bool = False) -> Model:
    """The model of a checkpoint.

    Arguments:
        name: A model that comes with the package (``qm9``), the folder of a run, or one of its checkpoints.
        device: ``auto`` takes an accelerator where there is one.
        best: The best checkpoint of a run instead of its newest.
    Raises: CheckpointError, ValueError if it is missing, damaged or not of this package.
    """
    place, folder = find_device(device), find(name, best)
    config = read_config(folder)
    task = task_from(config)
    flow_map = built(task.build_map, 2 * size_of_map(folder) + 2**26)  # what its weights cannot fill is not built
    load_map(folder, flow_map)
    return Model(task, flow_map.to(place).eval(), folder, config, read_state(folder), place)


def find(name: str | os.PathLike[str], best: bool = False) -> Path:
    """The checkpoint meant by a path, or the model of this name that comes with the package.

    Raises: CheckpointError if there is none or it is damaged.
    """
    shipped = None if Path(name).exists() else packaged(name)
    return resolve(shipped or name, "best" if best else "newest")


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
