"""A modality of one's own, and every command with it: ``python examples/own_modality.py`` (half a minute of one core).

Melodies of eight notes of a pentatonic scale that move in small steps and come home. The class below says what the
data are, which network, how a melody is written down and what is measured; training, sampling, evaluation and steering
are the package's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import flowmaps
from flowmaps.cli.main import main as command
from flowmaps.data import CategoricalData
from flowmaps.fields import one_field
from flowmaps.maps import EndpointMap, FlowMap
from flowmaps.networks import Network, Transformer
from flowmaps.paths import GeodesicPath
from flowmaps.samplers import Categorical, Sampler, generate
from flowmaps.spaces import OneHot
from flowmaps.steering import Hard, Reward
from flowmaps.tasks.base import Problem, Task, fitted

NOTES = ("C", "D", "E", "G", "A", "c", "d", "e", "g", "a")  # two octaves, as ABC notation writes them
LENGTH, HOME, FARTHEST = 8, (0, 5), 2  # notes of a melody, where it may end, and the widest step


class Parts(NamedTuple):
    """Melodies to train, to validate and to test."""

    train: CategoricalData
    valid: CategoricalData
    test: CategoricalData


def melodies(n: int, generator: torch.Generator) -> Tensor:
    """Random walks of small steps that end at home, int64 ``(n, LENGTH)``."""
    found = torch.zeros(0, LENGTH, dtype=torch.int64)
    while len(found) < n:
        steps = torch.randint(-FARTHEST, FARTHEST + 1, (4 * n, LENGTH), generator=generator)
        steps[:, 0] = torch.randint(0, len(NOTES), (4 * n,), generator=generator)
        walks = steps.cumsum(1)
        inside = ((walks >= 0) & (walks < len(NOTES))).all(1) & torch.isin(walks[:, -1], torch.tensor(HOME))
        found = torch.cat([found, walks[inside]])
    return found[:n]


class Melodies(Task[Parts, Tensor]):
    """Melodies as categories.

    Arguments:
        n: How many to train with; a tenth as many validate and test.
        network: What makes the network, called with the number of notes.
    """

    kinds = (".abc",)
    teaching = {"notes": [str]}

    def __init__(self, n: int = 4000, network: Callable[[int], Network] = Transformer):
        self.n, self.network = n, network

    def load(self) -> Parts:
        generator = torch.Generator().manual_seed(0)
        return Parts(*(CategoricalData(melodies(k, generator)) for k in (self.n, self.n // 10, self.n // 10)))

    def learned(self, splits: Parts) -> dict[str, list[str]]:
        return {"notes": list(NOTES)}

    def build_map(self) -> FlowMap:
        K = len(self.state()["notes"])
        return EndpointMap(GeodesicPath(OneHot(K)), fitted(self.network, K, out=K))

    def sample(
        self, flow_map: FlowMap, n: int, sampler: Sampler, generator: torch.Generator, low: bool = False
    ) -> Tensor:
        """Melodies, int64 ``(n, LENGTH)``.

        Arguments:
            low: An octave lower where that is possible.
        """
        x = generate(flow_map, sampler, (n, LENGTH), generator, decoder=Categorical(1.0))
        octave = len(NOTES) // 2
        return torch.where(low & (x >= octave).all(1, keepdim=True), x - octave, x)

    def quality(self, samples: Tensor) -> dict[str, float]:
        """Shares of the melodies that move in small steps, that end at home, and that do both."""
        notes = samples.long().cpu()
        smooth = (notes.diff(dim=1).abs() <= FARTHEST).all(1)
        home = torch.isin(notes[:, -1], torch.tensor(HOME))
        shares = {"good": smooth & home, "smooth": smooth, "home": home}
        return {name: float(share.double().mean()) for name, share in shares.items()}

    def of_data(self, n: int | None = None) -> dict[str, float]:
        return self.quality(one_field(self.splits.test.x_1)[:n])

    @property
    def samples(self) -> int:
        return len(self.splits.test)

    def write(self, rows: Mapping[str, Tensor], directory: Path, **options: object) -> list[Path]:
        """``samples.abc``: a tune for each melody, which any program for ABC notation plays."""
        tunes = [
            f"X:{k}\nT:{name} steps\nL:1/8\nM:4/4\nK:C\n{''.join(NOTES[note] for note in row)}|\n"
            for name, x in rows.items()
            for k, row in enumerate(x.tolist(), 1)
        ]
        path = directory / "samples.abc"
        path.write_text("\n".join(tunes), encoding="utf-8")
        return [path]

    def problem(self, particles: int, generator: torch.Generator) -> Problem:
        return Problem((LENGTH,), decoder=Categorical(1.0))

    def rewards(self, device: torch.device) -> dict[str, Callable[[str], Reward]]:
        """``height``: the mean note."""
        return {"height": lambda argument: Hard(lambda x: x.double().mean(1), "height")}


SETTINGS = """
task:
  class_path: own_modality.Melodies
  init_args:
    network:
      class_path: flowmaps.networks.Transformer
      init_args: {width: 64, depth: 2, heads: 4}
objective:
  class_path: flowmaps.objectives.SelfDistillation
  init_args:
    consistency: flowmaps.objectives.SemigroupKL
trainer: {batch_size: 64, valid_examples: 200, save_every: 10000, optimizer: {lr: 3.0e-3}, schedule: {warmup: 30},
  ema: 0.99}
"""


def main(folder: str = "runs/melodies", updates: int = 800) -> dict[str, float]:
    """Train, sample, measure and steer, by the commands; what four steps score, by the name of each metric."""
    from own_modality import Melodies  # by its name and not as __main__, since checkpoints keep the name

    flowmaps.trust(Melodies)  # no file asks for code: the program that runs says which classes it may name
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    settings, run = place / "melodies.yaml", str(place / "run")
    settings.write_text(SETTINGS, encoding="utf-8")
    for arguments in (
        ["train", str(settings), "--out", run, "--trainer.max_steps", str(updates)],
        ["sample", run, "--n", "4", "--steps", "1,4", "--out", str(place / "samples")],
        ["evaluate", run, "--steps", "1,2,4", "--ode", "16", "--n", "400", "--out", str(place / "measured")],
        [
            "steer",
            run,
            "--reward",
            "height",
            "--strength",
            "2",
            "--particles",
            "64",
            "--n",
            "4",
            "--out",
            str(place / "high"),
        ],
    ):
        print(f"$ flowmaps {' '.join(arguments)}", flush=True)
        if code := command(arguments):
            sys.exit(code)
    print((place / "samples" / "samples.abc").read_text(encoding="utf-8"))
    model = flowmaps.load(run)
    return model.task.quality(model.sample(400, steps=4))


if __name__ == "__main__":
    main()
