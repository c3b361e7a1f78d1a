"""Seconds of each part of a run, the least of some: `python experiments/generation/parts.py [--beams 1 4]`."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import setting
import torch

from encdec_lightning import Generation
from encdec_lightning.generation import beam_search, sampling
from encdec_lightning.generation.engine import Engine

spent: dict[str, float] = defaultdict(float)


def clocked(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """The same, its seconds added to a part."""

    def run(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return work(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - started

    return run


def main() -> None:
    """Put clocks on the parts of an engine, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="minilm", choices=setting.SIZES)
    parser.add_argument("--beams", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    texts = [torch.tensor(text) for text in setting.sources(setting.AT_ONCE)]
    model = setting.model(options.size)
    for module in (beam_search, sampling):
        module.candidates = clocked("head, candidates", module.candidates)  # type: ignore[attr-defined]
    for beams in options.beams:
        search = Generation(num_beams=beams, min_length=setting.TARGET, max_length=setting.TARGET)
        targets = setting.AT_ONCE * beams
        engine: Engine[int] = Engine(model, search, setting.TARGET, targets=targets, dtype=torch.bfloat16, scores=False)
        inner = engine.runner.model
        inner.encoder.forward = clocked("encoder", inner.encoder.forward)
        for layer in inner.decoder.bert.encoder.layer:
            layer.attention.forward = clocked("self-attention", layer.attention.forward)
            layer.crossattention.forward = clocked("cross-attention", layer.crossattention.forward)
            layer.intermediate.forward = clocked("feed-forward", layer.intermediate.forward)
            layer.output.forward = clocked("feed-forward", layer.output.forward)
        runs = []
        for _ in range(options.runs + 1):
            spent.clear()
            clocked("all", lambda: dict(engine.stream(enumerate(texts))))()  # noqa: B023
            runs.append(dict(spent))
        least = {name: min(run[name] for run in runs[1:]) for name in runs[0]}
        least["the rest"] = 2 * least["all"] - sum(least.values())
        shares = {name: f"{seconds:.3f} s, {seconds / least['all']:.0%}" for name, seconds in least.items()}
        print(f"beam {beams}", shares, flush=True)


if __name__ == "__main__":
    main()
