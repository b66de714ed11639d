"""What a run is at one moment, besides its map: the optimiser, other weights of the objective, sums for the log."""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Mapping, Sized
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor, nn

from .tensors import CheckpointError, canonical, fill, read_tensors

log = logging.getLogger("flowmaps.train")
OBJECTIVE, OPTIMISER, WINDOW = "objective/", "optimizer/", "window"


@cache
def versions() -> dict[str, str]:
    """The versions of what a run's numbers depend on."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("flowmaps", "numpy", "lightning", "safetensors"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def training_tensors(objective: nn.Module, optimizer: torch.optim.Optimizer, window: Tensor) -> dict[str, Tensor]:
    """Everything a resumed run needs that is neither the map nor an integer."""
    return {
        **{OBJECTIVE + name: tensor for name, tensor in besides_map(objective).items()},
        **{OPTIMISER + name: tensor for name, tensor in optimiser_tensors(objective, optimizer).items()},
        WINDOW: window,
    }


def restore_training(path: Path, objective: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    """Fill objective and optimiser from a file of :func:`training_tensors`.

    Returns: the sums for the log.
    Raises: CheckpointError if a name, shape or type differs.
    """
    live = {OBJECTIVE + name: tensor for name, tensor in besides_map(objective).items()}
    parameters = dict(objective.named_parameters())
    like = lambda name: live.get(name, parameters.get(name.removeprefix(OPTIMISER).rpartition("/")[0]))  # noqa: E731
    stored, sharing = read_tensors(path, like=like)
    window = stored.pop(WINDOW, torch.zeros(0))
    moments = {name: stored.pop(name) for name in list(stored) if name.startswith(OPTIMISER)}
    fill(live, stored, sharing, path)
    _restore_optimiser(path, objective, optimizer, moments)
    return window


def besides_map(objective: nn.Module) -> dict[str, Tensor]:
    """The objective's state that is not its map's: learned weights, teachers that are not the map itself."""
    state = objective.state_dict()
    of_map = {name: tensor for name, tensor in state.items() if name.startswith("flow_map.")}
    kept, _ = canonical({**of_map, **state})
    return {name: tensor for name, tensor in kept.items() if name not in of_map}


def optimiser_tensors(objective: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as ``parameter/quantity``."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in objective.named_parameters()}
    return {
        f"{names[parameter]}/{quantity}": tensor
        for parameter, state in optimizer.state.items()
        for quantity, tensor in state.items()
    }


def _restore_optimiser(
    path: Path, objective: nn.Module, optimizer: torch.optim.Optimizer, stored: Mapping[str, Tensor]
) -> None:
    parameters = dict(objective.named_parameters())
    states: dict[str, dict[str, Tensor]] = {}
    for name, tensor in stored.items():
        owner, quantity = name.removeprefix(OPTIMISER).rsplit("/", 1)
        if owner not in parameters or tensor.ndim and tensor.shape != parameters[owner].shape:
            raise CheckpointError(
                f"{path} does not fit this model: {name} of shape {tuple(tensor.shape)} has "
                "no parameter of that name and shape; build the model from the config.json beside it"
            )
        states.setdefault(owner, {})[quantity] = tensor
    names = {parameter: name for name, parameter in parameters.items()}
    order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.load_state_dict(
        {
            "state": {i: states[name] for i, name in enumerate(order) if name in states},
            "param_groups": optimizer.state_dict()["param_groups"],
        }
    )


def changes(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """What differs of the pieces that both sides have, in words; nothing if nothing does.

    >>> changes({"levels": 2, "atoms": ["C", "O"]}, {"levels": 2, "atoms": ["O", "C"]})
    "atoms was ['C', 'O'] and is now ['O', 'C']"
    """
    found = [line for name in before if name in now for line in _differing(name, before[name], now[name])]
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    return "; ".join(found[:4]) + more


def _differing(name: str, before: object, now: object) -> list[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        names = dict.fromkeys((*before, *now))
        return [line for key in names for line in _differing(f"{name}.{key}", before.get(key), now.get(key))]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now) > 12:
        return [line for i in range(len(now)) for line in _differing(f"{name}[{i}]", before[i], now[i])]
    if before == now or _close(before, now):
        return []
    return [f"{name} was {_short(before)} and is now {_short(now)}"]


def _close(before: object, now: object) -> bool:
    """Whether two means or deviations differ by what another machine rounds."""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return all(map(_close, before, now))
    return isinstance(before, float) and isinstance(now, float) and math.isclose(before, now, rel_tol=1e-6)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(value):,} long)" if isinstance(value, Sized) else text


def check_same_run(state: Mapping[str, object], here: Mapping[str, object], folder: Path) -> None:
    """Refuse to continue a run under another seed, batch size or data, which would be neither run.

    What the checkpoint of an earlier version did not keep cannot be compared.

    Raises: CheckpointError naming the first value that differs.
    """
    for name, value in here.items():
        if name in state and state[name] != value:
            raise CheckpointError(
                f"{folder} was trained with {name} = {state.get(name)}, and now it is {value}; "
                f"resume with the former, or start in another directory"
            )


def warn_of_parts(state: Mapping[str, int], parts: int) -> None:
    """Say so if a batch was cut into another number of parts, each of which has its own noise."""
    before = state.get("processes", 1) * state.get("accumulation", 1)
    if before != parts:
        log.warning(
            "a batch was cut into %d parts (processes times accumulation) and now is into %d, with other "
            "noise: the run goes on, but not bit for bit",
            before,
            parts,
        )
