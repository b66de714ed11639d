"""Every preset makes an update in its own precision, and every modality in all of them, from data to samples."""

import gzip
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flowmaps.cli.main import main
from flowmaps.cli.presets import presets
from flowmaps.data.text_tokens import to_description, tokeniser
from flowmaps.train import read_config, read_state, resolve
from flowmaps.train.precision import settled

SMALL = ("--trainer.max_steps=1", "--trainer.batch_size=8", "--trainer.accumulation=1", "--trainer.valid_examples=8",
         "--trainer.curves=false", "--trainer.accelerator=cpu", "--trainer.compile=false")  # fmt: skip
TEXT = ("--task.width=16", "--task.depth=2", "--task.heads=2", "--task.length=12", "--task.n=4")
MOLECULES = ("--task.width=16", "--task.depth=1", "--task.edge=8", "--task.heads=2")
IMAGES = ("--task.width=8", "--task.lower=[16]", "--task.depth=1")
AUTOENCODERS = ("--task.encoder.init_args.width=4", "--task.decoder.init_args.width=4")
BIJECTION = ("--task.flow.width=8", "--task.flow.layers=2", "--task.flow.bins=4")
POINTS = ("--task.width=8", "--task.depth=1", "--task.frequencies=2", "--task.size=64", "--task.held_out=16")
FIRST_STAGE = {"text8-distilled": "text8-base", "qm9-large-second": "qm9-large", "novels-second": "novels",
               "novels-bpe-second": "novels-bpe", "promoters-large-second": "promoters-large"}  # fmt: skip
WORDS = ("--task.embedding=16", "--task.chunk=16")
MODALITIES = ("digits", "qm9", "tiny-shakespeare", "lm1b", "checkerboard", "earth", "torsions", "ramachandran",
              "aef-digits")  # fmt: skip


@pytest.fixture(scope="session")
def own(tmp_path_factory):
    """Small data of every modality."""
    folder = tmp_path_factory.mktemp("own")
    smiles = ["C" * i + x + "C" * j for x in "ONS" for i in range(1, 9) for j in range(i)]
    (folder / "molecules.csv").write_text("\n".join(["smiles", *smiles]) + "\n")
    (folder / "angles.csv").write_text("lat,lon\n" + "".join(f"{i},{3 * i}\n" for i in range(80)))
    (folder / "dna").mkdir()
    for species, letters in (("one", "ACGT"), ("two", "AACT")):
        rows = ["".join(letters[(i * k + k // 3) % 4] for k in range(24)) for i in range(1, 60)]
        (folder / "dna" / f"{species}.txt").write_text("\n".join(rows) + "\n")
    text = "the cat sat on the mat and the dog ran off with a red hat\n" * 60
    (folder / "text.txt").write_text(text)
    # Learned once: what ties between merges come to differs from one learning to the next.
    learned = json.loads(to_description(tokeniser("wordpiece", [text], 300)))
    (folder / "tokenizer.json").write_text(learned["tokenizer"])
    generator = np.random.default_rng(0)
    for part, n in (("train", 60), ("t10k", 20)):
        images, labels = generator.integers(0, 256, (n, 28, 28)), np.arange(n) % 10
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(int(k).to_bytes(4, "big") for k in array.shape)
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))
    return folder


def train(name, own, out, *options):
    """One update of a preset, small and on the data at hand."""
    family = presets()[name].read_text()
    if "tasks.images" in family:
        options = (*IMAGES, *(["--task.path", str(own)] if "mnist" in name else []), *options)
    elif "tasks.autoencoders" in family:
        options = (*AUTOENCODERS, *(["--task.path", str(own)] if "mnist" in name else []), *options)
    elif "tasks.dna" in family:
        options = ("--task.width=16", "--task.rounds=1", "--data.path", str(own / "dna"), *options)
    elif "tasks.points" in family:
        options = (*POINTS, *options)
    elif "tasks.earth" in family or "tasks.torsions" in family:
        options = (*POINTS[:3], "--data.path", str(own / "angles.csv"), *options)
    elif "tasks.ramachandran" in family:
        options = (*BIJECTION, "--data.path", str(own / "angles.csv"), *options)
    elif "tasks.boltzmann" in family:
        pytest.importorskip("openmm", reason="needs the extra physics")
        short = ("--nanoseconds=2e-3", "--every=10", "--settle=0")
        assert main(["simulate", "alanine-dipeptide", "--out", str(own / "frames"), *short]) == 0
        options = ("--task.flow.width=8", "--task.flow.layers=2", "--data.path", str(own / "frames"), *options)
    elif "tasks.hyperbolic" in family or "tasks.rotations" in family:
        options = (*POINTS[:3], *options)
    elif "tasks.molecules" in family:
        options = (*MOLECULES, "--data.path", str(own / "molecules.csv"), *options)
    else:
        words = (*WORDS, "--task.tokeniser", str(own / "tokenizer.json")) if "embedding" in family else ()
        cache = ("--task.cache", str(out.parent / "cache"))
        options = (*TEXT, *words, "--data.path", str(own / "text.txt"), *cache, *options)
    return main(["train", name, "--out", str(out), *SMALL, *options])


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_makes_an_update_in_its_own_precision(name, own, tmp_path):
    options = ()
    if name in FIRST_STAGE:
        assert train(FIRST_STAGE[name], own, tmp_path / "base") == 0
        options = ("--objective.init_args.base", str(tmp_path / "base"))
    assert train(name, own, tmp_path / "run", *options) == 0
    folder = resolve(tmp_path / "run")
    asked = read_config(folder)["trainer"]["precision"]
    assert read_state(folder)["precision"] == settled(asked, torch.device("cpu"))
    assert torch.isfinite(torch.tensor(read_state(folder)["metrics"]["valid/loss"]))


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
@pytest.mark.parametrize("name", MODALITIES)
def test_every_modality_trains_resumes_and_samples_in_every_precision(name, precision, own, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(name, own, run, f"--trainer.precision={precision}") == 0
    assert train(name, own, run, f"--trainer.precision={precision}", "--trainer.max_steps=2", "--resume") == 0
    wanted = torch.float64 if precision == "64-true" else torch.float32
    weights = load_file(resolve(run) / "ema.safetensors")
    assert {w.dtype for w in weights.values() if w.is_floating_point()} == {wanted}
    assert main(["sample", str(run), "--n", "4", "--out", str(tmp_path / "samples")]) == 0
    if precision == "64-true":
        assert train(name, own, run, "--trainer.max_steps=3", "--resume") == 2
        assert "was trained with precision = 64-true, and now it is" in capsys.readouterr().err
