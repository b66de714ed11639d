"""What is counted on tensors without memory is what real ones take."""

import re
from functools import partial
from itertools import accumulate

import pytest
import torch
from torch._C._profiler import _ExtraFields_Allocation
from torch.profiler import ProfilerActivity, profile

from flowmaps.data.text_known import blank
from flowmaps.networks import Transformer, plain, use_backend
from flowmaps.objectives import EulerianKL, Lagrangian, SelfDistillation, SemigroupKL
from flowmaps.planning.libraries import kept
from flowmaps.planning.trace import traced
from flowmaps.tasks.text import build_map
from flowmaps.train import AdamW

CASES = {
    "diagonal": (None, None),
    "semigroup": (SemigroupKL, None),
    "semigroup, chunks": (SemigroupKL, 32),
    "Lagrangian, chunks": (Lagrangian, 32),
    "Eulerian": (EulerianKL, None),
}


def objective(consistency, chunk, depth=2):
    torch.manual_seed(0)
    network = partial(Transformer, width=32, depth=depth, heads=2, reach=2)
    flow_map = build_map(500, network, embedding=32, chunk=chunk)
    return SelfDistillation(flow_map, consistency and consistency(), share=0.75 if consistency else 1.0)


def most_alive(one, batch, half):
    """Bytes that one real micro-batch adds at its peak: forward and backward pass, gradients kept."""
    one.train()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        draw = one.draw(batch, torch.Generator().manual_seed(0))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = one(batch, draw)["loss"]
        loss.backward()
    assert record.profiler is not None and record.profiler.kineto_results is not None
    waiting, changes = list(record.profiler.kineto_results.experimental_event_tree()), []
    while waiting:
        event = waiting.pop()
        waiting += event.children
        fields = event.extra_fields
        if isinstance(fields, _ExtraFields_Allocation):
            changes.append((event.start_time_ns, fields.alloc_size))
    return max(accumulate(size for _, size in sorted(changes, key=lambda change: change[0])))


@pytest.mark.parametrize("name, half", [(name, "chunks" in name) for name in CASES])
def test_the_peak_is_that_of_real_tensors(name, half, capfd):
    """And products in bfloat16 are those that oneDNN says that it computes; the smallest are not."""
    batch = blank(8, 48, given=True)
    found = traced(objective(*CASES[name]), batch, AdamW(), half)
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        real = most_alive(objective(*CASES[name]), batch, half)
    assert sum(found.staying.values()) == pytest.approx(real, rel=0.02)
    said = set(re.findall("exec,cpu,(matmul,.*bf16.*),", capfd.readouterr().out))
    assert half or found.halves == len(said) == 0
    if half and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert len(said) > 40 and found.halves == pytest.approx(len(said), rel=0.1)


def test_libraries_keep_a_buffer_and_code_up_to_the_size_of_their_caches():
    plain = kept(widest=4, halves=0)
    assert kept(8, 0) == 2 * plain
    code = kept(4, 1) - plain
    assert kept(4, 50) - plain == pytest.approx(50 * code)
    assert kept(4, 5000) == kept(4, 1024)


def test_moments_and_operations_are_those_of_the_formulas():
    one = objective(None, None)
    found = traced(one, blank(8, 48, given=False), AdamW())
    trained = [p for p in one.parameters() if p.requires_grad]
    assert found.moments == pytest.approx(8 * sum(p.numel() for p in trained), rel=0.01)
    again = traced(one, blank(16, 48, given=False), AdamW())  # the same weights: all products but the Gram's grow
    gram = 3 * 2 * 500 * 32 * 32
    assert again.flops == pytest.approx(2 * found.flops, abs=2 * gram)
    assert found.forward < found.flops < 3.2 * found.forward


def test_attention_with_a_tangent_is_planned_as_it_is_computed():
    """On long rows by the operation of pairs, which keeps nothing of length x length."""
    one, batch = objective(Lagrangian, None, depth=1), blank(2, 160, given=True)
    paired = traced(one, batch, AdamW())
    use_backend(one, plain)
    products = traced(one, batch, AdamW())
    matrix = 2 * 160 * 160 * 4  # of the one example with a tangent, in bytes
    assert products.kept - paired.kept > 5 * matrix
    assert products.flops < paired.flops < 1.1 * products.flops  # some products are computed anew
