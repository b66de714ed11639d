"""How good generated molecular graphs are: validity by stated conventions, and distances to held-out molecules."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from rdkit import Chem, DataStructs
from rdkit.Chem import QED, Crippen, Descriptors, rdFingerprintGenerator, rdMolDescriptors
from torch import Tensor

from ..data.molecules_files import Alphabet
from ..data.molecules_graph import build, canonical, sanitised
from .modes import GROUP, Measure
from .molecules_modes import shares
from .two_sample import frechet_distance

PROPERTIES: dict[str, Callable[[Chem.Mol], float]] = {
    "logp": Crippen.MolLogP,  # pyright: ignore[reportAttributeAccessIssue]  (made at import)
    "qed": QED.qed,
    "rings": rdMolDescriptors.CalcNumRings,
    "weight": Descriptors.MolWt,  # pyright: ignore[reportAttributeAccessIssue]  (made at import)
}


HEADLINES = ("valid_connected", "fcd", "aromatic", "unique", "novel")


class Sample(NamedTuple):
    """One decoded graph.

    Arguments:
        smiles: Canonical SMILES if the whole graph passes RDKit's sanitisation as generated, else ``None``.
        largest: The same of its largest connected part alone.
        kept: Share of the atoms in that part; 1 means connected.
    """

    smiles: str | None
    largest: str | None
    kept: float

    @property
    def whole(self) -> str | None:
        """Canonical SMILES if the graph is valid *and* connected."""
        return self.smiles if self.kept == 1 else None


def graph_of(atoms: Tensor, bonds: Tensor, mask: Tensor, alphabet: Alphabet) -> Chem.RWMol:
    """The molecule of one sample, not sanitised: categories ``(n,)`` and ``(n, n)``, existing atoms ``(n,)``."""
    size = int(mask.sum())
    names = [alphabet.atoms[k] for k in atoms[:size].tolist()]
    table = bonds[:size, :size].triu(1)
    return build(names, [(i, j, int(table[i, j])) for i, j in table.nonzero().tolist()])


def inspect(mol: Chem.RWMol) -> Sample:
    """Validity of a molecule as it is, and of its largest connected part."""
    parts = Chem.GetMolFrags(mol)
    largest = max(parts, key=len)
    smiles = sanitised(Chem.RWMol(mol))
    if len(parts) == 1:
        return Sample(smiles, smiles, 1.0)
    rest = Chem.RWMol(mol)
    for atom in sorted(set(range(mol.GetNumAtoms())) - set(largest), reverse=True):
        rest.RemoveAtom(atom)
    return Sample(smiles, sanitised(rest), len(largest) / mol.GetNumAtoms())


def decode(x_1: Mapping[str, Tensor], mask: Tensor, alphabet: Alphabet) -> list[Sample]:
    """Every sample of a batch: categories ``(B, n)`` and ``(B, n, n)``, existing atoms ``(B, n)``."""
    rows = zip(x_1["atoms"].cpu(), x_1["bonds"].cpu(), mask.cpu(), strict=True)
    return [inspect(graph_of(atoms, bonds, exists, alphabet)) for atoms, bonds, exists in rows]


def _share(part: int, n: int) -> Measure:
    p = part / n
    return Measure(p, (p * (1 - p) / n) ** 0.5)


class MoleculeQuality:
    r"""The metrics of generated molecules against training and held-out ones.

    Shares are of *all* samples unless said otherwise, duplicates included. ``valid_connected``, ``fcd``,
    ``aromatic``, ``unique`` and ``novel`` come first: none of them alone tells a good model.

    - ``valid_connected`` (the headline): RDKit sanitises the graph as generated and it is one molecule.
    - ``valid``: RDKit sanitises the graph as generated; several molecules may float beside each other.
    - ``connected``: the graph is in one piece, valid or not.
    - ``valid_largest_fragment``: its largest piece alone is valid, the convention of the papers; ``kept_atoms``
      says how much of the graph such a piece is.
    - ``unique``: distinct canonical SMILES over their number, among valid and connected samples (it falls with the
      number of samples); ``novel``: share of the distinct ones that are not in the training set;
      ``valid_unique_novel``: their product with the headline. ``unique_largest_fragment``, ``novel_largest_fragment``:
      the same for largest pieces.
    - ``atom_types``, ``bond_types``: total variation between the category histograms of all generated atoms (bonds)
      and the held-out ones.
    - ``logp``, ``qed``, ``rings``, ``weight``: Wasserstein-1 distances between the distributions of valid and
      connected samples and of held-out molecules.
    - ``modes/...``: share of each of two dozen kinds (aromatic, charged, ring sizes, functional groups) among valid and
      connected samples, and their mean number of double and triple bonds (:mod:`~flowmaps.metrics.molecules_modes`);
      ``aromatic`` is that of the molecules with an aromatic atom, a mode that is easily lost.
    - ``internal_diversity``: mean Tanimoto distance between two valid and connected samples (Morgan fingerprints of
      radius 2, 2,048 bits, first ``pairs`` samples).
    - ``fcd``: Fréchet ChemNet distance of valid and connected samples, duplicates included, to held-out molecules;
      ``fcd_distinct`` without duplicates, ``fcd_largest_fragment`` by the convention of the papers. It is biased
      upwards for few samples: use 10,000, and compare equal numbers.

    Arguments:
        training: Canonical SMILES of the training molecules.
        held_out: Canonical SMILES of molecules that nothing was trained or chosen on.
        histograms: Held-out counts of atom and bond categories, over existing atoms and pairs.
        alphabet: Categories.
        fcd: Compute FCD, with the package ``fcd`` (its weights come with it).
        repeats: Bootstrap repetitions; FCD takes at most 10.
        seed: Of the bootstrap.
    Reference: Preuer et al. 2018, *Fréchet ChemNet distance*; Polykovskiy et al. 2020, *MOSES*.
    """

    def __init__(
        self,
        training: Sequence[str],
        held_out: Sequence[str],
        histograms: dict[str, Tensor],
        alphabet: Alphabet,
        fcd: bool | None = None,
        repeats: int = 50,
        seed: int = 0,
        pairs: int = 1000,
    ):
        if fcd and find_spec("fcd") is None:
            raise ValueError("FCD needs the package fcd; install flowmaps[molecules] or pass fcd=False")
        self.training, self.held_out, self.histograms = set(training), list(held_out), histograms
        self.alphabet, self.repeats, self.seed, self.pairs = alphabet, repeats, seed, pairs
        self.chemnet = ChemNet() if (fcd if fcd is not None else find_spec("fcd") is not None) else None
        self.reference = properties(self.held_out)

    def __call__(self, x_1: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> dict[str, object]:
        """Every metric as ``{"value", "error"}``, and the number of ``samples``.

        Arguments:
            x_1: Categories, ``atoms`` (B, n) and ``bonds`` (B, n, n).
            mask: Existing atoms (B, n) and pairs (B, n, n), each pair once.
        """
        samples = decode(x_1, mask["atoms"], self.alphabet)
        result = self._shares(samples) | self._types(x_1, mask)
        whole = [sample.whole for sample in samples if sample.whole is not None]
        largest = [sample.largest for sample in samples if sample.largest is not None]
        if len(whole) >= 2:
            result |= self._distances(whole) | self._modes(whole)
        if self.chemnet is not None:
            result |= self._fcd(self.chemnet, whole, largest)
        ordered = {name: result[name] for name in HEADLINES if name in result} | result
        return {"samples": len(samples), **{name: value._asdict() for name, value in ordered.items()}}

    def _random(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def _bootstrap(self, statistic: Callable[[np.ndarray], float], n: int, repeats: int | None = None) -> Measure:
        """A statistic of row numbers, with the deviation it has over rows drawn again."""
        random = self._random()
        again = [statistic(random.integers(0, n, n)) for _ in range(repeats or self.repeats)]
        return Measure(float(statistic(np.arange(n))), float(np.std(again, ddof=1)))

    def _shares(self, samples: list[Sample]) -> dict[str, Measure]:
        flags = {
            "valid_connected": [sample.whole is not None for sample in samples],
            "valid": [sample.smiles is not None for sample in samples],
            "connected": [sample.kept == 1 for sample in samples],
            "valid_largest_fragment": [sample.largest is not None for sample in samples],
            "kept_atoms": [sample.kept for sample in samples],
        }
        n = len(samples)
        result = {name: Measure(float(np.mean(f)), float(np.std(f)) / n**0.5) for name, f in flags.items()}
        result |= self._distinct([sample.whole for sample in samples], "")
        result |= self._distinct([sample.largest for sample in samples], "_largest_fragment")
        return result

    def _distinct(self, smiles: list[str | None], suffix: str) -> dict[str, Measure]:
        """Uniqueness and novelty with binomial errors: a bootstrap repeats rows, which would count as duplicates."""
        good = [text for text in smiles if text is not None]
        if not good:
            return {}
        distinct = set(good)
        new = len(distinct - self.training)
        return {
            f"unique{suffix}": _share(len(distinct), len(good)),
            f"novel{suffix}": _share(new, len(distinct)),
            f"valid_unique_novel{suffix}": _share(new, len(smiles)),
        }

    def _types(self, x_1: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> dict[str, Measure]:
        result = {}
        for name, field in (("atom_types", "atoms"), ("bond_types", "bonds")):
            K = len(self.histograms[field])
            counts = category_counts(x_1[field], mask[field], K).double().cpu().numpy()
            real = self.histograms[field].double().cpu().numpy()
            real = real / real.sum()

            def variation(rows: np.ndarray, counts: np.ndarray = counts, real: np.ndarray = real) -> float:
                total = counts[rows].sum(0)
                return float(np.abs(total / max(total.sum(), 1) - real).sum() / 2)

            result[name] = self._bootstrap(variation, len(counts))
        return result

    def _distances(self, whole: list[str]) -> dict[str, Measure]:
        from scipy.stats import wasserstein_distance  # imported here, for the time it takes

        own, n = properties(whole), len(whole)
        result = {
            name: self._bootstrap(lambda rows, x=own[name], y=y: wasserstein_distance(x[rows], y), n)
            for name, y in self.reference.items()
        }
        result["internal_diversity"] = diversity(whole[: self.pairs])
        return result

    @staticmethod
    def _modes(whole: list[str]) -> dict[str, Measure]:
        found = shares(whole)
        return {"aromatic": found["aromatic"], **{GROUP + name: one for name, one in found.items()}}

    def _fcd(self, chemnet: ChemNet, whole: list[str], largest: list[str]) -> dict[str, Measure]:
        """By both conventions, and without duplicates; every molecule is seen once by the network."""
        mean, covariance = chemnet.law(self.held_out)
        seen = chemnet(whole + largest)
        first = np.unique(np.asarray(whole), return_index=True)[1]
        sets = {"fcd": seen[: len(whole)], "fcd_distinct": seen[first], "fcd_largest_fragment": seen[len(whole) :]}

        def distance(rows: np.ndarray, x: np.ndarray) -> float:
            part = torch.from_numpy(x[rows])
            return frechet_distance(part.mean(0), part.T.cov(), mean, covariance)

        return {
            name: self._bootstrap(lambda rows, x=x: distance(rows, x), len(x), min(self.repeats, 10))
            for name, x in sets.items()
            if len(x) >= 2
        }


class ChemNet:
    """Activations of the network behind FCD, float64 ``(n, 512)``; distinct molecules are computed once.

    Every spelling of a molecule is read as its canonical SMILES, without stereo marks.

    Invariant: the activations of a molecule do not depend on what stands beside it, within float32 (1e-5).
    """

    PAD = 350  # the length that the network was trained with; a longer SMILES alone is padded to its own

    def __init__(self):
        from fcd import load_ref_model

        self.network = load_ref_model()
        self._last: tuple[list[str], tuple[Tensor, Tensor]] | None = None

    def __call__(self, smiles: Sequence[str]) -> np.ndarray:
        distinct, place = np.unique(np.asarray([canonical(text) for text in smiles]), return_inverse=True)
        lengths = np.maximum([len(text) + 1 for text in distinct], self.PAD)
        x = np.zeros((len(distinct), 512))
        for length in np.unique(lengths):
            x[lengths == length] = self._activations(distinct[lengths == length].tolist())
        return x[place]

    def _activations(self, smiles: list[str]) -> np.ndarray:
        from fcd import get_predictions

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Padding lengths differing")  # meant for lists of mixed lengths
            return get_predictions(self.network, smiles, device="cpu")

    def law(self, smiles: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Mean and covariance, kept for the next call with the same molecules."""
        if self._last is None or self._last[0] != list(smiles):
            x = torch.from_numpy(self(smiles))
            self._last = list(smiles), (x.mean(0), x.T.cov())
        return self._last[1]


