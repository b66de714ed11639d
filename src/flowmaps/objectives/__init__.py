"""What is minimised: self-distillation of flow maps, and the likelihood of bijections."""

from .autoencoding import AutoencoderLikelihood, RawExpandedDensity
from .base import Consistency, Identity, Jump, Objective
from .contrastive import ContrastiveCrossEntropy, ContrastiveSquaredError
from .cycle import Cycle
from .diagonal import CrossEntropy, Diagonal, Distilled, SquaredError
from .distribution import EndpointKernel
from .eulerian import Eulerian, EulerianKL
from .importance import ImportanceSampled
from .lagrangian import EndpointConsistency, Lagrangian, LagrangianCE, LagrangianKL
from .likelihood import MaximumLikelihood
from .regression import ForwardBackward, LogDeterminant, RegFlow, Regularizer
from .self_distillation import Draw, SelfDistillation
from .semigroup import Semigroup, SemigroupKL
from .teachers import Autoguided, Average, Frozen, Itself, Teacher
from .weights import AdaptiveWeight, GapCurriculum, LearnedWeight

__all__ = [
    "AdaptiveWeight",
    "AutoencoderLikelihood",
    "Autoguided",
    "Average",
    "Consistency",
    "ContrastiveCrossEntropy",
    "ContrastiveSquaredError",
    "CrossEntropy",
    "Cycle",
    "Diagonal",
    "Distilled",
    "Draw",
    "EndpointConsistency",
    "EndpointKernel",
    "Eulerian",
    "EulerianKL",
    "ForwardBackward",
    "Frozen",
    "GapCurriculum",
    "Identity",
    "ImportanceSampled",
    "Itself",
    "Jump",
    "Lagrangian",
    "LagrangianCE",
    "LagrangianKL",
    "LearnedWeight",
    "LogDeterminant",
    "MaximumLikelihood",
    "Objective",
    "RawExpandedDensity",
    "RegFlow",
    "Regularizer",
    "SelfDistillation",
    "Semigroup",
    "SemigroupKL",
    "SquaredError",
    "Teacher",
]
