"""From YAML and the command line to objects: a configuration is task, objective and trainer, each the arguments of a
class of this package."""

from __future__ import annotations

import argparse
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import jsonargparse
import torch
from jsonargparse import ArgumentParser, Namespace

from ..maps import FlowMap
from ..objectives import Objective
from ..seeds import check_seed
from ..tasks.base import Task
from ..times import MOST_STEPS
from ..train import Trainer, read_config, resolve
from ..train.sizes import built
from ..train.state import changes
from .complaints import in_short
from .extras import EXTRA_OF, lacking
from .presets import closest
from .trusted import LISTED, check, checked

FOUND_AT_RUN_TIME: set[str | int] = {"objective", "train_data", "valid_data", "directory", "config", "evaluate"}


class Experiment(NamedTuple):
    """A configuration come alive.

    Arguments:
        task: With its data not yet loaded.
        objective: Builds the training loss of a map.
        trainer: Arguments of :class:`~flowmaps.train.Trainer`, by name.
        config: The whole configuration as JSON values.
    """

    task: Task
    objective: Callable[[FlowMap], Objective]
    trainer: dict[str, Any]
    config: dict[str, Any]

    def fit_on(self, directory: Path, evaluate: Callable[..., Any] | None = None) -> Trainer:
        """The trainer of a new map, whose weights are a function of the seed."""
        config = {**self.config, "state": self.task.state()}
        self._check_first_stage()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(check_seed(self.trainer["seed"]))
            objective = self.objective(built(self.task.build_map))
        data = self.task.train_data, self.task.valid_data
        return Trainer(objective, *data, directory, config=config, evaluate=evaluate, **self.trainer)

    def _check_first_stage(self) -> None:
        """Refuse a first stage whose categories mean something else; it may have been trained on other examples."""
        base = (self.config["objective"].get("init_args") or {}).get("base")
        before = None if base is None else read_config(resolve(base)).get("state")
        if not isinstance(before, Mapping):
            return
        learned = {name: piece for name, piece in self.task.state().items() if name != "data"}
        if found := changes(before, learned):
            raise ValueError(f"{base} was trained on other categories: {found}; train both stages on the same data")


def parser(command: str, description: str) -> ArgumentParser:
    """A parser that raises instead of leaving the program."""
    name = f"flowmaps {command}"
    return ArgumentParser(prog=name, description=description, exit_on_error=False, allow_abbrev=False)


def training_parser(command: str, description: str) -> ArgumentParser:
    """Options ``--task``, ``--objective`` and ``--trainer`` with everything below them; ``--print_config``."""
    p = parser(command, description)
    p.add_argument("--config", action="config", help="a further YAML file whose values override the preset")
    p.add_argument("--task", type=Task, help="what is learned: data, network and metrics of a modality")
    p.add_argument(
        "--objective",
        type=Callable[[FlowMap], Objective],
        default={"class_path": "flowmaps.objectives.SelfDistillation"},
        help="how it is learned",
    )
    p.add_class_arguments(Trainer, "trainer", skip=FOUND_AT_RUN_TIME, instantiate=False)
    return p