def properties(smiles: Sequence[str]) -> dict[str, np.ndarray]:
    """logP, QED, ring count and weight of molecules, ``(n,)`` each; distinct molecules are computed once."""
    distinct, place = np.unique(np.asarray(smiles), return_inverse=True)
    molecules = [Chem.MolFromSmiles(text) for text in distinct]
    return {name: np.array([f(mol) for mol in molecules])[place] for name, f in PROPERTIES.items()}


def tanimoto(smiles: Sequence[str]) -> np.ndarray:
    """Matrix of Tanimoto similarities of Morgan fingerprints, radius 2, 2,048 bits."""
    fingerprint = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048).GetFingerprint
    bits = [fingerprint(Chem.MolFromSmiles(text)) for text in smiles]
    return np.array([DataStructs.BulkTanimotoSimilarity(one, bits) for one in bits])


def diversity(smiles: Sequence[str]) -> Measure:
    """Mean Tanimoto distance between two of at least two molecules; the error is that of a U-statistic."""
    n = len(smiles)
    to_others = (1 - tanimoto(smiles)).sum(1) / (n - 1)
    return Measure(float(to_others.mean()), float(2 * to_others.std() / n**0.5))


def category_counts(x: Tensor, mask: Tensor, K: int) -> Tensor:
    """How often each category occurs in each sample, over existing positions: ``(B, K)``."""
    x, mask = torch.where(mask, x, 0).flatten(1).long(), mask.flatten(1)
    return torch.zeros(len(x), K, dtype=torch.long, device=x.device).scatter_add_(1, x, mask.long())
