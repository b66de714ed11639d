"""Splines of one coordinate: how exact their inverse is, however steep they are."""

import math

import pytest
import torch

pytest.importorskip("zuko", reason="needs the extra flows: pip install 'flowmaps[flows]'")

from flowmaps.maps.univariate import CircularSpline, Spline
from identities.cases import seeded

SPLINES = {"line": (Spline(), 5.0), "circle": (CircularSpline(), math.pi)}


def drawn(name: str, strength: float, dtype: torch.dtype = torch.float32):
    """A spline with parameters of this size, and points of its whole length."""
    spline, bound = SPLINES[name]
    phi = strength * torch.randn(20_000, spline.count, generator=seeded(), dtype=torch.float64).to(dtype)
    if name == "circle":
        phi[:, -1] = 0  # a turn would round once more
    x = bound * (2 * torch.rand(20_000, generator=seeded(), dtype=torch.float64) - 1).to(dtype)
    return spline, phi, x, bound


@pytest.mark.parametrize("strength", [0.3, 3.0, 10.0, 30.0])
@pytest.mark.parametrize("name", SPLINES)
def test_the_inverse_is_as_exact_as_the_values_are(name, strength):
    """Values are rounded, and where the slope is small they say little of the points that they come from."""
    spline, phi, x, bound = drawn(name, strength)
    y, change = spline.forward(x, phi)
    slope, error = change.exp(), (spline.inverse(y, phi)[0] - x).abs()
    assert bool(error.isfinite().all())
    units = error * slope / (2.0**-24 * bound)
    assert float(units.kthvalue(19_980).values) < 10
    assert float(error[slope > 0.2].max()) < (1e-5 if strength <= 10 else 1e-4) and float(slope.min()) < 0.2


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
