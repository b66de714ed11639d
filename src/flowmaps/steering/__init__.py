"""Test-time inference: guidance, look-ahead, and particles that follow a reward with exact weights."""

from .cloud import Steered
from .correctors import Corrector, Expert
from .guidance import Guidance, LogitGuidance, VelocityGuidance, interval, ramp, without_known, without_label
from .kernels import Langevin
from .lookahead import look_ahead, look_ahead_gradient
from .particles import BestOf, FeynmanKac, LookAhead, Method, Tilted, average, difference, maximum
from .rewards import (
    Hard,
    Led,
    Reward,
    RewardError,
    Soft,
    class_probability,
    each,
    ink,
    keyword,
    likelihood,
    matches,
    of_text,
    word_length,
)

__all__ = [
    "BestOf",
    "Corrector",
    "Expert",
    "FeynmanKac",
    "Guidance",
    "Hard",
    "Langevin",
    "Led",
    "LogitGuidance",
    "LookAhead",
    "Method",
    "Reward",
    "RewardError",
    "Soft",
    "Steered",
    "Tilted",
    "VelocityGuidance",
    "average",
    "class_probability",
    "difference",
    "each",
    "ink",
    "interval",
    "keyword",
    "likelihood",
    "look_ahead",
    "look_ahead_gradient",
    "matches",
    "maximum",
    "of_text",
    "ramp",
    "without_known",
    "without_label",
    "word_length",
]
