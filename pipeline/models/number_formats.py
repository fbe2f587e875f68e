"""Number formats, and which of them a device computes in hardware."""

from __future__ import annotations

from typing import Literal

import torch

from pipeline.machine import has_bfloat16
from pipeline.models import packed_conv

Precision = Literal["fp32", "mixed", "bf16", "fp16"]


def first_format(precision: Precision, device: str) -> torch.dtype:
    """The number format that a precision computes all images in; ``mixed`` computes some again in float32.

    Args:
        precision: The precision.
        device: ``cpu`` or ``cuda``.
    """
    if precision == "mixed":
        return torch.float16 if device == "cuda" else torch.bfloat16
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def is_in_hardware(precision: Precision, device: str) -> bool:
    """Whether a device computes the format of a precision in hardware; if not, fp32 is faster, and exact.

    A CPU needs the instructions, and a torch that uses them.

    Args:
        precision: The precision.
        device: ``cpu`` or ``cuda``; of a GPU nothing is asked.
    """
    dtype = first_format(precision, device)
    if device != "cpu" or dtype == torch.float32:
        return True
    return packed_conv.is_available(dtype) and (dtype != torch.bfloat16 or has_bfloat16())
