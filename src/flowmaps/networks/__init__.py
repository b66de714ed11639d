"""Networks ``(x, s, t, condition) -> features or logits``, and heads from features to logits."""

from .attention import Attention, automatic, fused, paired, plain, use_backend
from .base import Network
from .convolutions import Convolutions
from .embeddings import Context, Label, Modulation, TimeFeatures, input_scale, own_time
from .heads import Head, LinearHead, TiedHead
from .metric import InMetric
from .mlp import MLP
from .points import PointNetwork
from .transformer import Transformer
from .unet import UNet

__all__ = [
    "MLP",
    "Attention",
    "Context",
    "Convolutions",
    "Head",
    "InMetric",
    "Label",
    "LinearHead",
    "Modulation",
    "Network",
    "PointNetwork",
    "TiedHead",
    "TimeFeatures",
    "Transformer",
    "UNet",
    "automatic",
    "fused",
    "input_scale",
    "own_time",
    "paired",
    "plain",
    "use_backend",
]
