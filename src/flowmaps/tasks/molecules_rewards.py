"""Rewards of molecules: ``qed``, ``logp``, ``rings``, ``weight`` (``logp:2.5`` is minus the distance to a target),
``smarts:PATTERN``, ``similar:SMILES``. Molecules that are invalid or in pieces earn the least. What is asked for is
read as data are: stereochemistry, isotopes, atom maps and drawn hydrogens do not count."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

import torch
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from torch import Tensor

from ..data.molecules import Alphabet, MoleculeSplits
from ..data.molecules_graph import Unreadable, canonical, pattern
from ..files import cache_folder
from ..metrics import molecules_surrogate
from ..metrics.molecules import PROPERTIES, graph_of, inspect
from ..steering import Hard, Led, Reward, Soft, each
from .steering import number

LEAST = {"qed": 0.0, "logp": -10.0, "rings": -1.0, "weight": 0.0}  # what an invalid molecule earns
Table = dict[str, Callable[[str], Reward]]


def black_boxes(alphabet: Alphabet) -> Table:
    """Rewards of decoded molecules, without a gradient."""

    def of_molecule(function: Callable[[Chem.Mol], float], least: float, name: str) -> Reward:
        def value(x_1: dict[str, Tensor]) -> float:
            atoms, bonds = x_1["atoms"].cpu(), x_1["bonds"].cpu().clamp(min=0)
            smiles = inspect(graph_of(atoms, bonds, atoms >= 0, alphabet)).whole
            return least if smiles is None else float(function(Chem.MolFromSmiles(smiles)))

        return Hard(each(value), name)

    def of_property(argument: str, name: str) -> Reward:
        f, target = PROPERTIES[name], number(argument)
        if target is None:
            return of_molecule(f, _least(name), name)
        return of_molecule(lambda mol: -abs(f(mol) - target), _least(name, target), f"{name} {target:g}")

    def smarts(text: str) -> Reward:
        query = pattern(text)
        return of_molecule(lambda mol: mol.HasSubstructMatch(query), 0.0, f"smarts {text}")

    def similar(smiles: str) -> Reward:
        try:
            plain = canonical(smiles)
        except Unreadable as error:
            raise ValueError(f"{smiles!r} is no SMILES of a molecule: {error}") from None
        fingerprint = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048).GetFingerprint
        bits = fingerprint(Chem.MolFromSmiles(plain))
        return of_molecule(lambda m: DataStructs.TanimotoSimilarity(fingerprint(m), bits), 0.0, f"similar to {smiles}")

    return {**{name: partial(of_property, name=name) for name in PROPERTIES}, "smarts": smarts, "similar": similar}


def led(black_boxes: Mapping[str, Callable[[str], Reward]], splits: MoleculeSplits, device: torch.device) -> Table:
    """The properties, each led by the gradient of a network that is trained on the training molecules once, and kept.

    Decoded molecules still earn the property itself.
    """

    def of_property(argument: str, name: str) -> Reward:
        black_box, target = black_boxes[name](argument), number(argument)
        with torch.enable_grad():
            model = molecules_surrogate.cached_surrogate(
                cache_folder() / "surrogates", splits.train, splits.test, splits.alphabet
            )
        by = copy.deepcopy(model).to(device).of(name, _least(name, target), target)
        about = {"surrogate_r2": model.quality()[name], "surrogate_accuracy_of_validity": float(model.accuracy)}
        return Led(cast(Hard, black_box), Soft(by, f"surrogate of {black_box.name}"), about)

    def none(argument: str, name: str) -> Reward:
        raise ValueError(f"no surrogate of {name!r}; there are some of {', '.join(PROPERTIES)}; leave it out")

    return {name: partial(of_property if name in PROPERTIES else none, name=name) for name in black_boxes}


def _least(name: str, target: float | None = None) -> float:
    return LEAST[name] if target is None else -abs(LEAST[name] - target) - 1
