"""The graph transformer under permutation, padding, tangents and conditions, and through the objective."""

import pytest
import torch

from flowmaps.autodiff import CentralDifference, ForwardMode
from flowmaps.fields import Batch, Condition
from flowmaps.maps import EndpointMap
from flowmaps.networks.graph import NONE, GraphTransformer
from flowmaps.objectives import Frozen, Lagrangian, SelfDistillation
from flowmaps.paths import GeodesicPath
from flowmaps.samplers import Jumps, generate
from flowmaps.spaces import OneHot, Product

KA, KB, B, N = 3, 4, 5, 6
SIZES = torch.tensor([6, 4, 1, 5, 2])


def masks(sizes=SIZES, n=N):
    atoms = torch.arange(n) < sizes.unsqueeze(1)
    return {"atoms": atoms, "bonds": (atoms.unsqueeze(1) & atoms.unsqueeze(2)).triu(1)}


def network(seed=0, **options):
    torch.manual_seed(seed)
    net = GraphTransformer(KA, KB, **{"width": 16, "edge": 8, "depth": 2, "heads": 2, "paths": 4, **options})
    for p in net.parameters():  # heads start at zero: shake everything so that nothing is trivially equal
        torch.nn.init.normal_(p, std=0.3)
    return net.double()


def state(seed=0, n=N):
    g = torch.Generator().manual_seed(seed)
    bonds = torch.randn(B, n, n, KB, generator=g, dtype=torch.float64)
    return {"atoms": torch.randn(B, n, KA, generator=g, dtype=torch.float64), "bonds": bonds + bonds.transpose(1, 2)}


def times(seed=0):
    s, t = torch.rand(2, B, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).sort(0).values
    return s, t


def both(net, x, condition):
    """Logits, and their derivative along a direction in the state and both times."""
    s, t = times()
    tangents = (state(7, x["atoms"].shape[1]), torch.ones_like(s), 0.5 * torch.ones_like(t))
    return net, (x, s, t), tangents, condition


def permuted(tree, order):
    """Atoms renumbered, sample by sample the same way."""
    return {"atoms": tree["atoms"][:, order], "bonds": tree["bonds"][:, order][:, :, order]}


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("paths", [0, 4])
def test_permuting_atoms_permutes_logits_and_derivatives(known, paths):
    net, order = network(paths=paths), torch.randperm(N, generator=torch.Generator().manual_seed(1))
    ball = torch.arange(N) % 3 == 0
    given = {"atoms": ball.expand(B, N), "bonds": (ball[:, None] & ball).expand(B, N, N)} if known else None
    exists = masks()["atoms"]
    whole = {"atoms": exists, "bonds": exists.unsqueeze(1) & exists.unsqueeze(2)}
    x, dx = state(), state(7)
    s, t = times()
    slopes = (torch.ones_like(s), 0.5 * torch.ones_like(t))
    plain = ForwardMode()(net, (x, s, t), (dx, *slopes), Condition(whole, given))
    moved = ForwardMode()(
        net,
        (permuted(x, order), s, t),
        (permuted(dx, order), *slopes),
        Condition(permuted(whole, order), None if given is None else permuted(given, order)),
    )
    for one, other in zip(plain, moved, strict=True):
        for name, value in permuted(one, order).items():
            assert torch.allclose(value, other[name], atol=1e-10), name
    assert plain[1]["bonds"].abs().max() > 1e-3


def test_padding_changes_neither_logits_nor_derivatives():
    net, wide = network(), N + 3
    x, dx, s, t = state(), state(7), *times()
    slopes = (torch.ones_like(s), torch.ones_like(t))
    far, dfar = state(3, wide), state(4, wide)  # anything at all stands in the padding
    for name, inner, into in (("atoms", x, far), ("atoms", dx, dfar)):
        into[name][:, :N] = inner[name]
        into["bonds"][:, :N, :N] = inner["bonds"]
    near = ForwardMode()(net, (x, s, t), (dx, *slopes), Condition(masks()))
    out = ForwardMode()(net, (far, s, t), (dfar, *slopes), Condition(masks(n=wide)))
    for one, other in zip(near, out, strict=True):
        exists, pairs = masks()["atoms"], masks()["bonds"]
        assert torch.allclose(one["atoms"][exists], other["atoms"][:, :N][exists], atol=1e-10)
        assert torch.allclose(one["bonds"][pairs], other["bonds"][:, :N, :N][pairs], atol=1e-10)


def test_bonds_are_symmetric_and_there_are_none_outside_the_graph():
    z = network()(state(), *times(), Condition(masks()))
    assert torch.equal(z["bonds"], z["bonds"].transpose(1, 2))
    pairs = masks()["bonds"] | masks()["bonds"].transpose(1, 2)
    none = torch.tensor([NONE, 0, 0, 0], dtype=torch.float64)
    assert (z["bonds"][~pairs] == none).all() and (z["bonds"][pairs] != none).any(-1).all()
    assert (z["atoms"][~masks()["atoms"]].argmax(-1) == 0).all()


