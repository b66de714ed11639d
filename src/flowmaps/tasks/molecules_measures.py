"""What metrics of molecules compare with, and what a grid is tuned for: valid and connected ones, at no cost in FCD."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.util import find_spec

import torch
from torch import Tensor

from ..data.molecules import Alphabet, MoleculeData, MoleculeSplits
from ..data.molecules_graph import Unreadable
from ..fields import named_fields
from ..metrics.molecules import ChemNet, category_counts, decode
from ..metrics.text import Measure, mean
from ..metrics.two_sample import bootstrap, frechet_distance
from .aims import Aim

HELD_OUT = 2000  # validation molecules that FCD compares with
REPEATS = 10  # of the bootstrap of FCD


class Validity:
    """Share of valid and connected molecules as the aim, Fréchet ChemNet distance to validation molecules as guard.

    Arguments:
        alphabet: Categories.
        splits: Gives the data; asked when the guard is first needed.
    """

    def __init__(self, alphabet: Alphabet, splits: Callable[[], MoleculeSplits]):
        self.alphabet, self.splits = alphabet, splits

    def aim(self) -> Aim:
        """The aim; without the package ``fcd`` or without data there is no guard, and a warning says so."""
        return Aim("valid_connected", self.share, rises=True, guards={"fcd": self.fcd} if self._reference else {})

    def share(self, samples: Mapping[str, Tensor]) -> Measure:
        """Share of the samples that are valid as generated, and one molecule."""
        return mean([float(text is not None) for text in self._whole(samples)])

    def fcd(self, samples: Mapping[str, Tensor]) -> Measure:
        """Fréchet ChemNet distance of the valid and connected samples, duplicates included."""
        assert self._reference is not None
        chemnet, law = self._reference
        whole = [text for text in self._whole(samples) if text is not None]
        if len(whole) < 2:
            return Measure(float("inf"), 0.0)
        distance = lambda x: frechet_distance(x.mean(0), x.T.cov(), *law)  # noqa: E731
        x, generator = torch.from_numpy(chemnet(whole)), torch.Generator().manual_seed(0)
        return Measure(distance(x), bootstrap(distance, x, generator=generator, repeats=REPEATS))

    def _whole(self, samples: Mapping[str, Tensor]) -> list[str | None]:
        return [sample.whole for sample in decode(samples, samples["atoms"] >= 0, self.alphabet)]

    @cached_property
    def _reference(self) -> tuple[ChemNet, tuple[Tensor, Tensor]] | None:
        if find_spec("fcd") is None:
            return self._without("the package fcd is not installed")
        try:
            valid = self.splits().valid
        except (OSError, ValueError, Unreadable) as error:
            return self._without(str(error))
        order = torch.randperm(len(valid), generator=torch.Generator().manual_seed(0))[:HELD_OUT]
        if len(order) < 2:
            return self._without("there are no validation molecules")
        chemnet = ChemNet()
        return chemnet, chemnet.law(valid.subset(order).smiles)

    @staticmethod
    def _without(why: str) -> None:
        warnings.warn(f"grids are not guarded by FCD: {why}", stacklevel=3)


def histograms(data: MoleculeData, alphabet: Alphabet) -> dict[str, Tensor]:
    """How often each category occurs among existing atoms and pairs."""
    sizes = {"atoms": len(alphabet.atoms), "bonds": len(alphabet.bonds)}
    total = {field: torch.zeros(K, dtype=torch.long) for field, K in sizes.items()}
    for rows in torch.arange(len(data)).split(4096):
        batch = data.batch(rows)
        x_1, mask = named_fields(batch.x_1), named_fields(batch.condition.mask)
        for field, K in sizes.items():
            total[field] += category_counts(x_1[field], mask[field], K).sum(0)
    return total
