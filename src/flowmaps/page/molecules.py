"""Molecules on the page: a scaffold that stays, a property that steers, structures drawn and marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from rdkit import Chem

from ..fields import named_fields
from ..metrics.molecules import PROPERTIES, inspect
from ..pictures import heading
from ..steering import FeynmanKac
from ..tasks.molecules import Molecules
from ..tasks.molecules_files import picture, structures
from ..tasks.molecules_scaffold import scaffold as graph_of
from ..tasks.steering import reward
from .answers import COMPARED, Answer, File, Panel, real, seconds, short, timed, typed
from .sketch import LONGEST, checked, clicked, drawing, fitting, tools
from .tabs import Choice, Field, Line, Sketch, Slider, Tab, Value

WORK = 5000  # atoms times evaluations of one request: a second or two of one core
SPREAD = {"qed": 0.08, "logp": 1.0, "rings": 1.0, "weight": 20.0}  # of a property: the unit of its steering strength
FORMAT = {"qed": "QED {:.2f}", "logp": "logP {:.1f}", "rings": "rings {:.0f}", "weight": "{:.0f} Da"}
NONE = "none"
SIDE = 180  # of a picture


class Molecule(NamedTuple):
    """A generated molecule.

    Arguments:
        mol: As generated, not sanitised.
        smiles: Canonical, if it is one valid molecule.
        parts: Connected parts.
    """

    mol: Chem.RWMol
    smiles: str | None
    parts: int

    def value(self, name: str) -> float:
        """A property of a valid one."""
        return float(PROPERTIES[name](Chem.MolFromSmiles(self.smiles)))


class MoleculeTab(Tab):
    """Molecules around a scaffold, steered by a property."""

    packaged = ("qm9", "zinc24")
    about = "Atoms and bonds of a molecule at once, from noise. What is not one valid molecule is drawn on red."
    copied = "SMILES of the valid ones"
    most = 12

    kind = Molecules

    def form(self) -> list[Field]:
        alphabet, order = self.task.alphabet, self.task.order
        parts = fitting(lambda smiles: graph_of(smiles, alphabet, order))
        return [
            Sketch(
                "scaffold",
                "Scaffold",
                "A part that stays: a SMILES, or click a part below and draw on.",
                "C1CO1",
                tools=tools([name for name in alphabet.atoms if name.isalpha()]),
                drawn=lambda text, note: drawing(text, note, parts),
                clicked=lambda text, tool, place: clicked(text, tool, place, alphabet.size),
            ),
            Choice("aim", "Steer a property", "", [NONE, *PROPERTIES]),
            Line("target", "Target value", "", "as high as possible"),
            Slider("strength", "Steering strength", "0 is none.", 3, 0, 10, 0.5),
        ]

    def answer(
        self,
        n: int,
        steps: int,
        seed: int,
        scaffold: Value = "",
        aim: Value = NONE,
        target: Value = None,
        strength: Value = 3,
    ) -> Answer:
        fixed, goal = short("the scaffold", scaffold, LONGEST), str(aim or NONE)
        if goal not in (NONE, *PROPERTIES):
            raise ValueError(f"the property is {goal!r}, expected one of {', '.join([NONE, *PROPERTIES])}")
        wanted = typed("the target", target, -1e4, 1e4)
        power = real("the steering strength", strength, 0, 10)
        part = None if fixed is None else Chem.MolFromSmiles(checked(fixed))
        tries = self.affordable(n, steps + sum(COMPARED)) if fixed else n
        found = self.drawn(lambda k: self.plain(tries, k, seed, fixed), steps)
        order = best_first([molecule.smiles for molecule in found[steps][0]])[:n] if fixed else range(n)
        chosen, lead = [found[steps][0][i] for i in order], self.lead(found[steps], steps, fixed)
        if goal != NONE and power > 0:
            chosen, lead = self.steered(n, steps, seed, fixed, goal, wanted, power)
            others = [molecule.value(goal) for row, _ in found.values() for molecule in row if molecule.smiles]
            lead += f" Plain ones have {sum(others) / len(others):.2f} on average." if others else ""
        shown = [goal] if goal != NONE else ["qed", "logp"]
        rows = self.compared(found, lambda drawn: panels([drawn[i] for i in order[:8]], part, []))
        valid = [molecule for molecule in chosen if molecule.smiles]
        text = "".join(f"{molecule.smiles}\n" for molecule in valid)
        sdf, _ = structures([molecule.mol for molecule in valid])
        files = [File("molecules.sdf", "chemical/x-mdl-sdfile", sdf), File("molecules.smi", "text/plain", text)]
        return Answer(lead, panels(chosen, part, shown), rows, "cards", text, files if valid else [])

    def plain(self, n: int, steps: int, seed: int, fixed: str | None) -> list[Molecule]:
        """``n`` molecules as they come."""
        return self.read(named_fields(self.model.sample(n, steps, seed, fixed=fixed)))

    def lead(self, drawn: tuple[Sequence[Molecule], float], steps: int, fixed: str | None) -> str:
        """What is said of plain samples."""
        molecules, took = drawn
        around = " around the scaffold" if fixed else ""
        valid = sum(molecule.smiles is not None for molecule in molecules)
        first = "; valid and different ones come first" if fixed else ""
        made = f"{len(molecules)} molecules{around} in {heading(str(steps))}, {seconds(took)}"
        return f"{made}; {valid} of them valid{first}."

    def steered(
        self, n: int, steps: int, seed: int, fixed: str | None, goal: str, wanted: float | None, power: float
    ) -> tuple[list[Molecule], str]:
        """Different molecules of weighted particles that represent the distribution times exp(strength * reward)."""
        model, task, particles = self.model, self.task, self.affordable(n, 2 * steps)
        grid, _ = model.grid(steps)
        method = FeynmanKac(grid.stochastic())
        r = reward(task, goal if wanted is None else f"{goal}:{wanted:g}")
        generator = model.generator(seed)
        problem = task.problem(particles, generator, fixed=fixed)._asdict()
        with torch.no_grad():
            found, took = timed(
                lambda: method(model.flow_map, r, particles=particles, generator=generator,
                               strength=power / SPREAD[goal], **problem)
            )  # fmt: skip
        everything = self.read(task.finished(found.samples, found.condition))
        drawn = [everything[i] for i in found.choose(particles, generator).tolist()]
        chosen, values = distinct(drawn), [molecule.value(goal) for molecule in drawn if molecule.smiles]
        mean = f", {goal} {sum(values) / len(values):.2f} on average" if values else ", none of them valid"
        said = f"{particles} particles in {heading(str(steps))}, {seconds(took)}{mean}"
        few = f" Only {len(chosen)} differ: less strength keeps more." if len(chosen) < n else ""
        return chosen[:n], f"{said}; an effective sample size of {found.effective_size:.1f}.{few}"

    def affordable(self, n: int, evaluations: int) -> int:
        """How many molecules of so many evaluations each a request may draw."""
        return max(n, min(16 * n, WORK // (self.task.alphabet.size * evaluations)))

    def read(self, samples: Mapping[str, torch.Tensor]) -> list[Molecule]:
        """Samples as molecules."""
        found = self.task.decoded(dict(samples))
        return [Molecule(mol, inspect(mol).whole, len(Chem.GetMolFrags(mol))) for mol in found]


def best_first(smiles: Sequence[str | None]) -> list[int]:
    """The numbers of samples: valid ones first, each once, then all others.

    >>> best_first([None, "CO", "CO", "C"])
    [1, 3, 0, 2]
    """
    return sorted(range(len(smiles)), key=lambda i: smiles[i] is None or smiles[i] in smiles[:i])


def distinct(molecules: Sequence[Molecule]) -> list[Molecule]:
    """The valid ones, each once, in their order."""
    return list({molecule.smiles: molecule for molecule in reversed(molecules) if molecule.smiles}.values())[::-1]


def panels(molecules: Sequence[Molecule], kept: Chem.Mol | None, properties: Sequence[str]) -> list[Panel]:
    """A picture of each, what it is, and its properties."""
    shown = []
    for molecule in molecules:
        valid = molecule.smiles is not None
        note = " · ".join(FORMAT[name].format(molecule.value(name)) for name in properties) if valid else ""
        mark = "valid" if valid else f"{molecule.parts} parts" if molecule.parts > 1 else "not valid"
        shown.append(Panel(picture(molecule.mol, SIDE, kept), molecule.smiles or "", note, valid, mark))
    return shown
