"""What a task learned from its data belongs to the checkpoint: other data are refused, in every modality."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from flowmaps.data.base import CategoricalData, fingerprint
from flowmaps.tasks.base import ChangedData
from flowmaps.tasks.images import Images
from flowmaps.tasks.text import Text

pytestmark = pytest.mark.filterwarnings("ignore:.*rows (stay|are left out)")
TEXT = "it was the best of times, it was the worst of times. " * 40


def restored(task, state):
    """A task as a checkpoint opens it."""
    task.restore(json.loads(json.dumps(state)))
    return task


def text(folder: Path, content: str, **options) -> Text:
    (folder / "my.txt").write_text(content)
    return Text(str(folder / "my.txt"), length=8, cache=str(folder / "cache"), **options)


@pytest.mark.parametrize("kind", ["characters", "letters", "bytes"])
def test_an_unchanged_text_is_accepted_and_one_letter_is_not(tmp_path, kind):
    state = text(tmp_path, TEXT, tokeniser=kind).state()
    assert len(restored(text(tmp_path, TEXT, tokeniser=kind), state).test_data)
    changed = restored(text(tmp_path, TEXT[:-9] + "h" + TEXT[-8:], tokeniser=kind), state)
    for data in ("train_data", "valid_data", "test_data", "measures"):
        with pytest.raises(ChangedData, match="data.train was .* and is now .*; restore those data, or train again"):
            getattr(changed, data)


def test_another_alphabet_of_characters_is_named(tmp_path):
    state = text(tmp_path, TEXT, tokeniser="characters").state()
    with pytest.raises(ChangedData, match=r"tokeniser.alphabet was ' ,\.abe.*' and is now ' !,\.abe"):
        _ = restored(text(tmp_path, TEXT + "!", tokeniser="characters"), state).test_data


def test_another_tokeniser_or_length_is_named(tmp_path):
    state = text(tmp_path, TEXT).state()
    with pytest.raises(ChangedData, match="tokeniser.name was 'letters' and is now 'bytes'"):
        _ = restored(text(tmp_path, TEXT, tokeniser="bytes"), state).test_data


@pytest.fixture
def pictures(tmp_path):
    from PIL import Image

    random = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for i in range(12):
            Image.fromarray(random.integers(0, 256, (4, 4), dtype=np.uint8)).save(tmp_path / name / f"{i:02}.png")
    return tmp_path


def folder_of(pictures: Path) -> Images:
    return Images("folder", str(pictures), width=8, lower=(16,))


def test_one_pixel_of_one_picture(pictures):
    from PIL import Image

    state = folder_of(pictures).state()
    assert len(restored(folder_of(pictures), state).test_data)
    pixels = np.asarray(Image.open(pictures / "cats" / "03.png"))
    Image.fromarray(pixels ^ np.uint8(128)).save(pictures / "cats" / "03.png")
    with pytest.raises(ChangedData, match="data.(train|valid|test) was"):
        _ = restored(folder_of(pictures), state).test_data


def test_exchanged_classes_and_a_new_class(pictures):
    state = folder_of(pictures).state()
    (pictures / "cats").rename(pictures / "spare")
    (pictures / "dogs").rename(pictures / "cats")
    (pictures / "spare").rename(pictures / "dogs")
    with pytest.raises(ChangedData, match="data.train was"):
        _ = restored(folder_of(pictures), state).test_data
    (pictures / "dogs").rename(pictures / "owls")
    for i in range(6):
        (pictures / "birds").mkdir(exist_ok=True)
        (pictures / "birds" / f"{i}.png").write_bytes((pictures / "owls" / "00.png").read_bytes())
    with pytest.raises(ChangedData, match="classes was 2 and is now 3"):
        _ = restored(folder_of(pictures), state).test_data


def test_samples_need_no_data_and_show_no_others(pictures, tmp_path):
    state = folder_of(pictures).state()
    (pictures / "cats" / "03.png").unlink()
    task = restored(folder_of(pictures), state)
    rows = {"1": torch.zeros(2, 4, 4, dtype=torch.long)}
    with pytest.warns(UserWarning, match="real pictures are left out: the data are not those of the training"):
        assert all(path.is_file() for path in task.write(rows, tmp_path / "out"))


def molecules(folder: Path, rows: list[str], **options):
    pytest.importorskip("rdkit")
    from flowmaps.tasks.molecules import Molecules

    (folder / "my.smi").write_text("\n".join(rows))
    return Molecules(str(folder / "my.smi"), cache=str(folder / "cache"), **options)


def chains(often: str, seldom: str) -> list[str]:
    return ["C" * i + often + "C" * j for i in range(1, 8) for j in range(6)] + ["C" * i + seldom for i in range(1, 6)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (chains("N", "O"), r"alphabet.atoms was \['C', 'O', 'N'\] and is now \['C', 'N', 'O'\]"),
        (chains("S", "N"), r"alphabet.atoms was \['C', 'O', 'N'\] and is now \['C', 'S', 'N'\]"),
        ([*chains("O", "N"), "CS"], r"\['C', 'O', 'N', 'S'\]"),
        ([*chains("O", "N"), "C" * 30], "alphabet.size was 13 and is now 30"),
        (chains("O", "N")[1:], "size_weights.* was"),
    ],
)
def test_changed_molecules(tmp_path, rows, message):
    state = molecules(tmp_path, chains("O", "N")).state()
    assert len(restored(molecules(tmp_path, chains("O", "N")), state).test_data)
    with pytest.raises(ChangedData, match=message):
        _ = restored(molecules(tmp_path, rows), state).test_data


def test_order_of_the_rows_of_a_file_of_molecules_does_not_matter(tmp_path):
    rows = ["C" * i + end for i in range(1, 20) for end in ("O", "N", "=O")]
    state = molecules(tmp_path, rows).state()
    assert len(restored(molecules(tmp_path, rows[::-1]), state).test_data)


def test_scales_are_compared_but_for_what_another_machine_rounds(tmp_path):
    state = molecules(tmp_path, chains("O", "N"), conditions=("logp",)).state()
    mean, deviation = state["scale"]["logp"]
    near = {**state, "scale": {"logp": [mean * (1 + 1e-9), deviation]}}
    assert len(restored(molecules(tmp_path, chains("O", "N"), conditions=("logp",)), near).test_data)
    far = {**state, "scale": {"logp": [mean + 0.1, deviation]}}
    with pytest.raises(ChangedData, match="scale.logp was"):
        _ = restored(molecules(tmp_path, chains("O", "N"), conditions=("logp",)), far).test_data


def test_a_checkpoint_without_fingerprints_is_compared_in_what_it_has(tmp_path):
    state = text(tmp_path, TEXT).state()
    del state["data"]
    assert len(restored(text(tmp_path, TEXT.replace("best", "rest")), state).test_data)
    with pytest.raises(ChangedData, match="tokeniser.name"):
        _ = restored(text(tmp_path, TEXT, tokeniser="bytes"), state).test_data


def test_fingerprints_tell_data_apart():
    x = torch.arange(12).reshape(6, 2)
    label = torch.arange(6)
    one = CategoricalData(x, label)
    assert one.fingerprint() == CategoricalData(x.clone(), label.clone()).fingerprint()
    others = [CategoricalData(x.flip(0), label), CategoricalData(x, label.flip(0)), CategoricalData(x),
              CategoricalData(x[:5], label[:5]), CategoricalData(x, mask=x > 3), CategoricalData(x, known=x > 3),
              CategoricalData({"a": x}, label, mask={"a": x > 3})]  # fmt: skip
    assert len({data.fingerprint() for data in (one, *others)}) == 8
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
