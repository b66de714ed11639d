"""Molecules as categorical graphs: QM9, ZINC250k or a chemist's own SMILES."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rdkit import Chem
from torch import Tensor

from ..data.molecules import Alphabet, MoleculeData, MoleculeSplits, graph_masks, molecules, qm9, zinc250k
from ..data.molecules_graph import Fragments, Order, sanitised
from ..data.sources import data_folder
from ..fields import Condition, named_fields
from ..maps import EndpointMap, FlowMap
from ..metrics.molecules import HEADLINES, PROPERTIES, MoleculeQuality, graph_of, properties
from ..networks import Network
from ..networks.graph import GraphTransformer
from ..paths import GeodesicPath
from ..reading import Document
from ..samplers import Argmax, Decoder, Sampler, generate
from ..spaces import OneHot, Product
from ..steering import Reward
from .aims import Aim
from .base import Kind, Problem, Task, fitted, in_batches, preparing
from .molecules_files import draw_grid, write_smiles, write_structures
from .molecules_measures import Validity, histograms
from .molecules_rewards import black_boxes, led
from .molecules_scaffold import Scaffold, places, scaffold
from .molecules_slices import sliced

FARTHEST = 10  # deviations from the mean of the training molecules that a target may lie away
SOURCES = {"qm9": qm9, "zinc250k": zinc250k}


class Molecules(Task[MoleculeSplits, dict[str, Tensor]]):
    """Molecular graphs with the fields ``atoms`` and ``bonds``, by default modelled by a graph transformer.

    Samples are trees ``{"atoms": (n, N), "bonds": (n, N, N)}`` with -1 for atoms that do not exist.

    Arguments:
        source: ``qm9``, ``zinc250k``, or the path of a file of SMILES (csv, tsv, smi, txt, also packed), from here or
            from the folder ``path``.
        column: Name or number of the SMILES column of a file.
        valid, test: Files of the other parts of a file; by default parts follow from a hash of each molecule.
        path: Folder of data sets; by default ``molecules`` in that of the environment variable ``FLOWMAPS_DATA``.
        fetch: Download a named data set if it is missing.
        aromatic: Keep aromatic bonds as a category instead of one Kekulé structure.
        max_atoms: Leave out larger molecules.
        fragments: Of salts and mixtures, ``refuse`` all or keep the ``largest`` fragment.
        order: Of the atoms: that of the ``file`` does not matter, while the network sees the places of atoms in the
            ``canonical`` SMILES.
        cache: Folder of prepared data.
        network: What makes the network, called as ``network(K_a, K_b, properties=p)``, and with ``places=N`` where the
            order matters; by default a :class:`~flowmaps.networks.graph.GraphTransformer`.
        width, edge, depth, heads, paths: Settings of the network, where they are to differ from its own.
        known_share: Share of training examples of which a random part is given, for completion of scaffolds.
        repeat: How many times an epoch shows the training molecules that match a SMARTS pattern, such as ``{"a": 3}``,
            for what a model makes too rarely; several patterns multiply.
        conditions: Properties to condition on, of ``logp``, ``qed``, ``rings``, ``weight``.
        drop_label: Share of training examples whose properties are withheld, for classifier-free guidance.
        flow_map: What the network predicts: an endpoint, or with ``VelocityMap`` a velocity, the naive baseline.
        decoder: From scores to categories; arg-max by default.
        held_out: Test molecules that metrics compare with, and the number of samples by default.
    """

    kinds = (".smi", ".sdf", ".png")
    files = ("samples.png", "molecules-*.*")
    headlines = HEADLINES
    ode = 32  # of 10,000 graphs, 128 take longer than all else together
    teaching = {"alphabet": Alphabet.pattern, "size_weights": [range(2**53)], "scale": {str: [float, float]}}

    def __init__(
        self,
        source: str = "qm9",
        column: str | int | None = None,
        valid: str | None = None,
        test: str | None = None,
        path: str | None = None,
        fetch: bool = False,
        aromatic: bool = False,
        max_atoms: int | None = None,
        fragments: Fragments = "refuse",
        order: Order = "file",
        cache: str | None = None,
        network: Callable[[int, int], Network] | None = None,
        width: int | None = None,
        edge: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        paths: int | None = None,
        known_share: float = 0.0,
        repeat: Mapping[str, int] | None = None,
        conditions: tuple[str, ...] = (),
        drop_label: float = 0.1,
        flow_map: Kind = EndpointMap,
        decoder: Decoder | None = None,
        held_out: int = 10_000,
    ):
        strange = sorted(set(conditions) - set(PROPERTIES))
        if strange:
            raise ValueError(f"conditions are {list(conditions)}; expected some of {', '.join(PROPERTIES)}")
        if held_out < 2:
            raise ValueError(f"held_out is {held_out}, expected at least 2 molecules to compare with")
        self.source, self.column, self.valid, self.test = source, column, valid, test
        self.path, self.fetch, self.repeat = path, fetch, dict(repeat or {})
        self.options = {"aromatic": aromatic, "max_atoms": max_atoms, "fragments": fragments, "cache": cache}
        self.order: Order = order
        self.network: Callable[..., Network] = network or GraphTransformer
        self.sizes = {"width": width, "edge": edge, "depth": depth, "heads": heads, "paths": paths}
        self.known_share, self.conditions, self.drop_label = known_share, tuple(conditions), drop_label
        self.flow_map, self.decoder, self.held_out = flow_map, decoder or Argmax(), held_out

    # -- data ------------------------------------------------------------------------------------------------------

    def load(self) -> MoleculeSplits:
        with preparing(Path(self.source).name) as progress:
            found = self._read(**self.options, order=self.order, progress=progress)
        if report := found.report():
            warnings.warn(report, stacklevel=1)
        return found

    def _read(self, **options: Any) -> MoleculeSplits:  # noqa: ANN401  (those of every source)
        own = {part: file for part, file in (("valid", self.valid), ("test", self.test)) if file is not None}
        if self.source not in SOURCES:
            found = {part: self._file(file) for part, file in own.items()}
            return molecules(self._file(self.source, SOURCES), self.column, **found, **options)
        if own:
            raise ValueError(f"{self.source} has parts of its own; leave out {' and '.join(own)}, or give a file")
        return SOURCES[self.source](self.path, fetch=self.fetch, **options)

    def _file(self, name: str, named: Iterable[str] = ()) -> Path:
        """A file of SMILES, here or in the data folder, where it is none of the named data sets."""
        file = Path(name).expanduser()
        places = file, data_folder("molecules", self.path) / file
        found = next((place for place in places if place.exists()), None)
        if found is None:
            kinds = f"neither one of {', '.join(named)} nor" if named else "not"
            raise ValueError(f"data {name!r}: {kinds} an existing file, here or in {places[1].parent}")
        return found

    @cached_property
    def train_data(self) -> MoleculeData:
        shown = self.splits.train.repeated(self.repeat) if self.repeat else self.splits.train
        return self._conditioned(shown, self.drop_label, self.known_share)

    @cached_property
    def valid_data(self) -> MoleculeData:
        return self._conditioned(self.splits.valid, 0.0, self.known_share)

    @cached_property
    def test_data(self) -> MoleculeData:
        return self._conditioned(self.splits.test, 0.0, 0.0)

    def learned(self, splits: MoleculeSplits) -> Document:
        """Alphabet, distribution of the number of atoms, mean and deviation of the properties conditioned on."""
        scale = {name: _scale(name, x) for name, x in self._properties(splits.train).items()}
        weights = [int(w) for w in splits.train.size_weights()]
        return {"alphabet": splits.alphabet.to_json(), "size_weights": weights, "scale": scale}

    @property
    def alphabet(self) -> Alphabet:
        return Alphabet.from_json(self.state()["alphabet"])

    def _properties(self, data: MoleculeData) -> dict[str, np.ndarray]:
        if not self.conditions:
            return {}
        return {name: x for name, x in properties(data.smiles).items() if name in self.conditions}

    def _conditioned(self, data: MoleculeData, drop: float, known: float) -> MoleculeData:
        label = None
        if self.conditions:
            columns = [torch.from_numpy(x) for x in self._properties(data).values()]
            label = self._standardised(torch.stack(columns, dim=1).float())
        return data.conditioned(label, known_share=known, label_dropout=drop if self.conditions else 0.0)

    def _standardised(self, values: Tensor) -> Tensor:
        mean, deviation = torch.tensor(list(self.state()["scale"].values())).T
        return (values - mean) / deviation

    # -- model -----------------------------------------------------------------------------------------------------

    def build_map(self) -> FlowMap:
        K_a, K_b = len(self.alphabet.atoms), len(self.alphabet.bonds)
        space = Product({"atoms": OneHot(K_a), "bonds": OneHot(K_b, symmetric=True)})
        places = {} if self.order == "file" else {"places": self.alphabet.size}
        network = fitted(self.network, K_a, K_b, properties=len(self.conditions) or None, settings=self.sizes, **places)
        return self.flow_map(GeodesicPath(space), network, None, None)

    # -- samples ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        flow_map: FlowMap,
        n: int,
        sampler: Sampler,
        generator: torch.Generator,
        atoms: int | None = None,
        fixed: str | None = None,
        target: Mapping[str, float] | None = None,
        decoder: Decoder | None = None,
        batch: int = 512,
    ) -> dict[str, Tensor]:
        """Draw ``n`` graphs, ``atoms`` (n, N) with -1 at padding and ``bonds`` (n, N, N), on the CPU.

        Arguments:
            atoms: Number of atoms of every graph; drawn from the training histogram by default.
            fixed: SMILES of a scaffold: its atoms come first, they and all pairs among them stay as given.
            target: Values of the properties the map is conditioned on; those left out are not asked for at all.
            batch: Graphs whose noise is drawn together. The generator draws all numbers of atoms first, then batch by
                batch the noise of all atoms, that of all bonds, and what the sampler and the decoder ask for: seed,
                ``n`` and ``batch`` fix the samples. On a CPU the network sees what fits the cache of them at a time.
        Raises: ValueError if a number of atoms, a scaffold or a target does not fit the model.
        """
        numbers = in_batches(n, batch)
        part = self._scaffold(fixed)
        sizes = self._sizes(n, part.size if part else 1, atoms, generator)
        label, N = self._target(target), self.alphabet.size
        flow_map = sliced(flow_map) if generator.device.type == "cpu" else flow_map
        parts = []
        for rows in numbers:
            k = len(rows)
            condition, given = self._asked(sizes[rows], part, label, generator)
            shape, decode = {"atoms": (k, N), "bonds": (k, N, N)}, decoder or self.decoder
            x = generate(flow_map, sampler, shape, generator, condition=condition, given=given, decoder=decode)
            parts.append(self.finished(dict(named_fields(x)), condition))
        return {name: torch.cat([part[name] for part in parts]) for name in ("atoms", "bonds")}

    def _target(self, target: Mapping[str, float] | None) -> Tensor | None:
        if not self.conditions:
            if target:
                raise ValueError(f"target is {dict(target)}, but the model is not conditioned on any property")
            return None
        asked = target or {}
        if asked and set(asked) != set(self.state()["scale"]):
            raise ValueError(f"target names {sorted(asked)}, expected all of {sorted(self.state()['scale'])} or none")
        for name, value in asked.items():
            mean, deviation = self.state()["scale"][name]
            if not abs(value - mean) <= FARTHEST * deviation:
                raise ValueError(f"target {name} is {value}, expected {mean - FARTHEST * deviation:.4g} to "
                                 f"{mean + FARTHEST * deviation:.4g}: beyond, training has seen nothing")  # fmt: skip
        return self._standardised(torch.tensor([float(asked.get(name, "nan")) for name in self.state()["scale"]]))

    def _sizes(self, n: int, least: int, atoms: int | None, generator: torch.Generator) -> Tensor:
        N = self.alphabet.size
        if atoms is not None:
            if not least <= atoms <= N:
                raise ValueError(f"atoms is {atoms}, expected {least} to {N}: the data go no further")
            return torch.full((n,), atoms)
        weights = torch.tensor(self.state()["size_weights"], dtype=torch.float64)
        if len(weights) != N + 1:
            raise ValueError(f"size_weights of config.json has {len(weights)} values, expected one for 0 to {N} atoms")
        weights[:least] = 0
        if not weights.sum() > 0:
            raise ValueError(f"no molecule of the data has {least} atoms or more; give atoms= or a smaller scaffold")
        return torch.multinomial(weights.to(generator.device), n, replacement=True, generator=generator).cpu()

    def _scaffold(self, fixed: str | None) -> Scaffold | None:
        return None if fixed is None else scaffold(fixed, self.alphabet, self.order)

    def _asked(
        self, sizes: Tensor, part: Scaffold | None, label: Tensor | None, generator: torch.Generator
    ) -> tuple[Condition, dict[str, Tensor] | None]:
        """Masks, scaffold and targets of graphs of these sizes, and the scaffold's categories in its places."""
        device, known, given = generator.device, None, None
        if part is not None:
            known, given = part.at(places(sizes, part, self.order, generator).to(device))
        asked = None if label is None else label.expand(len(sizes), -1).to(device)
        return Condition(_to(graph_masks(sizes, self.alphabet.size), device), known, asked), given

    # -- steering --------------------------------------------------------------------------------------------------

    def problem(
        self, particles: int, generator: torch.Generator, atoms: int | None = None, fixed: str | None = None
    ) -> Problem:
        """What is to be steered.

        Arguments:
            atoms: Number of atoms of every molecule; by default drawn from the training histogram.
            fixed: SMILES of a scaffold that stays as it is.
        """
        N, part = self.alphabet.size, self._scaffold(fixed)
        sizes = self._sizes(particles, part.size if part else 1, atoms, generator)
        condition, given = self._asked(sizes, part, self._target(None), generator)
        return Problem({"atoms": (N,), "bonds": (N, N)}, condition, given, self.decoder)

    def rewards(self, device: torch.device, surrogate: bool = False) -> dict[str, Callable[[str], Reward]]:
        """Rewards by name, see :mod:`~flowmaps.tasks.molecules_rewards`.

        Arguments:
            surrogate: Lead to a property by the gradient of a small trained network.
        """
        if not surrogate:
            return black_boxes(self.alphabet)
        return led(black_boxes(self.alphabet), self.splits, device)

    def finished(self, samples: dict[str, Tensor], condition: Condition) -> dict[str, Tensor]:
        """Samples with -1 for atoms that do not exist, each bond once."""
        if condition.mask is None:
            return _to(samples, torch.device("cpu"))
        return _symmetric(samples, named_fields(condition.mask))

    # -- quality and files -------------------------------------------------------------------------------------------

    @cached_property
    def judge(self) -> MoleculeQuality:
        """The metrics against the training part and a fixed choice of ``held_out`` test molecules."""
        splits = self.splits
        order = torch.randperm(len(splits.test), generator=torch.Generator().manual_seed(0))[: self.held_out]
        test = splits.test.subset(order)
        return MoleculeQuality(splits.train.smiles, test.smiles, histograms(test, splits.alphabet), splits.alphabet)

    def quality(self, samples: dict[str, Tensor]) -> dict[str, float]:
        """The values of :class:`~flowmaps.metrics.molecules.MoleculeQuality`, each followed by its ``_error``."""
        sizes = (samples["atoms"] >= 0).sum(1)
        result = self.judge(samples, graph_masks(sizes, samples["atoms"].shape[1]))
        flat: dict[str, float] = {}
        for name, value in result.items():
            flat |= {name: value["value"], f"{name}_error": value["error"]} if isinstance(value, dict) else {}
        return flat

    def aim(self) -> Aim:
        return Validity(self.alphabet, lambda: self.splits).aim()

    def of_data(self, n: int | None = None) -> dict[str, float]:
        """The metrics of as many training molecules; they are not novel, and only distances say something."""
        train = self.splits.train
        rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(1))[: n or self.samples]
        batch = train.batch(rows)
        x_1, mask = named_fields(batch.x_1), named_fields(batch.condition.mask)
        return self.quality({**x_1, "atoms": torch.where(mask["atoms"], x_1["atoms"], -1)})

    @property
    def samples(self) -> int:
        return self.held_out

    def decoded(self, samples: dict[str, Tensor]) -> list[Chem.RWMol]:
        """The molecules of samples as generated, not sanitised."""
        alphabet = self.alphabet
        rows = zip(samples["atoms"], samples["bonds"], strict=True)
        return [graph_of(atoms, bonds, atoms >= 0, alphabet) for atoms, bonds in rows]

    def write(self, rows: Mapping[str, dict[str, Tensor]], directory: Path, **options: object) -> list[Path]:
        """For each row ``molecules-NAME.smi`` and ``.sdf`` (valid samples), and one ``samples.png`` of them all."""
        paths: list[Path] = []
        pictures: list[Chem.RWMol] = []
        names: list[str] = []
        for name, samples in rows.items():
            found = self.decoded(samples)
            for path, writer in ((f"molecules-{name}.smi", write_smiles), (f"molecules-{name}.sdf", write_structures)):
                writer(directory / path, found)
                paths.append(directory / path)
            shown = found[: 64 if len(rows) == 1 else 16]
            pictures, names = [*pictures, *shown], [*names, *([name] * len(shown) if len(rows) > 1 else [])]
        draw_grid(directory / "samples.png", pictures, names)
        return [*paths, directory / "samples.png"]

    def remark(self, samples: dict[str, Tensor]) -> str:
        found = [sanitised(mol) for mol in self.decoded(samples)]
        valid = sum(smiles is not None for smiles in found)
        return f"{valid} of {len(found)} valid" + ", the others not in the files" * (valid < len(found))


def _symmetric(samples: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU; -1 for atoms that do not exist, and bonds as in their upper half: a decoder draws each pair once."""
    atoms = torch.where(mask["atoms"].cpu(), samples["atoms"].cpu(), -1)
    upper = torch.where(mask["bonds"].cpu(), samples["bonds"].cpu(), 0).triu(1)
    return {"atoms": atoms, "bonds": upper + upper.mT}


def _scale(name: str, x: np.ndarray) -> tuple[float, float]:
    """Mean and deviation of a property.

    Raises: ValueError if it is the same for all molecules, up to rounding: no map learns what it does.
    """
    mean, deviation = float(x.mean()), float(x.std())
    if not deviation > 1e-6 * max(1.0, abs(mean)):
        raise ValueError(f"{name} is {mean:.6g} for all {len(x):,} training molecules; leave it out of the conditions")
    return mean, deviation


def _to(tree: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: leaf.to(device) for name, leaf in tree.items()}
