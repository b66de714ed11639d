"""What carries noise to data: flow maps in a few jumps, bijections with a density."""

from .autoencoders import VAE, Augmented, Autoencoder, Modules, Partition
from .bijection import Affine, Bijection, Composed, Inverted, Invertible, Oscillating
from .conditional import ConditionalNormal, LearnedScale, PredictedScale
from .couplings import Autoregressive, Coupling, Zuko
from .few_step import FewStep, Scored
from .flow import EndpointMap, FlowMap, VelocityMap
from .flows import NSF, CircularNSF, RealNVP, TransformerFlow
from .masks import Centre, Chosen, Corner, Mask
from .preprocessing import Identity, Logit, Shift
from .transport import Transport
from .univariate import CircularSpline, Scaled, Spline

__all__ = [
    "Affine",
    "Augmented",
    "Autoencoder",
    "Autoregressive",
    "Bijection",
    "Centre",
    "Chosen",
    "CircularNSF",
    "CircularSpline",
    "Composed",
    "ConditionalNormal",
    "Corner",
    "Coupling",
    "EndpointMap",
    "FewStep",
    "FlowMap",
    "Identity",
    "Inverted",
    "Invertible",
    "LearnedScale",
    "Logit",
    "Mask",
    "Modules",
    "NSF",
    "Partition",
    "PredictedScale",
    "Oscillating",
    "RealNVP",
    "Scaled",
    "Scored",
    "Shift",
    "Spline",
    "TransformerFlow",
    "Transport",
    "VAE",
    "VelocityMap",
    "Zuko",
]
