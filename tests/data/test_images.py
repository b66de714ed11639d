"""Data sets: what goes in comes out, parts are disjoint, and broken files are named."""

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flowmaps.data import (
    Bernoulli,
    CategoricalData,
    Dataset,
    Quantised,
    Threshold,
    digits,
    mnist,
    png_folder,
    split,
)
from flowmaps.data.images import read_idx
from flowmaps.data.sources import data_folder, download, files_below
from flowmaps.reading import read_bytes

REAL = Path(os.environ.get("FLOWMAPS_DATA", Path(__file__).parents[2].parent / "shared" / "data")) / "mnist"


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path):
    """A small data set in MNIST's format, training part plain and test part packed."""
    random = np.random.RandomState(0)
    for part, n, pack in (("train", 30, bytes), ("t10k", 10, gzip.compress)):
        suffix = ".gz" if pack is gzip.compress else ""
        images, labels = random.randint(0, 256, (n, 5, 4)), np.arange(n) % 10
        (tmp_path / f"{part}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images)))
        (tmp_path / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(labels)))
    return tmp_path


@given(n=st.integers(10, 300), seed=st.integers(0, 2**32 - 1), classes=st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_split_is_a_partition_that_keeps_class_shares(n, seed, classes):
    strata = torch.arange(n) % classes
    parts = split(n, (0.5, 0.2, 0.3), seed, strata)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(n))
    for part, share in zip(parts, (0.5, 0.2, 0.3), strict=True):
        for c in range(classes):
            assert abs(int((strata[part] == c).sum()) - share * int((strata == c).sum())) <= 1


def test_split_never_changes():
    assert split(10, (0.7, 0.1, 0.2), seed=3)[2].tolist() == [3, 8]
    assert not torch.equal(split(100, seed=0)[0], split(100, seed=1)[0])


@pytest.mark.parametrize("fractions", [(0.5, 0.4), (1.5, -0.5)])
def test_split_refuses_shares_that_are_none(fractions):
    with pytest.raises(ValueError, match="sum to 1"):
        split(10, fractions)


def test_split_refuses_empty_parts():
    with pytest.raises(ValueError, match="give more data"):
        split(2)


@pytest.mark.parametrize("highest", [1, 255, 256, 2**15, 2**17])
def test_batch_returns_the_categories_given(highest):
    x_1 = torch.randint(highest + 1, (6, 3), generator=torch.Generator().manual_seed(0))
    x_1[0, 0] = highest
    batch = CategoricalData(x_1, label=torch.arange(6)).batch(torch.tensor([4, 0, 4]))
    assert batch.x_1.dtype == torch.int64
    assert torch.equal(batch.x_1, x_1[[4, 0, 4]])
    assert batch.condition.label.tolist() == [4, 0, 4]


def test_several_fields_with_masks():
    fields = {"atoms": torch.ones(4, 3, dtype=torch.int64), "bonds": torch.zeros(4, 3, 3, dtype=torch.int64)}
    mask = {name: leaf > 0 for name, leaf in fields.items()}
    data = CategoricalData(fields, mask=mask)
    assert isinstance(data, Dataset)
    batch = data.subset(torch.tensor([1, 2])).all()
    assert batch.x_1["bonds"].shape == (2, 3, 3) and batch.condition.mask["atoms"].all()


@pytest.mark.parametrize(
    "bad, message",
    [
        (dict(x_1=torch.rand(3, 2)), "whole numbers"),
        (dict(x_1=torch.tensor([[0, -1]])), "negative"),
        (dict(x_1=torch.zeros(0, 2, dtype=torch.int64)), "at least one"),
        (dict(x_1=torch.zeros(3, 2, dtype=torch.int64), label=torch.zeros(2)), "rows"),
    ],
)
def test_data_refuses(bad, message):
    with pytest.raises(ValueError, match=message):
        CategoricalData(**bad)


def test_digits():
    data = digits()
    assert (len(data.train), len(data.valid), len(data.test)) == (1258, 180, 359)
    assert data.shape == (8, 8) and data.levels == 17 and data.classes == 10
    assert int(data.train.x_1.max()) == 16
    for part in data[:3]:
        share = part.condition.label.bincount(minlength=10) / len(part)
        assert (share - 0.1).abs().max() < 0.01
    rows = torch.cat([part.x_1.flatten(1) for part in data[:3]])
    assert len(rows) == 1797
    assert torch.equal(digits().test.x_1, data.test.x_1)


