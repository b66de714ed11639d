r"""Upper bounds on -log p(x_1) for any denoiser, with error bars; and log p(x_1) itself of points, by their flow."""

from .bounds import BOUND_BY_CE, Averaged, Bound, CrossEntropyOnly, CutOff, Grid, cut_off
from .estimates import Estimate, Moments, OwnScore, score
from .flow import ProbabilityFlow, Smoothed
from .proposals import Proposal
from .rows import Row, RowScore, Scorer, Window

__all__ = [
    "BOUND_BY_CE",
    "Averaged",
    "Bound",
    "CrossEntropyOnly",
    "CutOff",
    "Estimate",
    "Grid",
    "Moments",
    "OwnScore",
    "ProbabilityFlow",
    "Proposal",
    "Row",
    "RowScore",
    "Scorer",
    "Smoothed",
    "Window",
    "cut_off",
    "score",
]
