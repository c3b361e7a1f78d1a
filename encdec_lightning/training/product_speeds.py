"""Which precision a processor is faster in: measured for a moment, since the names of its instruction sets do not tell.

A processor may know bf16 and still multiply it at half the speed of fp32, or at twice, or at eight times.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from encdec_lightning.kernels.processor import instruction_sets, told
from encdec_lightning.kernels.products import linear, onednn_is_faster, processor_has_bf16

MixedOrFull = Literal["bf16-mixed", "32-true"]
GAIN = 1.1
"""So many times faster products must be in bf16 before it is chosen: fp32 is the more exact one."""
SECONDS, LEAST = 0.6, 3
"""Of the measurement, and the rounds it takes at least."""
TOKENS = 1024
"""Rows of the products that are measured, at most: more are no faster."""


@dataclass(frozen=True)
class ProductSpeeds:
    """FLOP/s of a feed-forward block's products, forward and backward, in either format."""

    fp32: float
    bf16: float

    @property
    def faster(self) -> MixedOrFull:
        """The precision for a Trainer."""
        return "bf16-mixed" if self.bf16 > GAIN * self.fp32 else "32-true"


def faster_precision(hidden: int, tokens: int, folder: Path) -> tuple[MixedOrFull, ProductSpeeds | None]:
    """What this processor is faster in, for a model so many numbers wide and batches of so many tokens.

    Without instructions for bf16 it is fp32, and nothing is measured, which would take minutes.

    Measured once for each shape: `folder` keeps the figures, so that the same command always gets the same answer on
    the same kind of processor, however busy it is.
    """
    if not processor_has_bf16():
        return "32-true", None
    rows = min(tokens, TOKENS)
    file = folder / "precision" / f"{_machine()}-{hidden}-{rows}.json"
    with suppress(OSError, ValueError, TypeError):
        kept = ProductSpeeds(**json.loads(file.read_text(encoding="utf-8")))
        return kept.faster, kept
    measured = product_speeds(hidden, rows)
    with suppress(OSError):  # a cache that cannot be written: it is measured again next time
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name(f".{file.name}.{os.getpid()}")
        fresh.write_text(json.dumps(asdict(measured)) + "\n", encoding="utf-8")
        fresh.replace(file)
    return measured.faster, measured


def product_speeds(hidden: int, rows: int, seconds: float = SECONDS) -> ProductSpeeds:
    """FLOP/s of a feed-forward block (rows, hidden) -> (rows, 4 hidden) -> (rows, hidden) with its gradients, on CPU.

    The formats take turns, so that a busy neighbour disturbs both; the best of all rounds counts.
    """
    formats = (torch.float32, torch.bfloat16)
    blocks = {each: _block(hidden, rows, each) for each in formats}
    best = dict.fromkeys(formats, float("inf"))
    end, rounds = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or rounds < LEAST:
        for each, (values, wide, narrow) in blocks.items():
            started = time.perf_counter()
            linear(linear(values, wide), narrow).backward(values.detach())
            took = time.perf_counter() - started
            if rounds:  # the first compiles the products
                best[each] = min(best[each], took)
        rounds += 1
    operations = 3 * 2 * 2 * rows * hidden * 4 * hidden  # forward and two gradients, two layers, two a multiply-add
    return ProductSpeeds(*(operations / best[each] for each in formats))


def _block(hidden: int, rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    shapes = ((rows, hidden), (4 * hidden, hidden), (hidden, 4 * hidden))
    return tuple(torch.full(shape, 0.5, dtype=dtype, requires_grad=True) for shape in shapes)


DECISIVE = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")
"""Instruction sets that decide which number format is fast."""


def processor() -> str:
    """The kind of processor in words: name, family and model, what decides its formats, threads."""
    known, sets = told(), instruction_sets()
    name = known.get("model name") or known.get("CPU part") or platform.machine()
    model = "-".join(known[each] for each in ("cpu family", "model") if each in known)
    decisive = " ".join(each for each in DECISIVE if each in sets)
    return f"{name} {model} ({decisive}), {torch.get_num_threads()} threads"


def _machine() -> str:
    """A short hash of what decides the speeds: the kind of processor, the threads, torch's version, the library."""
    known = (processor(), torch.__version__, *(["oneDNN"] if onednn_is_faster() else []))
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]
