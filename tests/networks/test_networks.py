"""Every network: forward mode, gradients through it, masks, known positions, labels, the start of training."""

import pytest
import torch
from torch.nn import functional as F

from flowmaps.fields import Condition, fieldwise, leaves
from flowmaps.networks import MLP, Convolutions, LinearHead, TimeFeatures, Transformer, UNet, fused, plain, use_backend
from flowmaps.networks.graph import GraphTransformer
from flowmaps.times import DecodeRateClock

BATCH = 2
LINE, IMAGE = (5, 3), (5, 6, 3)
FIELDS = {"atoms": (3, 4), "bonds": (3, 3, 2)}
NETWORKS = {
    "transformer": (lambda: Transformer(3, 8, 2, 2, out=3), LINE),
    "transformer on images": (lambda: Transformer(3, 8, 1, 2, out=3, shape=(5, 6)), IMAGE),
    "transformer features": (lambda: Transformer(7, 8, 1, 1, K=50), (4, 7)),
    "transformer on a clock": (
        lambda: Transformer(3, 8, 1, 2, out=3, times=TimeFeatures(8, clock=DecodeRateClock(3, table=65))),
        LINE,
    ),
    "transformer with neighbours": (lambda: Transformer(3, 8, 2, 2, out=3, reach=2), LINE),
    "transformer of split times": (lambda: Transformer(3, 8, 3, 2, out=3, split=0.67), LINE),
    "u-net": (lambda: UNet(3, 4, (6, 8), heads=2, out=3), IMAGE),
    "u-net on cells": (lambda: UNet(3, 4, (6,), heads=2, out=3, patch=2), IMAGE),
    "u-net of one shape": (lambda: UNet(3, 4, (6,), heads=2, out=3, patch=2, shape=IMAGE[:2]), IMAGE),
    "u-net features": (lambda: UNet(3, 4, (), depth=2, heads=1), IMAGE),
    "convolutions": (lambda: Convolutions(3, 8, 1, 3, (1, 2), out=3), LINE),
    "convolutions with places": (lambda: Convolutions(3, 8, 1, 3, (2,), out=3, shape=(5,)), LINE),
    "convolutions on patches": (lambda: Convolutions(3, 8, 1, 3, (1, 2), 2, out=3, split=0.5), LINE),
    "mlp": (lambda: MLP(LINE, 8, 2), LINE),
    "mlp on fields": (lambda: MLP(FIELDS, 8, 1), FIELDS),
}
each_network = pytest.mark.parametrize("name", NETWORKS)


