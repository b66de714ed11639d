"""Few-step generation of categorical data with flow maps."""

from .fields import Batch, Condition
from .likelihood import CutOff, score
from .maps import EndpointMap, VelocityMap
from .networks import MLP, LinearHead, Transformer, UNet
from .objectives import (
    EndpointConsistency,
    Eulerian,
    EulerianKL,
    Lagrangian,
    LagrangianCE,
    LagrangianKL,
    SelfDistillation,
    Semigroup,
    SemigroupKL,
)
from .oracles import FiniteLaw, GaussianLaw
from .paths import LinearPath
from .samplers import Argmax, Categorical, Dopri5, Euler, EulerMaruyama, Heun, Jumps, generate
from .spaces import Embedded, OneHot, Product
from .times import DecodeRateClock
from .train import Trainer, load_map

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "Argmax",
    "Batch",
    "Categorical",
    "Condition",
    "CutOff",
    "DecodeRateClock",
    "Dopri5",
    "Embedded",
    "EndpointConsistency",
    "EndpointMap",
    "Euler",
    "EulerMaruyama",
    "Eulerian",
    "EulerianKL",
    "FiniteLaw",
    "GaussianLaw",
    "Heun",
    "Jumps",
    "Lagrangian",
    "LagrangianCE",
    "LagrangianKL",
    "LinearHead",
    "LinearPath",
    "OneHot",
    "Product",
    "SelfDistillation",
    "Semigroup",
    "SemigroupKL",
    "Trainer",
    "Transformer",
    "UNet",
    "VelocityMap",
    "generate",
    "load_map",
    "score",
]
