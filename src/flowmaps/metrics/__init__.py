"""How good samples are, by modality, and how far apart two samples are."""

from .images import ImageClassifier, ImageQuality, cached_classifier, nearest_distance, train_classifier
from .two_sample import (
    bootstrap,
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
    "bootstrap",
    "cached_classifier",
    "frechet",
    "frechet_distance",
    "nearest_distance",
    "precision_recall",
    "squared_mmd",
    "total_variation",
    "total_variation_floor",
    "train_classifier",
]
