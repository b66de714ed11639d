"""Attention with its tangent as one operation: equal to plain attention in forward mode and in reverse over it."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flowmaps.autodiff import jacobian
from flowmaps.networks import attention_pair, paired, plain
from flowmaps.networks.attention_pair import pair, pair_gradient


def six(length: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """q, k, v and their tangents."""
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn(6, 2, 3, length, 4, generator=generator, dtype=torch.float64).to(dtype).unbind())


def some(length: int) -> torch.Tensor:
    mask = torch.rand(2, length, generator=torch.Generator().manual_seed(1)) > 0.3
    mask[:, 0] = True
    return mask


def evaluated(backend, inputs, mask, moved=(0, 1, 2), through_tangent=True):
    """Value, tangent and the gradient of a function of both in values and tangents."""
    leaves = [x.detach().requires_grad_() for x in inputs]

    def function(*points):
        arguments = dict(enumerate(leaves[:3])) | dict(zip(moved, points, strict=True))
        return backend(*arguments.values(), mask)

    y, dy = torch.func.jvp(function, tuple(leaves[i] for i in moved), tuple(leaves[3 + i] for i in moved))
    loss = (y.sin() * (dy if through_tangent else dy.detach()).exp()).sum()
    return y, dy, *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of two heads and of parts of their queries."""
    monkeypatch.setitem(attention_pair.TILE, "cpu", 40)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("through_tangent", [False, True])
@pytest.mark.parametrize("length, moved", [(1, (0, 1, 2)), (5, (0,)), (5, (2,)), (7, (1, 2)), (17, (0, 1, 2))])
def test_everything_is_that_of_plain_attention(small_tiles, length, moved, through_tangent, masked):
    mask = some(length) if masked else None
    ours, exact = (evaluated(backend, six(length), mask, moved, through_tangent) for backend in (paired, plain))
    torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-10)
    assert length == 1 or exact[2].abs().max() > 0.01


def test_rows_of_many_tiles_of_the_true_size():
    inputs = [x.repeat(1, 1, 40, 1)[:, :, :597] + torch.arange(597).div(100).sin()[:, None] for x in six(17)]
    ours, exact = (evaluated(backend, inputs, some(597)) for backend in (paired, plain))
    torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_differences_of_values(small_tiles, masked):
    inputs = [x[:, :1, :3, :2].requires_grad_() for x in six(5)]
    inputs[0] = inputs[0][:, :, :2].detach().requires_grad_()  # fewer queries than keys
    inputs[3] = inputs[3][:, :, :2].detach().requires_grad_()
    mask = some(3) if masked else None
    assert torch.autograd.gradcheck(lambda *x: pair(*x, mask)[:2], inputs)
    assert torch.autograd.gradcheck(lambda *x: pair(*x, mask)[0], inputs)
    assert torch.autograd.gradcheck(lambda *x: pair(*x, mask)[1], inputs)


def test_large_scores_do_not_overflow():
    inputs = [x * 200 for x in six(9)]
    ours, exact = (evaluated(lambda *a, f=f: f(*a) / 1e4, inputs, some(9)) for f in (paired, plain))
    torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype, most", [(torch.float32, 2e-6), (torch.bfloat16, 0.03)])
def test_less_precise_tensors_also_under_autocast(dtype, most):
    exact = evaluated(plain, six(33, dtype=dtype), some(33))  # sums in the same precision as the inputs
    truth = evaluated(plain, [x.double() for x in six(33, dtype=dtype)], some(33))
    with torch.autocast("cpu", torch.bfloat16):
        ours = evaluated(paired, six(33, dtype=dtype), some(33))
    for one, true, theirs in zip(ours, truth, exact, strict=True):
        error, other = ((x.double() - true).norm() / true.norm() for x in (one, theirs))
        assert one.dtype == dtype and error < most and error < 4 * other


def test_a_jacobian_goes_through_it():
    x, mask = six(3)[0], some(3)
    ours, exact = (jacobian(lambda x, f=f: f(x, x.sin(), x.cos(), mask), x) for f in (paired, plain))
    torch.testing.assert_close(ours, exact)


def test_compiled_gradients_through_the_tangent_are_the_eager_ones():
    """No rule for forward mode is asked for, so issue 192985 does not matter."""

    def loss(*inputs):
        y, dy = torch.func.jvp(lambda *x: paired(*x, None), inputs[:3], inputs[3:])
        return (y.sin() * dy.exp()).sum()

    inputs = [x.requires_grad_() for x in six(5)]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    one, two = (torch.autograd.grad(f(*inputs), inputs) for f in (loss, compiled))
    torch.testing.assert_close(one, two)


def test_torch_finds_the_operations_as_they_say_they_are():
    """Shapes, strides and types without data are those with data: what compilers and the planner rely on."""
    inputs, mask = [x.transpose(1, 2).requires_grad_() for x in six(5)], torch.ones(2, 3, dtype=torch.bool)
    torch.library.opcheck(pair, (*inputs, mask))
    inputs, g, rows = [x.detach() for x in inputs], torch.rand_like(inputs[0]), torch.rand(4, 2, 5, 3).double()
    for h in (None, g):
        arguments = (g, h, *inputs, mask, rows)
        torch.library.opcheck(pair_gradient, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("through_tangent", [False, True])
def test_what_is_kept_grows_with_the_length_and_not_with_its_square(through_tangent):
    kept = []
    for length in (100, 200):
        numbers: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, numbers=numbers: numbers.update({x.untyped_storage().data_ptr(): x.numel()}) or x, lambda x: x
        ):
            torch.func.jvp(
                lambda q: paired(q, q, q, None), (six(length)[0].requires_grad_(),), (six(length)[1].requires_grad_(),)
            )
        kept.append(sum(numbers.values()))
    assert kept[0] > 0 and kept[1] <= 2.01 * kept[0]


@pytest.mark.parametrize("through_tangent, products", [(False, 6 + 5), (True, 6 + 15)])
def test_operations_are_those_of_the_products(through_tangent, products):
    with FlopCounterMode(display=False) as counter:
        evaluated(paired, six(64), None, through_tangent=through_tangent)
    assert counter.get_total_flops() == products * 2 * 6 * 64 * 64 * 4
