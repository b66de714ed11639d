"""Small encoders and decoders of grey images; nothing asks for these: any modules of the same shapes do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from .embeddings import check_sizes


class ConvEncoder(nn.Module):
    """Two convolutions with stride 2 and a linear layer.

    Arguments:
        shape: Height and width of the images.
        outputs: Numbers of each image.
        width: Channels of the first layer; the second has twice as many.
    Returns (of a call): ``(batch, outputs)`` for images ``(batch, 1, height, width)``.
    """

    def __init__(self, shape: Sequence[int], outputs: int, width: int = 64):
        super().__init__()
        check_sizes(outputs=outputs, width=width)
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * math.prod(quarter(shape)), outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class ConvDecoder(nn.Module):
    """A linear layer and two transposed convolutions with stride 2.

    Arguments:
        latents: Numbers that an image is made of.
        shape: Height and width of the images.
        channels: Numbers of each pixel.
        width: Channels before the last layer; the first has twice as many.
    Returns (of a call): ``(batch, channels, height, width)`` for latents ``(batch, latents)``.
    """

    def __init__(self, latents: int, shape: Sequence[int], channels: int = 1, width: int = 64):
        super().__init__()
        check_sizes(latents=latents, channels=channels, width=width)
        self.shape, (height, breadth) = tuple(shape), quarter(shape)
        self.body = nn.Sequential(
            nn.Linear(latents, 2 * width * height * breadth),
            nn.ReLU(),
            nn.Unflatten(1, (2 * width, height, breadth)),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        height, breadth = self.shape
        return self.body(z)[..., :height, :breadth]


class DenseEncoder(nn.Module):
    """A perceptron on all pixels.

    Arguments:
        shape, outputs: As in :class:`ConvEncoder`.
        width, depth: Size of the hidden layers, and their number.
    """

    def __init__(self, shape: Sequence[int], outputs: int, width: int = 256, depth: int = 2):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), *perceptron(math.prod(shape), width, depth, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class DenseDecoder(nn.Module):
    """A perceptron with all pixels as its outputs.

    Arguments:
        latents, shape, channels: As in :class:`ConvDecoder`.
        width, depth: Size of the hidden layers, and their number.
    """

    def __init__(self, latents: int, shape: Sequence[int], channels: int = 1, width: int = 256, depth: int = 2):
        super().__init__()
        pixels = channels * math.prod(shape)
        self.body = nn.Sequential(*perceptron(latents, width, depth, pixels), nn.Unflatten(1, (channels, *shape)))

    def forward(self, z: Tensor) -> Tensor:
        return self.body(z)


def perceptron(inputs: int, width: int, depth: int, outputs: int) -> list[nn.Module]:
    """Layers with rectifiers between them."""
    check_sizes(inputs=inputs, width=width, depth=depth, outputs=outputs)
    sizes = [inputs, *[width] * depth, outputs]
    layers: list[nn.Module] = []
    for before, after in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return layers[:-1]


def quarter(shape: Sequence[int]) -> tuple[int, int]:
    """Height and width after two strides of 2."""
    height, breadth = ((side + 3) // 4 for side in shape)
    return height, breadth
