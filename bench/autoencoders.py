r"""Autoencoders within flows against variational autoencoders of the same networks at equal processor time, on MNIST.

    python bench/autoencoders.py                                    # 18 pairs of runs; those that are there are kept
    python bench/autoencoders.py --methods "AEF, partition, flows" "VAE, flows" "IWAE, 8 draws" --latents 8

Encoder and decoder are perceptrons of one hidden layer, the prior is normal, and nothing else is learned but what the
method's name says: its flows are two affine couplings. Every run is two trainings from the same seed: on images as they
are, for bits per dimension and the Fréchet distance, and with half the time on images with noise of deviation .5, for
denoising. Bits of the exact density need no draws; the others are importance-weighted bounds of 128 draws. Samples are
decoded without errors from latents at temperature 1. Distances and feature errors are in the features of a small
classifier of grey digits, trained here once.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch

from flowmaps.data.images import noisy
from flowmaps.fields import one_field
from flowmaps.files import cache_folder, write_json
from flowmaps.maps import VAE, Augmented, Autoencoder, Corner, Modules, Partition, RealNVP
from flowmaps.metrics.autoencoders import bits_per_dimension, errors, reconstructed
from flowmaps.metrics.images import ImageClassifier, cached_classifier
from flowmaps.metrics.two_sample import frechet
from flowmaps.networks.autoencoding import DenseDecoder, DenseEncoder
from flowmaps.objectives import AutoencoderLikelihood
from flowmaps.pictures import sample_grid
from flowmaps.samplers import Jumps
from flowmaps.tasks.autoencoders import Autoencoders
from flowmaps.train import AdamW, Cosine, Trainer
from records import over_seeds, require_whole

FLOW = partial(RealNVP, layers=2, width=32, depth=1)
WIDTH, NOISE, DRAWS, IMAGES, SAMPLES = 128, 0.5, 128, 500, 1000
METRICS = {"bits": "bits per dimension", "frechet": "Fréchet", "pixel_error": "denoising, pixels",
           "feature_error": "denoising, features"}  # fmt: skip


class Method(NamedTuple):
    """A family, whether its prior and its core have a flow, and the draws of its training."""

    family: Callable[[Modules], Autoencoder]
    prior: bool = False
    core: bool = False
    draws: int = 1


TAU = {2: 2.0, 4: 0.1, 8: 0.01, 16: 0.001, 32: 0.0005}  # of the augmented family, by latents


def augmented(modules: Modules) -> Augmented:
    return Augmented(modules, TAU[modules.latents])


METHODS = {
    "AEF, partition": Method(Partition),
    "VAE": Method(VAE),
    "AEF, partition, corner": Method(lambda modules: Partition(modules, Corner())),
    "AEF, partition, flows": Method(Partition, prior=True, core=True),
    "VAE, flows": Method(VAE, prior=True, core=True),
    "IWAE, 8 draws": Method(VAE, draws=8),
    "AEF, augmented, flows": Method(augmented, prior=True, core=True),
}


def task_of(method: str, latents: int, noise: float, loaded: Autoencoders) -> Autoencoders:
    """The task of a run, with data that were loaded before."""
    family, prior, core, _ = METHODS[method]
    task = Autoencoders(
        "mnist",
        latents=latents,
        family=family,
        encoder=partial(DenseEncoder, width=WIDTH, depth=1),
        decoder=partial(DenseDecoder, width=WIDTH, depth=1),
        prior=FLOW if prior else None,
        core=FLOW if core else None,
        noise=noise,
    )
    task.restore(loaded.state())
    task.splits = loaded.splits
    return task


def train(task: Autoencoders, draws: int, seconds: float, seed: int) -> tuple[Autoencoder, int]:
    """The averaged map after ``seconds`` of processor time, and its number of updates."""
    torch.manual_seed(seed)
    report = Trainer(
        AutoencoderLikelihood(task.build_map(), draws),
        task.train_data,
        max_steps=10**9,
        max_cpu_seconds=seconds,
        batch_size=64,
        seed=seed,
        optimizer=AdamW(lr=2e-3, weight_decay=0.0),
        schedule=Cosine(warmup=50),
        ema=0.995,
        accelerator="cpu",
        progress=False,
    ).fit()
    require_whole(report)
    assert isinstance(report.flow_map, Autoencoder)
    return report.flow_map.eval(), report.step


def run(method: str, latents: int, seed: int, seconds: float, loaded: Autoencoders, pictures: Path) -> dict[str, float]:
    """Both trainings of a run and all that is measured of them."""
    draws, exact = METHODS[method].draws, "partition" in method
    clean = one_field(loaded.splits.test.x_1)
    start = time.process_time()
    task = task_of(method, latents, 0.0, loaded)
    flow_map, steps = train(task, draws, seconds, seed)
    bits = bits_per_dimension(flow_map, clean[:IMAGES], generator(seed), 1 if exact else DRAWS, batch=16)
    x = task.sample(flow_map, SAMPLES, Jumps(1), generator(seed))
    real, model = clean[:SAMPLES], loaded.classifier
    found = {"bits": bits.value, "bits_error": bits.error, "frechet": distance(x, real, model)}
    if seed == 0:
        sample_grid(pictures / f"{slug(method)}-{latents}.png", {method: x[:20]}, loaded.state()["levels"])
    task = task_of(method, latents, NOISE, loaded)
    flow_map, noisy_steps = train(task, draws, seconds / 2, seed)
    y = noisy(clean[:SAMPLES], loaded.state()["levels"], NOISE, generator(seed))
    rebuilt = reconstructed(flow_map, y, generator(seed))
    if seed == 0:
        rows = {"noisy": y[:20], method: rebuilt[:20], "clean": clean[:20]}
        sample_grid(pictures / f"denoised-{slug(method)}-{latents}.png", rows, loaded.state()["levels"])
    found |= errors(rebuilt, clean[:SAMPLES], loaded.classifier)
    cost = {"updates": steps, "noisy_updates": noisy_steps, "cpu_seconds": time.process_time() - start}
    return found | cost | {"parameters": sum(p.numel() for p in flow_map.parameters())}


def of_data(loaded: Autoencoders) -> dict[str, float]:
    """What real and noisy images score."""
    clean, train = (one_field(part.x_1)[:SAMPLES] for part in (loaded.splits.test, loaded.splits.train))
    y = noisy(clean, loaded.state()["levels"], NOISE, generator(0))
    values = {"frechet": distance(train, clean, loaded.classifier), **errors(y, clean, loaded.classifier)}
    x, label = loaded.splits.test.all()[0], loaded.splits.test.condition.label
    right = loaded.classifier.inspect(one_field(x)[:SAMPLES])[1].argmax(1) == label[:SAMPLES]
    return values | {"classifier_accuracy": float(right.double().mean())}


def distance(x: torch.Tensor, real: torch.Tensor, classifier: ImageClassifier) -> float:
    """Fréchet distance in the classifier's features, in units of the mean variance of real ones."""
    f, g = (classifier.inspect(images)[0].double() for images in (x, real))
    scale = g.var(0).mean().rsqrt()
    return frechet(f * scale, g * scale)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slug(method: str) -> str:
    return method.lower().replace(",", "").replace(" ", "-")