def test_forward_mode_is_the_central_difference():
    arguments = both(network(), state(), Condition(masks()))
    exact, near = ForwardMode()(*arguments), CentralDifference(1e-6)(*arguments)
    for name in ("atoms", "bonds"):
        assert torch.allclose(exact[1][name], near[1][name], atol=1e-5), name


def test_gradient_through_the_tangent_is_the_finite_difference_of_the_loss():
    net = network()
    flow_map = EndpointMap(GeodesicPath(Product({"atoms": OneHot(KA), "bonds": OneHot(KB, symmetric=True)})), net)
    objective = SelfDistillation(flow_map, Lagrangian(), share=0.4).double()
    g = torch.Generator().manual_seed(0)
    bonds = torch.randint(KB, (B, N, N), generator=g).triu(1)
    x_1 = {"atoms": torch.randint(KA, (B, N), generator=g), "bonds": bonds + bonds.transpose(1, 2)}
    batch = Batch(x_1, Condition(masks()))
    draw = objective.draw(batch, g)
    draw = draw._replace(
        noise={k: v.double() for k, v in draw.noise.items()}, s=draw.s.double(), t=draw.t.double(), r=draw.r.double()
    )
    objective.teacher = Frozen(flow_map)  # targets carry no gradient, so they stay where they are
    weight = net.blocks[0].edge_up.weight
    objective(batch, draw)["loss"].backward()
    direction = torch.randn(weight.shape, generator=g, dtype=torch.float64)
    slope = float((weight.grad * direction).sum())
    h, values = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * h * direction)
            values.append(float(objective(batch, draw)["loss"]))
            weight.sub_(sign * h * direction)
    assert slope == pytest.approx((values[0] - values[1]) / (2 * h), rel=2e-2, abs=1e-6)


def test_a_known_graph_does_not_depend_on_the_times():
    net = network()
    exists = torch.ones(B, N, dtype=torch.bool)
    known = {"atoms": exists, "bonds": exists.unsqueeze(1) & exists.unsqueeze(2)}
    s, t = times()
    condition = Condition(masks(torch.full((B,), N)), known)
    one, other = (net(state(), *pair, condition) for pair in ((s, t), (s / 2, t / 3)))
    for name in ("atoms", "bonds"):
        assert torch.allclose(one[name], other[name], atol=1e-10)


def test_samples_keep_what_is_given_and_stay_symmetric():
    net = network().float()
    flow_map = EndpointMap(GeodesicPath(Product({"atoms": OneHot(KA), "bonds": OneHot(KB, symmetric=True)})), net)
    exists = masks(torch.full((B,), N))
    ball = (torch.arange(N) < 3).expand(B, N)
    known = {"atoms": ball, "bonds": ball.unsqueeze(1) & ball.unsqueeze(2)}
    given = {"atoms": torch.full((B, N), 2), "bonds": torch.full((B, N, N), 3)}
    shape = {"atoms": (B, N), "bonds": (B, N, N)}
    x = generate(
        flow_map, Jumps(2), shape, torch.Generator().manual_seed(0), condition=Condition(exists, known), given=given
    )
    assert (x["atoms"][:, :3] == 2).all() and (x["bonds"][:, :3, :3] == 3).all()
    assert torch.equal(x["bonds"], x["bonds"].transpose(1, 2))


def test_shapes_that_do_not_belong_together_are_named():
    x = state()
    with pytest.raises(ValueError, match="expected .B, n, K_a. and .B, n, n, K_b."):
        network()({"atoms": x["atoms"], "bonds": x["bonds"][:, :3]}, *times())
    with pytest.raises(ValueError, match="multiple of heads"):
        GraphTransformer(KA, KB, width=10, heads=4)


def test_with_places_the_order_of_the_atoms_matters_and_padding_still_does_not():
    net, (s, t) = network(places=N), times()
    x = state()
    order = torch.tensor([1, 0, *range(2, N)])
    permuted = {"atoms": x["atoms"][:, order], "bonds": x["bonds"][:, order][:, :, order]}
    z, w = net(x, s, t), net(permuted, s, t)
    assert (w["atoms"] - z["atoms"][:, order]).abs().max() > 1e-3
    small = {"atoms": x["atoms"][:, :4], "bonds": x["bonds"][:, :4, :4]}
    sizes = torch.full((B,), 4)
    padded, cut = net(x, s, t, Condition(masks(sizes))), net(small, s, t, Condition(masks(sizes, 4)))
    assert (padded["bonds"][:, :4, :4] - cut["bonds"]).abs().max() < 1e-9
    with pytest.raises(ValueError, match="the graph has 6 atoms, expected at most the 4 places"):
        network(places=4)(x, s, t)
