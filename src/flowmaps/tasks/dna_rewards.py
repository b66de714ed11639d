"""Rewards of DNA by name: motifs in letters of IUPAC or as a position weight matrix, composition, and classes."""

from __future__ import annotations

import copy
import math
import os
import re
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.dna import decode
from ..metrics.dna import IUPAC, DNAClassifier, pattern
from ..reading import read_text
from ..steering import Reward, Soft, class_probability, matches
from .steering import number

PSEUDO = 0.01  # probability of each base that a consensus does not allow
Table = dict[str, Callable[[str], Reward]]


def rewards(
    letters: str, class_of: Callable[[str], int], classifier: Callable[[], DNAClassifier], device: torch.device
) -> Table:
    """The table of rewards.

    Arguments:
        letters: The alphabet.
        class_of: From the name of a class to its number.
        classifier: Gives the reference network, when it is needed.
    """

    def motif(argument: str) -> Reward:
        consensus, _, place = argument.partition("@")
        return log_odds(consensus_matrix(consensus), _place(place), f"motif {argument}")

    def pwm(argument: str) -> Reward:
        path, _, place = argument.rpartition("@") if re.search(r"@\d+$", argument) else (argument, "", "")
        return log_odds(read_matrix(path), _place(place), f"pwm {argument}")

    def of_class(argument: str, log: bool) -> Reward:
        model = copy.deepcopy(classifier()).to(device)
        return class_probability(model, class_of(argument), read=lambda pi: pi, log=log)

    def letters_of(x_1: Tensor) -> str:
        return decode(x_1.clamp(min=0).unsqueeze(0), letters)[0]

    return {
        "motif": motif,
        "pwm": pwm,
        "matches": lambda regex: matches(regex, letters_of),
        "gc": lambda argument: gc_content(number(argument)),
        "class": partial(of_class, log=False),
        "log-class": partial(of_class, log=True),
    }


def _place(text: str) -> int | None:
    return int(text) if text else None


def consensus_matrix(motif: str) -> Tensor:
    """Probabilities of the bases at each place of a motif in letters of IUPAC, ``(places, 4)``.

    >>> consensus_matrix("TR")[1].tolist()
    [0.49, 0.01, 0.49, 0.01]
    """
    pattern(motif)
    rows = torch.tensor([[float(base in IUPAC[letter]) for base in "ACGT"] for letter in motif.upper()])
    allowed = rows.sum(1, keepdim=True)
    return torch.where(rows > 0, (1 - (4 - allowed) * PSEUDO) / allowed, PSEUDO)


def read_matrix(path: str | os.PathLike) -> Tensor:
    """Probabilities ``(places, 4)`` of a position weight matrix: four rows of counts or shares, for A, C, G and T.

    JASPAR's form (``A [ 3 0 12 ]``) and plain rows of numbers are read; lines that begin with ``>`` or ``#`` are left
    out. Every count gains a hundredth of its column's sum.

    Raises: ValueError naming the file if there are not four rows of as many numbers, none negative.
    """
    lines = [line for line in read_text(path, 2**20).split("\n") if line.strip() and line.strip()[0] not in ">#"]
    rows = [re.findall(r"-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?", line) for line in lines]
    sizes = {len(row) for row in rows}
    named = "".join(line.strip()[0].upper() for line in lines if line.strip()[0].isalpha())
    if len(rows) != 4 or len(sizes) != 1 or sizes == {0} or named not in ("", "ACGT"):
        found = f"{len(rows)} rows of {sorted(sizes)} numbers" + f" named {named}" * bool(named)
        raise ValueError(f"{path} has {found}, expected four, for A, C, G and T, of as many")
    counts = torch.tensor([[float(cell) for cell in row] for row in rows]).mT
    if bool((counts < 0).any()) or bool((counts.sum(1) <= 0).any()):
        raise ValueError(f"{path} has a negative number or an empty column; give counts, not log-odds")
    shares = counts / counts.sum(1, keepdim=True)
    return (shares + PSEUDO) / (1 + 4 * PSEUDO)


def log_odds(matrix: Tensor, place: int | None = None, name: str = "pwm") -> Soft:
    r"""How well a sequence has a motif, in nats against even bases, at one place or at the best.

    .. math:: r(\pi) = \log \sum_p \exp \sum_j \sum_k \pi_{p+j,k} \log(4 m_{jk})

    The logarithm of a sum of exponentials stands for the maximum over places p, so that it has a gradient everywhere.

    Arguments:
        matrix: m, probabilities ``(places, 4)``.
        place: The only p; from 0.
    """
    weights = (4 * matrix).log().mT.unsqueeze(0)  # (1, 4, places)

    def odds(pi: Tensor) -> Tensor:
        last = pi.shape[1] - weights.shape[2]
        if last < 0 or not 0 <= (place or 0) <= last:
            raise ValueError(f"a motif of {weights.shape[2]} at {place or 0} does not fit into {pi.shape[1]} positions")
        scores = F.conv1d(pi[..., :4].mT, weights.to(pi)).squeeze(1)
        return scores.logsumexp(1) if place is None else scores[:, place]

    return Soft(odds, name)


def gc_content(target: float | None = None) -> Soft:
    """Share of G and C; with a target, minus the distance to it."""
    if target is not None and not (math.isfinite(target) and 0 <= target <= 1):
        raise ValueError(f"{target} is no share of G and C, expected a number from 0 to 1")

    def gc(pi: Tensor) -> Tensor:
        share = pi[..., 1:3].sum(-1).mean(1)
        return share if target is None else -(share - target).abs()

    return Soft(gc)
