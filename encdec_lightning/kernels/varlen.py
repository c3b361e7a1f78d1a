"""Attention of packed examples on a GPU: torch's variable-length attention, which reads and computes no padding."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from encdec_lightning.kernels.packing import Packing

DEVICES = ("cuda",)
HEAD_SIZES = range(8, 257, 8)
DTYPES = (torch.bfloat16, torch.float16)


@functools.cache
def torch_varlen() -> Callable[..., Tensor] | None:
    """Torch's function; none: this torch has none that takes a scale and a window."""
    try:
        found: Any = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except (ImportError, AttributeError):
        return None
    return found if {"scale", "window_size"} <= inspect.signature(found).parameters.keys() else None


@functools.cache
def runs_flash_attention(device: torch.device) -> bool:
    """Whether a device computes it, as NVIDIA's do since Ampere."""
    return device.type in DEVICES and torch.cuda.get_device_capability(device) >= (8, 0)


def packed_varlen(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None, is_causal: bool
) -> Tensor:
    """Attention within each example, (1, H, N, D) and (1, K, M, D) twice to (1, N, H, D), without dropout.

    Each of the K heads of keys and values is that of H / K heads of queries.
    """
    function = torch_varlen()
    assert function is not None
    device = query.device.type
    if torch.is_autocast_enabled(device):
        query, key, value = (each.to(torch.get_autocast_dtype(device)) for each in (query, key, value))
    if key.shape[1] != query.shape[1]:  # not every torch takes fewer heads of keys
        key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], dim=1) for each in (key, value))
    (starts, longest), (of_keys, longest_keys) = packing.starts(query.shape[2]), packing.starts(key.shape[2])
    tokens = (each.transpose(1, 2)[0] for each in (query, key, value))
    window = (-1, 0 if is_causal else -1)
    output = function(*tokens, starts, of_keys, longest, longest_keys, scale=scaling, window_size=window)
    return output[None]
