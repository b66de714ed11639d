"""Training: the loop, its order and noise, and checkpoints that survive anything."""

from ..ema import EMA
from .checkpoint import export, load_map, read_config, read_state, resolve, size_of_map
from .deferral import deferred
from .from_trajectories import FromTrajectories
from .grids import Tuned, keep_grid, read_grids
from .learner import NonFiniteError
from .muon import Muon
from .optim import AdamW, Cosine
from .run import Report
from .stream import Stream
from .tensors import CheckpointError
from .trainer import Trainer
from .two_stage import Autoguidance, TwoStage

__all__ = [
    "EMA",
    "AdamW",
    "Autoguidance",
    "CheckpointError",
    "Cosine",
    "FromTrajectories",
    "Muon",
    "NonFiniteError",
    "Report",
    "Stream",
    "Trainer",
    "Tuned",
    "TwoStage",
    "deferred",
    "export",
    "keep_grid",
    "load_map",
    "read_config",
    "read_grids",
    "read_state",
    "resolve",
    "size_of_map",
]
