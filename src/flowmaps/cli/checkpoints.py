"""What the commands on checkpoints share: options, opening, and where results go."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import ArgumentParser, Namespace

from ..files import numbered
from ..maps import FlowMap
from ..seeds import check_seed
from ..tasks.base import Task
from ..train import load_map, read_config, read_state, resolve, size_of_map
from ..train.sizes import built
from .config import parser, task_from

MODELS = tuple(Path(__file__).parents[depth] / "models" for depth in (1, 3))  # of the package, of a working copy
RESULTS = ("metrics.json", "samples.*", "molecules-*.*", "frontier.png")  # what commands write into a folder


class Opened(NamedTuple):
    """A checkpoint: its folder, task, map in evaluation mode with averaged weights, configuration and records."""

    folder: Path
    task: Task
    map: FlowMap
    config: dict[str, Any]
    state: dict[str, Any]
    device: torch.device

    def generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)


def checkpoint_parser(command: str, description: str, files: bool = False) -> ArgumentParser:
    """Options of every command on a checkpoint; with ``files``, results may also go to files by name."""
    p = parser(command, description)
    p.add_argument("checkpoint", type=str, help="folder of a run, one of its checkpoints, or a model by name (qm9)")
    p.add_argument("--best", action="store_true", help="the best checkpoint of a run instead of its newest")
    p.add_argument("--seed", type=int, default=0, help="of noise and decoding; a seed reproduces samples exactly")
    p.add_argument("--device", default="auto", help="cpu, cuda, ...; auto takes an accelerator where there is one")
    place = "folder of the results (default: a new one in the run's folder)"
    p.add_argument("--overwrite", action="store_true", help="replace earlier results")
    if files:
        p.add_argument("--out", type=str, nargs="+", help=f"{place}; or files, such as picture.png")
    else:
        p.add_argument("--out", type=str | None, help=place)
    return p


def open_checkpoint(cfg: Namespace) -> Opened:
    """Open the checkpoint that is asked for.

    Raises: CheckpointError, ValueError if it is missing, damaged or not of this package.
    """
    check_seed(cfg.seed)
    device = find_device(cfg.device)
    folder = find(cfg.checkpoint, cfg.best)
    config = read_config(folder)
    task = task_from(config)
    map = built(task.build_map, 2 * size_of_map(folder) + 2**26)  # what its weights cannot fill is not built
    load_map(folder, map)
    return Opened(folder, task, map.to(device).eval(), config, read_state(folder), device)


def find(name: str, best: bool = False) -> Path:
    """The checkpoint meant by a path, or the model of this name that comes with the package.

    Raises: CheckpointError if there is none or it is damaged.
    """
    models = [place / name for place in MODELS if Path(name).name == name and (place / name).is_dir()]
    return resolve(models[0] if models and not Path(name).exists() else name, "best" if best else "newest")


def find_device(name: str) -> torch.device:
    """A device by name.

    Raises: ValueError if this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} is not there ({str(error).splitlines()[0]}); use cpu or auto") from None


def check_out(cfg: Namespace) -> None:
    """Refuse, before anything is computed, to replace results in a folder that ``--out`` names.

    Raises: ValueError naming the first file that is in the way.
    """
    for name in [cfg.out] if isinstance(cfg.out, str) else cfg.out or []:
        check_absent((path for pattern in RESULTS for path in sorted(Path(name).glob(pattern))), cfg.overwrite)


def check_absent(paths: Iterable[Path], overwrite: bool) -> None:
    """Refuse to replace a file, unless that is asked for.

    Raises: ValueError naming the first that exists.
    """
    for path in paths:
        if path.exists() and not overwrite:
            raise ValueError(f"{path} is there already; choose another --out, or add --overwrite to replace it")


def results(cfg: Namespace, opened: Opened, name: str) -> Path:
    """The folder for results of a command: ``--out``, or ``name`` in the folder of the run; never in the package.

    Without ``--out`` and ``--overwrite`` it is a new one: where there is a ``name`` already, ``name-2`` and so on.
    """
    if cfg.out:
        directory = Path(cfg.out if isinstance(cfg.out, str) else cfg.out[0])
    elif opened.folder.parent in MODELS:
        directory = Path(name) / opened.folder.name
    else:
        parent = opened.folder.absolute().parent
        directory = (parent.parent if parent.name == "checkpoint" else parent) / name
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file, expected a folder for the results; choose another --out")
    if not cfg.out and not cfg.overwrite:
        return new_folder(directory)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def new_folder(directory: Path) -> Path:
    """Make ``directory``, or ``directory-2``, ... where there is one that holds something."""
    place = directory
    while True:
        with suppress(FileExistsError):
            place.mkdir(parents=True)
            return place
        if place.is_dir() and not any(place.iterdir()):
            return place
        place = numbered(directory, first=2)


def origin(opened: Opened) -> dict[str, Any]:
    """Which weights results belong to."""
    return {"checkpoint": str(opened.folder), "step": opened.state.get("step"), "device": str(opened.device)}
