"""What tasks of images share, whatever models them: where they come from, how they are judged, and files."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..data import images as sources
from ..fields import one_field
from ..files import cache_folder, replacing
from ..maps.flow import M
from ..metrics.images import ImageClassifier, ImageQuality, cached_classifier, train_classifier
from ..metrics.two_sample import frechet
from ..pictures import heading, sample_grid
from ..reading import Document
from ..seeds import check_seed
from .aims import Aim, against
from .base import ChangedData, Task

Source = Literal["digits", "mnist", "folder"]


class OfImages(Task[sources.ImageSplits, Tensor, M]):
    """Scanned digits or one's own pictures.

    Arguments:
        source: ``digits`` (scikit-learn's, 8 x 8, 17 levels), ``mnist`` (IDX files in ``path``, or downloaded with
            ``fetch``), or ``folder`` (a folder of PNG files of one size in ``path``).
        path: Folder of the data; for MNIST also the environment variable ``FLOWMAPS_DATA``.
        fetch: Download missing files.
        levels: From grey to categories, for MNIST and folders.
        seed: Of the split of the data.
        background: Grey value behind the transparent pixels of PNG files: 255 is white.
    """

    kinds = (".png", ".npz")
    teaching = {"levels": range(2, 257), "classes": range(2**16), "shape": [range(1, 2**13)] * 2}

    def __init__(
        self, source: Source, path: str | None, fetch: bool, levels: sources.Levels | None, seed: int, background: int
    ):
        if source == "folder" and path is None:
            raise ValueError("source is 'folder' without a path; name the folder of PNG files")
        self.source, self.path, self.fetch, self.levels = source, path, fetch, levels
        self.seed = check_seed(seed, bits=32)
        self.background = background
        self._judges: dict[int, ImageQuality] = {}

    @classmethod
    def own_data(cls, path: str) -> dict[str, str]:
        return {"source": "folder", "path": path}

    def load(self) -> sources.ImageSplits:
        if self.source == "digits":
            return sources.digits(self.seed)
        if self.source == "mnist":
            return sources.mnist(self.path, levels=self.levels or sources.Threshold(), fetch=self.fetch)
        return sources.png_folder(self.path or ".", self.levels, self.seed, self.background)

    def learned(self, splits: sources.ImageSplits) -> Document:
        return {"levels": splits.levels, "classes": splits.classes, "shape": list(splits.shape)}

    @cached_property
    def classifier(self) -> ImageClassifier:
        """The reference network of the metrics, trained on the training images alone."""
        splits = self.splits
        with torch.enable_grad():
            if self.source == "digits":
                return train_classifier(splits.train, splits.levels, splits.classes)
            return cached_classifier(cache_folder() / "classifiers", splits.train, splits.levels, splits.classes)

    def judge(self, n: int) -> ImageQuality:
        """The metrics of ``n`` images."""
        if n not in self._judges:
            train, test = one_field(self.splits.train.x_1), one_field(self.splits.test.x_1)
            self._judges[n] = ImageQuality(self.classifier, train, test, n)
        return self._judges[n]

    def quality(self, samples: Tensor) -> dict[str, float]:
        """The metrics of :class:`~flowmaps.metrics.images.ImageQuality`."""
        return self.judge(len(samples))(samples.cpu())

    def aim(self) -> Aim:
        """Fréchet distance to the validation images in the classifier's features."""
        train, valid = one_field(self.splits.train.x_1), one_field(self.splits.valid.x_1)
        scale = self.classifier.inspect(train)[0].double().var(0).mean().rsqrt()
        features = lambda x: self.classifier.inspect(x)[0].double() * scale  # noqa: E731
        return against("frechet", frechet, features, features(valid))

    def of_data(self, n: int | None = None) -> dict[str, float]:
        return self.judge(n or self.samples).of_data()

    @property
    def samples(self) -> int:
        return len(self.splits.test) if self.source == "digits" else min(2000, len(self.splits.test))

    def read_images(self, path: str) -> Tensor:
        """Categories ``(n, height, width)`` of images of a file, in the size and the levels of the model."""
        size, shape = self.state()["levels"], tuple(self.state()["shape"])
        levels = self.levels if self.levels is not None and self.levels.size == size else sources.Quantised(size)
        x = sources.read_images(path, levels, self.background)
        if tuple(x.shape[1:]) != shape:
            raise ValueError(f"{path} holds images of shape {tuple(x.shape[1:])}, expected {shape}")
        return x

    def write(
        self, rows: Mapping[str, Tensor], directory: Path, label: int | None = None, **options: object
    ) -> list[Path]:
        """``samples.npz`` with the categories of each row, and ``samples.png`` with real images beside, if any.

        Arguments:
            label: The class that was asked for; beside a conditional model's samples are images of their classes.
        """
        numbers, picture = directory / "samples.npz", directory / "samples.png"
        with replacing(numbers) as temporary, open(temporary, "wb") as file:
            arrays = {name: x.cpu().numpy().astype(np.uint8) for name, x in rows.items()}
            np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]  (no row is named allow_pickle)
        named = {heading(name): x for name, x in rows.items()}
        real = {"real": self.real(max(map(len, rows.values())), label)} if self._has_data() else {}
        sample_grid(picture, {**named, **real}, self.state()["levels"], title=title_of(rows, bool(real)))
        return [picture, numbers]

    def real(self, n: int, label: int | None = None) -> Tensor:
        """At most ``n`` test images."""
        return one_field(self.splits.test.x_1)[:n]

    def _has_data(self) -> bool:
        try:
            return bool(len(self.splits.test))
        except ChangedData as error:
            warnings.warn(f"real pictures are left out: {error}", stacklevel=3)
            return False
        except (OSError, ValueError):
            return False


def title_of(names: Iterable[str], real: bool) -> str:
    """What to look at in a picture of several rows that began with the same noise.

    Arguments:
        names: Of the rows; numbers are numbers of steps.
        real: Whether a row of real images follows.

    >>> title_of(["1", "4"], False)
    'One column, one noise: the same image in more network evaluations'
    >>> title_of(["before", "after"], True)
    ''
    """
    alike = sum(name.isdigit() for name in names) > 1
    last = ", a real one last" if real else ""
    return f"One column, one noise: the same image in more network evaluations{last}" if alike else ""
