"""What the commands on checkpoints share: options, opening, and where results go."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import ArgumentParser, Namespace

from ..maps import FlowMap
from ..tasks.base import Task
from ..train import load_map, read_config, read_state, resolve
from .config import parser, task_from

MODELS = tuple(Path(__file__).parents[depth] / "models" for depth in (1, 3))  # of the package, of a working copy


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
    place = f"folder of the results (default: {command} in the run's folder)"
    if files:
        p.add_argument("--out", type=str, nargs="+", help=f"{place}; or files, such as picture.png")
    else:
        p.add_argument("--out", type=str | None, help=place)
    return p


def open_checkpoint(cfg: Namespace) -> Opened:
    """Open the checkpoint that is asked for.

    Raises: CheckpointError, ValueError if it is missing, damaged or not of this package.
    """
    device = find_device(cfg.device)
    folder = find(cfg.checkpoint, cfg.best)
    config = read_config(folder)
    task = task_from(config)
    map = task.build_map()
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


def results(out: str | None, opened: Opened, name: str) -> Path:
    """The folder for results of a command: ``--out``, or ``name`` in the folder of the run; never in the package."""
    if out:
        directory = Path(out)
    elif opened.folder.parent in MODELS:
        directory = Path(name) / opened.folder.name
    else:
        parent = opened.folder.absolute().parent
        directory = (parent.parent if parent.name == "checkpoint" else parent) / name
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file, expected a folder for the results; choose another --out")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def origin(opened: Opened) -> dict[str, Any]:
    """Which weights results belong to."""
    return {"checkpoint": str(opened.folder), "step": opened.state.get("step"), "device": str(opened.device)}
