"""Pictures of DNA: strips of coloured letters; composition, motif and words of samples beside real sequences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..metrics.dna import DNAQuality, gc, jensen_shannon, places, words
from ..pictures import blank, heading, save
from ..reading import Document

COLOURS = {"A": "#2c9c45", "C": "#2f5fd0", "G": "#e0a21b", "T": "#cf3a33", "N": "#bbbbbb"}


def sequence_strips(path: Path, rows: Mapping[str, Tensor], letters: str, most: int = 24) -> None:
    """Draw the first sequences of each row as strips, one colour a letter, as PNG."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    figure = blank(9, 0.6 + sum(0.35 + 0.09 * min(len(x), most) for x in rows.values()), dpi=110, layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    colours = ListedColormap([COLOURS[letter] for letter in letters])
    for axis, (name, x) in zip(axes, rows.items(), strict=True):
        axis.imshow(x[:most].cpu().numpy(), cmap=colours, vmin=-0.5, vmax=len(letters) - 0.5, aspect="auto",
                    interpolation="nearest")  # fmt: skip
        axis.set(yticks=[], ylabel=heading(name))
    patches = [Patch(color=COLOURS[letter], label=letter) for letter in letters]
    figure.legend(handles=patches, ncols=len(letters), loc="outside upper right", fontsize=8)
    save(figure, path)


def profiles(path: Path, rows: Mapping[str, Tensor], judge: DNAQuality) -> Document:
    """Draw the share of G and C along the sequence, the places of the motif, and the divergence of words by their
    length, of samples and of held-out sequences; the curves as JSON values."""
    figure = blank(13, 3.6, dpi=110, layout="constrained")
    along, where, spectrum = figure.subplots(1, 3)
    curves: Document = {"held-out": {"gc": judge.profile.tolist()}}
    along.plot(5 + 10 * np.arange(len(judge.profile)), judge.profile, color="black", label="held-out")
    bins = np.arange(0, int(next(iter(rows.values())).shape[1]) + 5, 5)
    where.hist(judge.places, bins=bins, density=True, histtype="step", color="black", label="held-out")
    for name, x in rows.items():
        label = heading(name)
        share = gc(x).nanmean(0)
        found = [place for row in places(judge.texts(x, None), judge.motif) for place in row]
        nats = [
            jensen_shannon(words(x, k, judge.letters).sum(0), spectrum_of) for k, spectrum_of in judge.spectra.items()
        ]
        along.plot(5 + 10 * np.arange(len(share)), share, linewidth=1, label=label)
        where.hist(found, bins=bins, density=bool(found), histtype="step", label=label)
        spectrum.plot(list(judge.spectra), nats, marker="o", markersize=3, label=label)
        curves[name] = {"gc": torch.nan_to_num(share).tolist(), "motif": np.histogram(found, bins)[0].tolist(),
                        "kmer": nats}  # fmt: skip
    along.set(xlabel="position", ylabel="share of G and C")
    where.set(xlabel=f"place of {judge.motif}", ylabel="density")
    spectrum.set(xlabel="bases of a word", ylabel="Jensen-Shannon divergence (nats)", yscale="log")
    for axis in (along, where, spectrum):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    save(figure, path)
    return curves
