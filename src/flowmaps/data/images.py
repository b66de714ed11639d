"""Images as categorical data: scanned digits, MNIST from its IDX files, and folders of PNGs.

Every loader returns :class:`ImageSplits`: pixels are positions ``(height, width)``, grey levels are
categories. How many levels there are and how they came about is a :class:`Levels` object.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor

from ..fields import Batch, one_field
from ..reading import blocks, check_size, check_unpacked, regular
from ..seeds import check_seed
from .base import CategoricalData, fingerprint, split
from .png import read_png
from .sources import data_folder, download, files_below


class Levels(ABC):
    """How grey values 0..255 become categories."""

    size: int

    @abstractmethod
    def __call__(self, grey: Tensor) -> Tensor:
        """Categories of uint8 grey values, same shape."""


class Threshold(Levels):
    """Two levels: ink where the grey value is at least ``at``."""

    size = 2

    def __init__(self, at: int = 128):
        self.at = _between("threshold", at, 1, 255)

    def __call__(self, grey: Tensor) -> Tensor:
        return (grey >= self.at).to(torch.uint8)


class Bernoulli(Levels):
    """Two levels: ink with probability grey / 255, drawn once with ``seed`` (static binarisation)."""

    size = 2

    def __init__(self, seed: int = 0):
        self.seed = check_seed(seed)

    def __call__(self, grey: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.cat(
            [(255 * torch.rand(part.shape, generator=generator) < part).to(torch.uint8) for part in grey.split(1024)]
        )


class Quantised(Levels):
    """``size`` levels of equal width: floor(grey * size / 256)."""

    def __init__(self, size: int = 16):
        self.size = _between("number of grey levels", size, 2, 256)

    def __call__(self, grey: Tensor) -> Tensor:
        return torch.cat([(part.to(torch.int32) * self.size // 256).to(torch.uint8) for part in grey.split(1024)])


class ImageSplits(NamedTuple):
    """Images in three disjoint parts, with the size of their alphabet.

    Arguments:
        levels: Number of grey levels K; categories are 0 (background) to K - 1.
        classes: Number of classes of the labels, 0 where there are none.
    """

    train: CategoricalData
    valid: CategoricalData
    test: CategoricalData
    levels: int
    classes: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        height, width = one_field(self.train.x_1).shape[1:]
        return height, width


def noisy(x_1: Tensor, levels: int, deviation: float, generator: torch.Generator) -> Tensor:
    r"""Images with normal noise on their intensities, clipped, in the same levels.

    .. math:: k' = \operatorname{round}\big((K-1) \operatorname{clip}(\tfrac{k}{K-1} + \sigma\varepsilon)\big)

    Arguments:
        x_1: Categories.
        deviation: σ.
    """
    parts = []
    for part in x_1.split(1024):
        grey = part / (levels - 1) + deviation * torch.randn(part.shape, generator=generator)
        parts.append((grey.clamp(0, 1) * (levels - 1)).round().to(x_1.dtype))
    return torch.cat(parts)


class NoisyImages:
    """Images whose noise is a function of the batch that they are in: another in each epoch, the same when asked again.

    Arguments:
        data: Images without noise; labels are left behind.
        levels: Grey levels K.
        deviation: σ of :func:`noisy`.
        seed: Of the noise.
    """

    def __init__(self, data: CategoricalData, levels: int, deviation: float, seed: int = 0):
        self.data, self.levels, self.deviation, self.seed = data, levels, deviation, seed

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, index: Tensor) -> Batch:
        """Rows ``index`` as int64 categories."""
        generator = torch.Generator().manual_seed(int(fingerprint(self.seed, index)[:15], 16))
        return Batch(noisy(one_field(self.data.batch(index).x_1), self.levels, self.deviation, generator))

    def fingerprint(self) -> str:
        """Of the images and their noise."""
        return fingerprint(self.data.fingerprint(), self.levels, self.deviation, self.seed)


def digits(seed: int = 0) -> ImageSplits:
    """The 1,797 handwritten digits of scikit-learn: real scans, 8 x 8, 17 grey levels, nothing to download.

    Split 70 / 10 / 20 per cent within each class by :func:`~flowmaps.data.base.split`.

    Reference: E. Alpaydin and C. Kaynak 1998, Optical Recognition of Handwritten Digits, UCI repository.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x_1 = torch.from_numpy(pixels.astype(np.int64)).reshape(-1, 8, 8)
    return _in_parts(x_1, torch.from_numpy(labels.astype(np.int64)), levels=17, classes=10, seed=seed)


MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
MNIST_SHA256 = {  # of the unpacked files
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def mnist(
    path: str | os.PathLike | None = None,
    levels: Levels | None = None,
    valid: int | None = None,
    fetch: bool = False,
) -> ImageSplits:
    """MNIST, 28 x 28, from its four IDX files (plain or ``.gz``).

    The last training images validate, 10,000 as in binarised MNIST; the test files are the test part. Any
    data set in the same format works (Fashion-MNIST, EMNIST). Classes are the labels of the training part in
    ascending order, counted from 0 without gaps.

    Arguments:
        path: Folder of the files; default ``$FLOWMAPS_DATA/mnist``, else a cache folder.
        levels: ``Threshold()`` where not given.
        valid: Training images that validate; default 10,000, or a sixth of fewer than 60,000.
        fetch: Download what is missing, with a checksum.
    Raises: ValueError if a file is missing, broken, cut short or of another format, sizes disagree, or a validation or
        test image has a label that no training image has.
    """
    folder, levels = data_folder("mnist", path), levels or Threshold()
    if fetch:
        _fetch(folder)
    (grey, label), (test_grey, test_label) = (_images_and_labels(folder, part) for part in ("train", "t10k"))
    if grey.shape[1:] != test_grey.shape[1:]:
        sizes = f"training images are {tuple(grey.shape[1:])} and test images {tuple(test_grey.shape[1:])}"
        raise ValueError(f"{folder}: {sizes}; give files of one data set")
    valid = min(10_000, -(-len(grey) // 6)) if valid is None else valid
    _between("number of validation images", valid, 1, len(grey) - 1)
    x_1, cut = levels(torch.cat([grey, test_grey])), len(grey) - valid
    names, of_train = label[:cut].unique(return_inverse=True)
    of_valid = _classes(label[cut:], names, f"the validation part (the last {valid} of {len(grey)})")
    return ImageSplits(
        CategoricalData(x_1[:cut], of_train),
        CategoricalData(x_1[cut : len(grey)], of_valid),
        CategoricalData(x_1[len(grey) :], _classes(test_label, names, "the test part")),
        levels.size,
        len(names),
    )


def _fetch(folder: Path) -> None:
    for name, sha256 in MNIST_SHA256.items():
        if not (folder / name).exists():
            download([f"{mirror}{name}.gz" for mirror in MIRRORS], folder / f"{name}.gz", sha256)


def _classes(label: Tensor, names: Tensor, part: str) -> Tensor:
    """The places of labels in the sorted ``names`` of the training part."""
    strange = label[~torch.isin(label, names)]
    if len(strange):
        listed = ", ".join(map(str, strange.unique().tolist()[:10]))
        raise ValueError(
            f"{part} has {len(strange)} images with labels that no image for training has ({listed}); "
            "give files of one data set in a random order, or leave those images out"
        )
    return torch.searchsorted(names, label)


def png_folder(
    path: str | os.PathLike, levels: Levels | None = None, seed: int = 0, background: int = 255
) -> ImageSplits:
    """A folder of PNGs of one size as grey levels; where they lie in subfolders, each subfolder is a class.

    Files are taken in sorted order and split 70 / 10 / 20 per cent by :func:`~flowmaps.data.base.split`. What is
    hidden is left out (:func:`~flowmaps.data.sources.files_below`), pixels are read by :func:`read_png`.

    Raises: ValueError naming the first file that is not an image or has another size; if there are none, if some lie
        beside the folders of classes, or if every pixel has one level.
    """
    folder, levels = Path(path).expanduser(), levels or Quantised(16)
    files = files_below(folder, (".png",))
    if not files:
        raise ValueError(f"{folder} holds no .png file; give a folder of PNG images")
    places = sorted({file.parent for file in files})
    if folder in places and len(places) > 1:
        stray = next(file for file in files if file.parent == folder)
        raise ValueError(f"{stray} lies beside folders of classes; put it into one of them, or all files into one")
    x_1 = levels(_grey(files, background))
    if bool((x_1 == x_1[0, 0, 0]).all()):
        raise ValueError(
            f"every pixel of the images of {folder} has level {int(x_1[0, 0, 0])}; check the images, choose other "
            f"levels, or another background than {background} if they are transparent"
        )
    label = torch.tensor([places.index(file.parent) for file in files]) if len(places) > 1 else None
    return _in_parts(x_1, label, levels.size, len(places) if len(places) > 1 else 0, seed)


def _grey(files: Sequence[Path], background: int) -> Tensor:
    """The grey values of PNG files of one size, uint8 ``(n, height, width)``."""
    images: list[np.ndarray] = []
    for file in files:
        images.append(read_png(file, background))
        if images[-1].shape != images[0].shape:
            raise ValueError(
                f"{file} is {images[-1].shape} but {files[0]} is {images[0].shape}; give images of one size"
            )
        check_size(f"the images of {files[0].parent}", len(images) * images[0].size)
    return torch.from_numpy(np.stack(images))


def read_images(path: str | os.PathLike, levels: Levels, background: int = 255) -> Tensor:
    """Categories ``(n, height, width)`` of a PNG file, of a folder of them, or of an archive of ``flowmaps sample``.

    An archive ``samples.npz`` holds categories themselves; its arrays follow each other.

    Raises: ValueError if it is none of these, or categories are not those of the levels.
    """
    place = Path(path).expanduser()
    if place.suffix.lower() != ".npz":
        files = files_below(place, (".png",)) if place.is_dir() else [place]
        if not files:
            raise ValueError(f"{place} holds no .png file; give a PNG image, a folder of them, or a samples.npz")
        return levels(_grey(files, background))
    packed = regular(place)
    try:
        with ZipFile(place) as archive:
            check_unpacked(str(place), sum(part.file_size for part in archive.infolist()), packed)
        with np.load(place, allow_pickle=False) as archive:
            x = np.concatenate([archive[name] for name in archive.files])
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise ValueError(f"{place} is no archive of images of one size ({error}); write it again") from None
    if x.ndim != 3 or x.dtype != np.uint8 or not len(x) or x.max() >= levels.size:
        raise ValueError(
            f"{place} holds {x.dtype} of shape {x.shape}, expected categories (n, height, width) of uint8 below "
            f"{levels.size}"
        )
    return torch.from_numpy(x)


def read_idx(path: str | os.PathLike) -> Tensor:
    """The uint8 array of an IDX file, plain or packed.

    Format: two zero bytes, type 8 (unsigned byte), number of dimensions, each dimension as a big-endian
    32-bit integer, then the values.

    Raises: ValueError if the magic number, the type or the length is not that of such a file.
    """
    content = bytearray(next(blocks(path), b""))
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or not 1 <= content[3] <= 4:
        raise ValueError(
            f"{path} starts with {content[:4].hex() or 'nothing'}, not 00000801 to 00000804: "
            "not an IDX file of unsigned bytes; give the original files"
        )
    start = 4 + 4 * content[3]
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    needed = start + math.prod(shape)
    check_size(f"{path} with its header {shape}", needed)
    for block in islice(blocks(path), 1, None):
        content += block
        if len(content) > needed:
            break
    if len(content) != needed or not needed > start:
        raise ValueError(
            f"{path} has {len(content)} bytes{' or more' * (len(content) > needed)} where its header {shape} needs "
            f"{needed}, with one value at least; it is cut short or damaged, fetch it again"
        )
    return torch.frombuffer(content, dtype=torch.uint8, offset=start).reshape(shape)


def _images_and_labels(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    images, labels = (_find(folder, f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    x, y = read_idx(images), read_idx(labels)
    if x.ndim != 3:
        raise ValueError(f"{images} has {x.ndim} dimensions, expected 3 (images); check that names match contents")
    if y.ndim != 1:
        raise ValueError(f"{labels} has {y.ndim} dimensions, expected 1 (labels); check that names match contents")
    if len(x) != len(y):
        raise ValueError(f"{images} has {len(x)} images and {labels} {len(y)} labels; give files of one data set")
    return x, y.long()


def _find(folder: Path, name: str) -> Path:
    names = [name, f"{name}.gz", f"{name}.xz"]
    here = sorted(folder.iterdir()) if folder.is_dir() else []
    if found := [path for wanted in names for path in here if path.name.lower() == wanted]:
        return found[0]
    raise ValueError(
        f"{folder} has neither {name} nor {name}.gz; give the folder of the IDX files, "
        "set FLOWMAPS_DATA, or ask for the download"
    )


def _in_parts(x_1: Tensor, label: Tensor | None, levels: int, classes: int, seed: int) -> ImageSplits:
    data = CategoricalData(x_1, label)
    train, valid, test = (data.subset(part) for part in split(len(x_1), seed=seed, strata=label))
    return ImageSplits(train, valid, test, levels, classes)


def _between(what: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise ValueError(f"{what} is {value}; give a value from {low} to {high}")
    return value
