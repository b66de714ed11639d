"""The potential energy of a molecule by OpenMM, from its topology and a force field."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..reading import check_size, regular

if TYPE_CHECKING:
    from openmm import Context, System
    from openmm.app import Topology

ALANINE = Path(__file__).parent / "alanine-dipeptide.pdb"
FORCE_FIELD = ("amber99sbildn.xml", "amber99_obc.xml")
AMBER, START = (".prmtop", ".parm7", ".top"), (".crd", ".inpcrd", ".rst7", ".rst", ".pdb")
SMALL = 64  # atoms up to which OpenMM's reference platform, in double precision and exactly repeatable, is the faster
NEAR = 0.01  # nm; atoms this near each other stand in one place


class Potential:
    r"""The reduced energy of a molecule in implicit solvent, without cut-off and constraints.

    .. math:: u(x) = \frac{E(x)}{k T}, \qquad p(x) \propto e^{-u(x)}

    Arguments:
        topology: A PDB file, whose parameters a force field gives, or an Amber topology, which holds them.
        coordinates: Where a simulation of an Amber topology starts; those of a PDB file are its own.
        force_field: Files of OpenMM that a PDB file's parameters come from; an Amber topology has its own, to which the
            same model of the solvent is added.
        temperature: T in kelvin.
    Raises: ValueError if a file is missing or damaged, the force field does not know the molecule, or coordinates are
        not of as many atoms.

    Reference: Eastman et al. 2017, OpenMM 7; Onufriev, Bashford, Case 2004, Exploring protein native states and
    large-scale conformational changes with a modified generalized Born model.
    """

    def __init__(
        self,
        topology: str | os.PathLike,
        coordinates: str | os.PathLike | None = None,
        force_field: Sequence[str] = FORCE_FIELD,
        temperature: float = 300.0,
    ):
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature is {temperature}, expected kelvin above 0")
        self.file, self.start = Path(topology), None if coordinates is None else Path(coordinates)
        self.force_field, self.temperature = tuple(force_field), float(temperature)
        for file in filter(None, (self.file, self.start)):
            check_size(str(file), regular(file))
        self.topology, self.system, self.positions = _built(self.file, self.start, self.force_field)
        self.atoms: int = self.system.getNumParticles()
        if self.positions is not None and len(self.positions) != self.atoms:
            raise ValueError(
                f"{self.start} has coordinates of {len(self.positions)} atoms, but {self.file} is a topology of "
                f"{self.atoms}; give the coordinates of this molecule"
            )
        self._context: Context | None = None

    @property
    def kT(self) -> float:
        """In kJ/mol."""
        return 8.31446261815324e-3 * self.temperature

    def platform(self) -> tuple[str, dict[str, str]]:
        """Of OpenMM, with its settings: the reference for small molecules, the processor's own for others."""
        return ("Reference", {}) if self.atoms <= SMALL else ("CPU", {"Threads": str(torch.get_num_threads())})

    def energies(self, x: Tensor) -> Tensor:
        """u of states ``(n, atoms, 3)`` in nanometres, float64 ``(n,)``; infinite where no finite number comes out."""
        return self._each(x, False)[0]

    def forces(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """u, and -∇u per nanometre, ``(n,)`` and ``(n, atoms, 3)``, float64."""
        return self._each(x, True)

    def _each(self, x: Tensor, with_forces: bool) -> tuple[Tensor, Tensor]:
        import openmm

        if tuple(x.shape[1:]) != (self.atoms, 3):
            raise ValueError(
                f"states have shape {tuple(x.shape)}, but {self.file} is a topology of {self.atoms} atoms; expected "
                f"(n, {self.atoms}, 3)"
            )
        context, places = self._evaluation(), x.detach().double().cpu().numpy()
        energies, forces = np.full(len(places), np.inf), np.full(places.shape if with_forces else (0, 0, 3), np.nan)
        for i, place in enumerate(places):
            if not np.isfinite(place).all():
                continue
            try:
                context.setPositions(place)
                state = context.getState(getEnergy=True, getForces=with_forces)
            except openmm.OpenMMException:
                continue
            energy = float(plain(state.getPotentialEnergy())) / self.kT
            energies[i] = energy if math.isfinite(energy) else math.inf
            if with_forces:
                forces[i] = plain(state.getForces(asNumpy=True)) / self.kT
        return torch.from_numpy(energies), torch.from_numpy(forces)

    def _evaluation(self) -> Context:
        if self._context is None:
            import openmm

            name, settings = self.platform()
            platform, integrator = openmm.Platform.getPlatformByName(name), openmm.VerletIntegrator(0.001)
            self._context = openmm.Context(self.system, integrator, platform, settings)
        return self._context

    def check_start(self) -> Tensor:
        """The coordinates that a simulation starts from, in nanometres, float64 ``(atoms, 3)``.

        Raises: ValueError if there are none, or forces there are not finite.
        """
        if self.positions is None:
            raise ValueError(f"{self.file} holds no coordinates; give a file of them: --coordinates start.crd")
        x = torch.from_numpy(self.positions)
        u, f = self.forces(x.unsqueeze(0))
        near = torch.pdist(x).min() if len(x) > 1 else torch.tensor(math.inf)
        if not bool(u.isfinite().all() and f.isfinite().all()) or near < NEAR:
            i, j = torch.combinations(torch.arange(len(x)))[torch.pdist(x).argmin()].tolist()
            raise ValueError(
                f"forces are not finite at the coordinates of {self.start or self.file}: its nearest atoms {i + 1} and "
                f"{j + 1} are {float(near):.4f} nm apart; mend them"
            )
        return x

    def backbone(self) -> tuple[list[str], list[list[int]]]:
        """Names and the four atoms each of the torsions φ and ψ, residue by residue."""
        residues = [{atom.name: atom.index for atom in residue.atoms()} for residue in self.topology.residues()]
        named = dict[str, list[int]]()
        for i, own in enumerate(residues):
            before, after = residues[i - 1] if i else {}, residues[i + 1] if i + 1 < len(residues) else {}
            if not {"N", "CA", "C"} <= own.keys():
                continue
            middle = [own["N"], own["CA"], own["C"]]
            if "C" in before and "N" in after:
                named |= {f"phi{i}": [before["C"], *middle], f"psi{i}": [*middle, after["N"]]}
        if len(named) == 2:
            named = dict(zip(("phi", "psi"), named.values(), strict=True))
        return list(named), list(named.values())


def _built(file: Path, start: Path | None, force_field: Sequence[str]) -> tuple[Topology, System, np.ndarray | None]:
    """Topology, system, and coordinates in nanometres.

    Raises: ValueError naming the file, whatever is wrong with it.
    """
    try:
        if file.suffix.lower() in AMBER:
            from openmm.app import OBC2, AmberPrmtopFile

            amber = AmberPrmtopFile(str(file))
            return amber.topology, amber.createSystem(implicitSolvent=OBC2), None if start is None else _read(start)
        from openmm.app import ForceField, NoCutoff, PDBFile

        pdb = PDBFile(str(file))
        system = ForceField(*force_field).createSystem(pdb.topology, nonbondedMethod=NoCutoff, constraints=None)
        return pdb.topology, system, _read(file if start is None else start)
    except ImportError:
        raise
    except Exception as error:  # OpenMM raises whatever its parsers meet: index, key, type and value errors
        raise ValueError(
            f"{file} is no topology that can be simulated: {' '.join(str(error).split())[:300]}"
        ) from error


def _read(start: Path) -> np.ndarray:
    from openmm.app import AmberInpcrdFile, PDBFile

    if start.suffix.lower() not in START:
        raise ValueError(f"coordinates are read from {', '.join(START)}, not from {start.name}")
    file = (PDBFile if start.suffix.lower() == ".pdb" else AmberInpcrdFile)(str(start))
    return plain(file.getPositions(asNumpy=True))


def plain(quantity: object) -> np.ndarray:
    """Numbers in OpenMM's own units: nanometres, picoseconds, kJ/mol; float64."""
    return np.array(quantity._value, dtype=np.float64)  # pyright: ignore[reportAttributeAccessIssue]  (a quantity of OpenMM, whose types are not told)
