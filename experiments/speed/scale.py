"""How time grows with each size of a job, beside the arithmetic it needs: `python experiments/speed/scale.py`.

One axis is changed at a time, from a model of MiniLM's size and random values. Each point is the least time of a few
steps, for it is compared with what the arithmetic alone would take at the processor's peak. Points are kept in
scale.json by processor and number format, and are not measured again; the pictures are drawn beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import setting
import torch
from matplotlib import pyplot, ticker
from rich.progress import track
from torch import Tensor
from transformers import BertConfig, EncoderDecoderConfig

from encdec_lightning import EncoderDecoder, Generation
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.generation.engine import Engine
from encdec_lightning.kernels.attention_interface import use_attention
from encdec_lightning.training.flops import matrix_product_peak, training_flops
from encdec_lightning.training.loss import TrainingLoss
from encdec_lightning.training.product_speeds import processor

BASE = {"source": 96, "target": 16, "pairs": 32, "layers": 6, "width": 384, "vocabulary": 30522}
TRAINING = {
    "source": (24, 48, 96, 192, 384),
    "target": (4, 16, 64, 128),
    "pairs": (2, 4, 8, 16, 32, 64),
    "layers": (1, 2, 4, 6, 12),
    "width": (192, 384, 768),
    "vocabulary": (2000, 8000, 30522, 120_000),
}
GENERATION = {
    "beams": (1, 2, 4, 8, 16),
    "source": (24, 96, 384),
    "target": (8, 16, 32, 64),
    "pairs": (1, 4, 16, 64, 256),
    "layers": (2, 6, 12),
    "vocabulary": (2000, 30522, 120_000),
}


def made(size: dict[str, int]) -> EncoderDecoder:
    """Two BERTs of these sizes."""
    torch.manual_seed(0)
    shape = {
        "hidden_size": size["width"], "num_hidden_layers": size["layers"], "intermediate_size": 4 * size["width"],
        "num_attention_heads": size["width"] // 32, "vocab_size": size["vocabulary"],
    }  # fmt: skip
    encoder, decoder = BertConfig(**shape), BertConfig(**shape, is_decoder=True, add_cross_attention=True)
    model = EncoderDecoder(EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder))
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 0
    return model


def batch_of(size: dict[str, int]) -> Batch:
    """Random tokens, all examples of the same lengths."""
    count, source, target = size["pairs"], size["source"], size["target"]
    ids, words = (torch.randint(3, size["vocabulary"], (count, length)) for length in (source, target))
    before = torch.cat([torch.ones(count, 1, dtype=torch.long), words[:, :-1]], dim=1)
    lengths = (torch.full((count,), length) for length in (source, target))
    of_source, of_target = lengths
    return Batch((), count, ids, of_source, before, words, of_target, count * target, count * (source + target))


def least(work: Callable[[], object], times: int = 4) -> float:
    """Seconds of the fastest of some runs, after one that is not counted."""
    found = []
    for _ in range(times + 1):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found[1:])


def training(size: dict[str, int], dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of an update of one batch, and the operations that it needs."""
    model, batch = made(size).train(), batch_of(size)
    use_attention(model)  # as a `Seq2SeqModule` does
    loss = TrainingLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def update() -> None:
        low = torch.autocast("cpu", dtype) if dtype != torch.float32 else contextlib.nullcontext()
        with low:
            total = loss(batch)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return least(update), training_flops(model).of(batch)


def generation(size: dict[str, int], dtype: torch.dtype) -> tuple[float, float]:
    """Seconds to write a target for each source, and the operations of forward passes on sources and beams."""
    model, beams = made(size).eval(), size.get("beams", 1)
    length, count = size["target"], size["pairs"]
    options = Generation(num_beams=beams, min_length=length, max_length=length)
    low = None if dtype == torch.float32 else dtype
    engine: Engine[int] = Engine(model, options, length, targets=min(count, 64) * beams, dtype=low, scores=False)
    sources: list[Tensor] = list(batch_of(size).source_ids)
    costs = training_flops(model)  # forward and backward: three times the forward pass
    written = 1 + (length - 1) * beams  # the start token is one for all beams
    seen = beams * length * (length + 1) / 2
    operations = count / 3 * (
        costs.source_token * size["source"] + costs.source_pair * size["source"] ** 2
        + costs.target_token * written + costs.target_pair * seen + costs.cross_pair * written * size["source"]
    )  # fmt: skip
    return least(lambda: dict(engine.stream(enumerate(sources))), times=2), operations


def draw(points: dict[str, dict[str, list[float]]], peak: float, file: Path, title: str) -> None:
    """A panel an axis: seconds measured, and those of the arithmetic at the peak."""
    axes = sorted({name.split("=")[0] for name in points})
    figure, panels = pyplot.subplots(2, -(-len(axes) // 2), figsize=(11, 6), constrained_layout=True)
    for panel, axis in zip(panels.flat, axes, strict=False):
        found = {int(name.split("=")[1]): value for name, value in points.items() if name.split("=")[0] == axis}
        at = sorted(found)
        panel.plot(at, [found[each][0] for each in at], "o-", label="measured")
        panel.plot(at, [found[each][1] / peak for each in at], "--", label="arithmetic at the peak")
        panel.set(xscale="log", yscale="log", xlabel=axis, ylabel="seconds", xticks=at, xticklabels=at)
        panel.minorticks_off()
        panel.yaxis.set(major_locator=ticker.LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")
        panel.grid(alpha=0.3)
    panels.flat[0].legend()
    figure.suptitle(title)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=setting.PRECISIONS, default="bf16")
    options = parser.parse_args()
    dtype, file = setting.DTYPES[options.precision], setting.HERE / "scale.json"
    every = json.loads(file.read_text()) if file.exists() else {}
    kept = every.setdefault(f"{processor()}, {options.precision}", {"training": {}, "generation": {}})
    kept["peak"] = max(kept.get("peak", 0), matrix_product_peak(torch.device("cpu"), dtype, 1.0))
    for name, axes, measure in (("training", TRAINING, training), ("generation", GENERATION, generation)):
        wanted = [(axis, value) for axis, values in axes.items() for value in values]
        for axis, value in track(wanted, description=name):
            if f"{axis}={value}" not in kept[name]:
                kept[name][f"{axis}={value}"] = measure({**BASE, axis: value}, dtype)
                file.write_text(json.dumps(every, indent=1) + "\n")
        title = f"{name}, {options.precision}, {processor()}"
        draw(kept[name], kept["peak"], setting.HERE / f"scale-{name}-{options.precision}.png", title)


if __name__ == "__main__":
    main()
