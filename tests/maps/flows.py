"""Bijections with weights at random: what tests of all of them share."""

import torch

from flowmaps.maps import NSF, Affine, Bijection, CircularNSF, Composed, Inverted, RealNVP, TransformerFlow, Zuko
from flowmaps.paths import GeodesicPath
from flowmaps.spaces import Euclidean, Torus
from identities.cases import seeded


def shaken(f: Bijection, strength: float = 0.3) -> Bijection:
    """The bijection with weights that are no identity, in float64."""
    with torch.no_grad():
        for parameter in f.parameters():
            scale = strength * (parameter.shape[-1] if parameter.ndim else 1) ** -0.5
            parameter += scale * torch.randn(parameter.shape, generator=seeded())
    return f.double()


def plane() -> GeodesicPath:
    return GeodesicPath(Euclidean(2))


def affine() -> Affine:
    return Affine(plane(), torch.tensor([1.0, -2.0]), torch.tensor([[1.5, 0.0], [0.7, 0.4]]))


def of_zuko() -> Composed:
    from zuko.flows.autoregressive import MaskedAutoregressiveTransform
    from zuko.flows.coupling import GeneralCouplingTransform

    torch.manual_seed(0)
    layers = [Zuko(GeneralCouplingTransform(2)), Inverted(Zuko(MaskedAutoregressiveTransform(2)))]
    return Composed(plane(), layers, (2,))


SMALL = {"layers": 3, "width": 16}
PLANE = {
    "affine": affine,
    "realnvp": lambda: RealNVP(plane(), (2,), **SMALL),
    "nsf": lambda: NSF(plane(), (2,), **SMALL),
    "nsf, autoregressive": lambda: NSF(plane(), (2,), autoregressive=True, **SMALL),
    "transformer": lambda: TransformerFlow(plane(), (2,), splines=True, **SMALL),
    "zuko": of_zuko,
}
OTHERS = {
    "torus": lambda: CircularNSF(GeodesicPath(Torus(2)), (2,), **SMALL),
    "torus of three": lambda: CircularNSF(GeodesicPath(Torus(3)), (3,), **SMALL),
    "particles": lambda: TransformerFlow(GeodesicPath(Euclidean(3)), (4, 3), **SMALL),
    "particles, splines": lambda: TransformerFlow(GeodesicPath(Euclidean(3)), (4, 3), splines=True, **SMALL),
    "odd": lambda: NSF(GeodesicPath(Euclidean(5)), (5,), autoregressive=True, **SMALL),
    "positions": lambda: RealNVP(GeodesicPath(Euclidean(2)), (3, 2), **SMALL),
}
ALL = {**PLANE, **OTHERS}


def built(name: str) -> Bijection:
    torch.manual_seed(0)
    return shaken(ALL[name]())


def states(f: Bijection, n: int = 64) -> torch.Tensor:
    """Source points of the shape that the bijection takes."""
    shape = f.shape if isinstance(f, Composed) else (2,)
    noise = torch.randn(n, *shape, generator=seeded(), dtype=torch.float64)
    return f.path.start(noise)


__all__ = ["ALL", "PLANE", "built", "plane", "shaken", "states"]
