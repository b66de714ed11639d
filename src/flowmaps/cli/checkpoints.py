"""What the commands on checkpoints share: options, opening, and where results go."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..configuration.parsing import parser, task_from
from ..files import numbered
from ..hub import Choice, Model, find, load
from ..reading import Document
from ..samplers.grids import TimeGrid
from ..seeds import check_seed
from ..tasks.base import Task
from ..train import CheckpointError, read_config
from ..train.checkpoint import run_of
from ..train.verdict import nothing_learned

METRICS = "metrics.json"  # what commands write into a folder beside the files of a task


def model_parser(command: str, description: str) -> ArgumentParser:
    """Options of every command that opens a checkpoint."""
    p = parser(command, description)
    p.add_argument("checkpoint", type=str, help="folder of a run, one of its checkpoints, or a model by name (qm9)")
    p.add_argument("--best", action="store_true", help="the best checkpoint of a run instead of its newest")
    p.add_argument("--device", default="auto", help="cpu, cuda, ...; auto takes an accelerator where there is one")
    return p


def open_model(cfg: Namespace) -> Model:
    """What the options of :func:`model_parser` name.

    Raises: CheckpointError, ValueError if it is missing, damaged or not of this package.
    """
    return load(cfg.checkpoint, cfg.device, best=cfg.best)


def checkpoint_parser(command: str, description: str, files: bool = False) -> ArgumentParser:
    """Options of every command with results; with ``files``, they may also go to files by name."""
    p = model_parser(command, description)
    p.add_argument("--seed", type=int, default=0, help="of noise and decoding; a seed reproduces samples exactly")
    place = "folder of the results (default: a new one in the run's folder)"
    p.add_argument("--overwrite", action="store_true", help="replace earlier results")
    if files:
        p.add_argument("--out", type=str, nargs="+", help=f"{place}; or files, such as picture.png")
    else:
        p.add_argument("--out", type=str | None, help=place)
    return p


def open_checkpoint(cfg: Namespace) -> Model:
    """Open the checkpoint that is asked for.

    Raises: CheckpointError, ValueError if it is missing, damaged or not of this package.
    """
    check_seed(cfg.seed)
    return open_model(cfg)


def say_if_empty(opened: Model) -> None:
    """Say beside results that the model behind them has learned nothing."""
    if empty := nothing_learned(opened.state.get("step") or 0, opened.config):
        print(f"{opened.folder}: {empty}", file=sys.stderr)


def add_grid(p: ArgumentParser) -> None:
    """The option that says which times jumps take."""
    p.add_argument("--grid", type=Choice, default="tuned", help="tuned: the times that `flowmaps tune` found, if it did; uniform: equal steps")  # fmt: skip  # noqa: E501


def grid_of(opened: Model, steps: int, choice: Choice) -> TimeGrid:
    """The times of some jumps; a line tells what was chosen, if there was anything to choose from."""
    grid, line = opened.grid(steps, choice)
    if line:
        print(line)
    return grid


def modality(arguments: Sequence[str]) -> type[Task]:
    """The class of the checkpoint's task, whose methods declare options; of any task where there is no checkpoint.

    Raises: CheckpointError, ValueError if the checkpoint cannot be used, unless help is asked for.
    """
    paths = [text for text in arguments[:1] if not text.startswith("-")]
    try:
        return type(task_from(read_config(find(paths[0], "--best" in arguments)))) if paths else Task
    except CheckpointError:
        if {"-h", "--help"} & set(arguments):
            return Task
        raise


def add_options(p: ArgumentParser, kind: type[Task], method: str) -> list[str]:
    """What a method of a modality takes by keyword, beyond what every task's does, as options; their names."""
    shared: set[str | int] = set(inspect.signature(getattr(Task, method)).parameters)
    names = p.add_method_arguments(kind, method, skip=shared - {"self"}, as_group=True)
    for action in p._actions:
        if action.dest in names and action.default is False:  # --surrogate alone says true
            action.nargs, action.const = "?", True
    return names


def chosen_options(chosen: Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The values of a modality's options that were given."""
    return {name: getattr(chosen, name) for name in names if getattr(chosen, name) is not None}


def check_out(cfg: Namespace, task: Task, *more: str) -> None:
    """Refuse, before anything is computed, to replace results in a folder that ``--out`` names.

    Arguments:
        more: Patterns of further results than those of every command.
    Raises: ValueError naming the first file that is in the way.
    """
    for name in [cfg.out] if isinstance(cfg.out, str) else cfg.out or []:
        check_absent(
            (path for pattern in (METRICS, *more, *task.files) for path in sorted(Path(name).glob(pattern))),
            cfg.overwrite,
        )


def check_absent(paths: Iterable[Path], overwrite: bool) -> None:
    """Refuse to replace a file, unless that is asked for.

    Raises: ValueError naming the first that exists.
    """
    for path in paths:
        if path.exists() and not overwrite:
            raise ValueError(f"{path} is there already; choose another --out, or add --overwrite to replace it")


def results(cfg: Namespace, opened: Model, name: str) -> Path:
    """The folder for results of a command: ``--out``, or ``name`` in the folder of the run; never in the package.

    Without ``--out`` and ``--overwrite`` it is a new one: where there is a ``name`` already, ``name-2`` and so on.
    """
    directory = place_of(cfg, opened, name)
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file, expected a folder for the results; choose another --out")
    if not cfg.out and not cfg.overwrite:
        return new_folder(directory)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def place_of(cfg: Namespace, opened: Model, name: str) -> Path:
    """The folder that results of a command go to if there are none yet."""
    if cfg.out:
        return Path(cfg.out if isinstance(cfg.out, str) else cfg.out[0])
    if opened.shipped:
        return Path(name) / opened.folder.name
    return (run_of(opened.folder) or opened.folder.absolute().parent) / name


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


def origin(opened: Model) -> Document:
    """Which weights results belong to."""
    return {"checkpoint": str(opened.folder), "step": opened.state.get("step"), "device": str(opened.device)}
