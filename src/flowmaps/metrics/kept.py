"""Small reference networks that are trained once and kept as safetensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from safetensors.torch import load_file, save_file
from torch import nn

from ..files import replacing

Model = TypeVar("Model", bound=nn.Module)


def kept(path: Path, build: Callable[[], Model], train: Callable[[], Model], kind: str) -> Model:
    """The network of a file, frozen; trained and written first where there is none.

    Arguments:
        build: The untrained network, which the file fills.
        train: The trained network.
        kind: How complaints call it.
    Raises: ValueError if the file is damaged.
    """
    if not path.exists():
        model = train()
        with replacing(path) as temporary:
            save_file(model.state_dict(), temporary)
        return model
    model = build()
    try:
        model.load_state_dict(load_file(path), strict=True)
    except Exception as error:
        raise ValueError(f"{path} is not a whole {kind} ({error}); remove it, it will be trained again") from error
    return model.eval().requires_grad_(False)
