"""Where else the records of a run go: event files of TensorBoard, a project of Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .logs import Monitor
from .settings import Reporting

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Events:
    """Event files of TensorBoard, from a step on; those that a killed run left beyond it are passed over."""

    def __init__(self, directory: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer: SummaryWriter = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def finalize(self, status: str) -> None:
        self._writer.close()


def monitors(asked: Reporting, directory: Path, step: int) -> list[Monitor]:
    """The monitors of a run: TensorBoard where it is installed unless it is switched off, the others where asked for.

    Arguments:
        directory: Of the run; offline, records of Weights & Biases are kept in its ``wandb`` (``WANDB_MODE=offline``).
        step: Updates that earlier sessions have recorded.
    """
    found: list[Monitor] = []
    if asked.tensorboard or asked.tensorboard is None and find_spec("tensorboard"):
        found.append(Events(directory, step))
    if asked.wandb:
        from lightning.pytorch.loggers import WandbLogger

        found.append(WandbLogger(project=asked.wandb, name=directory.name, save_dir=str(directory)))
    return found
