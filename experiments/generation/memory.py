"""Bytes that the engine's cache holds for a beam: `python experiments/generation/memory.py [--beams 1 4 8]`.

Beside them what a beam must hold, keys and values of its own tokens (2 x layers x width x tokens x bytes of a number),
and what `generate` holds, which keeps the keys and values of the source once for each beam.
"""

from __future__ import annotations

import argparse

import setting
import torch

from encdec_lightning import Generation
from encdec_lightning.generation.engine import Engine


def bytes_of(layers: list[object]) -> int:
    """Of all keys and values."""
    tensors = (getattr(layer, name) for layer in layers for name in ("stored_keys", "stored_values"))
    return sum(each.numel() * each.element_size() for each in tensors)


def main() -> None:
    """Generate, then count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="minilm", choices=setting.SIZES)
    parser.add_argument("--beams", nargs="+", type=int, default=[1, 4, 8])
    options = parser.parse_args()
    model, shape = setting.model(options.size), setting.SIZES[options.size]
    texts = [torch.tensor(text) for text in setting.sources(setting.AT_ONCE)]
    column = 2 * shape["num_hidden_layers"] * shape["hidden_size"] * 2
    print("| bytes | a beam's own, ours | needed | a source's, ours | needed, on average | a beam's of generate |")
    print("|---|---:|---:|---:|---:|---:|")
    for beams in options.beams:
        search = Generation(num_beams=beams, min_length=setting.TARGET, max_length=setting.TARGET)
        targets = setting.AT_ONCE * beams
        engine: Engine[int] = Engine(model, search, setting.TARGET, targets=targets, dtype=torch.bfloat16, scores=False)
        dict(engine.stream(enumerate(texts)))
        cache = engine.runner.cache
        own = bytes_of(cache.self_attention_cache.layers) / targets
        source = bytes_of(cache.cross_attention_cache.layers) / setting.AT_ONCE
        mean, longest = sum(map(len, texts)) / len(texts), max(map(len, texts))
        theirs = column * (setting.TARGET + longest)
        print(
            f"| beam {beams} | {own:,.0f} | {column * setting.TARGET:,} | {source:,.0f} | {column * mean:,.0f} "
            f"| {theirs:,} |"
        )


if __name__ == "__main__":
    main()
