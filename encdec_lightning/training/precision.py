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
    """Whether a precision is bf16, and this processor, which has no instructions for it, takes many times as long."""
    return device.type == "cpu" and low_dtype(precision) is torch.bfloat16 and not processor_has_bf16()


def precision_of_texts(precision: str | int | None, device: torch.device) -> str | int | None:
    """The precision in which a run's texts are written on a device: the run's own, unless a processor is slow in it.

    A processor that would emulate bf16 works in fp32. fp16 is for GPUs: processors work in bf16, or in fp32 as well. A
    line on stderr says so.
    """
    if device.type != "cpu" or low_dtype(precision) is None:
        return precision
    if processor_has_bf16():
        if low_dtype(precision) is torch.bfloat16:
            return precision
        chosen = "bf16-mixed"
    else:
        chosen = "32-true"
    print(
        f"trainer.precision is {precision}, in which this processor would be many times slower: the model works in "
        f"{chosen} here, and a few texts may end otherwise.",
        file=sys.stderr,
    )
    return chosen
