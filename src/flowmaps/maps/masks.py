"""Which pixels of an image are the core of an autoencoder within a flow: as many as there are latent dimensions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

Pixel = tuple[int, int]


class Mask(ABC):
    """A rule that names the core pixels of an image."""

    def __call__(self, shape: tuple[int, int], latents: int) -> Tensor:
        """Flat indices of the core pixels, int64 ``(latents,)``, in the order of the rule.

        Arguments:
            shape: Height and width.
            latents: How many there are.
        Raises: ValueError if the image has no such pixels, or the rule names another number of them.
        """
        height, width = shape
        if not 1 <= latents < height * width:
            raise ValueError(
                f"latents is {latents}, expected 1 to {height * width - 1}: images of {height} x {width} pixels keep "
                "at least one pixel for the shell"
            )
        pixels = list(islice(self.order(shape), latents + 1))[: self.most(latents)]
        if len(pixels) != latents:
            raise ValueError(
                f"the mask names {len(pixels)} pixels for {latents} latent dimensions; give it exactly {latents}"
            )
        outside = [pixel for pixel in pixels if not (0 <= pixel[0] < height and 0 <= pixel[1] < width)]
        if outside or len(set(pixels)) != latents:
            what = f"pixel {outside[0]} is outside" if outside else "a pixel is named twice"
            raise ValueError(f"{what} of an image of {height} x {width}; name different pixels within it")
        return torch.tensor([row * width + column for row, column in pixels])

    def most(self, latents: int) -> int:
        """How many pixels of :meth:`order` count."""
        return latents

    @abstractmethod
    def order(self, shape: tuple[int, int]) -> Iterator[Pixel]:
        """Pixels (row, column), the first first."""


class Centre(Mask):
    """A square spiral outward from the middle pixel: the pixels that tell most of centred images."""

    def order(self, shape: tuple[int, int]) -> Iterator[Pixel]:
        height, width = shape
        row, column, reach, turn = height // 2, width // 2, 0, 0
        steps = ((0, 1), (1, 0), (0, -1), (-1, 0))
        yield row, column
        while reach < 2 * max(shape):
            reach += turn % 2 == 0
            for _ in range(reach):
                row, column = row + steps[turn % 4][0], column + steps[turn % 4][1]
                if 0 <= row < height and 0 <= column < width:
                    yield row, column
            turn += 1


class Corner(Mask):
    """The four corners inwards, one pixel of each in turn: pixels that mostly tell nothing."""

    def order(self, shape: tuple[int, int]) -> Iterator[Pixel]:
        height, width = shape
        offsets = sorted(((i, j) for i in range(height) for j in range(width)), key=lambda at: (sum(at), at))
        seen = set[Pixel]()
        for i, j in offsets:
            for pixel in ((i, j), (i, width - 1 - j), (height - 1 - i, j), (height - 1 - i, width - 1 - j)):
                if pixel not in seen:
                    seen.add(pixel)
                    yield pixel


class Chosen(Mask):
    """Pixels of one's own choice.

    Arguments:
        pixels: Rows and columns, as many as there are latent dimensions.
    """

    def __init__(self, pixels: Sequence[Pixel]):
        self.pixels = [(row, column) for row, column in pixels]

    def most(self, latents: int) -> int:
        return latents + 1

    def order(self, shape: tuple[int, int]) -> Iterator[Pixel]:
        return iter(self.pixels)
