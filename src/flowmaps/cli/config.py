"""From YAML and the command line to objects: a configuration is task, objective and trainer, each the arguments of a
class of this package."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import ArgumentParser, Namespace

from ..configuration.complaints import complaint
from ..configuration.parsing import built_by, parse, parser
from ..maps import FlowMap
from ..objectives import Objective
from ..reading import Document, most_bytes
from ..seeds import check_seed
from ..tasks.base import Task
from ..times import MOST_STEPS
from ..train import Trainer, read_config, resolve
from ..train.deferral import deferred
from ..train.parallel import SHARDED
from ..train.sizes import NETWORK, built, within
from ..train.state import changes
from .presets import find_preset

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
    config: Document

    def fit_on(self, directory: Path | None, evaluate: Callable[..., Any] | None = None) -> Trainer:
        """The trainer of a new map, whose weights are a function of the seed."""
        config = {**self.config, "state": self.task.state()}
        self._check_first_stage()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(check_seed(self.trainer["seed"]))
            objective = self._deferred() if self.trainer["strategy"] == SHARDED else self._built()
        data = self.task.train_data, self.task.valid_data
        return Trainer(objective, *data, directory, config=config, evaluate=evaluate, **self.trainer)

    def _built(self) -> Objective:
        return self.objective(built(self.task.build_map))

    def _deferred(self) -> Objective:
        """The objective without memory, whose weights each process makes for its shards alone."""

        def build() -> Objective:
            with within(most_bytes(NETWORK)):
                flow_map = self.task.build_map()
            return self.objective(flow_map)

        return deferred(build)

    def _check_first_stage(self) -> None:
        """Refuse a first stage whose categories mean something else; it may have been trained on other examples."""
        base = (self.config["objective"].get("init_args") or {}).get("base")
        before = None if base is None else read_config(resolve(base)).get("state")
        if not isinstance(before, Mapping):
            return
        learned = {name: piece for name, piece in self.task.state().items() if name != "data"}
        if found := changes(before, learned):
            raise ValueError(f"{base} was trained on other categories: {found}; train both stages on the same data")


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


def preset_of(p: ArgumentParser, arguments: Sequence[str], example: str) -> Path | None:
    """The file of the preset that a command line begins with; ``None`` if it asks for help, which is then printed.

    Raises: ValueError if it begins with none; ``example`` shows how.
    """
    if arguments and not arguments[0].startswith("-"):
        return find_preset(arguments[0])
    if {"-h", "--help"} & set(arguments):
        p.print_help()
        return None
    raise ValueError(f"{example.split()[1]} needs a preset first: {example}; `flowmaps presets` lists them")


def add_own_data(p: ArgumentParser) -> None:
    """The option that :func:`parse_with_own_data` reads."""
    text = "a file or folder of one's own, for texts also a URL, instead of the preset's data"
    p.add_argument("--data.path", type=str | None, help=text)


def parse_with_own_data(p: ArgumentParser, preset: Path, arguments: Sequence[str]) -> Namespace:
    """The settings of a preset with the options after its name; data of one's own become options of its task."""
    given = [f"--config={preset}", *arguments[1:]]
    cfg = parse(p, given)
    if cfg.data.path:
        own = experiment(p, cfg).task.own_data(cfg.data.path)
        cfg = parse(p, [*given, *(f"--task.{name}={value}" for name, value in own.items())])
    return cfg


def experiment(p: ArgumentParser, cfg: Namespace) -> Experiment:
    """Build what a parsed configuration describes; nothing is loaded yet.

    Raises: ValueError if an argument is out of its range.
    """
    config = as_json(p, cfg)
    if not config.get("task"):
        raise ValueError("the configuration has no task; name one: --task flowmaps.tasks.images.Images")
    objects = built_by(p, cfg, config, {"trainer": Trainer})
    return Experiment(objects.task, objects.objective, dict(vars(objects.trainer)), config)


def as_json(p: ArgumentParser, cfg: Namespace) -> Document:
    """Task, objective and trainer of a configuration as JSON values."""
    try:
        values = json.loads(p.dump(cfg, format="json", skip_unset=False))
    except TypeError as error:
        raise ValueError(complaint(str(error), p)) from error
    return {name: _plain(values[name]) for name in ("task", "objective", "trainer") if name in values}


def _plain(value: Any) -> Any:  # noqa: ANN401  (JSON)
    """A dumped value, without the settings of a class that stand beside its name a second time."""
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if not isinstance(value, dict):
        return value
    kept = ("class_path", "init_args", "dict_kwargs") if "class_path" in value else tuple(value)
    return {name: _plain(part) for name, part in value.items() if name in kept}


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
