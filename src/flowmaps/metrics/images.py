"""Quality of generated images, seen by a small classifier that was trained on the training images alone."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.base import CategoricalData
from ..fields import one_field
from .kept import fitted, kept
from .modes import Measure, flat, share
from .two_sample import frechet, precision_recall


class ImageClassifier(nn.Module):
    """A convolutional reference network: images of categories to class logits, with features one layer below.

    Arguments:
        levels: Grey levels K; categories enter as intensities k / (K - 1).
        shape: Height and width.
        classes: Number of classes.
        width: Channels of the first layer.
        features: Width d of the penultimate layer.
    """

    def __init__(self, levels: int, shape: tuple[int, int], classes: int = 10, width: int = 32, features: int = 32):
        super().__init__()
        self.levels, self.num_features = levels, features
        height, breadth = ((side + 3) // 4 for side in shape)
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(2 * width * height * breadth, features),
            nn.GELU(),
        )
        self.head = nn.Linear(features, classes)

    def features(self, x: Tensor) -> Tensor:
        """Features ``(n, d)`` of categories ``(n, height, width)``."""
        weight = self.head.weight
        return self.body((x.to(weight) / (self.levels - 1)).unsqueeze(1))

    def forward(self, x: Tensor) -> Tensor:
        """Class logits ``(n, classes)``."""
        return self.head(self.features(x))

    @torch.no_grad()
    def inspect(self, x: Tensor, chunk: int = 1024) -> tuple[Tensor, Tensor]:
        """Features ``(n, d)`` and class probabilities ``(n, classes)``, in chunks and without gradients."""
        features = torch.cat([self.features(part) for part in x.split(chunk)])
        return features, self.head(features).softmax(-1)


def train_classifier(
    data: CategoricalData,
    levels: int,
    classes: int,
    steps: int = 500,
    seed: int = 0,
    batch: int = 64,
    width: int = 32,
) -> ImageClassifier:
    """Train a reference classifier on labelled images; the same seed gives the same weights.

    Arguments:
        data: Training images ``(n, height, width)`` with class labels.
        steps: Updates of AdamW under a one-cycle learning rate; 500 suffice for 8 x 8 digits.
    Raises: ValueError if the data have no class labels.
    """
    x_1, labels = one_field(data.x_1), data.condition.label
    if labels is None or labels.ndim != 1:
        raise ValueError("the images have no class labels; give labelled data or skip the classifier's metrics")
    height, breadth = x_1.shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ImageClassifier(levels, (height, breadth), classes, width)
    generator = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        index = torch.randint(len(data), (batch,), generator=generator)
        return F.cross_entropy(model(x_1[index]), labels[index], label_smoothing=0.05)

    return fitted(model, loss, steps, lr=3e-3, weight_decay=1e-2)


def cached_classifier(
    folder: str | os.PathLike,
    data: CategoricalData,
    levels: int,
    classes: int,
    steps: int = 2000,
    seed: int = 0,
    batch: int = 128,
    width: int = 32,
) -> ImageClassifier:
    """:func:`train_classifier`, kept in ``folder`` as safetensors, named by its data and settings."""
    x_1, settings = one_field(data.x_1), (levels, classes, steps, seed, batch, width)
    digest = hashlib.sha256(repr((settings, tuple(x_1.shape))).encode())
    for part in (x_1, data.condition.label):
        digest.update(b"" if part is None else part.contiguous().numpy().tobytes())
    path = Path(folder) / f"classifier-{digest.hexdigest()[:16]}.safetensors"
    height, breadth = x_1.shape[1:]
    return kept(
        path,
        lambda: ImageClassifier(levels, (height, breadth), classes, width),
        lambda: train_classifier(data, *settings),
        "classifier",
    )


class ImageQuality:
    """The metrics of one data set, always with the same number of samples.

    - ``frechet``: Fréchet distance to held-out images in the classifier's features, in units of their mean
      variance over the training images. It is biased by the number of samples: compare with :meth:`of_data`.
    - ``classifier_confidence``: mean largest class probability.
    - ``class_coverage``: smallest share of a class among the samples, over the share of even classes;
      ``modes/class_k``: the same of every class, by the classifier. Real images, whose classes need not be even,
      stand beside.
    - ``precision``, ``recall``: share of samples within the manifold of held-out images in the classifier's features,
      and of held-out images within that of the samples.
    - ``nearest_train_distance``: mean Euclidean distance to the nearest training image, intensities in
      [0, 1]; clearly below the value of held-out images it means memorisation.

    Arguments:
        classifier: Reference network, trained on ``train``.
        train, held_out: Categories ``(n, height, width)``.
        samples: How many images every value is taken over, more than three; default and maximum: all held-out ones.
        seed: Which held-out images are compared with, and which training images stand in for samples in
            :meth:`of_data`; at random, because the first half of MNIST's test images is easier than the second.
    Raises: ValueError if there are fewer training or held-out images than ``samples``.
    """

    def __init__(
        self,
        classifier: ImageClassifier,
        train: Tensor,
        held_out: Tensor,
        samples: int | None = None,
        seed: int = 0,
    ):
        self.samples = len(held_out) if samples is None else samples
        if not 4 <= self.samples <= min(len(held_out), len(train)):
            raise ValueError(
                f"{self.samples} samples to compare with {len(held_out)} held-out and {len(train)} training "
                "images; ask for at least 4 and at most as many as there are of either"
            )
        chosen = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(seed))[: self.samples].sort()
        self.classifier, self.train, self.held_out = classifier, train, held_out[chosen.values]
        self.scale = classifier.inspect(train)[0].double().var(0).mean().rsqrt()
        self.real = self.features(self.held_out)
        self.seed = seed

    def features(self, x: Tensor) -> Tensor:
        """Features of categories, float64, scaled to unit mean variance over the training images."""
        return self.classifier.inspect(x)[0].double() * self.scale

    def __call__(self, x: Tensor) -> dict[str, float]:
        """The metrics of categories ``(samples, height, width)``."""
        if x.shape != self.held_out.shape:
            raise ValueError(
                f"samples have shape {tuple(x.shape)}, expected {tuple(self.held_out.shape)}; "
                "a Fréchet distance is comparable only at one number of samples"
            )
        features, probability = self.classifier.inspect(x)
        classes = probability.shape[1]
        found = probability.argmax(1)
        counts = torch.bincount(found, minlength=classes)
        features = features.double() * self.scale
        precision, recall = precision_recall(features, self.real)
        return {
            "frechet": frechet(features, self.real),
            "precision": precision,
            "recall": recall,
            "classifier_confidence": float(probability.amax(1).double().mean()),
            "class_coverage": float(counts.min() * classes / len(x)),
            "nearest_train_distance": nearest_distance(x, self.train, self.classifier.levels),
            **flat({f"class_{k}": of_even(found == k, classes) for k in range(classes)}),
        }

    def accuracy(self, x: Tensor, label: Tensor) -> float:
        """Share of conditional samples that the classifier puts in the class asked for."""
        return float(self._right(x, label).mean())

    def least_accuracy(self, x: Tensor, label: Tensor) -> float:
        """The same of the class in which it is smallest: a class that is never drawn has 0."""
        right = self._right(x, label)
        return min(float(right[label == k].mean()) for k in label.unique())

    def _right(self, x: Tensor, label: Tensor) -> Tensor:
        return (self.classifier.inspect(x)[1].argmax(1) == label).double()

    def of_data(self) -> dict[str, float]:
        """What real images score: held-out ones, but distances in features are those of training images to them."""
        generator = torch.Generator().manual_seed(self.seed)
        chosen = self.train[torch.randperm(len(self.train), generator=generator)[: self.samples]]
        near = ("frechet", "precision", "recall")
        return self(self.held_out) | {name: value for name, value in self(chosen).items() if name in near}


def of_even(hits: Tensor, classes: int) -> Measure:
    """The share of a class over that of even classes, 1 where they are even, with its standard error."""
    found = share(hits.numpy())
    return Measure(found.value * classes, found.error * classes)


def nearest_distance(x: Tensor, train: Tensor, levels: int, chunk: int = 512) -> float:
    """Mean Euclidean distance of the images ``x`` to the nearest of ``train``, intensities in [0, 1]."""
    reference = train.flatten(1).float() / (levels - 1)
    parts = (x.flatten(1).float() / (levels - 1)).split(chunk)
    return float(torch.cat([torch.cdist(part, reference).amin(1) for part in parts]).double().mean())
