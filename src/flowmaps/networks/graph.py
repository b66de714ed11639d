r"""A fast transformer on graphs of categorical atoms and bonds, equivariant under permutations of the atoms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..fields import FREE, Condition, across, named_fields
from .base import Network
from .embeddings import Context, Modulation, ReadOut, TimeFeatures, check_sizes, input_scale, own_time, read_in
from .norms import adapt

NONE = 20.0  # logit of category 0 where there is no position: π is the vertex "none" within rounding


class Places(NamedTuple):
    """Where a padded graph has atoms and pairs, and which of them are known; known parts may be ``None``.

    Arguments:
        atoms: Atoms that exist, bool (B, n).
        pairs: Ordered pairs of different existing atoms, bool (B, n, n).
        known_atoms, known_pairs: Given clean, bool (B, n) and (B, n, n).
    """

    atoms: Tensor
    pairs: Tensor
    known_atoms: Tensor | None
    known_pairs: Tensor | None

    @classmethod
    def of(cls, x: Mapping[str, Tensor], condition: Condition) -> Places:
        a = x["atoms"]
        B, n = a.shape[:2]
        if x["bonds"].shape[:3] != (B, n, n):
            shapes = f"{tuple(a.shape)} and {tuple(x['bonds'].shape)}"
            raise ValueError(f"atoms and bonds have shapes {shapes}, expected (B, n, K_a) and (B, n, n, K_b)")
        atoms = torch.ones(B, n, dtype=torch.bool, device=a.device)
        if condition.mask is not None:
            atoms = named_fields(condition.mask)["atoms"]  # that of the bonds counts each pair once, and says no more
        different = ~torch.eye(n, dtype=torch.bool, device=a.device)
        pairs = atoms.unsqueeze(1) & atoms.unsqueeze(2) & different
        if condition.known is None:
            return cls(atoms, pairs, None, None)
        known = named_fields(condition.known)
        return cls(atoms, pairs, known["atoms"], known["bonds"])

    def keys(self) -> Tensor:
        """Whom each atom attends to: existing atoms; padding attends to anything, bool (B, 1, n, n)."""
        return (self.atoms.unsqueeze(1) | ~self.atoms.unsqueeze(2)).unsqueeze(1)


def on_pairs(modulation: Modulation, c: Tensor, known: Tensor | None) -> tuple[Tensor, ...]:
    """Scales, shifts and gates of pairs, (B, 1 or n, 1 or n, dim)."""
    if known is None:
        return tuple(part.unsqueeze(1) for part in modulation(c))
    return tuple(part.unflatten(1, known.shape[1:]) for part in modulation(c, known.flatten(1)))


def meet(parts: Tensor) -> Tensor:
    """What two atoms say of their bond: u_i + u_j + p_i ⊙ p_j, (B, n, n, d) from (B, n, 2d), symmetric."""
    u, p = parts.chunk(2, dim=-1)
    return u.unsqueeze(1) + u.unsqueeze(2) + p.unsqueeze(1) * p.unsqueeze(2)


class GraphBlock(nn.Module):
    r"""Atoms attend to each other under a bias by their bond and gather bonds; then bonds read their two atoms.

    .. math::
        \alpha_{ij} &= \mathrm{softmax}_j(q_i \cdot k_j / \sqrt{d_h} + b(e_{ij})), \quad
        h_i \mathrel{+}= W [\textstyle\sum_j \alpha_{ij} v_j, \sum_j \alpha_{ij} e_{ij}, \sum_j e_{ij}], \quad
        h_i \mathrel{+}= \mathrm{MLP}(h_i) \\
        e_{ij} &\mathrel{+}= W' \sigma\big(A e_{ij} + u_i + u_j + p_i \odot p_j
        + C \textstyle\sum_k (B e_{ik}) \odot (B e_{kj})\big)

    Wide layers act on the n atoms only. The n x n bonds are narrow and meet the atoms through sums and products of
    projections, so a block costs O(n w² + n² w_e²); a score for every channel, O(n² w w_e), is what makes the
    published network slow. The plain sum over bonds is what a valence is; the last sum sees rings.
    """

    def __init__(self, width: int, edge: int, heads: int, paths: int):
        super().__init__()
        self.heads = heads
        self.modulation, self.edge_modulation = Modulation(width, width, 6), Modulation(width, edge, 3)
        with torch.no_grad():  # open gates: on small networks a start as the identity costs many updates
            self.modulation.linear.bias.view(6, -1)[2::3] = 1
            self.edge_modulation.linear.bias.view(3, -1)[2] = 1
        self.qkv, self.bias = nn.Linear(width, 3 * width), nn.Linear(edge, heads)
        self.gather = nn.Linear(width + (heads + 1) * edge, width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.ends = nn.Linear(width, 4 * edge)
        self.edge_up, self.edge_down = nn.Linear(edge, 2 * edge), nn.Linear(2 * edge, edge)
        self.path_in = nn.Linear(edge, paths) if paths else None
        self.path_out = nn.Linear(paths, 2 * edge) if paths else None

    def attend(self, h: Tensor, e: Tensor, keys: Tensor, real: Tensor) -> Tensor:
        """Values and bonds gathered by each atom, (B, n, width); plain products, so a tangent passes."""
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        score = (q * q.shape[-1] ** -0.5) @ k.mT + self.bias(e).permute(0, 3, 1, 2)
        score = score.masked_fill(~keys, torch.finfo(score.dtype).min)
        alpha = score.softmax(-1, dtype=torch.promote_types(score.dtype, torch.float32)).to(v.dtype)
        values = (alpha @ v).transpose(1, 2).flatten(-2)
        bonds = (alpha.transpose(1, 2) @ (e * real)).flatten(-2)  # (B, n, heads, n) @ (B, n, n, edge)
        return self.gather(torch.cat([values, bonds, (e * real).sum(2) / 3], dim=-1))

    def forward(
        self, h: Tensor, e: Tensor, c: Tensor, places: Places, keys: Tensor, real: Tensor
    ) -> tuple[Tensor, Tensor]:
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.modulation(c, places.known_atoms)
        shift_e, scale_e, gate_e = on_pairs(self.edge_modulation, c, places.known_pairs)
        seen = adapt(e, scale_e, shift_e)
        h = h + gate_a * self.attend(adapt(h, scale_a, shift_a), seen, keys, real)
        h = h + gate_f * self.down(F.silu(self.up(adapt(h, scale_f, shift_f))))
        new = self.edge_up(seen) + meet(self.ends(h))
        if self.path_in is not None and self.path_out is not None:
            a = (self.path_in(seen) * real).permute(0, 3, 1, 2)
            new = new + self.path_out((a @ a).permute(0, 2, 3, 1))
        return h, e + gate_e * self.edge_down(F.silu(new))


class GraphTransformer(Network):
    r"""Transformer on molecular graphs: ``atoms`` (B, n, K_a) and ``bonds`` (B, n, n, K_b), symmetric.

    .. math:: (x^a, x^b, s, t) \mapsto (z^a, z^b), \qquad z^b_{ij} = z^b_{ji}, \qquad
              z(Px^a, Px^bP^\top) = (Pz^a, Pz^bP^\top)

    Both times, the number of atoms, and the mean states over existing atoms and pairs modulate every block. What the
    state holds at padding and on the diagonal is never read; there the logits say category 0 ("none").

    Arguments:
        atoms, bonds: Numbers of categories K_a and K_b; category 0 of the bonds is "none".
        width, edge: Channels of an atom and of a bond; ``width`` is a multiple of ``heads``.
        depth, heads: Blocks, and heads of their attention.
        paths: Channels in which bonds see paths of two bonds through any third atom; 0 for none.
        places: Largest number of atoms, whose places in the molecule then get learned vectors, and so do distances of
            places; for data whose atoms come in an order that says something. ``None``: the order says nothing.
        classes, properties: Kind of label (``embeddings.Label``); ``None``, ``None``: unconditional.
        times: Features of both times, with their band and clock; default ``embeddings.TimeFeatures``.
        split: Share of the blocks, from the first, that know s alone, while the rest know t alone, such as 2/3;
            ``None``: every block knows both times.
    Returns (of a call): logits, the shapes of the state.
    Raises: ValueError if the fields are missing, their shapes do not belong together, or there are more atoms than
        places.
    Invariant: without places, permuting atoms permutes logits and their derivatives; padding changes neither
        (``tests/networks``).
    Reference: in the place of Vignac et al. 2022, *DiGress: discrete denoising diffusion for graph generation*,
        arXiv 2209.14734, whose attention has a score for every channel.
    """

    def __init__(
        self,
        atoms: int,
        bonds: int,
        width: int = 64,
        edge: int = 32,
        depth: int = 6,
        heads: int = 8,
        paths: int = 16,
        places: int | None = None,
        classes: int | None = None,
        properties: int | None = None,
        times: TimeFeatures | None = None,
        split: float | None = None,
    ):
        super().__init__()
        check_sizes(width=width, edge=edge, depth=depth, heads=heads)
        if heads < 1 or width % heads:
            raise ValueError(f"width is {width}, heads {heads}: expected a width that is a multiple of heads")
        self.edge = edge
        self.read_atoms, self.read_bonds = read_in(atoms, width), read_in(bonds, edge)
        self.ends = nn.Linear(width, 2 * edge)
        self.places = None if places is None else nn.Parameter(torch.randn(places, width) / 2)
        self.distances = None if places is None else nn.Parameter(torch.randn(places, edge) / 2)
        self.context = Context(width, classes, properties, times, split)
        self.pool = nn.Linear(atoms + bonds + 1, width)
        self.blocks = nn.ModuleList(GraphBlock(width, edge, heads, paths) for _ in range(depth))
        self.norm, self.edge_norm = Modulation(width, width, 2), Modulation(width, edge, 2)
        self.out_atoms, self.out_bonds = ReadOut(width, atoms), ReadOut(edge, bonds)

    def forward(
        self, x: dict[str, Tensor], s: Tensor, t: Tensor, condition: Condition | None = None
    ) -> dict[str, Tensor]:
        condition = condition or FREE
        places = Places.of(x, condition)
        a = self._scaled(x["atoms"], s, places.atoms, places.known_atoms)
        b = self._scaled(x["bonds"], s, places.pairs, places.known_pairs)
        pooled = self.pool(self._pooled(a, b, places)).unsqueeze(1)
        contexts = [c + pooled for c in self.context.of_blocks(s, t, condition, len(self.blocks))]
        h, e = self.read_atoms(a), self.read_bonds((b + b.transpose(1, 2)) / 2)
        if self.places is not None and self.distances is not None:
            place = self._places(a.shape[1], len(self.places))
            h, e = h + self.places[place], e + self.distances[(place - place.unsqueeze(1)).abs()]
        e = e + meet(self.ends(h))
        keys, real = places.keys(), places.pairs.unsqueeze(-1).to(e.dtype)
        for block, c in zip(self.blocks, contexts, strict=True):
            h, e = block(h, e, c, places, keys, real)
        scale, shift = self.norm(contexts[-1], places.known_atoms)
        z_a = self.out_atoms(adapt(h, scale, shift))
        scale, shift = on_pairs(self.edge_norm, contexts[-1], places.known_pairs)
        z_b = self.out_bonds(adapt(e, scale, shift))
        return {
            "atoms": only(z_a, places.atoms),
            "bonds": only((z_b + z_b.transpose(1, 2)) / 2, places.pairs),
        }

    def _scaled(self, x: Tensor, s: Tensor, exists: Tensor, known: Tensor | None) -> Tensor:
        """The state in unit norm where there is one, else 0, in the precision of the weights."""
        unit = x * across(input_scale(own_time(s, known), x.shape[-1]), x)
        return torch.where(exists.unsqueeze(-1), unit, 0.0).to(torch.promote_types(x.dtype, torch.float32))

    def _places(self, n: int, most: int) -> Tensor:
        if n > most:
            raise ValueError(f"the graph has {n} atoms, expected at most the {most} places of the network")
        return torch.arange(n, device=self.pool.weight.device)

    @staticmethod
    def _pooled(a: Tensor, b: Tensor, places: Places) -> Tensor:
        """Mean states of existing atoms and pairs, and the logarithm of the number of atoms, (B, K_a + K_b + 1)."""
        atoms = places.atoms.sum(1, keepdim=True).clamp(min=1).to(a.dtype)
        pairs = places.pairs.sum((1, 2)).unsqueeze(1).clamp(min=1).to(a.dtype)
        return torch.cat([a.sum(1) / atoms, b.sum((1, 2)) / pairs, atoms.log()], dim=-1)


def only(z: Tensor, exists: Tensor) -> Tensor:
    """Logits where there is a position, the vertex of category 0 elsewhere."""
    none = torch.zeros(z.shape[-1], dtype=z.dtype, device=z.device)
    none[0] = NONE
    return torch.where(exists.unsqueeze(-1), z, none)
