"""Splines of one coordinate: how exact their inverse is, however steep they are."""

import math

import pytest
import torch

pytest.importorskip("zuko", reason="needs the extra flows: pip install 'flowmaps[flows]'")

from flowmaps.maps.univariate import CircularSpline, RationalQuadratic, Spline
from identities.cases import seeded

SPLINES = {"line": (Spline(), 5.0), "circle": (CircularSpline(), math.pi)}


def drawn(name: str, strength: float, dtype: torch.dtype = torch.float32):
    """A spline with parameters of this size, and points of its whole length."""
    spline, bound = SPLINES[name]
    phi = strength * torch.randn(10_000, spline.count, generator=seeded(), dtype=torch.float64).to(dtype)
    x = bound * (2 * torch.rand(10_000, generator=seeded(), dtype=torch.float64) - 1).to(dtype)
    return spline, phi, x, bound


class Widened(RationalQuadratic):
    """The spline whose knots and slopes are those of another in single precision, computed in double precision."""

    def __init__(self, spline: RationalQuadratic):
        self.spline = spline

    def transform(self, phi):
        spline = self.spline.transform(phi)
        for name in ("horizontal", "vertical", "derivatives"):
            setattr(spline, name, getattr(spline, name).double())
        return spline


@pytest.mark.parametrize("strength", [0.3, 3.0, 10.0, 30.0])
@pytest.mark.parametrize("name", SPLINES)
def test_no_inverse_of_rounded_values_is_more_exact(name, strength):
    """What is found is the exact inverse of a value within four roundings; it errs by as much as an exact one does."""
    spline, phi, x, bound = drawn(name, strength)
    wide, unit = Widened(spline), 4 * 2.0**-24 * bound
    y = RationalQuadratic.forward(spline, x, phi)[0]
    back = RationalQuadratic.inverse(spline, y, phi)[0].double()
    below, above = (wide.forward(back + sign * unit, phi)[0] + sign * unit for sign in (-1, 1))
    assert bool(((below <= y) & (y <= above)).all())
    slope = wide.forward(x.double(), phi)[1].exp()
    error, least = (back - x).abs(), (wide.inverse(y.double(), phi)[0] - x).abs()
    assert float(error[slope > 0.2].max()) < 1e-5
    assert float(error.max()) < 1.01 * float(least.max()) + 2e-7 * bound
    assert (float(least.max()) > 1e-3) == (strength > 1)  # nobody finds 1e-5 where values are flat


@pytest.mark.parametrize("name", SPLINES)
def test_in_double_precision_it_is_exact_to_ten_digits(name):
    spline, phi, x, _ = drawn(name, 1.0, torch.float64)
    y, change = spline.forward(x, phi)
    back, down = spline.inverse(y, phi)
    assert float((back - x).abs().max()) < 1e-10 and float((change + down).abs().max()) < 1e-9


@pytest.mark.parametrize("name", SPLINES)
def test_its_gradients_are_those_of_the_implicit_function(name):
    spline, phi, x, _ = drawn(name, 2.0, torch.float64)
    phi, y = phi[:200].requires_grad_(), x[:200].requires_grad_()
    back, down = spline.inverse(y, phi)
    of_y, of_phi = torch.autograd.grad(back.sum(), (y, phi), retain_graph=True)
    z = back.detach().requires_grad_()
    there, change = spline.forward(z, phi)
    assert torch.allclose(of_y, (-change).exp(), rtol=1e-7)
    (wanted,) = torch.autograd.grad((-(-change).exp().detach() * there).sum(), phi)
    assert torch.allclose(of_phi, wanted, rtol=1e-6, atol=1e-9)
    assert torch.allclose(down, -change, atol=1e-8)
