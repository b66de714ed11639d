"""A network of one's own in a flow map: ``python examples/own_network.py`` (about ten seconds of one core).

A network is any module that is called as ``network(x, s, t, condition)`` with states ``(batch, positions, K)`` and
times ``(batch,)``, and that returns logits ``(batch, positions, K)``. Here it is a mixer: one perceptron over the
positions, one over the channels, and the times added to the channels. It learns the states of a chain of spins, of
which everything is known.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import flowmaps as fm
from flowmaps.fields import Condition
from flowmaps.networks import Network, TimeFeatures

LENGTH, K = 8, 2


class Block(nn.Module):
    """Mixes positions, then channels, each with a residual connection."""

    def __init__(self, positions: int, width: int):
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.along = nn.Sequential(nn.Linear(positions, 4 * positions), nn.SiLU(), nn.Linear(4 * positions, positions))
        self.across = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.along(self.first(h).mT).mT
        return h + self.across(self.second(h))


class Mixer(Network):
    """A mixer over all positions at once.

    Arguments:
        positions, K: Of a state.
        width, depth: Size.
    """

    def __init__(self, positions: int, K: int, width: int = 48, depth: int = 3):
        super().__init__()
        self.read = nn.Linear(K, width)
        self.place = nn.Parameter(0.1 * torch.randn(positions, width))
        self.times = TimeFeatures(features=16)  # smooth features of s and t - s, four of each frequency
        self.clock = nn.Linear(4 * 16, width)
        self.blocks = nn.Sequential(*(Block(positions, width) for _ in range(depth)))
        self.write = nn.Linear(width, K)

    def forward(self, x: Tensor, s: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        clock = self.clock(self.times(s, t)).unsqueeze(1)
        return self.write(self.blocks(self.read(x) + self.place + clock))


def chain(coupling: float = 0.8) -> fm.FiniteLaw:
    r"""A chain of spins, :math:`p(y) \propto \exp(\beta \sum_i \sigma_i \sigma_{i+1})` with :math:`\sigma = 2y - 1`."""
    states = torch.cartesian_prod(*[torch.arange(K)] * LENGTH)
    spins = 2.0 * states - 1
    return fm.FiniteLaw(states, coupling * (spins[:, 1:] * spins[:, :-1]).sum(1), K)


def train(truth: fm.FiniteLaw, updates: int) -> fm.EndpointMap:
    """A flow map with the network, learned from exact samples."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    flow_map = fm.EndpointMap(fm.GeodesicPath(fm.OneHot(K)), Mixer(LENGTH, K))
    objective = fm.SelfDistillation(flow_map, fm.SemigroupKL())
    optimiser = torch.optim.Adam(objective.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    for update in range(updates):
        batch = fm.Batch(truth.sample(256, generator))
        loss = objective(batch, objective.draw(batch, generator))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if update % 200 == 0:
            print(f"update {update}: loss {float(loss.detach()):.3f} nats per position")
    return flow_map.eval()


def total_variation(truth: fm.FiniteLaw, samples: Tensor) -> float:
    """Half the sum of absolute differences between the shares of samples and the probabilities."""
    share = torch.bincount(truth.index(samples), minlength=len(truth.log_p)) / len(samples)
    return float((share - truth.log_p.exp()).abs().sum() / 2)


def main(updates: int = 800, n: int = 20_000) -> dict[str, float]:
    """Train, and compare samples with the truth; the total variation by its name."""
    truth, generator = chain(), torch.Generator().manual_seed(1)
    flow_map = train(truth, updates)
    found = {}
    for steps in (1, 2, 4):
        samples = fm.generate(flow_map, fm.Jumps(steps), (n, LENGTH), generator)
        found[f"{steps} step" + "s" * (steps > 1)] = total_variation(truth, samples)
    found["exact samples"] = total_variation(truth, truth.sample(n, generator))
    for name, value in found.items():
        print(f"{name}: total variation {value:.3f} to the truth, over {K**LENGTH} states")
    return found


if __name__ == "__main__":
    main()
