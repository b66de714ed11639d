r"""How fast two networks learn the diagonal on QM9: ours, and one with attention scores for every channel.

python bench/molecules_network.py                        # both, the table in bench/results/molecules_network.md
python bench/molecules_network.py --seconds 30 --rates 1e-3   # a quick look
python bench/molecules_network.py --source my.smi

The second network is written here from the description of Vignac et al. 2022 (*DiGress*, arXiv 2209.14734, appendix):
per-channel scores modulated by the bonds, bonds updated from the scores, a global vector that modulates both and pools
both by mean, minimum, maximum and deviation. Both get the same states, times, optimiser, batches and noise; each takes
the best of the same learning rates. Seconds are processor time of one thread, so that other work on the machine does
not count; held-out cross-entropy is that of the averaged weights, times uniform, the same noise for both.
"""

from __future__ import annotations

import argparse
import datetime
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowmaps.fields import FREE, Condition, across
from flowmaps.files import write_json, write_text
from flowmaps.maps import EndpointMap
from flowmaps.networks.embeddings import TimeFeatures, input_scale
from flowmaps.networks.graph import GraphTransformer, Places
from flowmaps.objectives import SelfDistillation
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import OneHot, Product
from flowmaps.tasks.molecules import Molecules
from flowmaps.train import AdamW, Cosine, Trainer
from records import require_whole


