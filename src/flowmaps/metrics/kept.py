"""Small reference networks that are trained once and kept as safetensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..files import replacing

Model = TypeVar("Model", bound=nn.Module)


def fitted(
    model: Model, loss: Callable[[], Tensor], steps: int, lr: float, weight_decay: float, clip: float = math.inf
) -> Model:
    """The model after ``steps`` updates by AdamW under a one-cycle learning rate, frozen.

    Arguments:
        loss: That of the next batch.
        clip: Largest norm of the gradient.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps)
    for _ in range(steps):
        value = loss()
        optimiser.zero_grad()
        value.backward()
        if clip < math.inf:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        schedule.step()
    return model.eval().requires_grad_(False)


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