def parse(p: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """The parsed arguments.

    Raises: ValueError in one line, with the nearest names that are known, if something does not fit.
    """
    harmless = checked(arguments)
    try:
        return p.parse_args(harmless)
    except (jsonargparse.ArgumentError, argparse.ArgumentError) as error:
        files = [text.partition("=")[2] for text in arguments if text.startswith("--config=")]
        where = f"{files[0]}: " if files and 'key "config"' in str(error) else ""
        raise ValueError(where + _in_short(str(error), p)) from error


def experiment(p: ArgumentParser, cfg: Namespace) -> Experiment:
    """Build what a parsed configuration describes; nothing is loaded yet.

    Raises: ValueError if an argument is out of its range.
    """
    config = as_json(p, cfg)
    if not config.get("task"):
        raise ValueError("the configuration has no task; name one: --task flowmaps.tasks.images.Images")
    objects = built_by(p, cfg, config)
    return Experiment(objects.task, objects.objective, dict(vars(objects.trainer)), config)


def as_json(p: ArgumentParser, cfg: Namespace) -> dict[str, Any]:
    """Task, objective and trainer of a configuration as JSON values."""
    try:
        values = json.loads(p.dump(cfg, format="json", skip_unset=False))
    except TypeError as error:
        raise ValueError(_in_short(str(error), p)) from error
    return {name: values[name] for name in ("task", "objective", "trainer") if name in values}


def task_from(config: Mapping[str, Any]) -> Task:
    """The task of a checkpoint's configuration, with the state that its data taught.

    Raises: ValueError if the configuration is not one of this package; nothing outside of it is ever imported.
    """
    if not isinstance(config.get("task"), Mapping) or not isinstance(config.get("state"), Mapping):
        raise ValueError("the checkpoint's config.json has no task and state; it was not written by `flowmaps train`")
    check(config["task"], "task")
    p = parser("task", "")
    p.add_argument("--task", type=Task)
    try:
        cfg = p.parse_object({"task": dict(config["task"])})
    except (jsonargparse.ArgumentError, argparse.ArgumentError) as error:
        said = in_short(str(error))
        raise ValueError(f"config.json does not fit this version: {said}; give a whole checkpoint") from error
    task = built_by(p, cfg, {"task": config["task"]}).task
    task.restore(config["state"])
    return task


def built_by(p: ArgumentParser, cfg: Namespace, config: Mapping[str, Any]) -> Namespace:
    """The objects that a parsed configuration describes.

    Raises: ValueError if a setting is null that may not be, or a class refuses its arguments.
    """
    for name, part in config.items():
        _check_nulls(part, name, Trainer if name == "trainer" else None)
    try:
        return p.instantiate(cfg)
    except (jsonargparse.ArgumentError, argparse.ArgumentError, ValueError) as error:
        raise ValueError(in_short(str(error)) if "Subtypes: [" in str(error) else str(error)) from error


def _check_nulls(tree: Any, where: str, cls: Any = None) -> None:
    """The parser takes null for every setting; only those with ``None`` in their type can do with it."""
    if isinstance(tree, list):
        for part in tree:
            _check_nulls(part, where)
    if not isinstance(tree, Mapping):
        return
    if "class_path" in tree:
        known_class = tree["class_path"] in LISTED
        return _check_nulls(tree.get("init_args", {}), where, _class(tree["class_path"]) if known_class else None)
    known = inspect.signature(cls).parameters if cls else {}
    for name, part in tree.items():
        if part is None and name in known and "None" not in str(known[name].annotation):
            raise ValueError(f"{where}.{name} is null, expected a value; leave it out for {known[name].default!r}")
        _check_nulls(part, f"{where}.{name}")


def steps_list(text: str) -> list[int]:
    """Step counts separated by commas.

    >>> steps_list("1,2,4")
    [1, 2, 4]
    """
    try:
        steps = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"steps are {text!r}, expected whole numbers separated by commas, such as 1,2,4") from None
    if min(steps) < 1:
        raise ValueError(f"steps is {min(steps)}, expected at least 1")
    if max(steps) > MOST_STEPS:
        raise ValueError(f"steps is {max(steps)}, expected 1 to {MOST_STEPS}")
    return list(dict.fromkeys(steps))


def _in_short(message: str, p: ArgumentParser) -> str:
    """The parser's complaint in one line, with the nearest name that is known."""
    text = " ".join(message.split())
    if (absent := re.search(r"No module named '([\w.]+)'", text)) and absent[1].split(".")[0] in EXTRA_OF:
        return lacking(absent[1])
    found = re.search(r"class_path '([\w.]+)': Option '(\w+)' is not accepted", text)
    if found and found[1] in LISTED:
        known = inspect.signature(_class(found[1])).parameters
        said = f"{found[1]} has no argument {found[2]!r}{closest(found[2], known)}"
    elif found := re.search(r"Import path does not correspond to a subclass of (\w+).*Given value: (\S+)\. Got", text):
        said = f"{found[2]} is not a {found[1]} of this package"
    else:
        said = in_short(text)
        options = list(p.get_defaults().keys(branches=True))
        unknown = re.search(r"(?:[Uu]nrecognized arguments: --|[Kk]ey ['\"])([\w.]+)(.*not expected)?", said)
        said += closest(unknown[1], options) if unknown and unknown[1] not in options else ""
    return f"{said}; `{p.prog} --help` lists the options"


def _class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
