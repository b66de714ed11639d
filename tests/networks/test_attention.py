"""Attention: the fused kernel exactly where no tangent is, rotary positions, compiled derivatives."""

import pytest
import torch

from flowmaps.networks import Attention, Transformer, attention, automatic, fused, paired, plain


def qkv(length: int = 5):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 2, 3, length, 4, generator=generator, dtype=torch.float64).unbind(0)


def naive(q, k, v, mask):
    """The definition, one query at a time, over the keys that exist."""
    y = torch.empty_like(v)
    for b, h, i in torch.cartesian_prod(*(torch.arange(n) for n in v.shape[:3])):
        weight = (k[b, h, mask[b]] @ q[b, h, i] / 2).exp()
        y[b, h, i] = weight @ v[b, h, mask[b]] / weight.sum()
    return y


@pytest.mark.parametrize("backend", [plain, fused, paired, automatic])
@pytest.mark.parametrize("length", [1, 5])
def test_backend_is_the_definition(backend, length):
    mask = torch.ones(2, length, dtype=torch.bool)
    torch.testing.assert_close(backend(*qkv(length), None), naive(*qkv(length), mask))
    mask[0, 1:] = False
    torch.testing.assert_close(backend(*qkv(length), mask), naive(*qkv(length), mask))


@pytest.mark.parametrize("length, expected", [(5, plain), (129, paired)])
def test_a_tangent_is_seen_in_every_argument_and_nowhere_else(monkeypatch, length, expected):
    calls = []
    for backend in (plain, paired, fused):
        monkeypatch.setattr(attention, backend.__name__, lambda *a, b=backend: calls.append(b) or b(*a))
    q, k, v = qkv(length)
    automatic(q, k, v, None)
    for i in range(3):
        others = [q, k, v]

        def function(x, i=i, others=others):
            automatic(q, k, v, None)  # a constant, as a teacher inside the differentiated function
            return automatic(*others[:i], x, *others[i + 1 :], None)

        y, dy = torch.func.jvp(function, (others[i],), (torch.ones_like(q),))
        with torch.no_grad():
            torch.func.jvp(function, (others[i],), (torch.ones_like(q),))
        assert dy.shape == y.shape
    assert calls == [fused] + 6 * [fused, expected]


def test_fused_attention_has_no_forward_mode():
    """The reason for ``automatic``; when a release gives it one, this fails and the plain form can go."""
    with pytest.raises(NotImplementedError, match="forward AD"):
        torch.func.jvp(lambda q: fused(q, *qkv()[1:]), qkv()[:1], qkv()[:1])


@pytest.mark.parametrize("positions", [(6,), (2, 3)])
def test_rotary_products_depend_on_differences_of_positions(positions):
    turn = attention.rotary(positions, 8, torch.zeros((), dtype=torch.float64))
    q, k = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    product = attention.rotate(q.expand(6, 8), turn) @ attention.rotate(k.expand(6, 8), turn).mT
    place = torch.cartesian_prod(*(torch.arange(n) for n in positions)).reshape(6, -1)
    difference = place[:, None] - place[None]
    same = (difference[:, :, None, None] == difference[None, None]).all(-1)
    gap = (product[:, :, None, None] - product[None, None]).abs()
    assert gap[same].max() < 1e-6  # angles are computed in float32
    assert gap[~same].max() > 0.1
    torch.testing.assert_close(product.diagonal(), (q @ k.mT).expand(1, 6)[0], rtol=1e-6, atol=1e-6)


def test_without_positions_attention_is_a_function_of_sets():
    torch.manual_seed(0)
    layer, x, order = Attention(8, 2).double(), torch.randn(1, 5, 8).double(), torch.randperm(5)
    torch.testing.assert_close(layer(x)[:, order], layer(x[:, order]))


def test_compiled_derivative_is_the_eager_one():
    torch.manual_seed(0)
    network = Transformer(3, 8, 1, 2).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, s, t = torch.randn(2, 4, 3).double(), torch.rand(2).double() / 2, torch.rand(2).double() / 2 + 0.5

    def both(x, s, t):
        z, dz = torch.func.jvp(lambda t: network(x, s, t), (t,), (torch.ones_like(t),))
        return z, dz, network(x, t, t)

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, s, t), both(x, s, t))


@pytest.mark.parametrize("length, backend", [(64, plain), (320, fused)])
def test_half_precision_on_a_cpu_takes_the_faster_backend(length, backend):
    q, k, v = torch.randn(3, 2, 2, length, 8, dtype=torch.bfloat16)
    assert torch.equal(automatic(q, k, v), backend(q, k, v))
    assert not torch.equal(plain(q, k, v), fused(q, k, v))  # so that the line above tells one from the other
