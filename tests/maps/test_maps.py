"""Chunks, reductions, memory of large alphabets, and what a map is made of."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flowmaps import objectives as O
from flowmaps.evaluation import Readout, in_chunks, per_example
from flowmaps.fields import Batch, Condition
from flowmaps.maps import EndpointMap
from flowmaps.networks import MLP, LinearHead, TiedHead, Transformer
from flowmaps.paths import GeodesicPath
from flowmaps.samplers import Categorical, Jumps, generate
from flowmaps.spaces import Embedded, OneHot, Product
from identities.cases import LEARNED, jump, randomised, seeded

CHUNKED = [O.Lagrangian, O.LagrangianCE, O.LagrangianKL, O.EndpointConsistency, O.Eulerian, O.EulerianKL, O.SemigroupKL]


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation allocates."""

    def __init__(self):
        super().__init__()
        self.size, self.where = 0, ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() // 4 > self.size:
                self.size, self.where = tensor.untyped_storage().nbytes() // 4, str(func)
        return out


def small(K: int, space, chunk, d: int = 8):
    network = Transformer(space.dim, width=16, depth=1, heads=2, K=K)
    return EndpointMap(GeodesicPath(space), network, LinearHead(16, K), chunk=chunk)


@pytest.mark.parametrize("objective", CHUNKED)
@pytest.mark.parametrize("name", ["embedded, chunked"])
def test_chunks_change_nothing(name, objective):
    flow_map = randomised(LEARNED[name]())
    here = jump(flow_map)
    results = []
    for chunk in (None, 1, 5, 1000):
        flow_map.chunk = chunk
        flow_map.zero_grad()
        values = objective()(flow_map, flow_map, here)
        values["loss"].sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in flow_map.parameters() if p.grad is not None])
        results.append((values["loss"].detach(), gradient))
    for loss, gradient in results[1:]:
        assert torch.allclose(loss, results[0][0], atol=1e-12)
        assert torch.allclose(gradient, results[0][1], atol=1e-12)


@pytest.mark.parametrize("objective", CHUNKED)
def test_embedded_states_never_allocate_positions_by_categories(objective):
    """Noise, path, map, loss, backward pass and sampling: nothing exceeds the weights or a chunk of logits."""
    K, batch, length, chunk = 2000, 8, 32, 16
    flow_map = small(K, Embedded(K, 8), chunk)
    loss = O.SelfDistillation(flow_map, objective(), share=0.5)
    data = Batch(torch.randint(K, (batch, length), generator=seeded()))
    with Largest() as trace:
        loss(data, loss.draw(data, seeded()))["loss"].backward()
        generate(flow_map, Jumps(2), (batch, length), seeded(), decoder=Categorical(0.9))
    bound = max(chunk * K, K * 16)  # a chunk of logits, a matrix of weights
    assert trace.size <= bound < batch * length * K, trace.where


def test_the_trace_sees_a_dense_state():
    """The test above can fail: plain one-hot states of the same problem are found out."""
    K, batch, length = 2000, 8, 32
    flow_map = small(K, OneHot(K), 16)
    loss = O.SelfDistillation(flow_map, O.SemigroupKL(), share=0.5)
    data = Batch(torch.randint(K, (batch, length), generator=seeded()))
    with Largest() as trace:
        loss(data, loss.draw(data, seeded()))["loss"].backward()
    assert trace.size >= batch * length * K


def test_a_tied_head_shares_the_read_in():
    space = Embedded(50, 16)
    flow_map = EndpointMap(GeodesicPath(space), Transformer(16, width=16, depth=1, heads=2, K=50), TiedHead(space))
    loss = O.SelfDistillation(flow_map, O.Lagrangian())
    data = Batch(torch.randint(50, (8, 4), generator=seeded()))
    loss(data, loss.draw(data, seeded()))["loss"].backward()
    assert sum(p.shape == (50, 16) for p in flow_map.parameters()) == 1
    assert float(space.weight.grad.abs().sum()) > 0


def test_coefficients_reach_their_positions():
    h = torch.arange(12.0).reshape(2, 3, 2)
    per_batch, per_position = torch.tensor([10.0, 20.0]), torch.arange(6.0).reshape(2, 3)
    for chunk in (None, 2):
        out = in_chunks(
            lambda z, a, b: z.sum(-1) + a.squeeze(-1) + b.squeeze(-1),
            Readout(lambda h: h, h),
            per_batch,
            per_position,
            chunk=chunk,
        )
        assert torch.equal(out, h.sum(-1) + per_batch.unsqueeze(1) + per_position)


