"""What ``flowmaps new`` finds in data of each kind, and the settings that suit them."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from ..data.text_corpora import from_path as corpus_at
from ..fields import one_field
from ..reading import read_text

Size = Literal["small", "medium", "large"]
MOST_LETTERS = 256  # categories of an alphabet of characters
SCANNED = 200  # pieces of a text that its alphabet is chosen by, 50 M characters
LARGE_IMAGE = 64 * 64  # positions from which on a minute's training has no hope

TIMES_ON_CLOCK = """\
    pairs:                                # times (s, t) of the jumps, on the clock by which tokens get decided
      class_path: flowmaps.times.PairOnClock
      init_args:
        law:
          class_path: flowmaps.times.FullJump
          init_args:
            probability: 0.05             # of the one jump from noise to data
    times:
      class_path: flowmaps.times.OnClock
"""
TIMES_OF_GRAPHS = """\
    times:
      class_path: flowmaps.times.LogitNormal
      init_args:
        mean: 0.8
        deviation: 1.0
    pairs:                                # times (s, t) of the jumps
      class_path: flowmaps.times.FullJump
      init_args:
        probability: 0.1                  # of the one jump from noise to data
    emphasis:
      bonds: 4.0                          # what decides whether a molecule is valid
"""
TIMES_OF_PIXELS = """\
    pairs:                                # times (s, t) of the jumps
      class_path: flowmaps.times.FullJump
      init_args:
        law:
          class_path: flowmaps.times.Triangle
        probability: 0.1                  # of the one jump from noise to data
"""
TIMES = """\
    pairs:                                # times (s, t) of the jumps
      class_path: flowmaps.times.FullJump
      init_args:
        probability: 0.1                  # of the one jump from noise to data
