"""What a Trainer's `precision` means: the format in which its matrix products are computed."""

from __future__ import annotations

import sys

import torch

from encdec_lightning.kernels.products import processor_has_bf16

LOW = {"bf16": torch.bfloat16, "16": torch.float16}


def low_dtype(precision: str | int | None) -> torch.dtype | None:
    """The dtype of 16 bits that a precision (`bf16-mixed`, 16, `16-true`) computes in; None for all others."""
    return LOW.get(str(precision).partition("-")[0])


def autocast(precision: str | int | None, device: torch.device) -> torch.autocast:
    """The context in which a model on the device computes as under a Trainer of that precision."""
    dtype = low_dtype(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def is_emulated(precision: str | int | None, device: torch.device) -> bool:
    """Whether a processor has no instructions for bf16, and a precision of 16 bits takes a hundred times as long."""
    return device.type == "cpu" and low_dtype(precision) is not None and not processor_has_bf16()


def precision_of_texts(precision: str | int | None, device: torch.device) -> str | int | None:
    """The precision in which a run's texts are written on a device: the run's own, unless it would be emulated.

    Then it is fp32, which a line on stderr says.
    """
    if not is_emulated(precision, device):
        return precision
    print(
        f"trainer.precision is {precision}: this processor has no instructions for it and would take a hundred times "
        "as long, so the model works in fp32 here; a few texts may end otherwise.",
        file=sys.stderr,
    )
    return "32-true"
