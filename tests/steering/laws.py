"""Finite laws with known tilts, and how far weighted samples are from them."""

import torch
from torch import Tensor

from flowmaps.oracles import FiniteLaw
from flowmaps.steering import Soft, Steered


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_law(K: int = 4, positions: int = 3, seed: int = 0) -> FiniteLaw:
    """64 atoms by default, with dependent positions."""
    return FiniteLaw.dependent(K, positions, generator=generator(seed), steps=12).float()


def near(law: FiniteLaw, seed: int = 1, distance: float = 0.7) -> FiniteLaw:
    """Another law on the same atoms."""
    log_p = 0.8 * law.log_p + distance * torch.randn(len(law.log_p), generator=generator(seed))
    return FiniteLaw(law.atoms, log_p, law.K, law.steps)


def linear_reward(law: FiniteLaw, seed: int = 2) -> Soft:
    weight = torch.randn(*law.atoms.shape[1:], law.K, generator=generator(seed))
    return Soft(lambda pi: (pi * weight).flatten(1).sum(1), "linear")


def tilted(law: FiniteLaw, reward: Soft, strength: float) -> tuple[FiniteLaw, float]:
    """The exact target and log-normaliser."""
    r = reward.of_sample(law.atoms, law.K)
    return law.tilt(reward.function, strength), float((law.log_p + strength * r).logsumexp(0))


def distance(law: FiniteLaw, samples: Tensor, weights: Tensor | None = None) -> float:
    """Total variation between a law and (weighted) samples."""
    weights = torch.full((len(samples),), 1 / len(samples)) if weights is None else weights
    p = torch.zeros(len(law.log_p), dtype=torch.float64).index_add_(0, law.index(samples), weights.double())
    return 0.5 * float((p - law.log_p.double().exp()).abs().sum())


def floor(law: FiniteLaw, n: float, seed: int = 3) -> float:
    """Mean total variation of n true samples."""
    g = generator(seed)
    return sum(distance(law, law.sample(max(int(n), 1), g)) for _ in range(8)) / 8


def assert_exact(result: Steered, target: FiniteLaw, log_z: float, factor: float = 1.5, errors: float = 3.0) -> None:
    """As close as that many true samples, and the normaliser within its error."""
    allowed = factor * floor(target, result.effective_size)
    found = distance(target, result.samples, result.weights)
    assert found <= allowed, f"total variation {found:.4f}, allowed {allowed:.4f}: {result.describe()}"
    assert abs(result.log_normaliser - log_z) <= errors * result.error, f"{log_z:.4f} against {result.describe()}"
