"""PNG files of every kind against a writer that follows the specification: what a pixel is, and what is refused."""

import struct
import zlib

import numpy as np
import pytest

from flowmaps.data.png import SIGNATURE, read_png

RANDOM = np.random.RandomState(0)
SHAPE = (5, 7)
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(samples: np.ndarray, colour: int, depth: int, *further: bytes) -> bytes:
    """A PNG of samples ``(height, width, channels)``, unfiltered."""
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    if depth == 16:
        lines = [b"\0" + row.astype(">u2").tobytes() for row in rows]
    else:
        bits = (rows[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        lines = [b"\0" + np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in bits]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"".join([SIGNATURE, head, *further, chunk(b"IDAT", zlib.compress(b"".join(lines))), chunk(b"IEND", b"")])


def luma(rgb: np.ndarray) -> np.ndarray:
    return rgb @ np.array([0.299, 0.587, 0.114])


def over(grey: np.ndarray, alpha: np.ndarray, background: int) -> np.ndarray:
    return grey * alpha + background * (1 - alpha)


@pytest.fixture
def check(tmp_path):
    def same(content: bytes, expected: np.ndarray, background: int = 255, within: float = 1.0) -> None:
        (tmp_path / "a.png").write_bytes(content)
        found = read_png(tmp_path / "a.png", background)
        assert found.dtype == np.uint8 and found.shape == expected.shape
        assert np.abs(found - expected).max() <= within

    return same


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("key", [False, True])
@pytest.mark.parametrize("background", [0, 255])
def test_grey_of_every_depth(check, depth, key, background):
    samples = RANDOM.randint(0, 2**depth, (*SHAPE, 1))
    expected = samples[..., 0] * 255 / (2**depth - 1)
    further = []
    if key:
        clear = int(samples[2, 2, 0])
        further = [chunk(b"tRNS", struct.pack(">H", clear))]
        expected = np.where(samples[..., 0] == clear, background, expected)
    check(png(samples, 0, depth, *further), expected, background, within=1 if depth == 16 else 0)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("background", [0, 100, 255])
@pytest.mark.parametrize("colour", [2, 4, 6])
def test_colours_and_transparency(check, colour, depth, background):
    samples = RANDOM.randint(0, 2**depth, (*SHAPE, CHANNELS[colour]))
    share = samples / (2**depth - 1)
    grey = luma(255 * share[..., :3]) if colour in (2, 6) else 255 * share[..., 0]
    expected = grey if colour == 2 else over(grey, share[..., -1], background)
    check(png(samples, colour, depth), expected, background, within=2)
    if colour == 2:
        clear = chunk(b"tRNS", struct.pack(">HHH", *samples[1, 1]))
        expected = np.where((samples == samples[1, 1]).all(-1), background, expected)
        check(png(samples, colour, depth, clear), expected, background, within=2)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("background", [0, 255])
def test_palettes(check, depth, background):
    samples, table = RANDOM.randint(0, 2**depth, (*SHAPE, 1)), RANDOM.randint(0, 256, (2**depth, 3))
    alpha = RANDOM.randint(0, 256, 2**depth)
    palette = chunk(b"PLTE", table.astype(np.uint8).tobytes())
    check(png(samples, 3, depth, palette), luma(table)[samples[..., 0]], background)
    clear = chunk(b"tRNS", alpha.astype(np.uint8).tobytes())
    expected = over(luma(table), alpha / 255, background)[samples[..., 0]]
    check(png(samples, 3, depth, palette, clear), expected, background, within=2)


GOOD = png(np.arange(35).reshape(5, 7, 1) * 7, 0, 8, chunk(b"tEXt", b"made\0by hand"))


def test_any_changed_byte_is_noticed(tmp_path):
    whole, path = None, tmp_path / "a.png"
    path.write_bytes(GOOD)
    whole = read_png(path)
    for place in range(len(GOOD)):
        path.write_bytes(GOOD[:place] + bytes([GOOD[place] ^ 0x41]) + GOOD[place + 1 :])
        try:
            assert np.array_equal(read_png(path), whole), f"byte {place} is changed and nothing is said"
        except ValueError as error:
            assert "a.png" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("content", [b"", b"\x89PNG", GOOD[:-30], b"GIF89a" + bytes(40), b"\xff\xd8\xff" + bytes(40)])
def test_what_is_no_png_is_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match="a.png is not a whole PNG image"):
        read_png(tmp_path / "a.png")


def test_announced_sizes_are_checked_before_memory_is_taken(tmp_path):
    path = tmp_path / "a.png"
    for width, height in ((50_000, 50_000), (2**31 - 1, 1), (5000, 5000)):
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        path.write_bytes(SIGNATURE + head + GOOD[33:])
        with pytest.raises(ValueError, match=f"of {width} x {height} pixels needs at least .* FLOWMAPS_MAX_BYTES"):
            read_png(path)
    bomb = chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(200_000_000)))
    path.write_bytes(GOOD[:33] + bomb + GOOD[33:])
    with pytest.raises(ValueError, match="not a whole PNG"):
        read_png(path)


def test_animations_and_backgrounds_that_are_none(tmp_path):
    from PIL import Image

    frames = [Image.fromarray(RANDOM.randint(0, 256, SHAPE).astype(np.uint8)) for _ in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="animation of 3 pictures"):
        read_png(tmp_path / "a.png")
    with pytest.raises(ValueError, match="background is 256"):
        read_png(tmp_path / "a.png", background=256)
