"""`trainer.precision=auto`, decided on the machine at hand before the config is frozen."""

from __future__ import annotations

import sys
from dataclasses import replace

from encdec_lightning.cache.folder import cache_folder
from encdec_lightning.config import Config

AUTO = "auto"


def with_precision(config: Config) -> Config:
    """The config with a precision that is decided and said; one that gives a precision stays as it is.

    On a GPU bf16-mixed where it multiplies bf16 in hardware, else 32-true. On a processor, which may know bf16 and be
    slower in it, whichever is faster in products of this model's shape. The configs of the model's sides must be sound.
    """
    if config.trainer.get("precision") != AUTO:
        return config
    chosen, reason = _on_gpu() if uses_gpu(config) else _on_processor(config)
    print(f"precision=auto is {chosen} here: {reason}.", file=sys.stderr)
    return replace(config, trainer={**config.trainer, "precision": chosen})


def uses_gpu(config: Config) -> bool:
    """Whether the training runs on one, as far as the options tell."""
    import torch

    return config.trainer.get("accelerator", AUTO) in (AUTO, "gpu", "cuda") and torch.cuda.is_available()


def _on_gpu() -> tuple[str, str]:
    import torch

    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16-mixed", "the GPU multiplies bf16 in hardware"
    return "32-true", "the GPU has no bf16"


def _on_processor(config: Config) -> tuple[str, str]:
    from encdec_lightning.composition.sides.config import side_config
    from encdec_lightning.training.product_speeds import faster_precision

    width = side_config(config.model.sides[-1]).hidden_size
    chosen, speeds = faster_precision(width, config.data.batch_tokens, cache_folder(config.data.cache))
    if speeds is None:
        return chosen, "this processor has no instructions for bf16"
    bf16, fp32 = (f"{speed / 1e9:,.0f}" for speed in (speeds.bf16, speeds.fp32))
    return chosen, f"products of this model's width run at {bf16} GFLOP/s in bf16 and {fp32} in fp32"
