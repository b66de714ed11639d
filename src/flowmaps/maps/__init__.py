"""What carries noise to data: flow maps in a few jumps, bijections with a density."""

from .bijection import Affine, Bijection, Composed, Inverted, Invertible
from .couplings import Autoregressive, Coupling, Zuko
from .flow import EndpointMap, FlowMap, VelocityMap
from .flows import NSF, CircularNSF, RealNVP, TransformerFlow
from .transport import Transport
from .univariate import CircularSpline, Scaled, Spline

__all__ = [
    "NSF",
    "Affine",
    "Autoregressive",
    "Bijection",
    "CircularNSF",
    "CircularSpline",
    "Composed",
    "Coupling",
    "EndpointMap",
    "FlowMap",
    "Inverted",
    "Invertible",
    "RealNVP",
    "Scaled",
    "Spline",
    "TransformerFlow",
    "Transport",
    "VelocityMap",
    "Zuko",
]
