"""The commands on autoencoders: every file, every option, mistakes in one line, baselines by an option."""

import json

import pytest

from flowmaps.cli.main import main

TINY = ("--trainer.max_steps=6", "--trainer.batch_size=16", "--trainer.valid_examples=16", "--trainer.curves=false",
        "--trainer.accelerator=cpu",
        "--task.encoder.init_args.width=4", "--task.decoder.init_args.width=4")  # fmt: skip


def test_the_commands(tmp_path, tell):
    run = tmp_path / "run"
    assert tell("train", "aef-digits", "--out", run, *TINY)[0] == 0
    assert (run / "samples.png").exists()
    code, out, err = tell("evaluate", run, "--out", tmp_path / "found", "--n", 30, "--images", 20, "--draws", 2)
    assert code == 0, err
    found = json.loads((tmp_path / "found" / "metrics.json").read_text())
    assert found["likelihood"]["exact"] and found["likelihood"]["bits_per_dimension"] > 0
    assert found["denoising"]["pixel_error_of_noisy"] > 0.05 and len(found["latents"]["mean"]) == 2
    for name in ("reconstructions.png", "latents.png", "denoised.png", "samples.png"):
        assert (tmp_path / "found" / name).stat().st_size > 1000
    code, out, err = tell("score", run, "--n", 20, "--out", tmp_path / "scored")
    scored = json.loads((tmp_path / "scored" / "metrics.json").read_text())["bounds"]["exact"]
    assert code == 0 and scored["bits_per_position"] == pytest.approx(found["likelihood"]["bits_per_dimension"])
    assert len((tmp_path / "scored" / "scores.jsonl").read_text().splitlines()) == 20
    assert tell("sample", run, "--n", 5, "--out", tmp_path / "own")[0] == 0
    code, _, err = tell("score", run, "--data", tmp_path / "own" / "samples.npz", "--out", tmp_path / "of-own")
    assert code == 0, err
    own = [json.loads(line)["nats"] for line in (tmp_path / "of-own" / "scores.jsonl").read_text().splitlines()]
    assert len(own) == 5 and all(0 < nats < 1000 for nats in own)
    for data, message in ((run / "samples.png", "holds images of shape"),
                          (tmp_path / "found" / "metrics.json", "is not a whole PNG image")):  # fmt: skip
        code, _, err = tell("score", run, "--data", data, "--out", tmp_path / "none")
        assert code == 2 and message in err and err.count("\n") == 1, err
    code, _, err = tell("score", run, "--bound", "CutOff")
    assert code == 2 and "CutOff bounds flow maps" in err and err.count("\n") == 1
    assert tell("sample", run, "--temperature", 0.7, "--out", tmp_path / "drawn")[0] == 0
    code, _, err = tell("sample", run, "--steps", 4)
    assert code == 2 and "an autoencoder makes images in one step" in err and err.count("\n") == 1


def test_a_mask_with_the_wrong_number_of_latents_is_refused_by_the_command(tmp_path, tell):
    mask = '{"class_path": "flowmaps.maps.Chosen", "init_args": {"pixels": [[1, 1], [2, 2]]}}'
    arguments = ("--task.latents=3", f"--task.family.init_args.mask={mask}", "--out", tmp_path / "run", *TINY)
    code, _, err = tell("train", "aef-digits", *arguments)
    assert code == 2 and "the mask names 2 pixels for 3 latent dimensions" in err and err.count("\n") == 1


def test_the_baselines_are_other_families_of_the_same_preset(tmp_path):
    more = ("--task.family=flowmaps.maps.VAE", "--task.core=null", "--objective.draws=4", *TINY)
    assert main(["train", "aef-digits", "--out", str(tmp_path / "iwae"), *more]) == 0
