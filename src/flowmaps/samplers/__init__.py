"""From noise to data in a few jumps, or by solving the flow's differential equation."""

from .base import Sampler, generate
from .decode import Argmax, Categorical, Decoder, at_temperature
from .flow_map import Jumps, Renoise, Stochastic
from .ode import Dopri5, Euler, Heun
from .sde import EulerMaruyama

__all__ = [
    "Argmax",
    "Categorical",
    "Decoder",
    "Dopri5",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Jumps",
    "Renoise",
    "Sampler",
    "Stochastic",
    "at_temperature",
    "generate",
]
