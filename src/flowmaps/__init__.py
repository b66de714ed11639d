"""Few-step generation of categorical data with flow maps."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .configuration.trusted import trust
    from .fields import Batch, Condition
    from .hub import from_pretrained, load
    from .likelihood import CutOff, score
    from .maps import NSF, CircularNSF, EndpointMap, FewStep, RealNVP, TransformerFlow, VelocityMap
    from .networks import MLP, LinearHead, Transformer, UNet
    from .objectives import (
        EndpointConsistency,
        Eulerian,
        EulerianKL,
        Lagrangian,
        LagrangianCE,
        LagrangianKL,
        MaximumLikelihood,
        RegFlow,
        SelfDistillation,
        Semigroup,
        SemigroupKL,
    )
    from .oracles import FiniteLaw, GaussianLaw
    from .paths import GeodesicPath
    from .samplers import Argmax, Categorical, Dopri5, Euler, EulerMaruyama, Heun, Jumps, generate
    from .spaces import Embedded, OneHot, Product
    from .times import DecodeRateClock
    from .train import Trainer, load_map

__version__ = "0.2.0"

# Room to names: each is imported when it is first asked for, so that `flowmaps --help` does not wait for torch.
_ROOMS = {
    "configuration.trusted": "trust",
    "fields": "Batch Condition",
    "hub": "from_pretrained load",
    "likelihood": "CutOff score",
    "maps": "CircularNSF EndpointMap FewStep NSF RealNVP TransformerFlow VelocityMap",
    "networks": "MLP LinearHead Transformer UNet",
    "objectives": "EndpointConsistency Eulerian EulerianKL Lagrangian LagrangianCE LagrangianKL MaximumLikelihood "
    "RegFlow SelfDistillation Semigroup SemigroupKL",
    "oracles": "FiniteLaw GaussianLaw",
    "paths": "GeodesicPath",
    "samplers": "Argmax Categorical Dopri5 Euler EulerMaruyama Heun Jumps generate",
    "spaces": "Embedded OneHot Product",
    "times": "DecodeRateClock",
    "train": "Trainer load_map",
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names.split()}
__all__ = [
    "MLP",
    "NSF",
    "Argmax",
    "Batch",
    "Categorical",
    "CircularNSF",
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
    "FewStep",
    "FiniteLaw",
    "GaussianLaw",
    "Heun",
    "Jumps",
    "Lagrangian",
    "LagrangianCE",
    "LagrangianKL",
    "LinearHead",
    "MaximumLikelihood",
    "GeodesicPath",
    "OneHot",
    "Product",
    "RealNVP",
    "RegFlow",
    "SelfDistillation",
    "Semigroup",
    "SemigroupKL",
    "Trainer",
    "Transformer",
    "TransformerFlow",
    "UNet",
    "VelocityMap",
    "from_pretrained",
    "generate",
    "load",
    "load_map",
    "score",
    "trust",
]


def __getattr__(name: str) -> object:
    if name in _ROOM_OF:
        found = getattr(import_module(f".{_ROOM_OF[name]}", __name__), name)
        globals()[name] = found
        return found
    if not name.startswith("_") and find_spec(f".{name}", __name__):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
