"""Rewards by name, from the table that each modality brings."""

from __future__ import annotations

import torch

from ..steering import Reward
from .base import Task


def reward(task: Task, text: str, device: torch.device | str = "cpu", **options: object) -> Reward:
    """A reward by name, with its argument behind a colon, such as ``class:3``.

    Arguments:
        device: Where the map runs.
        options: Of the modality's table, see its ``rewards``.
    Raises: ValueError if there is no such reward, or it does not accept its argument.
    """
    name, _, argument = text.partition(":")
    table, kind = task.rewards(torch.device(device), **options), type(task).__name__.lower()
    if name not in table:
        raise ValueError(f"no reward {name!r} for {kind}; there are {', '.join(table) or 'none'}")
    try:
        return table[name](argument)
    except (TypeError, ValueError) as error:
        hint = "" if argument else f"; an argument is written behind a colon, {name}:ARGUMENT"
        raise ValueError(f"reward {text!r}: {error}{hint}") from error


def number(argument: str) -> float | None:
    """The number behind a colon, if there is one."""
    return float(argument) if argument else None
