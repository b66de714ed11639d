"""``flowmaps simulate TOPOLOGY``"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..configuration.parsing import parse, parser
from ..data.potentials import ALANINE, FORCE_FIELD, Potential
from ..data.simulation import Dynamics, simulate
from ..tasks.base import preparing

HELP = """Molecular dynamics of a small molecule, to train on: implicit solvent, no cut-off, no constraints. Frames go
into a folder of files with hashes; a simulation that was interrupted goes on where it was, and so does one that is to
be longer."""


def run(arguments: Sequence[str]) -> int:
    p = parser("simulate", HELP)
    p.add_argument("topology", type=str, help="alanine-dipeptide, a PDB file, or an Amber topology (.prmtop)")
    p.add_argument("--coordinates", type=str | None, help="where an Amber topology starts (.crd, .inpcrd, .rst7, .pdb)")
    p.add_argument("--force_field", type=list[str], default=list(FORCE_FIELD), help="OpenMM's files, for a PDB file")
    p.add_argument("--nanoseconds", type=float, default=5.0, help="length, without the settling before it")
    p.add_argument("--temperature", type=float, default=300.0, help="in kelvin")
    p.add_argument("--friction", type=float, default=1.0, help="in 1/ps")
    p.add_argument("--step", type=float, default=1.0, help="in femtoseconds")
    p.add_argument("--every", type=int, default=100, help="steps between frames")
    p.add_argument("--settle", type=int, default=20_000, help="steps before the first frame")
    p.add_argument("--seed", type=int, default=0, help="of velocities and noise")
    p.add_argument("--out", type=str | None, help="folder of the frames (default: simulations/TOPOLOGY)")
    cfg = parse(p, arguments)
    file = ALANINE if cfg.topology == "alanine-dipeptide" else Path(cfg.topology)
    dynamics = Dynamics(cfg.friction, cfg.step, cfg.every, cfg.settle, cfg.seed)
    n = round(cfg.nanoseconds * 1e6 / (dynamics.step * dynamics.every))
    if n < 1:
        raise ValueError(f"nanoseconds is {cfg.nanoseconds}, too short for a frame; ask for more")
    potential = Potential(file, cfg.coordinates, cfg.force_field, cfg.temperature)
    folder = Path(cfg.out or Path("simulations") / file.stem)
    with preparing("frames", n) as told:
        found = simulate(folder, potential, n, dynamics, tell=told)
    print(
        f"{len(found.x):,} frames of {potential.atoms} atoms, {cfg.nanoseconds:g} ns at {cfg.temperature:g} K, "
        f"in {folder}"
    )
    return 0
