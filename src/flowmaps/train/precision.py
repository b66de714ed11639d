"""Which numbers a device computes with."""

from __future__ import annotations

import logging

import torch

BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # instructions of processors: Intel and AMD, Intel, Arm

log = logging.getLogger(__name__)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products in bfloat16. Without them these are emulated, and slower than
    float32: seven times on a processor with AVX2 (``bench/results/precision.md``)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    can = torch.cpu.get_capabilities() if device.type == "cpu" and torch.backends.mkldnn.is_available() else {}
    return any(can.get(name, False) for name in BFLOAT16)


def settled(precision: str, device: torch.device) -> str:
    """The precision of a run on a device: ``"auto"`` is bfloat16 where that is the faster, else float32."""
    if precision == "auto":
        return "bf16-mixed" if computes_bfloat16(device) else "32-true"
    if precision == "bf16-mixed" and not computes_bfloat16(device):
        log.warning(
            "%s has no instructions for bfloat16, which is several times slower here than float32; take "
            "precision auto or 32-true", "the processor" if device.type == "cpu" else f"the device {device}",
        )  # fmt: skip
    return precision
