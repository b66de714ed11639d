"""A small network that predicts properties of molecules from soft graphs, for when a property needs a gradient."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.molecules import MoleculeData
from ..data.molecules_files import Alphabet
from ..files import replacing
from .molecules import PROPERTIES, properties


class PropertySurrogate(nn.Module):
    r"""Properties of a graph of soft categories: messages along soft bonds, then a sum over atoms.

    .. math::
        h_i = W a_i, \qquad
        h_i \mathrel{+}= |a_i|\, \mathrm{MLP}\Big[h_i, \sum_{j} \sum_{c \ge 1} e_{ijc} W_c h_j\Big], \qquad
        y = \bar y + \sigma_y \Big[A \sum_i a_i + B \sum_{i<j} e_{ij} + \mathrm{MLP}\Big(\sum_i h_i\Big)\Big]

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

    def standard(self, graph: dict[str, Tensor]) -> Tensor:
        """The properties in units of their deviation, ``(B, properties)``."""
        a, e = graph["atoms"], graph["bonds"][..., 1:].movedim(-1, 1).triu(1)
        e, h, exists = e + e.mT, self.embed(a), a.sum(-1, keepdim=True)
        for message, update in zip(self.messages, self.updates, strict=True):
            sent = message(h).unflatten(-1, (e.shape[1], -1)).transpose(1, 2)
            h = h + exists * update(torch.cat([h, (e @ sent).sum(1)], dim=-1))
        return self.linear(counts(graph)) + self.head(h.sum(1))

    def forward(self, graph: dict[str, Tensor]) -> Tensor:
        """Properties ``(B, properties)`` of ``atoms`` (B, n, K_a) and ``bonds`` (B, n, n, K_b)."""
        return self.mean + self.deviation * self.standard(graph)

    def of(self, name: str) -> Callable[[dict[str, Tensor]], Tensor]:
        """One property by name as a function of soft graphs, ``(B,)``."""
        k = list(PROPERTIES).index(name)
        return lambda graph: self(graph)[:, k]

    def quality(self) -> dict[str, float]:
        """R² of each property on held-out molecules."""
        return dict(zip(PROPERTIES, self.r2.tolist(), strict=True))


def vertices(data: MoleculeData, index: Tensor, alphabet: Alphabet) -> dict[str, Tensor]:
    """Rows as one-hot graphs; atoms that do not exist and their bonds are zero vectors."""
    x_1, condition = data.batch(index)
    one_hot = {
        "atoms": F.one_hot(x_1["atoms"], len(alphabet.atoms)),
        "bonds": F.one_hot(x_1["bonds"], len(alphabet.bonds)),
    }
    return {name: leaf * condition.mask[name].unsqueeze(-1).float() for name, leaf in one_hot.items()}


def counts(graph: dict[str, Tensor]) -> Tensor:
    """How many atoms and bonds of each category there are, ``(B, K_a + K_b - 1)``."""
    bonds = graph["bonds"][..., 1:].movedim(-1, 1).triu(1)
    return torch.cat([graph["atoms"].sum(1), bonds.sum((2, 3))], dim=-1)


def soften(graph: dict[str, Tensor], share: Tensor) -> dict[str, Tensor]:
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
        train, held_out: Molecules; the latter only give R², on one-hot graphs.
        steps: Updates of AdamW under a one-cycle learning rate.
        softness: Largest share of the marginals in a training graph.
    Raises: ValueError if there are fewer than two molecules of either.
    """
    if min(len(train), len(held_out)) < 2:
        raise ValueError(
            f"{len(train)} molecules to train on and {len(held_out)} held out; a surrogate needs two of each"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PropertySurrogate(len(alphabet.atoms), len(alphabet.bonds), width, depth)
    y = _values(train)
    model.mean, model.deviation = y.mean(0), y.std(0).clamp(min=1e-6)
    _fit(model.linear, train, alphabet, (y - model.mean) / model.deviation)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(steps):
        index = torch.randint(len(train), (batch,), generator=generator)
        graph = soften(vertices(train, index, alphabet), softness * torch.rand(batch, generator=generator).square())
        loss = F.smooth_l1_loss(model.standard(graph), (y[index] - model.mean) / model.deviation)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    model.r2 = _r2(model, held_out, alphabet)
    return model.eval().requires_grad_(False)


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
    if not path.exists():
        model = train_surrogate(train, held_out, alphabet, *settings)
        with replacing(path) as temporary:
            save_file(model.state_dict(), temporary)
        return model
    model = PropertySurrogate(len(alphabet.atoms), len(alphabet.bonds), width, depth)
    try:
        model.load_state_dict(load_file(path), strict=True)
    except Exception as error:
        raise ValueError(f"{path} is not a whole surrogate ({error}); remove it, it will be trained again") from error
    return model.eval().requires_grad_(False)


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


def _values(data: MoleculeData) -> Tensor:
    return torch.stack([torch.from_numpy(x) for x in properties(data.smiles).values()], dim=1).float()


@torch.no_grad()
def _r2(model: PropertySurrogate, data: MoleculeData, alphabet: Alphabet) -> Tensor:
    """1 - squared error / variance, of each property; 0 where all molecules have one value."""
    found = torch.cat([model(vertices(data, rows, alphabet)) for rows in torch.arange(len(data)).split(1024)])
    y = _values(data)
    spread = y.var(0, correction=0)
    return torch.where(spread > 0, 1 - (found - y).square().mean(0) / spread, 0)
