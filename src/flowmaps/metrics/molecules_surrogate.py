"""A small network that predicts properties and validity of molecules from soft graphs, where gradients are needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.molecules import MoleculeData
from ..data.molecules_files import Alphabet
from ..fields import named_fields
from .kept import fitted, kept
from .molecules import PROPERTIES, decode, properties


class PropertySurrogate(nn.Module):
    r"""Properties of a graph of soft categories: messages along soft bonds, then a sum over atoms.

    .. math::
        h_i = W a_i, \qquad
        h_i \mathrel{+}= |a_i|\, \mathrm{MLP}\Big[h_i, \sum_{j} \sum_{c \ge 1} e_{ijc} W_c h_j\Big], \qquad
        y = \bar y + \sigma_y \Big[A \sum_i a_i + B \sum_{i<j} e_{ij} + \mathrm{MLP}\Big(\sum_i h_i\Big)\Big],
        \qquad \log p = -\sum_i |a_i|\, \varsigma(u \cdot h_i) - \varsigma\Big(v \cdot \sum_i h_i\Big)

    y are the properties, and p is the probability that the molecule is valid and in one piece, ς being softplus.
    An atom that does not exist is a zero vector, and so is each of its bonds: it adds nothing anywhere. Bonds are read
    above the diagonal alone. The properties are those of ``PROPERTIES``, in its order.

    Arguments:
        atoms, bonds: Categories of each; bond category 0 is "none".
        width, depth: Of the messages.
    Invariant: permuting atoms or adding padding changes nothing (``tests/metrics/test_molecules_surrogate.py``).
    """

    mean: Tensor
    deviation: Tensor
    r2: Tensor
    accuracy: Tensor

    def __init__(self, atoms: int, bonds: int, width: int = 64, depth: int = 3):
        super().__init__()
        self.embed = nn.Linear(atoms, width, bias=False)
        self.messages = nn.ModuleList(nn.Linear(width, (bonds - 1) * width, bias=False) for _ in range(depth))
        self.updates = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(depth)
        )
        last = nn.Linear(width, len(PROPERTIES))
        nn.init.zeros_(last.weight)
        self.head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), last)
        self.linear = nn.Linear(atoms + bonds - 1, len(PROPERTIES))
        for name in ("mean", "deviation", "r2"):  # of the training values, and R² on held-out molecules
            self.register_buffer(name, torch.zeros(len(PROPERTIES)))
        self.atom, self.whole = nn.Linear(width, 1), nn.Linear(width, 1)  # what is wrong with an atom, with all
        self.register_buffer("accuracy", torch.zeros(()))  # of validity, on corrupted held-out molecules

    def standard(self, graph: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The properties in units of their deviation ``(B, properties)``, and log p ``(B,)``."""
        a, e = graph["atoms"], graph["bonds"][..., 1:].movedim(-1, 1).triu(1)
        e, h, exists = e + e.mT, self.embed(a), a.sum(-1, keepdim=True)
        for message, update in zip(self.messages, self.updates, strict=True):
            sent = message(h).unflatten(-1, (e.shape[1], -1)).transpose(1, 2)
            h = h + exists * update(torch.cat([h, (e @ sent).sum(1)], dim=-1))
        total = h.sum(1)
        wrong = (exists * F.softplus(self.atom(h))).sum(1) + F.softplus(self.whole(total))
        return self.linear(counts(graph)) + self.head(total), -wrong.squeeze(-1)

    def forward(self, graph: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Properties ``(B, properties)`` of ``atoms`` (B, n, K_a) and ``bonds`` (B, n, n, K_b), and log p ``(B,)``."""
        y, log_p = self.standard({name: leaf.to(self.mean.dtype) for name, leaf in graph.items()})
        return self.mean + self.deviation * y, log_p

    def of(self, name: str, least: float, target: float | None = None) -> Callable[[Mapping[str, Tensor]], Tensor]:
        """What a soft graph is expected to earn, ``(B,)``: p y + (1 - p) least.

        Arguments:
            name: The property y.
            least: What an invalid molecule earns.
            target: Take minus the distance of y to it instead of y.
        """
        k = list(PROPERTIES).index(name)

        def expected(graph: Mapping[str, Tensor]) -> Tensor:
            y, log_p = self(graph)
            earned = y[:, k] if target is None else -(y[:, k] - target).abs()
            return least + log_p.exp() * (earned - least)

        return expected

    def quality(self) -> dict[str, float]:
        """R² of each property on held-out molecules."""
        return dict(zip(PROPERTIES, self.r2.tolist(), strict=True))


def vertices(data: MoleculeData, index: Tensor, alphabet: Alphabet) -> dict[str, Tensor]:
    """Rows as one-hot graphs; atoms that do not exist and their bonds are zero vectors."""
    x_1, condition = data.batch(index)
    return one_hot(named_fields(x_1), named_fields(condition.mask), alphabet)


def corrupted(data: MoleculeData, index: Tensor, alphabet: Alphabet, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Rows with one to three random bonds or atoms exchanged, one-hot, and which of them are valid and in one piece."""
    batch = data.batch(index)
    x_1, mask = named_fields(batch.x_1), named_fields(batch.condition.mask)
    g, B, sizes, exists = torch.Generator().manual_seed(seed), len(index), data.sizes[index], mask["atoms"]
    atoms, bonds, rows = x_1["atoms"].clone(), x_1["bonds"].clone(), torch.arange(B)
    edits = torch.randint(1, 4, (B,), generator=g)
    for k in range(3):
        i, j = ((torch.rand(B, generator=g) * sizes).long() for _ in range(2))
        atom = torch.randint(len(alphabet.atoms), (B,), generator=g)
        bond = torch.randint(len(alphabet.bonds), (B,), generator=g)
        of_atom, now = torch.rand(B, generator=g) < 0.3, edits > k
        atoms[rows, i] = torch.where(now & of_atom, atom, atoms[rows, i])
        value = torch.where(now & ~of_atom & (i != j), bond, bonds[rows, i, j])
        bonds[rows, i, j] = bonds[rows, j, i] = value
    valid = [sample.whole is not None for sample in decode({"atoms": atoms, "bonds": bonds}, exists, alphabet)]
    return one_hot({"atoms": atoms, "bonds": bonds}, mask, alphabet), torch.tensor(valid)


def one_hot(x_1: Mapping[str, Tensor], mask: Mapping[str, Tensor], alphabet: Alphabet) -> dict[str, Tensor]:
    """Categories as vertices of the simplex; zero vectors where nothing exists."""
    K = {"atoms": len(alphabet.atoms), "bonds": len(alphabet.bonds)}
    return {name: F.one_hot(x_1[name], K[name]) * mask[name].unsqueeze(-1).float() for name in x_1}


def counts(graph: Mapping[str, Tensor]) -> Tensor:
    """How many atoms and bonds of each category there are, ``(B, K_a + K_b - 1)``."""
    bonds = graph["bonds"][..., 1:].movedim(-1, 1).triu(1)
    return torch.cat([graph["atoms"].sum(1), bonds.sum((2, 3))], dim=-1)


def soften(graph: Mapping[str, Tensor], share: Tensor) -> dict[str, Tensor]:
    """Mix each graph with the marginals of the batch, by a share ``(B,)``: like endpoints that are not yet decided."""

    def mixed(leaf: Tensor) -> Tensor:
        exists = leaf.sum(-1, keepdim=True)
        marginal = leaf.flatten(0, -2).sum(0) / exists.sum()
        u = share.reshape(-1, *(1,) * (leaf.ndim - 1))
        return leaf + u * (marginal * exists - leaf)

    return {name: mixed(leaf) for name, leaf in graph.items()}


def train_surrogate(
    train: MoleculeData,
    held_out: MoleculeData,
    alphabet: Alphabet,
    steps: int = 1500,
    seed: int = 0,
    batch: int = 128,
    width: int = 64,
    depth: int = 3,
    softness: float = 0.3,
) -> PropertySurrogate:
    """Train a surrogate on RDKit's values; the same seed gives the same weights.

    Arguments:
        train, held_out: Molecules; the latter only tell how good it is.
        steps: Updates of AdamW under a one-cycle learning rate.
        batch: Molecules with their properties; half as many corrupted ones teach validity.
        softness: Largest share of the marginals in a training graph.
    Raises: ValueError if there are fewer than two molecules of either.
    """
    if min(n := (len(train), len(held_out))) < 2:
        raise ValueError(f"{n[0]} molecules to train on and {n[1]} held out; a surrogate needs two of each")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PropertySurrogate(len(alphabet.atoms), len(alphabet.bonds), width, depth)
    wanted = _standardised(model, _values(train))
    _fit(model.linear, train, alphabet, wanted)
    generator = torch.Generator().manual_seed(seed)
    lessons = _Lessons(train, alphabet, wanted, *corrupted(train, torch.arange(min(8192, len(train))), alphabet, seed))
    loss = lambda: _loss(model, *lessons.draw(batch, softness, generator))  # noqa: E731
    fitted(model, loss, steps, lr=3e-3, weight_decay=1e-2, clip=1.0)
    _examine(model, held_out, alphabet)
    return model


def cached_surrogate(
    folder: str | os.PathLike,
    train: MoleculeData,
    held_out: MoleculeData,
    alphabet: Alphabet,
    examples: int = 16_384,
    steps: int = 1500,
    seed: int = 0,
    batch: int = 128,
    width: int = 64,
    depth: int = 3,
) -> PropertySurrogate:
    """:func:`train_surrogate` on the first ``examples`` molecules (their order is none) and an eighth as many held-out
    ones, kept in ``folder`` as safetensors, named by its data and settings.

    Raises: ValueError if a kept file is damaged.
    """
    train, held_out = (
        data.subset(torch.arange(min(n, len(data))))
        for data, n in ((train, examples), (held_out, max(examples // 8, 2)))
    )
    settings = (steps, seed, batch, width, depth)
    content = repr((settings, alphabet, train.smiles, held_out.smiles))
    path = Path(folder) / f"surrogate-{hashlib.sha256(content.encode()).hexdigest()[:16]}.safetensors"
    return kept(
        path,
        lambda: PropertySurrogate(len(alphabet.atoms), len(alphabet.bonds), width, depth),
        lambda: train_surrogate(train, held_out, alphabet, *settings),
        "surrogate",
    )


def _fit(linear: nn.Linear, data: MoleculeData, alphabet: Alphabet, y: Tensor) -> None:
    """Least squares from counts, the exact start for whatever is a sum over atoms and bonds, such as the weight."""
    rows = torch.arange(len(data)).split(1024)
    n = torch.cat([counts(vertices(data, part, alphabet)) for part in rows])
    design = F.pad(n, (0, 1), value=1.0).double()
    ridge = 1e-6 * len(n) * torch.eye(design.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(design.mT @ design + ridge, design.mT @ y.double()).float()
    with torch.no_grad():
        linear.weight.copy_(solution[:-1].mT)
        linear.bias.copy_(solution[-1])


def _standardised(model: PropertySurrogate, values: Tensor) -> Tensor:
    """The properties in units of their deviation, which the model notes."""
    model.mean, model.deviation = values.mean(0), values.std(0).clamp(min=1e-6)
    return (values - model.mean) / model.deviation


def _values(data: MoleculeData) -> Tensor:
    return torch.stack([torch.from_numpy(x) for x in properties(data.smiles).values()], dim=1).float()


class _Lessons(NamedTuple):
    """Molecules with their properties, and corrupted ones of known validity."""

    molecules: MoleculeData
    alphabet: Alphabet
    wanted: Tensor
    spoilt: dict[str, Tensor]
    valid: Tensor

    def draw(self, batch: int, softness: float, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Softened graphs of ``batch`` molecules and half as many corrupted ones, with what is known of them."""
        index = torch.randint(len(self.molecules), (batch,), generator=generator)
        other = torch.randint(len(self.valid), (batch // 2,), generator=generator)
        clean = vertices(self.molecules, index, self.alphabet)
        graph = {name: torch.cat([clean[name], self.spoilt[name][other]]) for name in clean}
        share = softness * torch.rand(len(graph["atoms"]), generator=generator).square()
        return soften(graph, share), self.wanted[index], self.valid[other]


def _loss(model: PropertySurrogate, graph: Mapping[str, Tensor], wanted: Tensor, valid: Tensor) -> Tensor:
    """Of molecules with known properties, followed by others of known validity."""
    y, log_p = model.standard(graph)
    good = torch.cat([torch.ones(len(wanted)), valid.float()])
    validity = F.binary_cross_entropy(log_p.exp().clamp(1e-6, 1 - 1e-6), good)
    return F.smooth_l1_loss(y[: len(wanted)], wanted) + 0.1 * validity  # as it is learned at once


@torch.no_grad()
def _examine(model: PropertySurrogate, data: MoleculeData, alphabet: Alphabet) -> None:
    """Note R² of each property, 1 - squared error / variance (0 without variance), and how often validity is right."""
    rows = torch.arange(len(data))
    found = torch.cat([model(vertices(data, part, alphabet))[0] for part in rows.split(1024)])
    y = _values(data)
    spread = y.var(0, correction=0)
    model.r2 = torch.where(spread > 0, 1 - (found - y).square().mean(0) / spread, 0)
    spoilt, valid = corrupted(data, rows, alphabet)
    model.accuracy = ((model(spoilt)[1].exp() > 0.5) == valid).float().mean()
