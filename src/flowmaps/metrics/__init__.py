"""How good samples are, by modality, and how far apart two samples are."""

from .images import ImageClassifier, ImageQuality, cached_classifier, nearest_distance, train_classifier
from .points import PointQuality, histogram_kl
from .two_sample import (
    bootstrap,
    energy_distance,
    frechet,
    frechet_distance,
    precision_recall,
    squared_mmd,
    total_variation,
    total_variation_floor,
)

__all__ = [
    "ImageClassifier",
    "ImageQuality",
    "PointQuality",
    "bootstrap",
    "cached_classifier",
    "energy_distance",
    "frechet",
    "frechet_distance",
    "histogram_kl",
    "nearest_distance",
    "precision_recall",
    "squared_mmd",
    "total_variation",
    "total_variation_floor",
    "train_classifier",
]