def test_idx_round_trip(folder):
    data = mnist(folder, Quantised(256), valid=7)
    assert (len(data.train), len(data.valid), len(data.test)) == (23, 7, 10)
    expected = np.random.RandomState(0).randint(0, 256, (30, 5, 4))
    assert np.array_equal(torch.cat([data.train.x_1, data.valid.x_1]).numpy(), expected)
    assert data.valid.condition.label.tolist() == [23 % 10, 4, 5, 6, 7, 8, 9]
    assert data.shape == (5, 4) and data.classes == 10


def test_levels():
    grey = torch.arange(256, dtype=torch.uint8).expand(2000, 256)
    assert Threshold()(grey)[0].tolist() == [0] * 128 + [1] * 128
    assert Quantised(4)(grey)[0].tolist() == [i // 64 for i in range(256)]
    drawn = Bernoulli(seed=1)(grey)
    assert torch.equal(drawn, Bernoulli(seed=1)(grey)) and not torch.equal(drawn, Bernoulli(seed=2)(grey))
    assert not drawn[:, 0].any() and drawn[:, 255].all()
    expected = torch.arange(256) / 255
    assert ((drawn.double().mean(0) - expected).abs() < 5 * 0.5 / 2000**0.5).all()


def test_ink_is_drawn_once_for_all_parts(folder):
    grey = torch.cat([read_idx(next(folder.glob(f"{part}-images*"))) for part in ("train", "t10k")])
    drawn = torch.cat([part.x_1 for part in mnist(folder, Bernoulli(seed=4), valid=7)[:3]])
    assert torch.equal(drawn, Bernoulli(seed=4)(grey))


@pytest.mark.parametrize("levels", [lambda: Threshold(0), lambda: Quantised(1), lambda: Quantised(257)])
def test_levels_refuse(levels):
    with pytest.raises(ValueError, match="give a value from"):
        levels()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "nothing"),
        (b"\x00\x00\x0d\x03" + bytes(100), "00000d03"),
        (b"PNG!", "not an IDX file"),
        (idx(np.zeros((3, 2)))[:-1], "cut short"),
        (idx(np.zeros((3, 2))) + b"\x00", "damaged"),
        (bytes([0, 0, 8, 3, 0, 0]), "cut short"),
    ],
)
def test_broken_idx_files_are_named(tmp_path, content, message):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_idx(path)
    assert str(path) in str(error.value)


def test_broken_gzip_is_named(tmp_path):
    path = tmp_path / "a.gz"
    for content in (gzip.compress(b"some text" * 50)[:-10], b"no gzip"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="fetch it again"):
            read_bytes(path)


def test_missing_and_mismatched_files(folder):
    with pytest.raises(ValueError, match="validation images is 30"):
        mnist(folder, valid=30)
    labels = folder / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(np.zeros(29)))
    with pytest.raises(ValueError, match="30 images and .* 29 labels"):
        mnist(folder, valid=5)
    labels.write_bytes(idx(np.zeros((30, 2))))
    with pytest.raises(ValueError, match="2 dimensions, expected 1"):
        mnist(folder, valid=5)
    labels.unlink()
    with pytest.raises(ValueError, match="neither train-labels"):
        mnist(folder, valid=5)


def test_data_folder_prefers_path_then_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWMAPS_DATA", str(tmp_path))
    assert data_folder("mnist") == tmp_path / "mnist"
    assert data_folder("mnist", "here") == Path("here")


def test_download_checks_and_leaves_nothing_behind(tmp_path):
    content = b"words " * 100
    source, target = tmp_path / "source.gz", tmp_path / "kept" / "corpus.gz"
    source.write_bytes(gzip.compress(content))
    missing = (tmp_path / "absent").as_uri()
    with pytest.raises(ValueError, match="SHA-256") as error:
        download([missing, source.as_uri()], target, "0" * 64)
    assert missing in str(error.value) and "put the file at" in str(error.value)
    assert not target.exists()
    sha256 = hashlib.sha256(content).hexdigest()
    assert download([missing, source.as_uri()], target, sha256) == target
    assert read_bytes(target) == content and [file.name for file in target.parent.iterdir()] == ["corpus.gz"]
    source.unlink()
    assert download([source.as_uri()], target, sha256) == target


def test_download_offline_says_so(tmp_path):
    with pytest.raises(ValueError, match="go online"):
        download(["http://127.0.0.1:9/mnist.gz"], tmp_path / "mnist.gz", "0" * 64, timeout=1)


