"""Conformations of a molecule as points: frames of dynamics, and the coordinates that a flow sees of them."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..fields import Batch
from ..reading import check_size, regular
from ..spaces.rotations import from_quaternion
from .base import fingerprint
from .points import uniforms
from .potentials import Potential
from .simulation import INDEX, Trajectory, read_simulation

if TYPE_CHECKING:
    from mdtraj import Topology as MolecularTopology
    from mdtraj.core.topology import Residue

SIZE, BLOCKS = 2**20, 50  # examples of a training part, no two turned alike; blocks of time that parts are made of


class Coordinates(ABC):
    r"""What a flow sees of a molecule, and what its density is to be.

    .. math:: p(y) \propto e^{-u(x(y))}\, \rho(y)

    Arguments:
        dim: Number of coordinates.
        draws: Random numbers that an example takes.
    """

    dim: int
    draws: int

    @abstractmethod
    def states(self, x: Tensor, u: Tensor) -> Tensor:
        """States ``(n, dim)``, float32, of frames ``(n, atoms, 3)`` in nm and uniform numbers ``(n, draws)``."""

    @abstractmethod
    def frames(self, y: Tensor) -> Tensor:
        """Frames ``(n, atoms, 3)`` in nanometres, float64, of states."""

    @abstractmethod
    def log_factor(self, y: Tensor) -> Tensor:
        """log ρ of states up to a constant, float64 ``(n,)``."""


class Turned(Coordinates):
    r"""All Cartesian coordinates in one unit, centred, turned at random, and with a centre of its own distribution.

    .. math:: y_i = R\,\frac{x_i - \bar x}{\sigma} + c, \qquad c \sim N(0, I/A), \qquad \rho(y) = N(\bar y; 0, I/A)

    The centre is drawn because the density of centred coordinates is none in all of the space; its distribution is that
    of the centre of A standard normal points.

    Arguments:
        atoms: A.
        unit: σ in nanometres.
    """

    draws = 6

    def __init__(self, atoms: int, unit: float):
        self.atoms, self.unit, self.dim = atoms, unit, 3 * atoms

    @classmethod
    def of(cls, x: Tensor) -> Turned:
        """Those of frames: one deviation for all coordinates."""
        return cls(x.shape[1], float(centred(x).square().mean().sqrt()))

    def states(self, x: Tensor, u: Tensor) -> Tensor:
        R = uniform_rotation(u[:, :3])
        c = torch.special.ndtri(u[:, 3:].clamp(2.0**-53, 1 - 2.0**-53)) / math.sqrt(self.atoms)
        return (centred(x) / self.unit @ R.mT + c.unsqueeze(1)).flatten(1).float()

    def frames(self, y: Tensor) -> Tensor:
        return y.double().unflatten(-1, (-1, 3)) * self.unit

    def log_factor(self, y: Tensor) -> Tensor:
        return -self.atoms / 2 * y.double().unflatten(-1, (-1, 3)).mean(-2).square().sum(-1)


class Framed(Coordinates):
    r"""Cartesian coordinates in the frame of three atoms, whitened: six fewer, and nothing is lost.

    The first atom is the origin, the second lies on the axis at r > 0, the third in the plane at (a, b), b > 0. The
    energy knows neither place nor direction, so that both are integrated out exactly.

    .. math:: q = (r, a, b, x_4, \dots), \qquad q = m + L y, \qquad \rho(y) = r^2\, b

    Arguments:
        three: Numbers of these atoms.
        mean: m, ``(3 A - 6,)`` in nanometres.
        factor: L, ``(3 A - 6, 3 A - 6)``, lower triangular.
    """

    draws = 1

    def __init__(self, three: list[int], mean: Tensor, factor: Tensor):
        self.three, self.mean, self.factor = three, mean.double(), factor.double()
        self.dim = len(mean)

    @classmethod
    def of(cls, x: Tensor, three: list[int]) -> Framed:
        """Those of frames: of mean 0 and covariance 1."""
        q = internal(x, three)
        floor = 1e-10 * torch.eye(q.shape[1], dtype=q.dtype)  # nm², far below what any bond moves
        return cls(three, q.mean(0), torch.linalg.cholesky(torch.cov(q.mT) + floor))

    def states(self, x: Tensor, u: Tensor) -> Tensor:
        q = internal(x, self.three) - self.mean
        return torch.linalg.solve_triangular(self.factor, q.mT, upper=False).mT.float()

    def frames(self, y: Tensor) -> Tensor:
        q = self.mean + y.double().cpu() @ self.factor.mT
        first, second, third = self.three
        x = q.new_zeros(len(q), self.dim // 3 + 2, 3)
        x[:, second, 0], x[:, third, :2] = q[:, 0], q[:, 1:3]
        x[:, others(x.shape[1], self.three)] = q[:, 3:].unflatten(-1, (-1, 3))
        return x

    def log_factor(self, y: Tensor) -> Tensor:
        q = self.mean[:3] + y.double().cpu() @ self.factor[:3].mT
        r, b = q[:, 0], q[:, 2]
        inside = (r > 0) & (b > 0)
        return torch.where(inside, 2 * r.clamp(min=1e-9).log() + b.clamp(min=1e-9).log(), -math.inf)


def centred(x: Tensor) -> Tensor:
    """Frames about the mean of their atoms, float64."""
    x = x.double()
    return x - x.mean(-2, keepdim=True)


def others(atoms: int, three: list[int]) -> list[int]:
    """All atoms but three, in order."""
    return [i for i in range(atoms) if i not in three]


def internal(x: Tensor, three: list[int]) -> Tensor:
    """Coordinates in the frame of three atoms, float64 ``(n, 3 atoms - 6)``: r, a, b, then those of the others."""
    x = x.double()
    x = x - x[:, three[0]].unsqueeze(1)
    e_1 = torch.nn.functional.normalize(x[:, three[1]], dim=-1)
    third = x[:, three[2]]
    e_2 = torch.nn.functional.normalize(third - (third * e_1).sum(-1, keepdim=True) * e_1, dim=-1)
    y = x @ torch.stack([e_1, e_2, torch.linalg.cross(e_1, e_2)], -1)
    rest = y[:, others(x.shape[1], three)].flatten(1)
    return torch.cat([y[:, three[1], :1], y[:, three[2], :2], rest], 1)


def uniform_rotation(u: Tensor) -> Tensor:
    r"""Rotations ``(n, 3, 3)``, uniform for uniform numbers ``(n, 3)``.

    Reference: K. Shoemake 1992, Uniform random rotations.
    """
    a, b, c = u[:, 0], 2 * math.pi * u[:, 1], 2 * math.pi * u[:, 2]
    low, high = (1 - a).sqrt(), a.sqrt()
    return from_quaternion(torch.stack([low * b.sin(), low * b.cos(), high * c.sin(), high * c.cos()], -1)).unflatten(
        -1, (3, 3)
    )


class Conformations:
    """Frames in memory; each of the examples is one of them with random numbers of its own.

    Arguments:
        x: Frames ``(n, atoms, 3)`` in nanometres.
        coordinates: What :meth:`batch` gives of them.
        size: Number of examples, at least one a frame.
        seed: Of the random numbers.
    """

    def __init__(self, x: Tensor, coordinates: Coordinates, size: int = 0, seed: int = 0):
        self.x, self.coordinates, self.size, self.seed = x, coordinates, max(size, len(x)), seed

    def __len__(self) -> int:
        return self.size

    def batch(self, index: Tensor) -> Batch:
        """States ``(B, dim)``, float32."""
        return Batch(self.coordinates.states(self.x[index % len(self.x)], self._uniforms(index)))

    def _uniforms(self, index: Tensor) -> Tensor:
        return uniforms(self.seed, index, self.coordinates.draws)

    def fingerprint(self) -> str:
        return fingerprint(self.x, type(self.coordinates).__name__, self.seed)


class ConformationSplits(NamedTuple):
    """Frames in three disjoint parts, and their energy."""

    train: Conformations
    valid: Conformations
    test: Conformations
    potential: Potential

    @property
    def all_frames(self) -> Tensor:
        """Those of all parts, part after part."""
        return torch.cat([self.train.x, self.valid.x, self.test.x])


def evenly(x: Tensor, n: int) -> Tensor:
    """At most ``n`` rows at equal distances."""
    n = min(n, len(x))
    return x[torch.arange(n) * len(x) // n]


def trajectory(source: str | os.PathLike, topology: str | None = None, temperature: float = 300.0) -> Trajectory:
    """Frames of a folder of ``flowmaps simulate``, or of any file that mdtraj reads, with its topology.

    Raises: ValueError if there are none, if they are not of the topology's atoms, or not finite.
    """
    place = Path(source).expanduser()
    if (place / INDEX).exists() or topology is None:
        if not place.exists():
            raise ValueError(f"there is no {place}; make it: flowmaps simulate alanine-dipeptide --out {place}")
        if not place.is_dir():
            raise ValueError(f"{place} is a file of frames without a topology; add one: --task.topology peptide.pdb")
        return read_simulation(place)
    check_size(str(place), regular(place))
    potential = Potential(topology, temperature=temperature)
    return Trajectory(read_frames(place, topology, topology, potential.atoms), potential)


def read_frames(place: Path, topology: str | MolecularTopology, told: str, atoms: int) -> Tensor:
    """Frames ``(n, atoms, 3)`` in nanometres of a file that mdtraj reads.

    Arguments:
        topology: Of files that have none of their own: a file, or one in memory.
        told: What errors call it.
        atoms: How many it has.
    Raises: ValueError if the file has other atoms, or in another order than a topology in memory, no frames, or numbers
        that are not finite.
    """
    check_size(str(place), regular(place))
    import mdtraj

    try:
        own = not isinstance(topology, str) and place.suffix.lower() == ".pdb"  # whose order of atoms is told
        found = mdtraj.load(str(place)) if own else mdtraj.load(str(place), top=topology)
    except ImportError:
        raise
    except Exception as error:  # each of its readers raises exceptions of its own
        raise ValueError(f"{place} does not fit {told}: {' '.join(str(error).split())[:200]}") from error
    x = torch.from_numpy(found.xyz)
    if x.shape[1:] != (atoms, 3) or not len(x):
        raise ValueError(f"{place} has {len(x)} frames of {x.shape[1]} atoms, but {told} has {atoms}")
    if not bool(x.isfinite().all()):
        raise ValueError(f"{place} holds coordinates that are not finite; leave those frames out")
    if not isinstance(topology, str):
        for a, b in zip(found.topology.atoms, topology.atoms, strict=True):
            if a.element != b.element:
                raise ValueError(f"atom {a.index + 1} of {place} is {a}, but {b} in {told}; give atoms in its order")
    return x


def topology_of(atoms: Sequence[str]) -> MolecularTopology:
    """Atoms by their names, residues, numbers of these and elements, such as ``CA ALA 2 C``, as mdtraj has them."""
    import mdtraj

    found = mdtraj.Topology()
    chain = found.add_chain()
    residues: dict[str, Residue] = {}
    for name, residue, number, element in (text.split() for text in atoms):
        if number not in residues:
            residues[number] = found.add_residue(residue, chain, int(number))
        found.add_atom(name, mdtraj.element.get_by_symbol(element), residues[number])
    return found


def parts_of(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Frames in blocks of time, of every ten eight to train, one to validate and one to test: neighbours stay together.

    Raises: ValueError if there are fewer frames than blocks.
    """
    if len(x) < 2 * BLOCKS:
        raise ValueError(f"there are {len(x)} frames, expected at least {2 * BLOCKS}; simulate longer")
    block = torch.arange(len(x)) * BLOCKS // len(x) % 10
    return x[block < 8], x[block == 8], x[block == 9]
