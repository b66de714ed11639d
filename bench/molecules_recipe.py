r"""What matters in a recipe for molecules: that of the preset ``qm9``, one choice after another made otherwise.

    python bench/molecules_recipe.py                       # the table in bench/results: 240 s each, two seeds
    python bench/molecules_recipe.py --seconds 20 --seeds 0 --n 200 --out runs/look             # a quick look
    python bench/molecules_recipe.py --recipes "bonds once"     # this row again, the others stay

Every row trains from scratch on the same batches for the same processor time, and carries noise to molecules in equal
jumps of the averaged map and in Euler steps of its diagonal, decoded by arg-max.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowmaps.cli.config import experiment, training_parser
from flowmaps.cli.presets import find_preset
from flowmaps.configuration.parsing import parse
from flowmaps.maps import EndpointMap
from flowmaps.paths import GeodesicPath, Source
from flowmaps.samplers import Euler, Jumps, Sampler
from flowmaps.spaces import Space
from flowmaps.tasks.molecules import Molecules
from flowmaps.tasks.molecules_measures import histograms
from flowmaps.train.stream import generator
from records import FOREVER, Record, by_metric, require_whole

SAMPLERS: dict[str, Sampler] = {"1": Jumps(1), "2": Jumps(2), "4": Jumps(4), "8": Jumps(8), "ode32": Euler(32)}
SHOWN = {
    "valid_connected": ("Valid as generated and connected, per cent", 100.0),
    "aromatic": ("Aromatic, per cent of the valid and connected (data 17.8)", 100.0),
    "valid_unique_novel": ("Valid, connected, unique and novel, per cent", 100.0),
    "modes/double_bonds": ("Double bonds a molecule (data .71)", 1.0),
    "modes/ring_3": ("Molecules with a ring of three atoms, per cent (data 41.8)", 100.0),
    "atom_types": ("Total variation of the atom types, per cent", 100.0),
}


class Shifted(Source):
    """x_0 = m + ε, ε standard normal, with means (n, K_a) or (K_a,) of the atoms and (K_b,) of the bonds."""

    atoms: Tensor
    bonds: Tensor

    def __init__(self, atoms: Tensor, bonds: Tensor):
        super().__init__()
        self.register_buffer("atoms", atoms, persistent=False)
        self.register_buffer("bonds", bonds, persistent=False)

    def state(self, space: Space[Any], noise: Any) -> Any:  # noqa: ANN401  (two fields)
        x = space.random(noise)
        return {"atoms": x["atoms"] + self.atoms, "bonds": x["bonds"] + self.bonds}


def marginals(task: Molecules) -> Source:
    """Noise around the frequencies of the categories."""
    counts = histograms(task.splits.valid, task.alphabet)
    atoms, bonds = (counts[field] / counts[field].sum() for field in ("atoms", "bonds"))
    return Shifted(atoms.float(), bonds.float())


def codes(task: Molecules) -> Source:
    """Noise around a point of its own for each place of an atom, as far from 0 as the noise is."""
    size, K = task.alphabet.size, len(task.alphabet.atoms)
    return Shifted(torch.randn(size, K, generator=generator("cpu", 0, "codes")), torch.zeros(len(task.alphabet.bonds)))


class Recipe(NamedTuple):
    """Options of ``flowmaps train qm9``, and a source of noise that is not the standard normal one."""

    options: tuple[str, ...] = ()
    source: Callable[[Molecules], Source] | None = None


FILE, CANONICAL = "--task.order=file", "--task.order=canonical"
ONCE, THRICE = "--task.repeat=null", "--task.repeat={a: 3}"  # aromatic molecules in an epoch
PLAIN = (FILE, ONCE)
RECIPES = {
    "plain": Recipe(PLAIN),
    "atoms in canonical order": Recipe((CANONICAL, ONCE)),
    "aromatic molecules three times": Recipe((FILE, THRICE)),
    "canonical order, aromatic molecules three times": Recipe((CANONICAL, THRICE)),
    "noise that tells atoms apart": Recipe(PLAIN, codes),
    "noise around the marginals": Recipe(PLAIN, marginals),
    "aromatic bonds a category": Recipe((*PLAIN, "--task.aromatic=true")),
    "twice the depth": Recipe((*PLAIN, "--task.depth=8")),
    "twice the width": Recipe((*PLAIN, "--task.width=128", "--task.edge=64")),
    "times around .6, closer": Recipe((*PLAIN, "--objective.times.mean=0.4", "--objective.times.deviation=0.5")),
    "times around .5": Recipe((*PLAIN, "--objective.times.mean=0")),
    "bonds see no paths of two": Recipe((*PLAIN, "--task.paths=0")),
    "bonds once": Recipe((*PLAIN, "--objective.emphasis=null")),
}


def run(o: argparse.Namespace) -> None:
    """Every seed and recipe; the record is written after each."""
    told = {"preset": "qm9", "seconds": o.seconds, "n": o.n, "ema": o.ema}
    record = Record(o.out, told, lambda result: by_metric(result, "Recipes for molecules", SHOWN))
    for seed in o.seeds:
        for name in o.recipes:
            record.add(row := {"objective": name, "seed": seed, **measured(RECIPES[name], seed, o)})
            shares = {key: round(values["valid_connected"], 3) for key, values in row["by_steps"].items()}
            print(name, seed, row["updates"], row["seconds"], shares, flush=True)


def measured(recipe: Recipe, seed: int, o: argparse.Namespace) -> dict[str, Any]:
    """Train by a recipe: updates, processor seconds, and quality by sampler."""
    p = training_parser("train", "")
    chosen = experiment(p, parse(p, [f"--config={find_preset('qm9')}", *recipe.options]))
    task = chosen.task
    assert isinstance(task, Molecules)
    if recipe.source is not None:
        source = recipe.source(task)
        task.flow_map = lambda path, *network: EndpointMap(GeodesicPath(path.space, source), *network)
    chosen.trainer.update(max_steps=FOREVER, max_seconds=None, max_cpu_seconds=o.seconds, stretch=False, seed=seed,
                          ema=o.ema, accelerator="cpu", progress=False, curves=False, tensorboard=False)  # fmt: skip
    require_whole(report := chosen.fit_on(None).fit())
    task.judge.chemnet = None
    draw = lambda sampler: task.sample(report.flow_map, o.n, sampler, generator("cpu", seed, "sample"))  # noqa: E731
    by_steps = {key: task.quality(draw(sampler)) for key, sampler in SAMPLERS.items()}
    return {"updates": report.step, "seconds": round(report.cpu_seconds, 1), "by_steps": by_steps}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    p.add_argument("--seconds", type=float, default=240.0, help="processor time of one training")
    p.add_argument("--n", type=int, default=1000, help="samples a column")
    p.add_argument("--ema", type=float, default=0.998)
    p.add_argument("--out", type=Path, default=Path("bench/results/molecules_recipe"))
    torch.set_num_threads(1)
    run(p.parse_args())


if __name__ == "__main__":
    main()
