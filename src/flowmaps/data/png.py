"""PNG files as grey values 0..255: any depth, palette or transparency, checked before and while they are unpacked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..reading import check_unpacked, regular

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_png(path: str | os.PathLike, background: int = 255) -> NDArray[np.uint8]:
    r"""The grey values of a PNG, uint8 ``(height, width)``.

    .. math:: g = \alpha\, (0.299 R + 0.587 G + 0.114 B) + (1 - \alpha)\, b

    Depths of 1, 2 and 4 bits are spread over 0..255, of 16 bits the upper 8 are kept.

    Arguments:
        background: Grey value b behind transparent pixels, 255 for white.
    Raises: ValueError naming the file if it is no whole PNG (checksums included), holds an animation, or unpacks to too
        many pixels.
    """
    from PIL import Image

    if not 0 <= background <= 255:
        raise ValueError(f"background is {background}; give a grey value from 0 (black) to 255 (white)")
    packed = regular(path)
    try:
        with open(path, "rb") as file:
            head = file.read(26)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check its rights") from None
    if head[:8] != SIGNATURE or head[12:16] != b"IHDR" or len(head) < 26:
        raise ValueError(f"{path} is not a whole PNG image (it begins with {head[:8]!r}); remove or replace it")
    width, height = (int.from_bytes(head[i : i + 4], "big") for i in (16, 20))
    check_unpacked(f"{path} of {width} x {height} pixels", 4 * width * height, packed)
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.verify()
        with Image.open(path, formats=("PNG",)) as image:
            frames = getattr(image, "n_frames", 1)
            values = _grey(image, head[24], background)
    except Exception as error:  # the library raises many kinds for damaged files
        raise ValueError(f"{path} is not a whole PNG image ({error}); remove or replace it") from None
    if frames > 1:
        raise ValueError(f"{path} is an animation of {frames} pictures; give one picture a file")
    return values


def _grey(image: Picture, depth: int, background: int) -> NDArray[np.uint8]:
    image.load()
    key = image.info.get("transparency")  # what one pixel, or the palette, says of transparency
    if image.mode in ("1", "L") or image.mode.startswith("I"):
        values = np.asarray(image.convert("L") if image.mode == "1" else image)
        clear = None if key is None else values == (key * 255 // (2**depth - 1) if depth < 8 else key)
        alpha = None if clear is None else np.where(clear, np.uint16(0), np.uint16(255))
        values = values.astype(np.uint16) >> (8 if depth == 16 else 0)
    else:
        if depth == 16 and isinstance(key, tuple):  # the library keeps 8 of the bits of a pixel and all of its key
            image.info["transparency"] = tuple(part >> 8 for part in key)
        both = np.asarray(image.convert("RGBA").convert("LA") if key is not None else image.convert("LA"))
        values, alpha = both[..., 0].astype(np.uint16), both[..., 1].astype(np.uint16)
    if alpha is not None:
        values = (values * alpha + background * (255 - alpha) + 127) // 255  # at most 255^2 + 127 < 2^16
    return values.astype(np.uint8)
