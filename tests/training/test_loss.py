from __future__ import annotations

import pytest
import tiny
import torch
from torch.nn import functional
from transformers import EncoderDecoderModel

from encdec_lightning import Loading, Seq2SeqDataModule, Task, Tokenizers, compose
from encdec_lightning.data.batches.batch import Batch, collate
from encdec_lightning.training.loss import token_losses

PAIRS = [
    ("bert", "bert", "tied"),
    ("roberta", "roberta", "tied"),
    ("bert", "gpt2", "untied"),
    ("roberta", "gpt2", "untied"),
]


def a_batch(files: tiny.Files, encoder: str, decoder: str, count: int = 6) -> tuple[Batch, Tokenizers]:
    tokenizers = Tokenizers.from_pretrained(getattr(files, encoder), getattr(files, decoder))
    task = Task(train=files.train, validation=files.validation, source="document", target="summary", id="key",
                max_source_length=40, max_target_length=30)  # fmt: skip
    examples = Seq2SeqDataModule(task, tokenizers, Loading()).examples("train")
    return collate(examples, range(count), tokenizers, 1), tokenizers


@pytest.mark.parametrize(("encoder", "decoder", "weights"), PAIRS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_batched_loss_equals_a_float64_loop_over_single_pairs(
    files: tiny.Files, encoder: str, decoder: str, weights: str, smoothing: float
) -> None:
    batch, tokenizers = a_batch(files, encoder, decoder)
    model = compose(getattr(files, encoder), getattr(files, decoder), weights, tokenizers=tokenizers)  # type: ignore[arg-type]
    model = model.double().eval()
    expected = []
    for row in range(len(batch.pairs)):
        source = batch.source_ids[row, : batch.source_lengths[row]][None]
        target = batch.target_ids[row, : batch.target_lengths[row]]
        inputs = torch.cat([torch.tensor([tokenizers.start_id]), target[:-1]])[None]
        logits = model(input_ids=source, attention_mask=torch.ones_like(source), decoder_input_ids=inputs).logits[0]
        log_probabilities = torch.log_softmax(logits, -1)
        nll = -log_probabilities[torch.arange(len(target)), target]
        expected.append((1 - smoothing) * nll - smoothing * log_probabilities.mean(-1))
    torch.testing.assert_close(token_losses(model, batch, smoothing), torch.cat(expected), rtol=1e-10, atol=1e-10)


def test_loss_equals_the_stock_forwards_when_nothing_is_padded(files: tiny.Files) -> None:
    batch, tokenizers = a_batch(files, "bert", "bert", count=1)
    model = compose(files.bert, files.bert, "tied", tokenizers=tokenizers).eval()
    stock = EncoderDecoderModel.forward
    with pytest.warns(FutureWarning):  # transformers warns at every labelled forward
        loss = stock(model, input_ids=batch.source_ids, attention_mask=batch.source_mask, labels=batch.target_ids).loss
    torch.testing.assert_close(token_losses(model, batch).mean(), loss)


def test_padding_gets_no_gradient(files: tiny.Files) -> None:
    batch, tokenizers = a_batch(files, "bert", "gpt2")
    model = compose(files.bert, files.gpt2, tokenizers=tokenizers).eval()
    token_losses(model, batch).sum().backward()
    before = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    source, target = batch.source_ids.clone(), batch.decoder_input_ids.clone()
    source[batch.source_mask == 0] = 7  # other ids under the padding
    target[~batch.target_mask] = 9
    from dataclasses import replace

    token_losses(model, replace(batch, source_ids=source, decoder_input_ids=target)).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, before[name], msg=name)


def test_smoothing_is_torchs(files: tiny.Files) -> None:
    batch, tokenizers = a_batch(files, "bert", "bert")
    model = compose(files.bert, files.bert, tokenizers=tokenizers).eval()
    logits = model(
        input_ids=batch.source_ids, attention_mask=batch.source_mask, decoder_input_ids=batch.decoder_input_ids
    ).logits
    labels = batch.target_ids.masked_fill(~batch.target_mask, -100)
    expected = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.2, reduction="sum")
    torch.testing.assert_close(token_losses(model, batch, 0.2).sum(), expected)