def table(results: dict) -> str:
    """Means over seeds with their standard deviation, by latents and method."""
    lines = ["| latents | method | seeds | updates | " + " | ".join(METRICS.values()) + " |", "|" + "---|" * 8]
    for latents in sorted({run["latents"] for run in results["runs"]}):
        for method in METHODS:
            runs = [run for run in results["runs"] if (run["latents"], run["method"]) == (latents, method)]
            if runs:
                cells = [over_seeds([run[name] for run in runs], ".4g") for name in METRICS]
                updates = f"{mean(run['updates'] for run in runs):,.0f}"
                lines.append(f"| {latents} | {method} | {len(runs)} | {updates} | " + " | ".join(cells) + " |")
    data = results["data"]
    cells = [f"{data[name]:.4g}" if name in data else "" for name in METRICS]
    return "\n".join([*lines, "|  | real images; noisy ones |  |  | " + " | ".join(cells) + " |"])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--methods", nargs="+", default=["AEF, partition", "VAE"], choices=list(METHODS))
    p.add_argument("--latents", nargs="+", type=int, default=[2, 8, 32])
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    p.add_argument("--seconds", type=float, default=10.0, help="of processor time for the updates on clean images")
    p.add_argument("--out", type=Path, default=Path("bench/results/autoencoders"))
    args = p.parse_args()
    torch.set_num_threads(1)
    place = args.out.with_suffix(".json")
    setting = {"seconds": args.seconds, "width": WIDTH, "noise": NOISE, "draws": DRAWS, "images": IMAGES,
               "samples": SAMPLES, "torch": torch.__version__, "machine": platform.machine()}  # fmt: skip
    results = json.loads(place.read_text()) if place.exists() else {"setting": setting, "runs": []}
    if results["setting"] != setting:
        raise SystemExit(f"{place} has another setting, {results['setting']}; choose another --out")
    loaded = Autoencoders("mnist")
    train_part, levels = loaded.splits.train, loaded.splits.levels
    loaded.classifier = cached_classifier(cache_folder() / "classifiers", train_part, levels, 10, steps=1000, width=8)
    results.setdefault("data", of_data(loaded))
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for latents in args.latents:
            for method in args.methods:
                key = {"method": method, "latents": latents, "seed": seed}
                if not any(key.items() <= run.items() for run in results["runs"]):
                    results["runs"].append(key | run(method, latents, seed, args.seconds, loaded, args.out))
                    write_json(place, results)
                    print(results["runs"][-1], flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
