"""Trained models by name or path: ``flowmaps.load``, on which every command is built."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .configuration.parsing import task_from
from .fields import Data
from .maps import FlowMap
from .reading import Document
from .samplers import Jumps, Sampler
from .seeds import check_seed
from .tasks.base import Task
from .train import load_map, read_config, read_state, resolve, size_of_map
from .train.sizes import built

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

    @torch.no_grad()
    def sample(
        self, n: int, steps: int | Tensor = 1, seed: int = 0, sampler: Sampler | None = None, **options: object
    ) -> Data:
        """``n`` samples as the modality gives them; a seed reproduces them exactly.

        Arguments:
            steps: Jumps of the flow map, or their times.
            sampler: Another way from noise to data; ``steps`` then say nothing.
            options: Of the modality, see the ``sample`` of its task.
        """
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
    models = [place / name for place in MODELS if Path(name).name == str(name) and (place / name).is_dir()]
    return resolve(models[0] if models and not Path(name).exists() else name, "best" if best else "newest")


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
