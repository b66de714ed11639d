"""Molecular dynamics by OpenMM, made once: frames in files with hashes, continued where they were interrupted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..files import replacing, sha256, write_json
from ..reading import Document, check_size, inside
from ..seeds import check_seed
from .potentials import Potential, plain
from .shards import check_shard, continued, read_index, read_shard, write_shard

if TYPE_CHECKING:
    from openmm import Context

INDEX = "simulation.json"
SHARD = 4096  # frames of one file
REMEDY = "remove the folder and simulate again"
PATTERN = {"topology": str, "coordinates": (str, None), "files": {str: str}, "force_field": [str], "temperature": float,
           "friction": float, "step": float, "every": int, "settle": int, "seed": int, "shard": int, "n": int,
           "shards": {str: str}}  # fmt: skip


@dataclass(frozen=True)
class Dynamics:
    r"""Langevin dynamics by the middle scheme.

    .. math:: m\,dv = F\,dt - \gamma m v\,dt + \sqrt{2 \gamma m k T}\,dW, \qquad dx = v\,dt

    Arguments:
        friction: γ in 1/ps.
        step: In femtoseconds. No bond is constrained: above 1 the lightest of them suffer.
        every: Steps between frames.
        settle: Steps before the first frame, from the minimised coordinates.
        seed: Of velocities and noise.
    Raises: ValueError if a number is out of its range.

    Reference: Zhang et al. 2019, Unified efficient thermostat scheme for the canonical ensemble.
    """

    friction: float = 1.0
    step: float = 1.0
    every: int = 100
    settle: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.friction < 1e6 and 0 < self.step < 1e3 and self.every >= 1 and self.settle >= 0):
            raise ValueError(
                f"friction is {self.friction}, step {self.step}, every {self.every} and settle {self.settle}, expected "
                "positive numbers"
            )
        check_seed(self.seed, bits=16)


class Trajectory(NamedTuple):
    """Frames of a molecule.

    Arguments:
        x: Coordinates in nanometres, float32 ``(n, atoms, 3)``.
        potential: Their energy.
    """

    x: Tensor
    potential: Potential


def simulate(
    folder: str | os.PathLike,
    potential: Potential,
    n: int,
    dynamics: Dynamics | None = None,
    shard: int = SHARD,
    tell: Callable[[int], None] | None = None,
) -> Trajectory:
    """Frames in a folder, made as far as they are not there; whoever was interrupted goes on where that was.

    Who wants more of them later asks for so many.

    Arguments:
        folder: Of ``simulation.json``, the files of the topology, and one file a shard.
        potential: The molecule, with coordinates to start from.
        n: Number of frames.
        dynamics: How they are made.
        shard: Frames a file.
        tell: Called with the number that are there.
    Raises: ValueError if another simulation is in the folder, or more frames, or forces are not finite.
    Invariant: interrupted and continued equals made at once, bit for bit on the reference platform
        (``tests/data/test_simulation.py``).
    """
    if n < 1 or shard < 1:
        raise ValueError(f"n is {n} and shard {shard}, expected at least one frame of each")
    folder, dynamics = Path(folder), dynamics or Dynamics()
    index = _index(folder) if (folder / INDEX).exists() else None
    wanted = _described(potential, dynamics, n, shard)
    index = continued(folder / INDEX, index, wanted, "frames", "another simulation")
    todo = [number for number in range(-(-n // shard)) if _name(number) not in index["shards"]]
    if todo:
        motion = _Motion(potential, dynamics)
        state = _state(folder, index, todo[0]) if todo[0] else motion.settled()
        _keep(folder, potential)
        for number in todo:
            start = number * shard
            part, state = motion.frames(state, start, min(shard, n - start), number, tell or (lambda done: None))
            index["shards"][_name(number)] = write_shard(folder / _name(number), {**part, **state})
            write_json(folder / INDEX, index)
    return read_simulation(folder)


def read_simulation(folder: str | os.PathLike) -> Trajectory:
    """The frames of a folder, every file checked by its hash.

    Raises: ValueError if there are none, if some are missing, or a file is not as it was written.
    """
    folder = Path(folder).expanduser()
    index = _index(folder)
    missing = -(-index["n"] // max(index["shard"], 1)) - len(index["shards"])
    if missing:
        raise ValueError(f"{folder} lacks {missing} files of frames; run `flowmaps simulate` again, it goes on there")
    for name, digest in index["files"].items():
        check_shard(inside(folder, name), digest, REMEDY)
    place = lambda name: None if name is None else inside(folder, name)  # noqa: E731
    topology = place(index["topology"])
    assert topology is not None
    potential = Potential(topology, place(index["coordinates"]), index["force_field"], index["temperature"])
    names = sorted(index["shards"])
    check_size(str(folder), sum(file.stat().st_size for file in map(place, names) if file and file.exists()))
    parts = [read_shard(inside(folder, name), index["shards"][name], REMEDY)["x"] for name in names]
    return Trajectory(torch.cat(parts), potential)


class _Motion:
    """A molecule that moves; each shard has its own context, since one that begins anew keeps its random numbers."""

    def __init__(self, potential: Potential, dynamics: Dynamics):
        self.potential, self.dynamics = potential, dynamics
        self.context = self._begun(0)

    def settled(self) -> dict[str, Tensor]:
        """The state after minimisation and some steps from random velocities."""
        import openmm

        self.context.setPositions(self.potential.check_start().numpy())
        openmm.LocalEnergyMinimizer.minimize(self.context)
        self.context.setVelocitiesToTemperature(self.potential.temperature, self._seed(0))
        self._step(self.dynamics.settle, 0.0)
        return self._state()

    def frames(
        self, state: Mapping[str, Tensor], first: int, n: int, number: int, tell: Callable[[int], object]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """``n`` frames from ``first`` on with their energies, from a state on, and the state at their end."""
        self.context = self._begun(number + 1)
        self.context.setPositions(state["position"].numpy())
        self.context.setVelocities(state["velocity"].numpy())
        x, u, time = [], [], self.dynamics.every * self.dynamics.step * 1e-3
        for k in range(first, first + n):
            self._step(self.dynamics.every, k * time)
            found = self.context.getState(getPositions=True, getEnergy=True)
            x.append(_plain(found.getPositions(asNumpy=True)).float())
            u.append(float(plain(found.getPotentialEnergy())) / self.potential.kT)
            tell(k + 1)
        return {"x": torch.stack(x), "u": torch.tensor(u, dtype=torch.float64)}, self._state()

    def _step(self, steps: int, at: float) -> None:
        import openmm

        try:
            self.context.getIntegrator().step(steps)
            found = self.context.getState(getEnergy=True, getForces=True)
            fine = bool(_plain(found.getForces(asNumpy=True)).isfinite().all())
        except openmm.OpenMMException:  # "Particle coordinate is NaN"
            fine = False
        if not fine:
            raise ValueError(
                f"forces are not finite after {at:g} ps: the molecule flew apart; take a shorter step than "
                f"{self.dynamics.step:g} fs"
            )

    def _begun(self, number: int) -> Context:
        import openmm

        integrator = openmm.LangevinMiddleIntegrator(
            self.potential.temperature, self.dynamics.friction, self.dynamics.step * 1e-3
        )
        integrator.setRandomNumberSeed(self._seed(number))
        name, settings = self.potential.platform()
        return openmm.Context(self.potential.system, integrator, openmm.Platform.getPlatformByName(name), settings)

    def _seed(self, number: int) -> int:
        return (self.dynamics.seed << 15) + number + 1  # of 31 bits; 0 would stand for any seed

    def _state(self) -> dict[str, Tensor]:
        found = self.context.getState(getPositions=True, getVelocities=True)
        position, velocity = found.getPositions(asNumpy=True), found.getVelocities(asNumpy=True)
        return {"position": _plain(position), "velocity": _plain(velocity)}


def _plain(quantity: object) -> Tensor:
    return torch.from_numpy(plain(quantity))


def _described(potential: Potential, dynamics: Dynamics, n: int, shard: int) -> Document:
    files = [file for file in (potential.file, potential.start) if file is not None]
    return {
        "topology": potential.file.name, "coordinates": None if potential.start is None else potential.start.name,
        "files": {file.name: sha256(file) for file in files}, "force_field": list(potential.force_field),
        "temperature": potential.temperature, **vars(dynamics), "shard": shard, "n": n,
    }  # fmt: skip


def _keep(folder: Path, potential: Potential) -> None:
    """The files of the topology beside the frames, so that a folder needs nothing else."""
    for file in filter(None, (potential.file, potential.start)):
        if file.resolve() != (folder / file.name).resolve():
            with replacing(folder / file.name) as temporary:
                shutil.copyfile(file, temporary)


def _name(number: int) -> str:
    return f"frames-{number:05d}.safetensors"


def _index(folder: Path) -> Document:
    return read_index(folder / INDEX, PATTERN, "it holds no simulation; make one: flowmaps simulate")


def _state(folder: Path, index: Document, number: int) -> dict[str, Tensor]:
    before = _name(number - 1)
    return read_shard(folder / before, index["shards"][before], REMEDY)