"""
GRAPHS_BEFORE = """the small network on QM9 (nine atoms) after 16,000 updates of 32, 17 minutes of one core:
  68 % of molecules valid and connected in one step, 79 % in four; with up to 24 atoms, 25 minutes: 20 % and 31 %"""
TEXT_BEFORE = """the medium network on 1.1 M letters of plays after 4,500 updates of 32, ten minutes of two cores:
  spelling and short words are right, long words and sentences are not"""
PIXELS_BEFORE = """the medium network on 50,000 binarised digits of 28 x 28 after 4,800 updates of 32, ten minutes of
  two cores: 91 % of one-step samples are the digit that was asked for"""
BASES_BEFORE = """the medium network on 10,738 promoters of 251 bases after 1,500 updates of 32, two minutes of
  one core: the composition along the sequence is right, the places of motifs only partly"""


class Fit(NamedTuple):
    """Settings for some data.

    Arguments:
        found: What the data are, in lines.
        task: The class of the task, and its arguments as lines of YAML.
        network: The class of the network.
        sizes: Its arguments by size, as lines of YAML.
        rates: Learning rates by size.
        times: The distributions of times, as lines of YAML.
        decay: Of the teacher.
        expect: What was measured with such settings, for comparison.
    """

    found: list[str]
    task: tuple[str, list[str]]
    network: str
    sizes: Mapping[Size, list[str]]
    rates: Mapping[Size, float]
    times: str
    decay: float
    expect: str


def smiles(path: Path, column: str | None = None) -> Fit:
    """A file of SMILES.

    Raises: ValueError, as everywhere here, in one line if the file cannot be used.
    """
    from ..tasks.molecules import Molecules

    splits = Molecules(str(path), column, order="canonical").load()
    atoms = torch.cat([part.sizes for part in (splits.train, splits.valid, splits.test)])
    largest, usual = int(atoms.max()), int(atoms.double().quantile(0.99).ceil())
    most = usual if largest > 1.2 * usual else largest
    left = int((atoms > most).sum())
    kinds = ", ".join(splits.alphabet.atoms[:12]) + ", ..." * (len(splits.alphabet.atoms) > 12)
    found = [
        f"{len(atoms):,} molecules of {int(atoms.min())} to {largest} atoms, half of them up to {int(atoms.median())}",
        f"{len(splits.alphabet.atoms)} kinds of atoms ({kinds}), bonds {', '.join(splits.alphabet.bonds[1:])}",
    ]
    found += [f"the {left:,} largest are to be left out, as cost grows with the square (max_atoms)"] if left else []
    held = max(2, min(10_000, int((splits.test.sizes <= most).sum())))
    lines = [
        f"source: {text(path)}",
        *([f"column: {text(column)}"] if column is not None else []),
        said(f"max_atoms: {most}", "larger molecules are left out"),
        said("order: canonical", "of the atoms: as in the canonical SMILES; the network sees their places"),
        said("known_share: 0.2", "of examples with a part given: scaffolds can be completed"),
        said(f"held_out: {held}", "molecules that `flowmaps evaluate` compares with"),
    ]
    sizes: dict[Size, list[str]] = {
        "small": ["width: 64", "edge: 32", "depth: 4"],
        "medium": ["width: 96", "edge: 32", "depth: 5"],
        "large": ["width: 192", "edge: 64", "depth: 8", "paths: 32"],
    }
    rates: dict[Size, float] = {"small": 2e-3, "medium": 2e-3, "large": 1e-3}
    network = "graph.GraphTransformer"
    return Fit(found, ("molecules.Molecules", lines), network, sizes, rates, TIMES_OF_GRAPHS, 0.97, GRAPHS_BEFORE)


def of_text(path: Path, column: str | None = None) -> Fit:
    """A file or folder of plain text."""
    count, pieces = Counter[str](), iter(corpus_at(path).pieces())
    for piece in islice(pieces, SCANNED):
        count.update(piece)
    total, more = count.total(), " and more" * (next(pieces, None) is not None)
    alphabet = "letters" if set(count) <= set("abcdefghijklmnopqrstuvwxyz \n") else "characters"
    alphabet = alphabet if len(count) <= MOST_LETTERS else "bytes"
    length = next((n for n in (64, 32, 16) if total >= 20 * 16 * n), 8)
    categories = {"letters": 27, "characters": len(count), "bytes": 256}[alphabet]
    found = [
        f"{total:,} characters{more}, "
        f"{len(count)} different ones; the most frequent are {''.join(c for c, _ in count.most_common(12))!r}",
        f"an alphabet of {categories} {alphabet}, in windows of {length}",
    ]
    lines = [
        f"source: {text(path)}",
        said(f"tokeniser: {alphabet}", "letters (27, lower case), characters, bytes, or bpe (learned)"),
        said(f"length: {length}", "tokens of a window"),
    ]
    sizes: dict[Size, list[str]] = {
        "small": ["width: 64", "depth: 2", "reach: 4"],
        "medium": ["width: 128", "depth: 3", "reach: 4"],
        "large": ["width: 256", "depth: 6", "reach: 4"],
    }
    rates: dict[Size, float] = {"small": 5e-3, "medium": 5e-3, "large": 2e-3}
    return Fit(found, ("text.Text", lines), "Transformer", sizes, rates, TIMES_ON_CLOCK, 0.99, TEXT_BEFORE)


def images(path: Path, column: str | None = None) -> Fit:
    """A folder of PNGs of one size."""
    from ..data.images import Quantised, png_folder

    splits = png_folder(path, Quantised(256))
    grey = torch.cat([one_field(part.x_1).flatten() for part in (splits.train, splits.valid, splits.test)])
    levels = int(grey.unique().numel())
    (height, width), n = splits.shape, grey.numel() // (splits.shape[0] * splits.shape[1])
    kept = 2 if levels <= 2 else min(16, levels)
    found = [f"{n:,} images of {height} x {width} pixels, {levels} levels of grey of which {kept} are kept"]
    found += [f"{splits.classes} classes, one a folder: samples can be asked for by class"] if splits.classes else []
    if height * width > LARGE_IMAGE:
        found.append("these are large images for minutes of training: scale them to 64 x 64 or below for a first try")
    patch = 1 if max(height, width) <= 16 else 2 if max(height, width) <= 40 else 4
    rule = ["class_path: flowmaps.data.images.Threshold"] if kept == 2 else [
        "class_path: flowmaps.data.images.Quantised", "init_args:", f"  size: {kept}"]  # fmt: skip
    lines = [
        "source: folder",
        f"path: {text(path)}",
        said("levels:", "from grey to categories"),
        *(f"  {line}" for line in rule),
        said(f"conditional: {str(bool(splits.classes)).lower()}", "on the class, where folders are classes"),
    ]
    sizes: dict[Size, list[str]] = {
        "small": ["width: 32", "lower: [64]", "depth: 1", f"patch: {patch}"],
        "medium": ["width: 48", "lower: [96]", "depth: 2", f"patch: {patch}"],
        "large": ["width: 64", "lower: [128, 256]", "depth: 2", f"patch: {patch}"],
    }
    rates: dict[Size, float] = {"small": 3e-3, "medium": 3e-3, "large": 1e-3}
    return Fit(found, ("images.Images", lines), "UNet", sizes, rates, TIMES_OF_PIXELS, 0.98, PIXELS_BEFORE)


def dna(path: Path, column: str | None = None) -> Fit:
    """A file of sequences, or a folder in which each is a class."""
    from ..data.dna import from_path

    if path.is_file():
        _check_dna(path)
    splits = from_path(path)
    parts = (splits.train, splits.valid, splits.test)
    rows = sum(map(len, parts))
    masks = [part.condition.mask for part in parts]
    length = splits.length
    shorter = sum(int((~one_field(mask)).any(1).sum()) for mask in masks if mask is not None)
    found = [f"{rows:,} sequences of up to {length:,} bases" + (f", {shorter:,} of them with positions that do not exist" if shorter else "")]  # fmt: skip  # noqa: E501
    found += [f"classes {', '.join(splits.classes)}: samples can be asked for by class"] if splits.classes else []
    lines = [
        f"source: {text(path)}",
        said(f"length: {length}", "positions"),
        said(f"conditional: {str(bool(splits.classes)).lower()}", "on the class, where files are classes"),
        said("both_strands: false", "true for sequences that have no direction"),
    ]
    patch = 4 if length >= 64 else 1
    sizes: dict[Size, list[str]] = {
        "small": ["width: 64", "rounds: 1", f"patch: {patch}"],
        "medium": ["width: 96", "rounds: 1", f"patch: {patch}"],
        "large": ["width: 192", "rounds: 2", f"patch: {patch}"],
    }
    rates: dict[Size, float] = {"small": 3e-3, "medium": 3e-3, "large": 1e-3}
    return Fit(found, ("dna.DNA", lines), "Convolutions", sizes, rates, TIMES, 0.99, BASES_BEFORE)


def _check_dna(path: Path) -> None:
    """Refuse a file most of whose rows are something else: some words and molecules are spelt in letters of DNA."""
    from ..data.dna import read_sequences

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        good = len(read_sequences(path))
    rows = [line for line in read_text(path).splitlines() if line.strip()]
    rows = [line for line in rows if line.startswith(">")] or rows
    if 2 * good < len(rows):
        raise ValueError(f"{path} has {len(rows):,} rows of which {good:,} are DNA; give FASTA, or one sequence a line")


def said(setting: str, comment: str) -> str:
    """A line of YAML with its comment, which stands below those of the lines above."""
    return f"{setting:36}# {comment}"


def text(value: object) -> str:
    """A text as YAML has it, whatever is in it."""
    return json.dumps(str(value), ensure_ascii=False)


KINDS: dict[str, Callable[[Path, str | None], Fit]] = {"smiles": smiles, "text": of_text, "images": images, "dna": dna}
