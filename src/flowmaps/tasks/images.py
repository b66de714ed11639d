"""Images with discrete grey levels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..data import images as sources
from ..data.base import CategoricalData
from ..fields import Condition
from ..maps import EndpointMap, FlowMap, VelocityMap
from ..metrics.images import ImageQuality, cached_classifier, train_classifier
from ..networks import UNet
from ..paths import LinearPath
from ..pictures import sample_grid
from ..samplers import Argmax, Decoder, Sampler, generate
from ..spaces import OneHot
from .base import Task

CACHE = Path("~/.cache/flowmaps").expanduser()


class Images(Task):
    """Scanned digits or one's own pictures as categories per pixel, modelled by a U-Net.

    Arguments:
        source: ``digits`` (scikit-learn's, 8 x 8, 17 levels), ``mnist`` (IDX files in ``path``, or downloaded with
            ``fetch``), or ``folder`` (a folder of PNG files of one size in ``path``).
        path: Folder of the data; for MNIST also the environment variable ``FLOWMAPS_DATA``.
        fetch: Download missing files.
        levels: From grey to categories, for MNIST and folders; by default a threshold at 128.
        width, lower, depth, heads: Size of the U-Net.
        conditional: Condition on the class; the label is dropped from ``drop_label`` of the training examples.
        drop_label: Share of examples trained without their label.
        unconstrained: Predict a velocity instead of an endpoint: the naive baseline.
        decoder: From scores to categories.
        seed: Of the split of the data.
    """

    def __init__(
        self,
        source: Literal["digits", "mnist", "folder"] = "digits",
        path: str | None = None,
        fetch: bool = False,
        levels: sources.Levels | None = None,
        width: int = 48,
        lower: tuple[int, ...] = (96,),
        depth: int = 1,
        heads: int = 4,
        conditional: bool = False,
        drop_label: float = 0.1,
        unconstrained: bool = False,
        decoder: Decoder | None = None,
        seed: int = 0,
    ):
        if source == "folder" and path is None:
            raise ValueError("source is 'folder' without a path; name the folder of PNG files")
        if not 0 <= drop_label <= 1:
            raise ValueError(f"drop_label is {drop_label}, expected a share in [0, 1]")
        self.source, self.path, self.fetch, self.levels, self.seed = source, path, fetch, levels, seed
        self.network = {"width": width, "lower": tuple(lower), "depth": depth, "heads": heads}
        self.conditional, self.drop_label, self.unconstrained = conditional, drop_label, unconstrained
        self.decoder = decoder or Argmax()
        self._state: dict[str, Any] | None = None

    @cached_property
    def splits(self) -> sources.ImageSplits:
        if self.source == "digits":
            return sources.digits(self.seed)
        if self.source == "mnist":
            return sources.mnist(self.path, levels=self.levels or sources.Threshold(), fetch=self.fetch)
        return sources.png_folder(self.path or ".", levels=self.levels, seed=self.seed)

    @cached_property
    def train_data(self) -> CategoricalData:
        return self._labelled(self.splits.train, self.drop_label)

    @cached_property
    def valid_data(self) -> CategoricalData:
        return self._labelled(self.splits.valid)

    @cached_property
    def test_data(self) -> CategoricalData:
        return self._labelled(self.splits.test)

    def state(self) -> dict[str, Any]:
        if self._state is None:
            splits = self.splits
            self._state = {"levels": splits.levels, "classes": splits.classes, "shape": list(splits.shape)}
        return self._state

    def restore(self, state: Mapping[str, Any]) -> None:
        self._state = dict(state)

    def build_map(self) -> FlowMap:
        K = self.state()["levels"]
        classes = self.state()["classes"] if self.conditional else None
        if self.conditional and not classes:
            raise ValueError(f"conditional is True but the images of {self.source!r} have no labels")
        kind = VelocityMap if self.unconstrained else EndpointMap
        return kind(LinearPath(OneHot(K)), UNet(K, out=K, classes=classes, **self.network))

    def sample(
        self,
        map: FlowMap,
        n: int,
        sampler: Sampler,
        generator: torch.Generator,
        label: int | None = None,
        decoder: Decoder | None = None,
    ) -> Tensor:
        """Images ``(n, height, width)``; of one class, or of all in turn where the map is conditional."""
        classes = self.state()["classes"]
        if label is not None and not (self.conditional and 0 <= label < classes):
            kind = f"a class in 0..{classes - 1}" if self.conditional else "no label: the model is unconditional"
            raise ValueError(f"label is {label}, expected {kind}")
        condition = Condition()
        if self.conditional:
            condition = Condition(label=self.labels(n, label).to(generator.device))
        shape = (n, *self.state()["shape"])
        return generate(map, sampler, shape, generator, condition=condition, decoder=decoder or self.decoder)

    def labels(self, n: int, label: int | None = None) -> Tensor:
        """The classes that ``n`` samples are asked for."""
        return torch.arange(n) % self.state()["classes"] if label is None else torch.full((n,), label)

    @cached_property
    def judge(self) -> ImageQuality:
        """The metrics, by a classifier trained on the training images alone."""
        splits = self.splits
        if self.source == "digits":
            classifier = train_classifier(splits.train, splits.levels, splits.classes)
        else:
            classifier = cached_classifier(CACHE / "classifiers", splits.train, splits.levels, splits.classes)
        return ImageQuality(classifier, splits.train.x_1, splits.test.x_1, min(self.samples, len(splits.test)))

    def quality(self, samples: Tensor) -> dict[str, float]:
        return self.judge(samples[: self.judge.samples].cpu())

    def of_data(self) -> dict[str, float]:
        return self.judge.of_data()

    @property
    def samples(self) -> int:
        return len(self.splits.test) if self.source == "digits" else min(2000, len(self.splits.test))

    def write(self, rows: Mapping[str, Any], directory: Path) -> list[Path]:
        real = {"real": self.test_data.x_1} if self._has_data() else {}
        picture = directory / "samples.png"
        sample_grid(picture, {**rows, **real}, self.state()["levels"])
        return [picture]

    def _has_data(self) -> bool:
        try:
            return bool(len(self.splits.test))
        except (OSError, ValueError):
            return False

    def _labelled(self, data: CategoricalData, drop: float = 0.0) -> CategoricalData:
        if not self.conditional:
            return CategoricalData(data.x_1)
        label = data.condition.label
        if label is None:
            raise ValueError(f"conditional is True but the images of {self.source!r} have no labels")
        lost = torch.rand(len(label), generator=torch.Generator().manual_seed(self.seed)) < drop
        return CategoricalData(data.x_1, torch.where(lost, self.splits.classes, label))
