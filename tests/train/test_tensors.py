"""Files of tensors: shared ones once, strict in names, shapes, types and sharing, whole or refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from flowmaps.train import CheckpointError
from flowmaps.train.tensors import restore, write_tensors
from train.toys import Tied, assert_equal_bits


def test_every_kind_of_tensor_returns_bit_for_bit(tmp_path):
    base = torch.arange(12.0)
    tensors = {
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
        "bf16": torch.randn(3).bfloat16(),
        "double": torch.randn(2, 2, dtype=torch.float64),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(5),
        "empty": torch.zeros(0, 3),
        "empty_too": torch.zeros(0, 3),
        "transposed": base.reshape(3, 4).t(),
        "head": base[:4],
        "tail": base[4:],
    }
    write_tensors(tmp_path / "file", tensors)
    target = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    restore(target, tmp_path / "file")
    for name, tensor in tensors.items():
        assert torch.equal(target[name].nan_to_num(7), tensor.nan_to_num(7)) and target[name].dtype == tensor.dtype


def test_shared_weights_are_stored_once_and_stay_shared(tmp_path):
    module, other = Tied(), Tied()
    write_tensors(tmp_path / "file", module.state_dict())
    assert "encoder.weight" in load_file(tmp_path / "file") and "again.weight" not in load_file(tmp_path / "file")
    restore(other.state_dict(), tmp_path / "file")
    assert_equal_bits(module.state_dict(), other.state_dict())
    assert other.again.weight is other.encoder.weight


def parts(*shared: str) -> dict[str, torch.Tensor]:
    """Tensors a, b, c of which those named are one."""
    one = torch.ones(2)
    return {name: one if name in shared else torch.ones(2) for name in "abc"}


@pytest.mark.parametrize(
    "stored, live, match",
    [
        (parts(), parts("a", "b"), "b is unknown"),
        (parts("a", "b"), parts(), "b is missing"),
        (parts("b", "c"), parts("a", "c"), "c shares its values with b there and with a here"),
    ],
)
def test_tensors_shared_otherwise_are_refused(tmp_path, stored, live, match):
    write_tensors(tmp_path / "file", stored)
    with pytest.raises(CheckpointError, match=match):
        restore(live, tmp_path / "file")


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda m: setattr(m, "extra", nn.Linear(2, 2)), "extra.weight is missing; extra.bias is missing"),
        (lambda m: delattr(m, "norm"), "norm.bias is unknown; .* and 1 more;"),
        (
            lambda m: setattr(m, "decoder", nn.Linear(8, 5)),
            r"decoder.weight is \(4, 8\) torch.float32, expected \(5, 8\)",
        ),
        (lambda m: m.double(), "expected .* torch.float64; .* more;"),
    ],
)
def test_weights_load_strictly_and_a_refusal_changes_nothing(tmp_path, change, match):
    write_tensors(tmp_path / "file", Tied().state_dict())
    module = Tied()
    change(module)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(CheckpointError, match=match) as caught:
        restore(module.state_dict(), tmp_path / "file")
    assert "config.json" in str(caught.value) and "\n" not in str(caught.value)
    assert_equal_bits(before, module.state_dict())


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-5], lambda b: b[:7], lambda b: b"", lambda b: b"x" * len(b), lambda b: b + b"x"]
)
def test_a_file_that_is_not_whole_is_refused(tmp_path, damage):
    path = tmp_path / "file"
    write_tensors(path, Tied().state_dict())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="cannot read"):
        restore(Tied().state_dict(), path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="cannot read .*nowhere"):
        restore({}, tmp_path / "nowhere")


def test_state_that_is_not_a_tensor_is_refused(tmp_path):
    class Odd(nn.Linear):
        def get_extra_state(self):
            return {"anything": 1}

    with pytest.raises(ValueError, match="_extra_state of the state is a dict; only tensors"):
        write_tensors(tmp_path / "file", Odd(2, 2).state_dict())
