from __future__ import annotations

import time
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

from encdec_lightning import compose
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.kernels.attention_interface import use_attention
from encdec_lightning.training import flops
from encdec_lightning.training.flops import matrix_product_peak, process_peak, training_flops
from encdec_lightning.training.freezing import freeze
from encdec_lightning.training.loss import token_losses

SOURCE, TARGET = 11, 7


def a_batch(model, rows: int = 3) -> Batch:
    ids = torch.randint(5, 40, (rows, SOURCE))
    targets = torch.randint(5, 40, (rows, TARGET))
    lengths = torch.full((rows,), SOURCE), torch.full((rows,), TARGET)
    return Batch((), rows, ids, lengths[0], targets, targets, lengths[1], rows * TARGET, rows * (SOURCE + TARGET))


ADAPTED = [
    ("bert", "llama", {"cross_attention_gate": "zero"}),
    ("narrow", "gemma", {}),
    ("bert", "opt", {"cross_attention_every": 2}),
    ("narrow", "llama", {"cross_attention_kind": "merged"}),
    ("bert", "gemma2", {"cross_attention_kind": "merged", "cross_attention_every": 2}),
]
"""Decoders that are given cross-attention; a narrow encoder's states are projected, and gemma's heads are wide."""


def wide_heads(folder: Path) -> str:
    """A gemma whose heads are wider together than its states."""
    config = tiny.family_config("gemma", 300)
    config.head_dim = tiny.WIDTH
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


PAIRS = [("bert", "bert", {}), ("roberta", "gpt2", {}), ("narrow", "gpt2", {}), *ADAPTED]


@pytest.mark.parametrize(
    ("encoder", "decoder", "options", "part"),
    [(None, "gpt2", {}, None), *((*pair, part) for part in (None, "encoder") for pair in PAIRS)],
    ids=str,
)
def test_as_many_as_torch_counts(files: tiny.Files, probe, tmp_path, encoder, decoder, options, part) -> None:
    """torch counts the products of a step; of causal attention it counts the hidden half too."""
    from torch.utils.flop_counter import FlopCounterMode

    folder = getattr(files, decoder, None) or probe.folder(decoder)
    if encoder == "narrow":
        source = tiny.checkpoint(tmp_path / "narrow", "bert", width=tiny.WIDTH // 2)
    else:
        source = encoder and getattr(files, encoder)
    if decoder == "gemma":
        folder = wide_heads(tmp_path / "wide")
    model = compose(source, folder, dropout=0.0, **options).eval()
    freeze(model, part)
    batch = a_batch(model)
    flops = training_flops(model)
    for module in model.modules():
        if hasattr(module, "config") and not module.config.sub_configs:
            module.config._attn_implementation = "eager"  # torch does not count in the kernels of sdpa
    with FlopCounterMode(display=False) as counter:
        token_losses(model, batch).sum().backward()
    rows, width = 3, TARGET if encoder else SOURCE + TARGET
    hidden_half = flops.target_pair * rows * (width**2 - width * (width + 1) / 2)
    if encoder is None:  # torch's count has the head on target tokens alone too
        assert flops.cross_pair == flops.target_pair
    assert flops.of(batch) + hidden_half == pytest.approx(counter.get_total_flops(), rel=1e-9)


def test_frozen_parts_need_no_backward_work(files: tiny.Files) -> None:
    model = compose(files.bert, files.bert)
    whole = training_flops(model)
    freeze(model, "encoder")
    frozen = training_flops(model)
    assert frozen.source_pair == whole.source_pair / 3
    use_attention(model)
    for name, parameter in model.named_parameters():
        parameter.grad = None
        assert parameter.requires_grad == (not name.startswith("encoder.")), name
    seen = []
    model.encoder.register_forward_hook(lambda module, given, output: seen.append(output[0].requires_grad))
    token_losses(model, a_batch(model)).sum().backward()
    assert seen == [False]  # no graph reaches into the encoder
    assert all(each.grad is None for each in model.encoder.parameters())
    assert all(each.grad is not None for each in model.decoder.parameters())


def test_a_process_measures_it_once_for_a_number_of_threads(monkeypatch) -> None:
    measured: list[float] = []
    monkeypatch.setattr(flops, "matrix_product_peak", lambda *_: measured.append(1.0) or float(len(measured)))
    process_peak.cache_clear()
    of = [process_peak(torch.device("cpu"), dtype, threads) for dtype, threads in 2 * [
        (torch.float32, 1), (torch.float32, 2), (torch.bfloat16, 1),
    ]]  # fmt: skip
    process_peak.cache_clear()
    assert of == [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(("slow", "rows"), [(0.0, 2048), (0.06, 16)])
def test_large_products_are_left_out_where_one_would_take_too_long(
    slow: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor that emulates bf16 takes 40 s for one."""
    counts: list[int] = []

    def linear(left: torch.Tensor, right: torch.Tensor) -> None:
        time.sleep(slow * len(left) / 16)
        counts.append(len(left))

    monkeypatch.setattr(flops, "linear", linear)
    monkeypatch.setattr(flops, "TOO_LONG", 5.0)
    assert matrix_product_peak(torch.device("cpu"), torch.float32, 0.01) > 0
    assert counts[:2] == [16, 16] and set(counts[2:]) == {rows}


def test_the_peak_is_measured_without_drawing_a_random_number() -> None:
    state = torch.get_rng_state()
    assert matrix_product_peak(torch.device("cpu"), torch.float32, 0.05) > 1e8
    assert torch.equal(torch.get_rng_state(), state)