def stirred(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """In float64 and away from its start, where gates are zero and most derivatives vanish."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 5)
    return module


def draw(shape, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    if isinstance(shape, dict):
        return {name: draw(field, seed + i) for i, (name, field) in enumerate(shape.items())}
    return torch.randn(BATCH, *shape, generator=generator, dtype=torch.float64)


def built(name: str):
    torch.manual_seed(0)
    network, shape = NETWORKS[name]
    return stirred(network()), draw(shape)


def times():
    return torch.tensor([0.2, 0.55], dtype=torch.float64), torch.tensor([0.7, 0.6], dtype=torch.float64)


def partly(x):
    """A mask without the last entry of the first position axis, and a known first one."""
    last, first = (fieldwise(lambda f: torch.zeros(f.shape[:-1], dtype=torch.bool), x) for _ in range(2))
    for mask, known in leaves(last, first):
        mask[:, -1], known[:, 0] = True, True
    return Condition(mask=fieldwise(torch.logical_not, last), known=first)


def close(a, b, **tolerance):
    for left, right in leaves(a, b):
        torch.testing.assert_close(left, right, **tolerance)


def as_dict(h):
    """Fields as the dictionary that ``torch.func`` knows."""
    return dict(h) if isinstance(h, dict) else h


def central(function, primals, tangents, h: float = 1e-5):
    def shifted(h):
        moves = zip(primals, tangents, strict=True)
        return function(*(fieldwise(lambda p, dp: p + h * dp, p, dp) for p, dp in moves))

    return fieldwise(lambda a, b: (a - b) / (2 * h), shifted(h), shifted(-h))


@each_network
@pytest.mark.parametrize("conditioned", [False, True], ids=["plain", "masked and known"])
def test_derivative_in_time(name, conditioned):
    network, x = built(name)
    s, t = times()
    condition = partly(x) if conditioned else None
    function = lambda t: as_dict(network(x, s, t, condition))  # noqa: E731
    _, tangent = torch.func.jvp(function, (t,), (torch.ones_like(t),))
    assert max(dz.abs().max() for (dz,) in leaves(tangent)) > 1e-3
    close(tangent, central(function, (t,), (torch.ones_like(t),)), rtol=1e-6, atol=1e-7)


@each_network
@pytest.mark.parametrize("conditioned", [False, True], ids=["plain", "masked and known"])
def test_derivative_along_state_and_times(name, conditioned):
    network, x = built(name)
    s, t = times()
    condition = partly(x) if conditioned else None
    function = lambda x, s, t: as_dict(network(x, s, t, condition))  # noqa: E731
    direction = (draw(NETWORKS[name][1], seed=1), torch.ones_like(s), 0.5 * torch.ones_like(t))
    _, tangent = torch.func.jvp(function, (x, s, t), direction)
    close(tangent, central(function, (x, s, t), direction), rtol=1e-6, atol=1e-7)


@each_network
def test_gradient_through_the_tangent(name):
    network, x = built(name)
    s, t = times()
    weights = [p for p in network.parameters()]
    direction = [torch.randn(p.shape, generator=torch.Generator().manual_seed(2), dtype=p.dtype) for p in weights]

    def loss():
        z, dz = torch.func.jvp(lambda t: as_dict(network(x, s, t)), (t,), (torch.ones_like(t),))
        return sum((a.sin() * b + b.square()).mean() for a, b in leaves(z, dz))

    def shifted(h):
        with torch.no_grad():
            for p, dp in zip(weights, direction, strict=True):
                p.add_(h * dp)
            value = loss()
            for p, dp in zip(weights, direction, strict=True):
                p.sub_(h * dp)
        return value

    gradients = torch.autograd.grad(loss(), weights, allow_unused=True)
    slope = sum((g * dp).sum() for g, dp in zip(gradients, direction, strict=True) if g is not None)
    assert slope.abs() > 1e-3
    torch.testing.assert_close(slope, (shifted(1e-5) - shifted(-1e-5)) / 2e-5, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in NETWORKS if "mlp" not in name])
def test_backends_agree_in_value_and_gradient(name):
    network, x = built(name)
    s, t = times()
    results = []
    for backend in (plain, fused):
        use_backend(network, backend)
        z = network(x.requires_grad_(), s, t, partly(x))
        results.append((z, torch.autograd.grad(z.square().sum(), x)[0]))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-10)


def test_second_derivative_in_time():
    network, x = built("transformer")
    s, t = times()

    def speed(t):
        return torch.func.jvp(lambda t: as_dict(network(x, s, t)), (t,), (torch.ones_like(t),))[1]

    _, acceleration = torch.func.jvp(speed, (t,), (torch.ones_like(t),))
    close(acceleration, central(speed, (t,), (torch.ones_like(t),)), rtol=1e-5, atol=1e-7)


@each_network
def test_padding_values_never_change_the_rest(name):
    network, x = built(name)
    s, t = times()
    condition = partly(x)
    other = fieldwise(lambda f, mask: torch.where(mask[..., None], f, 100.0), x, condition.mask)
    before, after = network(x, s, t, condition), network(other, s, t, condition)
    for a, b, mask in leaves(before, after, condition.mask):
        torch.testing.assert_close(a[mask], b[mask], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["transformer", "u-net", "u-net features"])
def test_amount_of_padding_never_changes_the_rest(name):
    network, x = built(name)
    s, t = times()
    condition = Condition(known=partly(x).known)
    grow = [part for _ in x.shape[1:-1] for part in (0, 4)]
    canvas = F.pad(x, (0, 0, *grow), value=3.0)
    mask = F.pad(torch.ones(x.shape[:-1], dtype=torch.bool), grow)
    inside = network(canvas, s, t, Condition(mask, F.pad(condition.known, grow)))
    shape = x.shape[:-1]
    torch.testing.assert_close(inside[tuple(slice(n) for n in shape)], network(x, s, t, condition), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in NETWORKS if "mlp" not in name])
def test_known_positions_have_the_clean_time(name):
    network, x = built(name)
    (s, t), one = times(), torch.ones(BATCH, dtype=torch.float64)
    nowhere = torch.zeros(x.shape[:-1], dtype=torch.bool)
    torch.testing.assert_close(network(x, s, t, Condition(known=nowhere)), network(x, s, t))
    torch.testing.assert_close(network(x, s, t, Condition(known=~nowhere)), network(x, one, one))


def test_a_perceptron_knows_what_is_known():
    network, x = built("mlp")
    (s, t), one = times(), torch.ones(BATCH, dtype=torch.float64)
    condition = Condition(known=partly(x).known)
    assert (network(x, one, one, condition) - network(x, one, one)).abs().max() > 1e-3  # by the flags
    network.known.weight.data.zero_()
    scaled = x * torch.where(condition.known, (s.square() + (1 - s).square() * 3).sqrt()[:, None], 1.0)[..., None]
    torch.testing.assert_close(network(x, s, t, condition), network(scaled, s, t))  # and by the input scale


@pytest.mark.parametrize("label", ["classes", "properties"])
@pytest.mark.parametrize("network", [Transformer, Convolutions, UNet, MLP])
def test_label(network, label):
    shape = IMAGE if network is UNet else LINE
    net = stirred(network(shape if network is MLP else 3, 8, out=3, **{label: 2}))
    x, (s, t) = draw(shape), times()
    some = torch.tensor([0, 1]) if label == "classes" else torch.tensor([[0.1, 2.0], [0.5, 1.0]]).double()
    none = torch.tensor([2, 2]) if label == "classes" else torch.full((2, 2), torch.nan).double()
    unlabelled = net(x, s, t)
    assert (net(x, s, t, Condition(label=some)) - unlabelled).abs().amin(0).max() > 1e-3
    torch.testing.assert_close(net(x, s, t, Condition(label=none)), unlabelled)
    mixed = net(x, s, t, Condition(label=torch.stack([some[0], none[1]])))
    torch.testing.assert_close(mixed[1], unlabelled[1])
    with pytest.raises(ValueError, match="expected"):
        net(x, s, t, Condition(label=some[:1]))


@each_network
def test_training_starts_at_zero_and_reaches_every_weight(name):
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    network = make().double()
    features = name.endswith("features")
    head = LinearHead(4 if "net" in name else 8, 3).double() if features else torch.nn.Identity()
    x, (s, t) = draw(shape), times()
    logits = lambda: fieldwise(head, network(x, s, t, partly(x)))  # noqa: E731
    assert all((z == 0).all() for (z,) in leaves(logits()))
    weights = dict(network.named_parameters()) | {f"head.{n}": p for n, p in head.named_parameters()}
    unmoved = set(weights)
    for _ in range(5):
        loss = sum((z - draw(z.shape[1:], seed=3)).square().mean() for (z,) in leaves(logits()))
        gradients = torch.autograd.grad(loss, list(weights.values()))
        unmoved -= {n for n, g in zip(weights, gradients, strict=True) if g.abs().max() > 0}
        with torch.no_grad():
            for p, g in zip(weights.values(), gradients, strict=True):
                p -= 0.1 * g
    assert not unmoved


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (8, 8), (13, 4), (28, 28)])
def test_u_net_takes_any_size(size):
    network = UNet(2, 4, (4, 8), heads=1, out=2)
    x = torch.randn(BATCH, *size, 2)
    assert network(x, *(t.float() for t in times())).shape == (BATCH, *size, 2)


@pytest.mark.parametrize("name", ["transformer", "u-net", "mlp"])
def test_mixed_precision_stays_close(name):
    network, x = built(name)
    network, x = network.float(), x.float()
    s, t = (time.float() for time in times())
    exact = network(x, s, t)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(x, s, t)
    half = network.bfloat16()(x.bfloat16(), s, t)
    for rough in (mixed, half):
        assert (rough.float() - exact).norm() < 0.05 * exact.norm()


def test_unusable_input_is_explained():
    s, t = (time.float() for time in times())
    with pytest.raises(ValueError, match="without shape="):
        Transformer(3, 8, 1, 2, shape=(4,))(torch.zeros(BATCH, 5, 3), s, t)
    with pytest.raises(ValueError, match="one of each per sample"):
        Transformer(3, 8, 1, 2)(torch.zeros(BATCH, 5, 3), s[:, None], t)
    with pytest.raises(ValueError, match="without labels"):
        MLP(LINE, 8)(torch.zeros(BATCH, *LINE), s, t, Condition(label=torch.tensor([0, 1])))
    with pytest.raises(ValueError, match=r"shape \(4, 3\), expected \(5, 3\)"):
        MLP(LINE, 8)(torch.zeros(BATCH, 4, 3), s, t)
    with pytest.raises(ValueError, match="without shape="):
        UNet(3, 4, shape=(4, 4))(torch.zeros(BATCH, 5, 4, 3), s, t)
    with pytest.raises(ValueError, match=r"\(batch, H, W, d\)"):
        UNet(3, 4)(torch.zeros(BATCH, 4, 3), s, t)
    with pytest.raises(ValueError, match=r"shape \(5,\), expected \(4,\)"):
        Convolutions(3, 8, shape=(4,))(torch.zeros(BATCH, 5, 3), s, t)
    with pytest.raises(ValueError, match="kernel is 4"):
        Convolutions(3, 8, kernel=4)
    with pytest.raises(ValueError, match="multiple of heads"):
        Transformer(3, 8, 1, 3)


def test_one_modulation_serves_all_blocks_with_a_constant_of_each():
    torch.manual_seed(0)
    own, shared = (Transformer(5, width=32, depth=4, out=5, shared=shared) for shared in (False, True))
    count = lambda net: sum(p.numel() for p in net.parameters())  # noqa: E731
    assert count(own) - count(shared) == 3 * (32 + 1) * 6 * 32 - 4 * 6 * 32
    for p in shared.parameters():
        torch.nn.init.normal_(p, std=0.2)
    x, s, t = torch.randn(3, 7, 5), torch.full((3,), 0.3), torch.full((3,), 0.6)
    before = shared(x, s, t)
    shared.blocks[2].offset.data[0] += 1  # a shift of one block
    assert (shared(x, s, t) - before).abs().max() > 1e-3


@pytest.mark.parametrize(
    "make",
    [
        lambda split: Transformer(3, 8, 3, 2, out=3, split=split),
        lambda split: GraphTransformer(3, 2, width=8, edge=4, depth=3, heads=2, paths=2, split=split),
        lambda split: Convolutions(3, 8, 1, 3, (1, 2, 1), 2, out=3, split=split),
    ],
    ids=["transformer", "graph", "convolutions"],
)
def test_split_blocks_agree_with_whole_ones_on_the_diagonal_and_know_both_times_off_it(make):
    whole, split = (stirred(make(share)) for share in (None, 2 / 3))
    split.load_state_dict(whole.state_dict())
    x = draw({"atoms": (4, 3), "bonds": (4, 4, 2)} if isinstance(whole, GraphTransformer) else LINE)
    s, t = times()
    close(split(x, s, s), whole(x, s, s), rtol=0, atol=0)
    here, *others = (next(leaves(split(x, a, b)))[0] for a, b in ((s, t), (s + 0.01, t), (s, t + 0.01)))
    assert all((here - other).abs().max() > 1e-4 for other in others)


@pytest.mark.parametrize(("split", "depth"), [(0.1, 3), (1.0, 3), (0.5, 1), (-1, 2)])
def test_a_split_that_hides_a_time_is_refused(split, depth):
    x, s = draw(LINE), times()[0]
    with pytest.raises(ValueError, match="which would know s: expected 1 to"):
        Transformer(3, 8, depth, 2, out=3, split=split).double()(x, s, s)
