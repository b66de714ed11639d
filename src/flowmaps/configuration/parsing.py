"""Parsers of commands and configurations, whose every complaint is one line."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping, Sequence

import jsonargparse
import yaml
from jsonargparse import ArgumentParser, Namespace

from ..tasks.base import Task
from .complaints import RENAMED, class_at, complaint, in_short
from .trusted import LISTED, check, checked

MODE = "flowmaps"  # of values: YAML, and None for null


def value_of(text: str) -> object:
    """A value as it is written: YAML, and None for null, which jsonargparse itself makes of a null two classes deep."""
    return None if text.strip() == "None" else jsonargparse.get_loader("yaml")(text)


jsonargparse.set_loader(MODE, value_of, exceptions=(yaml.YAMLError,))


def parser(command: str, description: str) -> ArgumentParser:
    """A parser that raises instead of leaving the program."""
    name = f"flowmaps {command}"
    return ArgumentParser(prog=name, description=description, exit_on_error=False, allow_abbrev=False, parser_mode=MODE)


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
        raise ValueError(f"{where}{complaint(str(error), p)}; `{p.prog} --help` lists the options") from error


def task_from(config: Mapping[str, object]) -> Task:
    """The task of a checkpoint's configuration, with the state that its data taught.

    Raises: ValueError if the configuration is not one of this package; nothing outside of it is ever imported.
    """
    described, state = config.get("task"), config.get("state")
    if not isinstance(described, Mapping) or not isinstance(state, Mapping):
        raise ValueError("the checkpoint's config.json has no task and state; it was not written by `flowmaps train`")
    check(described, "task")
    settings = described.get("init_args")
    for name in RENAMED.keys() & (settings if isinstance(settings, Mapping) else {}):
        raise ValueError(f"config.json is of an earlier version, whose {name} is no more: {RENAMED[name]}")
    p = parser("task", "")
    p.add_argument("--task", type=Task)
    try:
        cfg = p.parse_object({"task": dict(described)})
    except (jsonargparse.ArgumentError, argparse.ArgumentError) as error:
        said = complaint(str(error), p)
        raise ValueError(f"config.json does not fit this version: {said}; give a whole checkpoint") from error
    task: Task = built_by(p, cfg, {"task": described}).task
    task.restore(state)
    return task


def built_by(
    p: ArgumentParser, cfg: Namespace, config: Mapping[str, object], roots: Mapping[str, type] | None = None
) -> Namespace:
    """The objects that a parsed configuration describes.

    Arguments:
        roots: The classes of the parts that do not name one.
    Raises: ValueError if a setting is null that may not be, or a class refuses its arguments.
    """
    for name, part in config.items():
        _check_nulls(part, name, (roots or {}).get(name))
    try:
        return p.instantiate(cfg)
    except (jsonargparse.ArgumentError, argparse.ArgumentError, ValueError) as error:
        raise ValueError(in_short(str(error)) if "Subtypes: [" in str(error) else str(error)) from error


def _check_nulls(tree: object, where: str, cls: type | None = None) -> None:
    """The parser takes null for every setting; only those with ``None`` in their type can do with it."""
    if isinstance(tree, list):
        for part in tree:
            _check_nulls(part, where)
    if not isinstance(tree, Mapping):
        return
    if "class_path" in tree:
        path = tree["class_path"]
        return _check_nulls(tree.get("init_args", {}), where, class_at(path) if path in LISTED else None)
    known = inspect.signature(cls).parameters if cls else {}
    for name, part in tree.items():
        if part is None and name in known and "None" not in str(known[name].annotation):
            raise ValueError(f"{where}.{name} is null, expected a value; leave it out for {known[name].default!r}")
        _check_nulls(part, f"{where}.{name}")
