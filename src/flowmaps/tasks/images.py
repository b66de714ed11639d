"""Images with discrete grey levels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property, partial

import torch
from torch import Tensor

from ..data import images as sources
from ..data.base import CategoricalData
from ..fields import FREE, Condition, one_field, select
from ..maps import EndpointMap, FlowMap
from ..networks import Network, UNet
from ..paths import GeodesicPath
from ..samplers import Argmax, Decoder, Sampler, generate
from ..spaces import OneHot
from ..steering import Reward, class_probability, ink
from .base import Kind, Problem, fitted, in_batches
from .of_images import OfImages, Source
from .steering import number

SMALL = partial(UNet, width=48, lower=(96,))


class Images(OfImages[FlowMap]):
    """Scanned digits or one's own pictures as categories per pixel, by default modelled by a U-Net.

    Arguments:
        source: ``digits`` (scikit-learn's, 8 x 8, 17 levels), ``mnist`` (IDX files in ``path``, or downloaded with
            ``fetch``), or ``folder`` (a folder of PNG files of one size in ``path``).
        path: Folder of the data; for MNIST also the environment variable ``FLOWMAPS_DATA``.
        fetch: Download missing files.
        levels: From grey to categories, for MNIST and folders; by default a threshold at 128 and 16 levels.
        background: Grey value behind the transparent pixels of PNG files: 255 is white.
        network: What makes the network, called as ``network(K, out=K, classes=classes)``; a small U-Net by default.
        width, lower, depth, heads, patch: Settings of the network, where they are to differ from its own.
        conditional: Condition on the class; the label is dropped from ``drop_label`` of the training examples.
        drop_label: Share of examples trained without their label.
        flow_map: What the network predicts: an endpoint, or with ``VelocityMap`` a velocity, the naive baseline.
        decoder: From scores to categories.
        seed: Of the split of the data.
    """

    def __init__(
        self,
        source: Source = "digits",
        path: str | None = None,
        fetch: bool = False,
        levels: sources.Levels | None = None,
        network: Callable[[int], Network] | None = None,
        width: int | None = None,
        lower: tuple[int, ...] | None = None,
        depth: int | None = None,
        heads: int | None = None,
        patch: int | None = None,
        conditional: bool = False,
        drop_label: float = 0.1,
        flow_map: Kind = EndpointMap,
        decoder: Decoder | None = None,
        seed: int = 0,
        background: int = 255,
    ):
        super().__init__(source, path, fetch, levels, seed, background)
        if not 0 <= drop_label <= 1:
            raise ValueError(f"drop_label is {drop_label}, expected a share in [0, 1]")
        self.network: Callable[..., Network] = network or SMALL
        self.sizes = {"width": width, "lower": lower, "depth": depth, "heads": heads, "patch": patch}
        self.conditional, self.drop_label, self.flow_map = conditional, drop_label, flow_map
        self.decoder = decoder or Argmax()

    @cached_property
    def train_data(self) -> CategoricalData:
        return self._labelled(self.splits.train, self.drop_label)

    @cached_property
    def valid_data(self) -> CategoricalData:
        return self._labelled(self.splits.valid)

    @cached_property
    def test_data(self) -> CategoricalData:
        return self._labelled(self.splits.test)

    def build_map(self) -> FlowMap:
        K = self.state()["levels"]
        classes = self.state()["classes"] if self.conditional else None
        if self.conditional and not classes:
            raise ValueError(f"conditional is True but the images of {self.source!r} have no labels")
        return self.flow_map(
            GeodesicPath(OneHot(K)), fitted(self.network, K, out=K, classes=classes, settings=self.sizes), None, None
        )

    def sample(
        self,
        flow_map: FlowMap,
        n: int,
        sampler: Sampler,
        generator: torch.Generator,
        label: int | None = None,
        decoder: Decoder | None = None,
        batch: int = 512,
    ) -> Tensor:
        """Images ``(n, height, width)``; of one class, or of all in turn where the map is conditional.

        Arguments:
            label: The class of all images.
            decoder: From scores to categories, instead of the task's own.
            batch: Images at a time.
        """
        self._check_label(label)
        parts = []
        for rows in in_batches(n, batch):
            condition = select(self._condition(n, label, generator.device), rows)
            shape = (len(rows), *self.state()["shape"])
            decode = decoder or self.decoder
            parts.append(generate(flow_map, sampler, shape, generator, condition=condition, decoder=decode))
        return torch.cat(parts)

    def _check_label(self, label: int | None) -> None:
        classes = self.state()["classes"]
        if label is not None and not (self.conditional and 0 <= label < classes):
            kind = f"0..{classes - 1}" if self.conditional else "no label: the model is unconditional"
            raise ValueError(f"label is {label}, expected {kind}")

    def _condition(self, n: int, label: int | None, device: torch.device) -> Condition:
        return Condition(label=self.labels(n, label).to(device)) if self.conditional else FREE

    def problem(self, particles: int, generator: torch.Generator, label: int | None = None) -> Problem:
        """What is to be steered.

        Arguments:
            label: The class of all images; by default the classes in turn.
        """
        self._check_label(label)
        condition = self._condition(particles, label, generator.device)
        return Problem(tuple(self.state()["shape"]), condition, None, self.decoder)

    def rewards(self, device: torch.device) -> dict[str, Callable[[str], Reward]]:
        """``class:3`` and ``log-class:3`` of the reference network; ``ink``, or ``ink:0.4`` minus how far off."""

        def of_class(argument: str, log: bool) -> Reward:
            label, classes = int(argument), self.state()["classes"]
            if not 0 <= label < classes:
                raise ValueError(f"class {label}, expected 0..{classes - 1}")
            return class_probability(copy.deepcopy(self.classifier).to(device), label, log=log)

        return {
            "class": partial(of_class, log=False),
            "log-class": partial(of_class, log=True),
            "ink": lambda argument: ink(number(argument)),
        }

    def labels(self, n: int, label: int | None = None) -> Tensor:
        """The classes that ``n`` samples are asked for."""
        return torch.arange(n) % self.state()["classes"] if label is None else torch.full((n,), label)

    def quality(self, samples: Tensor) -> dict[str, float]:
        """The metrics of :class:`~flowmaps.metrics.images.ImageQuality`.

        Samples of a conditional map are of all classes in turn; ``accuracy`` is how many are in the class asked for,
        and ``least_accuracy`` that of the class in which it is smallest.
        """
        values, judge = super().quality(samples), self.judge(len(samples))
        if not self.conditional:
            return values
        samples, label = samples.cpu(), self.labels(len(samples))
        values["accuracy"] = judge.accuracy(samples, label)
        return values | {"least_accuracy": judge.least_accuracy(samples, label)}

    def real(self, n: int, label: int | None = None) -> Tensor:
        """At most ``n`` test images; for a conditional model of the classes that ``n`` samples are asked for.

        A class that has fewer images than samples shows its images again; one without any is left blank.
        """
        x_1, classes = one_field(self.splits.test.x_1), self.splits.test.condition.label
        if not self.conditional or classes is None:
            return x_1[:n]
        asked, shown = self.labels(n, label).tolist(), torch.zeros(n, *x_1.shape[1:], dtype=x_1.dtype)
        for k in set(asked):
            columns, images = [i for i, one in enumerate(asked) if one == k], x_1[classes == k]
            if len(images):
                shown[columns] = images[torch.arange(len(columns)) % len(images)]
        return shown

    def _labelled(self, data: CategoricalData, drop: float = 0.0) -> CategoricalData:
        if not self.conditional:
            return CategoricalData(data.x_1)
        label = data.condition.label
        if label is None:
            raise ValueError(f"conditional is True but the images of {self.source!r} have no labels")
        lost = torch.rand(len(label), generator=torch.Generator().manual_seed(self.seed)) < drop
        return CategoricalData(data.x_1, torch.where(lost, self.splits.classes, label))
