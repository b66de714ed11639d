"""A molecule in thermal equilibrium by a normalising flow: samples with weights that make them exact."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.conformations import (
    BLOCKS,
    SIZE,
    Conformations,
    ConformationSplits,
    Coordinates,
    Framed,
    Turned,
    evenly,
    parts_of,
    read_frames,
    topology_of,
    trajectory,
)
from ..fields import Fields, one_field
from ..files import write_text
from ..maps import NSF, Bijection
from ..metrics.boltzmann import BoltzmannQuality, dihedrals, normalised
from ..paths import GeodesicPath
from ..pictures import boltzmann_panels, heading
from ..reading import Document
from ..samplers import Sampler
from ..seeds import check_seed
from ..spaces import Euclidean
from .base import ChangedData, Task, in_batches
from .bijections import OfBijection

SHOWN = 100  # models of a PDB file


class Boltzmann(OfBijection, Task[ConformationSplits, Fields, Bijection]):
    r"""Conformations by a bijection, whose samples have weights :math:`\log w = -u(x) - \log p_\theta(x)`.

    Arguments:
        source: A folder of ``flowmaps simulate``, or a file of frames that mdtraj reads.
        topology: Of such a file: PDB or Amber.
        temperature: Of such a file, in kelvin; a folder knows its own.
        framed: Coordinates in the frame of three atoms of the backbone, whitened: six fewer, and no directions to be
            learned. Otherwise all Cartesian coordinates in one unit, centred and turned at random.
        flow: What makes the bijection, from a path and the shape of one state.
        paired: Folder of pairs that ``flowmaps pairs`` made, on which :class:`~flowmaps.objectives.RegFlow` trains.
        seed: Of turns and centres.
    Reference: Noé, Olsson, Köhler, Wu 2019, *Boltzmann generators*, Science 365, arXiv 1812.01729.
    """

    drawn = 2000
    kinds = (".png", ".pdb")
    files = ("samples.*", "samples-*.pdb")
    headlines = ("energy_w1", "torsion_w2", "ess", "alpha", "energy_w1_plain", "torsion_w2_plain")
    teaching = {"atoms": [str], "torsions": [str], "four": [[int]], "unit": float, "three": [int], "mean": [float],
                "factor": [[float]]}  # fmt: skip

    def __init__(
        self,
        source: str = "simulations/alanine-dipeptide",
        topology: str | None = None,
        temperature: float = 300.0,
        framed: bool = False,
        flow: Callable[[GeodesicPath, Sequence[int]], Bijection] = NSF,
        paired: str | None = None,
        seed: int = 0,
    ):
        self.source, self.topology, self.temperature, self.framed = source, topology, temperature, framed
        self.flow, self.paired, self.seed = flow, paired, check_seed(seed, bits=32)

    # -- data ----------------------------------------------------------------------------------------------------

    def load(self) -> ConformationSplits:
        x, potential = trajectory(self.source, self.topology, self.temperature)
        four = potential.backbone()[1]
        if not four:
            raise ValueError(f"{potential.file} has no residue between two others, so that there are no φ and ψ")
        parts = parts_of(x)
        coordinates = Framed.of(parts[0], four[0][2:0:-1] + four[0][3:]) if self.framed else Turned.of(parts[0])
        train, valid, test = (
            Conformations(x, coordinates, 0 if i else SIZE, 3 * self.seed + i) for i, x in enumerate(parts)
        )
        return ConformationSplits(train, valid, test, potential)

    def learned(self, splits: ConformationSplits) -> Document:
        names, four = splits.potential.backbone()
        found = splits.train.coordinates
        framed = found if isinstance(found, Framed) else None
        return {
            "atoms": [f"{a.name} {a.residue.name} {a.residue.index + 1} {a.element.symbol}"
                      for a in splits.potential.topology.atoms()],
            "torsions": names, "four": four, "unit": found.unit if isinstance(found, Turned) else 0.0,
            "three": framed.three if framed else [], "mean": framed.mean.tolist() if framed else [],
            "factor": framed.factor.tolist() if framed else [],
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        n, k = len(state["atoms"]), len(state["mean"])
        numbers = [state["three"], *state["four"]] if k else state["four"]
        if any(not 0 <= i < n for part in numbers for i in part) or any(len(part) != 4 for part in state["four"]):
            raise ValueError(f"state of config.json has torsions of atoms {state['four']}, expected four of {n} each")
        if k and (k != 3 * n - 6 or {len(row) for row in (*state["factor"], state["mean"])} != {k}
                  or len(state["factor"]) != k or len(set(state["three"])) != 3):  # fmt: skip
            raise ValueError(f"state of config.json has {k} coordinates of {n} atoms, expected {3 * n - 6}")
        if not k and not state["unit"] > 0:
            raise ValueError(f"unit in the state of config.json is {state['unit']}, expected more than 0")

    @property
    def coordinates(self) -> Coordinates:
        """What the flow sees."""
        state = self.state()
        if not state["mean"]:
            return Turned(len(state["atoms"]), state["unit"])
        return Framed(state["three"], torch.tensor(state["mean"]).double(), torch.tensor(state["factor"]).double())

    @property
    def dim(self) -> int:
        return self.coordinates.dim

    # -- model ---------------------------------------------------------------------------------------------------

    def build_map(self) -> Bijection:
        return self.flow(GeodesicPath(Euclidean(self.dim)), (self.dim,))

    # -- likelihood ----------------------------------------------------------------------------------------------

    def read_states(self, path: str, n: int | None) -> Tensor:
        """States of the frames of a folder of ``flowmaps simulate``, or of a file that mdtraj reads.

        Frames are turned once at random where the flow sees directions. A file without a topology has the atoms of the
        model.
        """
        atoms, place = self.state()["atoms"], Path(path).expanduser()
        if place.is_dir():
            x = trajectory(place).x
            if x.shape[1] != len(atoms):
                raise ValueError(f"{place} has frames of {x.shape[1]} atoms, but the model has {len(atoms)}")
        else:
            x = read_frames(place, topology_of(atoms), "the model", len(atoms))
        return one_field(Conformations(x[:n], self.coordinates, seed=self.seed).batch(torch.arange(len(x[:n]))).x_1)

    def columns_of(self, y: Tensor, log_p: Tensor) -> Mapping[str, Tensor]:
        """``log_q``, as samples have it: the log-density without that of place and direction."""
        return {"log_q": log_p - self.coordinates.log_factor(y)}

    # -- samples -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self, flow_map: Bijection, n: int, sampler: Sampler, generator: torch.Generator, batch: int = 2000
    ) -> Fields:
        """Frames ``x`` in nanometres, and ``log_q``, their log-density without that of place and direction.

        Arguments:
            batch: Frames at a time.
        Raises: ValueError if the sampler takes several steps.
        """
        self.require_one_step(sampler)
        coordinates, x, log_q = self.coordinates, list[Tensor](), list[Tensor]()
        for rows in in_batches(n, batch):
            y, log_p = flow_map.sample((len(rows),), generator)
            x.append(coordinates.frames(y.cpu()))
            log_q.append(log_p.double().cpu() - coordinates.log_factor(y.cpu()))
        return Fields(x=torch.cat(x), log_q=torch.cat(log_q))

    def real(self, n: int) -> Fields:
        """At most ``n`` frames of all parts, evenly in time; the log-density of dynamics is -u up to a constant.

        A part alone may be too short a time for the equilibrium of its slowest torsion.
        """
        x = self.splits.all_frames
        return self._weighed(evenly(x, n))

    def _weighed(self, x: Tensor) -> Fields:
        return Fields(x=x.double(), log_q=-self.splits.potential.energies(x))

    def torsions(self, x: Tensor) -> Tensor:
        """φ and ψ of frames in radians, ``(n, torsions)``."""
        return dihedrals(x, self.state()["four"])

    @cached_property
    def judge(self) -> BoltzmannQuality:
        """The metrics, against frames of all parts."""
        frames = self.real(self.samples)
        return BoltzmannQuality(-frames["log_q"], self.torsions(frames["x"]))

    def quality(self, samples: Fields) -> dict[str, float]:
        """The metrics of :class:`~flowmaps.metrics.boltzmann.BoltzmannQuality`."""
        u = self.splits.potential.energies(samples["x"])
        return self.judge(u, -u - samples["log_q"], self.torsions(samples["x"]))

    def of_data(self, n: int | None = None) -> dict[str, float]:
        """What held-out frames score, every one with the same weight; the free energy is that of all frames."""
        frames, whole = self._weighed(evenly(self.splits.test.x, n or self.samples)), self.judge.torsions
        free = self.judge.alpha(whole, torch.full((len(whole),), 1 / len(whole)).double(), BLOCKS)
        return {**self.quality(frames), "alpha": free.value, "alpha_error": free.error}

    @property
    def samples(self) -> int:
        return 10_000

    def write(self, rows: Mapping[str, Fields], directory: Path, **options: object) -> list[Path]:
        """``samples-ROW.pdb`` with some models of each row; ``samples.png``: angles and energies, beside dynamics."""
        models = []
        for name, samples in rows.items():
            models.append(directory / f"samples-{name.replace(' ', '-')}.pdb")
            write_text(models[-1], "".join(self._models(samples["x"][:SHOWN])))
        picture = directory / "samples.png"
        most = max(len(samples["x"]) for samples in rows.values())
        drawn: dict[str, tuple[Tensor, Tensor | None, Tensor]] = {}
        try:
            drawn["dynamics"] = self._drawn(self.real(most))
            for name, samples in rows.items():
                drawn |= {
                    heading(name): self._drawn(samples),
                    f"{heading(name)}, reweighted": self._drawn(samples, True),
                }
        except ChangedData as error:
            warnings.warn(f"dynamics are left out: {error}", stacklevel=2)
        except (OSError, ValueError, ImportError):  # sampling needs neither data nor OpenMM
            drawn = {heading(name): self._plain(samples) for name, samples in rows.items()}
        boltzmann_panels(picture, drawn, self.state()["torsions"][:2])
        return [picture, *models]

    def _plain(self, samples: Fields) -> tuple[Tensor, None, Tensor]:
        n = len(samples["x"])
        return self.torsions(samples["x"])[:, :2] * (180 / math.pi), None, torch.full((n,), 1 / n)

    def _drawn(self, samples: Fields, weighted: bool = False) -> tuple[Tensor, Tensor | None, Tensor]:
        """Angles in degrees, energies and weights."""
        angles, _, even = self._plain(samples)
        u = self.splits.potential.energies(samples["x"])
        return angles, u, normalised(-u - samples["log_q"]) if weighted else even

    def _models(self, x: Tensor) -> list[str]:
        atoms = [text.split() for text in self.state()["atoms"]]
        lines = []
        for k, frame in enumerate((10 * x).tolist()):
            lines.append(f"MODEL     {k + 1:4d}\n")
            for i, ((name, residue, number, element), place) in enumerate(zip(atoms, frame, strict=True)):
                label = name if len(name) > 3 else f" {name:3}"
                at = "".join(f"{value:8.3f}" for value in place)
                head = f"ATOM  {i + 1:5d} {label} {residue:>3} A{int(number):4d}    "
                lines.append(f"{head}{at}  1.00  0.00          {element:>2}\n")
            lines.append("ENDMDL\n")
        return lines