def test_means_leave_out_padding_and_given_positions():
    values = torch.tensor([[1.0, 2.0, 4.0, 100.0]])
    condition = Condition(
        mask=torch.tensor([[True, True, True, False]]), known=torch.tensor([[True, False, False, False]])
    )
    assert per_example(values, condition).tolist() == [3.0]
    assert per_example(values, Condition(mask=torch.zeros(1, 4, dtype=torch.bool))).tolist() == [0.0]


def two_fields(chunk=None):
    """A map of two fields with a head each."""
    space = Product({"a": OneHot(3), "b": OneHot(2, symmetric=True)})
    network = randomised(MLP({"a": (4, 3), "b": (4, 4, 2)}, width=16, depth=1, out=8))
    heads = torch.nn.ModuleDict({"a": LinearHead(8, 3), "b": LinearHead(8, 2)})
    return randomised(EndpointMap(GeodesicPath(space), network, heads, chunk)).float()


@pytest.mark.parametrize("chunk", [None, 5])
def test_emphasis_multiplies_the_losses_of_a_field(chunk):
    """L = 2 L_a + 3 L_b, values and gradients, whether predictions exist at once or in chunks."""
    flow_map = two_fields(chunk)
    x = torch.randint(2, (8, 4, 4), generator=seeded())
    batch = Batch({"a": torch.randint(3, (8, 4), generator=seeded()), "b": torch.triu(x, 1) + torch.triu(x, 1).mT})

    def loss(**emphasis):
        objective = O.SelfDistillation(flow_map, O.SemigroupKL(), emphasis=emphasis)
        flow_map.zero_grad()
        total = objective(batch, objective.draw(batch, seeded()))["loss"]
        total.backward()
        return torch.cat([total.detach().reshape(1), *(p.grad.flatten() for p in flow_map.parameters())])

    plain, a, b = loss(), loss(a=2.0) - loss(), loss(b=2.0) - loss()
    assert a[0] > 0.1 and b[0] > 0.1 and torch.allclose(plain, a + b, atol=1e-5)
    assert torch.allclose(loss(a=2.0, b=3.0), 2 * a + 3 * b, atol=1e-5)
    for wrong in ({"c": 1.0}, {"a": 0.0}):
        with pytest.raises(ValueError, match=r"expected positive factors of \['a', 'b'\]"):
            O.SelfDistillation(flow_map, emphasis=wrong)
    with pytest.raises(ValueError, match="of no field"):
        O.SelfDistillation(small(3, OneHot(3), None), emphasis={"a": 2.0})


def test_padding_never_reaches_the_loss():
    flow_map = randomised(LEARNED["transformer"]()).float()
    mask = torch.ones(8, 4, dtype=torch.bool)
    mask[:, 3] = False
    x_1 = torch.randint(3, (8, 4), generator=seeded())
    other = x_1.clone()
    other[:, 3] = (other[:, 3] + 1) % 3
    for objective in CHUNKED:
        loss = O.SelfDistillation(flow_map, objective())
        results = [
            loss(batch, loss.draw(batch, seeded(1)))["loss"]
            for batch in (Batch(x_1, Condition(mask=mask)), Batch(other, Condition(mask=mask)))
        ]
        assert torch.allclose(*results, atol=1e-6), objective.__name__


def test_a_chunk_of_nothing_is_refused():
    with pytest.raises(ValueError, match="chunk is 0"):
        small(4, OneHot(4), 0)


def test_a_zero_head_over_zero_features_is_refused():
    """Of z = h Wᵀ both gradients vanish with h and W: no other weight than the offset would ever move."""
    space, head = Embedded(7, 16), LinearHead(16, 7)
    build = lambda network, head: EndpointMap(GeodesicPath(space), network, head)  # noqa: E731
    silent = MLP((4, 16), width=16, depth=1, K=7)
    h = silent(torch.randn(2, 4, 16, generator=seeded()), torch.zeros(2), torch.ones(2))
    head(h).log_softmax(-1)[..., 0].sum().backward()
    assert not any(p.grad.any() for p in [*silent.parameters(), head.weight] if p.grad is not None)
    assert head.bias.grad.any()
    with pytest.raises(ValueError, match=r"MLP and its head are both zero.*out=None"):
        build(silent, head)
    with pytest.raises(ValueError, match=r"Transformer and its head are both zero"):
        build(Transformer(16, width=16, depth=1, heads=2, out=16, K=7), head)
    with torch.device("meta"):
        EndpointMap(GeodesicPath(space), MLP((4, 16), width=16, depth=1, K=7), LinearHead(16, 7))  # no numbers yet
    build(silent, TiedHead(space))
    build(Transformer(16, width=16, depth=1, heads=2, K=7), head)
    torch.nn.init.ones_(silent.write.bias)
    build(silent, head)
