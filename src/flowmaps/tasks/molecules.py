"""Molecules: data, map, samples and their quality, bound together for training and for the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rdkit import Chem
from torch import Tensor

from ..data.molecules import Alphabet, MoleculeData, MoleculeSplits, Progress, graph_masks, molecules, qm9, zinc250k
from ..data.molecules_graph import Unreadable, encode
from ..fields import Condition
from ..maps import EndpointMap
from ..metrics.molecules import MoleculeQuality, category_counts, graph_of
from ..networks.graph import GraphTransformer
from ..paths import LinearPath
from ..samplers import Decoder, Jumps, Sampler, generate
from ..spaces import OneHot, Product
from .molecules_files import draw_grid, write_smiles, write_structures

SOURCES = {"qm9": qm9, "zinc250k": zinc250k}


def load(source: str, column: str | int | None = None, fetch: bool = False, **options: Any) -> MoleculeSplits:
    """Molecules by name (``qm9``, ``zinc250k``) or from a file of SMILES.

    Arguments:
        source: A name or the path of a file.
        column: Of the file, where the SMILES are.
        fetch: Download a named set if it is missing.
        options: Passed to :func:`~flowmaps.data.molecules.molecules`.
    """
    if source in SOURCES:
        return SOURCES[source](fetch=fetch, **options)
    if not Path(source).expanduser().exists():
        raise ValueError(f"data {source!r} is neither one of {', '.join(SOURCES)} nor an existing file of SMILES")
    return molecules(source, column, **options)


def build_map(alphabet: Alphabet, **network: Any) -> EndpointMap:
    """The untrained categorical flow map of molecular graphs over an alphabet.

    Arguments:
        network: Sizes of :class:`~flowmaps.networks.graph.GraphTransformer`.
    """
    K_a, K_b = len(alphabet.atoms), len(alphabet.bonds)
    space = Product({"atoms": OneHot(K_a), "bonds": OneHot(K_b, symmetric=True)})
    return EndpointMap(LinearPath(space), GraphTransformer(K_a, K_b, **network))


class Molecules:
    r"""What a model of molecules needs besides its weights: categories, and the law of the number of atoms.

    Arguments:
        alphabet: Categories and size of the graphs.
        size_weights: How often a molecule has 0..n atoms, ``(n + 1,)``.
    """

    def __init__(self, alphabet: Alphabet, size_weights: Sequence[int] | Tensor):
        self.alphabet = alphabet
        self.size_weights = torch.as_tensor(size_weights, dtype=torch.float64)
        if self.size_weights.shape != (alphabet.size + 1,) or not self.size_weights.sum() > 0:
            raise ValueError(f"size weights have shape {tuple(self.size_weights.shape)}, expected one of each size "
                             f"0..{alphabet.size}, not all 0")

    @classmethod
    def of(cls, splits: MoleculeSplits) -> Molecules:
        """The alphabet of the data and the atom counts of its training part."""
        return cls(splits.alphabet, splits.train.size_weights())

    def to_json(self) -> dict[str, Any]:
        """Plain values for a checkpoint's configuration."""
        return {"alphabet": self.alphabet.to_json(), "size_weights": [int(w) for w in self.size_weights]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Molecules:
        return cls(Alphabet.from_json(value["alphabet"]), value["size_weights"])

    # -- samples ---------------------------------------------------------------------------------------------------

    def sample(
        self,
        flow_map: EndpointMap,
        n: int,
        generator: torch.Generator,
        sampler: Sampler | None = None,
        *,
        atoms: int | None = None,
        fixed: str | None = None,
        label: Tensor | None = None,
        decoder: Decoder | None = None,
        batch: int = 512,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Draw ``n`` graphs.

        Arguments:
            flow_map: The map, in evaluation mode.
            sampler: One jump by default.
            atoms: Number of atoms of every graph; drawn from the training histogram by default.
            fixed: SMILES of a scaffold: its atoms come first, they and all pairs among them stay as given, the rest
                is grown around them.
            label: Property values ``(n, p)`` for a conditional map.
            decoder: Arg-max by default.
            batch: Graphs at a time.
        Returns: categories and mask, ``atoms`` (n, N) and ``bonds`` (n, N, N), symmetric; the mask has each pair once.
        Raises: ValueError if a number of atoms or a scaffold does not fit the alphabet.
        """
        if n < 1 or batch < 1:
            raise ValueError(f"n is {n} and batch {batch}, expected at least 1 of each")
        known, given = (None, None) if fixed is None else self._scaffold(fixed)
        least = 1 if known is None else int(known["atoms"].sum())
        sizes = self._sizes(n, least, atoms, generator)
        parts = []
        for rows in torch.arange(n).split(batch):
            k, N = len(rows), self.alphabet.size
            mask = graph_masks(sizes[rows], N)
            condition = Condition(mask, _repeat(known, k), None if label is None else label[rows])
            condition = Condition(*(_to(part, generator.device) for part in condition))
            shape = {"atoms": (k, N), "bonds": (k, N, N)}
            x = generate(flow_map, sampler or Jumps(1), shape, generator, condition=condition,
                         given=_to(_repeat(given, k), generator.device), decoder=decoder)
            upper = x["bonds"].cpu().triu(1)  # a decoder that draws does so for each pair once
            parts.append(({"atoms": x["atoms"].cpu(), "bonds": upper + upper.mT}, mask))
        xs, masks = zip(*parts, strict=True)
        return _join(xs), _join(masks)

    def _sizes(self, n: int, least: int, atoms: int | None, generator: torch.Generator) -> Tensor:
        N = self.alphabet.size
        if atoms is not None:
            if not least <= atoms <= N:
                raise ValueError(f"atoms is {atoms}, expected {least} to {N}: the data go no further")
            return torch.full((n,), atoms)
        weights = self.size_weights.clone()
        weights[:least] = 0
        if not weights.sum() > 0:
            raise ValueError(f"no molecule of the data has {least} atoms or more; give atoms= or a smaller scaffold")
        return torch.multinomial(weights.to(generator.device), n, replacement=True, generator=generator).cpu()

    def _scaffold(self, smiles: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Known positions and their categories, (N,) and (N, N)."""
        try:
            graph = encode(smiles, aromatic="aromatic" in self.alphabet.bonds)
        except Unreadable as error:
            raise ValueError(f"fixed part {smiles!r} cannot be used: {error}") from None
        strange = sorted(set(graph.atoms) - set(self.alphabet.atoms))
        if strange:
            raise ValueError(f"fixed part {smiles!r} has {strange}, but the model knows {list(self.alphabet.atoms)}")
        k, N = len(graph.atoms), self.alphabet.size
        if k > N:
            raise ValueError(f"fixed part {smiles!r} has {k} atoms, more than the {N} of the model")
        given = {"atoms": torch.zeros(N, dtype=torch.long), "bonds": torch.zeros(N, N, dtype=torch.long)}
        given["atoms"][:k] = torch.tensor([self.alphabet.atoms.index(name) for name in graph.atoms])
        for i, j, bond in graph.bonds:
            given["bonds"][i, j] = given["bonds"][j, i] = bond
        ball = torch.arange(N) < k
        return {"atoms": ball, "bonds": ball.unsqueeze(0) & ball.unsqueeze(1)}, given

    def decoded(self, x_1: dict[str, Tensor], mask: dict[str, Tensor]) -> list[Chem.RWMol]:
        """The molecules of samples, as generated, not sanitised."""
        rows = zip(x_1["atoms"], x_1["bonds"], mask["atoms"], strict=True)
        return [graph_of(atoms, bonds, exists, self.alphabet) for atoms, bonds, exists in rows]

    def write(self, path: str | os.PathLike, found: Sequence[Chem.RWMol], shown: int = 64) -> int:
        """Write molecules in the format of the ending: ``.smi``, ``.sdf`` or ``.png`` (the first ``shown``).

        Returns: how many were written.
        """
        kind = Path(path).suffix.lower()
        if kind in (".smi", ".txt"):
            return write_smiles(path, found)
        if kind == ".sdf":
            return write_structures(path, found)
        if kind == ".png":
            draw_grid(path, found[:shown])
            return len(found[:shown])
        raise ValueError(f"cannot write molecules to {path}; the name must end in .smi, .sdf or .png")


def histograms(data: MoleculeData, alphabet: Alphabet) -> dict[str, Tensor]:
    """How often each category occurs among existing atoms and pairs."""
    sizes = {"atoms": len(alphabet.atoms), "bonds": len(alphabet.bonds)}
    total = {field: torch.zeros(K, dtype=torch.long) for field, K in sizes.items()}
    for rows in torch.arange(len(data)).split(4096):
        x_1, condition = data.batch(rows)
        for field, K in sizes.items():
            total[field] += category_counts(x_1[field], condition.mask[field], K).sum(0)
    return total


def quality(splits: MoleculeSplits, held_out: int = 10_000, **options: Any) -> MoleculeQuality:
    """The metrics against the training part and the first ``held_out`` of a fixed shuffle of the test part."""
    order = torch.randperm(len(splits.test), generator=torch.Generator().manual_seed(0))[:held_out]
    test = splits.test.subset(order)
    return MoleculeQuality(splits.train.smiles, test.smiles, histograms(test, splits.alphabet), splits.alphabet,
                           **options)


def _repeat(tree: Any, n: int) -> Any:
    return None if tree is None else {name: leaf.expand(n, *leaf.shape) for name, leaf in tree.items()}


def _to(tree: Any, device: torch.device) -> Any:
    if isinstance(tree, dict):
        return {name: leaf.to(device) for name, leaf in tree.items()}
    return tree if tree is None else tree.to(device)


def _join(trees: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([tree[name] for tree in trees]) for name in trees[0]}
