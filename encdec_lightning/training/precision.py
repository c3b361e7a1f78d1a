"""What a Trainer's `precision` means: the format in which its matrix products are computed."""

from __future__ import annotations

import torch

LOW = {"bf16": torch.bfloat16, "16": torch.float16}


def low_dtype(precision: str | int | None) -> torch.dtype | None:
    """The dtype of 16 bits that a precision (`bf16-mixed`, 16, `16-true`) computes in; None for all others."""
    return LOW.get(str(precision).partition("-")[0])


def autocast(precision: str | int | None, device: torch.device) -> torch.autocast:
    """The context in which a model on the device computes as under a Trainer of that precision."""
    dtype = low_dtype(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
