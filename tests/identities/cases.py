"""One list of maps and one list of objectives, for the tests that cross them."""

import torch
from torch import nn

from flowmaps import objectives as O
from flowmaps.fields import FREE, Fields, detach
from flowmaps.maps import EndpointMap, VelocityMap
from flowmaps.networks import MLP, LinearHead, Transformer
from flowmaps.oracles import FiniteLaw, GaussianLaw, PointMass
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import Embedded, OneHot, Product


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(module: nn.Module, seed: int = 0, scale: float = 0.5) -> nn.Module:
    """Every weight random, so that layers that start at zero take part."""
    generator = seeded(seed)
    with torch.no_grad():
        for weight in module.parameters():
            fan = weight.shape[-1] if weight.ndim > 1 else 4
            weight.copy_(scale * torch.randn(weight.shape, generator=generator) / fan**0.5)
    return module.double()


def finite(K: int = 3, positions: int = 3, steps: int = 200, seed: int = 0) -> FiniteLaw:
    return FiniteLaw.dependent(K, positions, generator=seeded(seed), steps=steps, coupling=1.0)


def gaussian() -> GaussianLaw:
    return GaussianLaw(torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64), 0.7)


EXACT = {
    "law of 3 letters at 3 places": lambda: finite().flow_map(),
    "law of 2 letters at 1 place": lambda: finite(2, 1).flow_map(),
    "law of 5 letters at 2 places": lambda: finite(5, 2, seed=3).flow_map(),
    "one category": lambda: FiniteLaw(torch.zeros(1, 2, dtype=torch.long), torch.zeros(1).double(), 1).flow_map(),
    "Gaussian": lambda: gaussian().flow_map(),
}

LEARNED = {
    "perceptron": lambda: EndpointMap(GeodesicPath(OneHot(3)), MLP((4, 3), width=16, depth=1)),
    "transformer": lambda: EndpointMap(GeodesicPath(OneHot(3)), Transformer(3, width=16, depth=1, heads=2, out=3)),
    "embedded, chunked": lambda: EndpointMap(
        GeodesicPath(Embedded(3, 5)), randomised(MLP((4, 5), width=16, depth=1, out=8, K=3)), LinearHead(8, 3), chunk=3
    ),
    "two fields": lambda: EndpointMap(
        GeodesicPath(Product({"a": OneHot(3), "b": OneHot(2, symmetric=True)})),
        MLP({"a": (4, 3), "b": (4, 4, 2)}, width=16, depth=1),
    ),
    "velocity": lambda: VelocityMap(GeodesicPath(OneHot(3)), MLP((4, 3), width=16, depth=1)),
}

UNBIASED = {
    "LSD": lambda: O.Lagrangian(),
    "LSD, detached tangent": lambda: O.Lagrangian(through_tangent=False),
    "LSD-CE": lambda: O.LagrangianCE(),
    "LSD-KL": lambda: O.LagrangianKL(floor=1e-14),
    "ESD": lambda: O.Eulerian(),
    "ESD-KL": lambda: O.EulerianKL(floor=1e-14),
    "PSD": lambda: O.Semigroup(),
    "PSD-KL": lambda: O.SemigroupKL(),
    "PSD-KL, midpoint": lambda: O.SemigroupKL(fraction=0.5),
    "PSD-KL, a path": lambda: O.SemigroupKL(fraction=[0.3, 0.5, 0.9]),
}
SQUARED = ("LSD", "LSD, detached tangent", "ESD", "PSD")  # need no simplex


def lead_of(flow_map, batch: int):
    """Shapes of data for a map of the lists above."""
    shape = getattr(flow_map.network, "shape", None)
    if isinstance(flow_map.network, FiniteLaw):
        return (batch, *flow_map.network.atoms.shape[1:])
    if isinstance(flow_map.network, GaussianLaw | PointMass):
        return (batch, 2)
    if isinstance(shape, dict):
        return {name: (batch, *field[:-1]) for name, field in shape.items()}
    return (batch, 4)


def state(flow_map, batch: int = 6, seed: int = 1):
    """Random source states of a map's own shape, float64, with data to match; shapes follow the lists above."""
    lead, generator = lead_of(flow_map, batch), seeded(seed)
    space = flow_map.space
    noise = flow_map.path.noise(lead, generator)
    if isinstance(lead, dict):
        noise = Fields({name: leaf.double() for name, leaf in noise.items()})
        x_1 = {n: torch.randint(space.sizes()[n], s, generator=generator) for n, s in lead.items()}
        x_1["b"] = torch.triu(x_1["b"], 1) + torch.triu(x_1["b"], 1).mT
        return flow_map.path.start(noise), x_1
    if space.sizes() is not None:
        return flow_map.path.start(noise.double()), torch.randint(space.sizes(), lead, generator=generator)
    return flow_map.path.start(noise.double()), flow_map.path.start(flow_map.path.noise(lead, generator).double())


def times(batch: int = 6, seed: int = 2, latest: float = 0.6):
    """s < t, away from 1: Runge-Kutta and the cancellation in 1 + κδ stay below 1e-10."""
    a, b = latest * torch.rand(2, batch, generator=seeded(seed), dtype=torch.float64)
    return torch.minimum(a, b), torch.maximum(a, b)


def jump(flow_map, batch: int = 6, seed: int = 1, condition=FREE) -> O.Jump:
    x_0, x_1 = state(flow_map, batch, seed)
    s, t = times(batch, seed + 1)
    r = torch.rand(batch, generator=seeded(seed + 2), dtype=torch.float64)
    return O.Jump(detach(flow_map.path(x_0, x_1, s, condition)), detach(x_0), x_1, s, t, r, condition)