def test_png_folder_with_classes(tmp_path):
    random = np.random.RandomState(0)
    for i in range(20):
        (tmp_path / f"class{i % 2}").mkdir(exist_ok=True)
        Image.fromarray(random.randint(0, 256, (6, 5), dtype=np.uint8)).save(tmp_path / f"class{i % 2}" / f"{i:02}.png")
    data = png_folder(tmp_path, Quantised(8))
    assert data.shape == (6, 5) and data.levels == 8 and data.classes == 2
    assert sum(len(part) for part in data[:3]) == 20
    Image.fromarray(np.zeros((6, 6), np.uint8)).save(tmp_path / "class1" / "wide.png")
    with pytest.raises(ValueError, match="wide.png is \\(6, 6\\)"):
        png_folder(tmp_path)
    (tmp_path / "class0" / "00.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    with pytest.raises(ValueError, match="00.png is not a whole PNG"):
        png_folder(tmp_path)


def test_hidden_files_and_upper_case_suffixes(tmp_path):
    Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6) * 7).save(tmp_path / "one.png")
    content = (tmp_path / "one.png").read_bytes()
    for i in range(19):
        (tmp_path / f"{i}.{'PNG' if i % 2 else 'Png'}").write_bytes(content)
    for hidden in ("._one.png", ".ipynb_checkpoints/one.png", "__MACOSX/._one.png", "__MACOSX/one.png"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"no picture")
    data = png_folder(tmp_path)
    assert sum(map(len, data[:3])) == 20 and data.classes == 0
    (tmp_path / "labels.csv").write_text("0")
    (tmp_path / "another.JPG").write_text("0")
    with pytest.warns(UserWarning, match=r"2 of 22 files are left out \(1 of .JPG, 1 of .csv\)"):
        assert len(files_below(tmp_path, (".png",))) == 20
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "one.png").write_bytes(content)
    with pytest.raises(ValueError, match="lies beside folders of classes"), pytest.warns(UserWarning):
        png_folder(tmp_path)


def test_a_folder_of_one_level_is_refused(tmp_path):
    drawing = np.zeros((10, 6, 6, 2), np.uint8)
    drawing[..., 1] = np.random.RandomState(0).randint(0, 256, (10, 6, 6))
    for i, one in enumerate(255 - drawing):  # white on a transparent ground
        Image.fromarray(one).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match="has level 15;.*another background than 255"):
        png_folder(tmp_path)
    expected = np.sort((255 - drawing[..., 1]).ravel() // 16)
    parts = png_folder(tmp_path, background=0)[:3]
    assert np.array_equal(np.sort(np.concatenate([part.x_1.numpy().ravel() for part in parts])), expected)


def test_classes_are_the_labels_of_the_training_part(folder):
    labels = folder / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(np.arange(30) % 3 * 100 + 5))
    with pytest.raises(ValueError, match=r"the test part has 9 images with labels that no .* \(0, 1, 2, 3, 4, 6"):
        mnist(folder, valid=7)
    (folder / "t10k-labels-idx1-ubyte.gz").rename(folder / "T10K-labels-idx1-ubyte.GZ")
    (folder / "T10K-labels-idx1-ubyte.GZ").write_bytes(gzip.compress(idx(np.array([205] * 9 + [5]))))
    data = mnist(folder, valid=7)
    assert data.classes == 3 and data.test.condition.label.tolist() == [2] * 9 + [0]
    assert data.valid.condition.label.tolist() == [2, 0, 1, 2, 0, 1, 2]
    labels.write_bytes(idx(np.arange(30) // 25))
    with pytest.raises(ValueError, match=r"the validation part \(the last 5 of 30\) has 5 images"):
        mnist(folder, valid=5)


def test_an_idx_header_is_believed_within_limits_only(tmp_path):
    path = tmp_path / "a"
    for shape in ((2**31, 2**10, 2**10), (60_000, 2**16, 28)):
        path.write_bytes(bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in shape) + bytes(100))
        with pytest.raises(ValueError, match="more than the limit"):
            read_idx(path)
    path.write_bytes(idx(np.zeros((0, 5))))
    with pytest.raises(ValueError, match="one value at least"):
        read_idx(path)


def test_png_folder_empty(tmp_path):
    with pytest.raises(ValueError, match="no .png"):
        png_folder(tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="MNIST's files are not here; set FLOWMAPS_DATA")
def test_real_mnist():
    data = mnist(REAL)
    assert (len(data.train), len(data.valid), len(data.test)) == (50_000, 10_000, 10_000)
    assert data.shape == (28, 28) and data.levels == 2
    assert data.test.condition.label[:5].tolist() == [7, 2, 1, 0, 4]
    assert abs(float(data.train.x_1.float().mean()) - 0.13) < 0.01