def pooled(x: Tensor, exists: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Mean, minimum, maximum and deviation over existing positions."""
    here = exists.unsqueeze(-1)
    count = here.sum(dims).clamp(min=1)
    mean = (x * here).sum(dims) / count
    spread = ((x - mean.reshape(len(x), *(1,) * len(dims), -1)).square() * here).sum(dims) / count
    low, high = x.masked_fill(~here, 1e5).amin(dims), x.masked_fill(~here, -1e5).amax(dims)
    return torch.cat([mean, low, high, (spread + 1e-6).sqrt()], dim=-1)


class ChannelLayer(nn.Module):
    """One layer of the published kind on atoms X, bonds E and a global vector y."""

    def __init__(self, dx: int, de: int, dy: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.x_out = (nn.Linear(dx, dx) for _ in range(4))
        self.e_mul, self.e_add, self.e_out = nn.Linear(de, dx), nn.Linear(de, dx), nn.Linear(dx, de)
        self.y_e, self.y_x = nn.Linear(dy, 2 * dx), nn.Linear(dy, 2 * dx)
        self.y_y, self.x_y, self.e_y = nn.Linear(dy, dy), nn.Linear(4 * dx, dy), nn.Linear(4 * de, dy)
        self.y_out = nn.Sequential(nn.Linear(dy, dy), nn.ReLU(), nn.Linear(dy, dy))
        self.norms = nn.ModuleList(nn.LayerNorm(d) for d in (dx, de, dy, dx, de, dy))
        self.feeds = nn.ModuleList(
            nn.Sequential(nn.Linear(d, h), nn.ReLU(), nn.Linear(h, d))
            for d, h in ((dx, dx), (de, 2 * de), (dy, 2 * dy))
        )

    def forward(self, X: Tensor, E: Tensor, y: Tensor, places: Places) -> tuple[Tensor, Tensor, Tensor]:
        exists, pairs = places.atoms.unsqueeze(-1), places.pairs.unsqueeze(-1)
        head = X.shape[-1] // self.heads
        score = self.q(X).unsqueeze(2) * self.k(X).unsqueeze(1) / head**0.5
        score = score * (self.e_mul(E) + 1) + self.e_add(E)
        scale, shift = self.y_e(y)[:, None, None].chunk(2, -1)
        new_E = self.e_out(shift + (scale + 1) * score) * pairs
        alpha = score.masked_fill(~exists.unsqueeze(1), torch.finfo(score.dtype).min).softmax(2)
        scale, shift = self.y_x(y)[:, None].chunk(2, -1)
        new_X = self.x_out(shift + (scale + 1) * (alpha * self.v(X).unsqueeze(1)).sum(2)) * exists
        new_y = self.y_out(
            self.y_y(y) + self.x_y(pooled(X, places.atoms, (1,))) + self.e_y(pooled(E, places.pairs, (1, 2)))
        )
        state = [
            norm(old + new) for norm, old, new in zip(self.norms[:3], (X, E, y), (new_X, new_E, new_y), strict=True)
        ]
        X, E, y = (norm(h + feed(h)) for norm, h, feed in zip(self.norms[3:], state, self.feeds, strict=True))
        return X * exists, E * pairs, y


class ChannelTransformer(nn.Module):
    """A graph transformer whose attention has a score for every channel of every pair."""

    def __init__(
        self, atoms: int, bonds: int, dx: int = 256, de: int = 64, dy: int = 64, depth: int = 4, heads: int = 8
    ):
        super().__init__()
        self.times = TimeFeatures()
        self.read = nn.ModuleDict(
            {
                "x": nn.Sequential(nn.Linear(atoms, 256), nn.ReLU(), nn.Linear(256, dx), nn.ReLU()),
                "e": nn.Sequential(nn.Linear(bonds, 128), nn.ReLU(), nn.Linear(128, de), nn.ReLU()),
                "y": nn.Sequential(nn.Linear(self.times.dim + 1, 128), nn.ReLU(), nn.Linear(128, dy), nn.ReLU()),
            }
        )
        self.layers = nn.ModuleList(ChannelLayer(dx, de, dy, heads) for _ in range(depth))
        self.out_x = nn.Sequential(nn.Linear(dx, 256), nn.ReLU(), nn.Linear(256, atoms))
        self.out_e = nn.Sequential(nn.Linear(de, 128), nn.ReLU(), nn.Linear(128, bonds))

    def forward(
        self, x: dict[str, Tensor], s: Tensor, t: Tensor, condition: Condition | None = None
    ) -> dict[str, Tensor]:
        places = Places.of(x, condition or FREE)
        exists, pairs = places.atoms.unsqueeze(-1), places.pairs.unsqueeze(-1)
        a, b = (x[f] * across(input_scale(s, x[f].shape[-1]), x[f]) for f in ("atoms", "bonds"))
        a, b = a * exists, b * pairs
        size = places.atoms.sum(1, keepdim=True).log()
        X, E = self.read["x"](a) * exists, self.read["e"](b) * pairs
        E, y = (E + E.transpose(1, 2)) / 2, self.read["y"](torch.cat([self.times(s, t), size], -1))
        for layer in self.layers:
            X, E, y = layer(X, E, y, places)
        z = self.out_e(E) + b
        return {"atoms": self.out_x(X) + a, "bonds": (z + z.transpose(1, 2)) / 2}


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "graph transformer": lambda a, b: GraphTransformer(a, b, width=64, edge=32, depth=4),
    "per-channel attention": lambda a, b: ChannelTransformer(a, b),
}


def train(task: Molecules, network: nn.Module, rate: float, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Held-out cross-entropy over processor seconds of training."""
    K_a, K_b = len(task.alphabet.atoms), len(task.alphabet.bonds)
    flow_map = EndpointMap(GeodesicPath(Product({"atoms": OneHot(K_a), "bonds": OneHot(K_b, symmetric=True)})), network)
    report = Trainer(
        SelfDistillation(flow_map, share=1.0),
        task.train_data,
        task.valid_data,
        max_steps=10**9,
        max_cpu_seconds=arguments.seconds,
        batch_size=arguments.batch,
        seed=arguments.seed,
        optimizer=AdamW(lr=rate),
        schedule=Cosine(warmup=50),
        ema=0.998,
        log_every=arguments.every,
        validate_every=arguments.every,
        valid_examples=arguments.valid,
        accelerator="cpu",
        progress=False,
    ).fit()
    require_whole(report)
    rows = [row for row in report.records if "valid/loss" in row]
    rows[-1] = {"cpu_seconds": report.cpu_seconds, **rows[-1]}  # the budget may end between two records
    return [
        {
            "seconds": round(row["cpu_seconds"], 1),
            "molecules": row["step"] * arguments.batch,
            "nats": round(row["valid/loss"], 4),
        }
        for row in rows
    ]


def reached(curve: list[dict[str, float]], nats: float) -> float | None:
    """Processor seconds until a cross-entropy is reached."""
    return next((point["seconds"] for point in curve if point["nats"] <= nats), None)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--source", default="qm9")
    p.add_argument("--path", default=None, help="folder of the data set")
    p.add_argument("--cache", default=None)
    p.add_argument("--seconds", type=float, default=300, help="processor time of each training")
    p.add_argument("--rates", default="1e-3,3e-3", help="learning rates")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--valid", type=int, default=1024)
    p.add_argument("--every", type=int, default=100, help="updates between two points of a curve")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", default="bench/results")
    arguments = p.parse_args()
    torch.set_num_threads(1)
    task = Molecules(arguments.source, path=arguments.path, cache=arguments.cache)
    K = len(task.alphabet.atoms), len(task.alphabet.bonds)
    runs = []
    for name, build in NETWORKS.items():
        for rate in map(float, arguments.rates.split(",")):
            torch.manual_seed(arguments.seed)
            network = build(*K)
            curve = train(task, network, rate, arguments)
            parameters = sum(weight.numel() for weight in network.parameters())
            runs.append({"network": name, "rate": rate, "parameters": parameters, "curve": curve})
            print(name, rate, parameters, curve[-1], flush=True)
    record = {
        "arguments": vars(arguments),
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "hardware": platform.processor() or platform.machine(),
        "runs": runs,
    }
    record["arguments"] = {k: v for k, v in record["arguments"].items() if k not in ("path", "cache", "out")}
    write_json(Path(arguments.out) / "molecules_network.json", record)
    write_text(Path(arguments.out) / "molecules_network.md", table(record))


def table(record: dict[str, Any]) -> str:
    """The comparison at each network's best learning rate."""
    best = {}
    for run in record["runs"]:
        if run["network"] not in best or run["curve"][-1]["nats"] < best[run["network"]]["curve"][-1]["nats"]:
            best[run["network"]] = run
    goal = best["per-channel attention"]["curve"][-1]["nats"]
    lines = [
        "# Networks on molecular graphs",
        "",
        f"Held-out diagonal cross-entropy on {record['arguments']['source']} (nats, atoms + bonds) after equal "
        f"processor time of one thread, best of the learning rates {record['arguments']['rates']}; batch "
        f"{record['arguments']['batch']}, seed {record['arguments']['seed']}, float32, torch {record['torch']}, "
        f"{record['hardware']}, {record['date']}.",
        "",
        f"| network | parameters | rate | molecules a second | nats | seconds to {goal:.4f} |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in best.items():
        last = run["curve"][-1]
        lines.append(
            f"| {name} | {run['parameters'] / 1e6:.2f} M | {run['rate']:g} | "
            f"{last['molecules'] / last['seconds']:.0f} | {last['nats']:.4f} | {reached(run['curve'], goal)} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
