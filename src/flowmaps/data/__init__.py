"""Data as batches of categories, by modality."""

from .base import CategoricalData, Dataset, Identified, split
from .images import Bernoulli, ImageSplits, Levels, Quantised, Threshold, digits, mnist, png_folder

__all__ = [
    "Bernoulli",
    "CategoricalData",
    "Dataset",
    "Identified",
    "ImageSplits",
    "Levels",
    "Quantised",
    "Threshold",
    "digits",
    "mnist",
    "png_folder",
    "split",
]
