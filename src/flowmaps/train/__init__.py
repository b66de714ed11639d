"""Training: the loop, its order and noise, and checkpoints that survive anything."""

from .checkpoint import export, load_map, read_config, read_state, resolve, size_of_map
from .ema import EMA
from .engine import Report, Trainer
from .optim import AdamW, Cosine
from .run import NonFiniteError
from .stream import Stream
from .tensors import CheckpointError

__all__ = ["EMA", "AdamW", "CheckpointError", "Cosine", "NonFiniteError", "Report", "Stream", "Trainer",
           "export", "load_map", "read_config", "read_state", "resolve", "size_of_map"]
