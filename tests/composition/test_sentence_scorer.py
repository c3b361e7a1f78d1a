"""An encoder alone that scores sentences, against the formulas written out, and against itself saved, cut and padded."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModel, BertConfig

from encdec_lightning import SentenceScorer, Tokenizers, UserError, check, compose
from encdec_lightning.composition.assembly import rebuild
from encdec_lightning.composition.segments import interval_segments
from encdec_lightning.composition.sentence_head import SentenceHead, sinusoids

EXTRACTS = dict(decoder=None, encoder_sentences="en", encoder_segments="interval")
TEXTS = ["The matrix is given. Use this to sort. Return the file.", "One sentence alone.", "It reads. It writes."]


def scorer(files: tiny.Files, **options: object) -> tuple[SentenceScorer, Tokenizers]:
    tokenizers = Tokenizers.from_pretrained(files.bert, sentences="en")
    torch.manual_seed(0)
    model = compose(**{"encoder": files.bert, **EXTRACTS, **options}, tokenizers=tokenizers)
    return model.eval(), tokenizers


def batch(tokenizers: Tokenizers, texts: list[str]) -> tuple[Tensor, Tensor]:
    rows = tokenizers.encode_sources(texts, 64)
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])


def test_the_paper_size_and_the_released_one(tmp_path: Path):
    """PreSumm's released model has 119,921,921 parameters without the pooler; of these it never reads a norm's 1,536."""
    BertConfig(vocab_size=30_522).save_pretrained(tmp_path)
    found = check(encoder=str(tmp_path), **EXTRACTS).parameters
    assert found is not None
    assert found.as_built.total == 119_921_921 - 2 * 768
    assert found.as_built.random == found.as_built.total - found.as_built.encoder == 11_030_273 - 2 * 768


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_scores_are_those_of_the_formulas_written_out(layers: int):
    torch.manual_seed(1)
    head = SentenceHead(16, layers, dropout=0.5).double().eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    states, mask = torch.randn(2, 5, 16, dtype=torch.float64), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    found = head(states, mask)
    for row, count in enumerate(mask.sum(dim=1).tolist()):
        expected = slow_scores(head, states[row, :count])
        assert torch.allclose(found[row, :count], expected, rtol=1e-5, atol=1e-6)  # positions are made in fp32


def slow_scores(head: SentenceHead, states: Tensor) -> Tensor:
    """A sentence after another, a head after another, as the released code's formulas say."""

    def norm(values: Tensor, weights: torch.nn.LayerNorm) -> Tensor:
        spread = values.var(dim=-1, correction=0, keepdim=True)
        return (values - values.mean(dim=-1, keepdim=True)) / (spread + 1e-6).sqrt() * weights.weight + weights.bias

    width = states.shape[1]
    hidden = states.clone()
    for place in range(len(states)):
        for at in range(0, width, 2):
            angle = place / 10_000 ** (at / width)
            hidden[place, at] += math.sin(angle)
            hidden[place, at + 1] += math.cos(angle)
    for number, layer in enumerate(head.layers):
        read = hidden if number == 0 else norm(hidden, layer.norm1)
        attention = layer.self_attn
        query, key, value = (read @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=1)
        parts = []
        for first in range(0, width, width // 8):
            own = slice(first, first + width // 8)
            scores = query[:, own] @ key[:, own].T / math.sqrt(width // 8)
            parts.append(scores.softmax(dim=1) @ value[:, own])
        hidden = hidden + torch.cat(parts, dim=1) @ attention.out_proj.weight.T + attention.out_proj.bias
        inner = norm(hidden, layer.norm2) @ layer.linear1.weight.T + layer.linear1.bias
        bent = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        hidden = hidden + bent @ layer.linear2.weight.T + layer.linear2.bias
    return (norm(hidden, head.norm) @ head.score.weight.T + head.score.bias)[:, 0]


def test_sinusoids_are_a_sine_and_a_cosine_in_turn():
    assert sinusoids(3, 8).shape == (3, 8)
    assert torch.allclose(sinusoids(2, 4)[1], torch.tensor([math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)]))


def test_sinusoids_are_precise_whatever_the_default_dtype_is_and_as_wide_as_the_states():
    expected = sinusoids(100, 16)
    torch.set_default_dtype(torch.bfloat16)  # Lightning's, in bf16-true
    try:
        assert torch.equal(sinusoids(100, 16), expected)
    finally:
        torch.set_default_dtype(torch.float32)
    assert SentenceHead(5, 0, 0.0)(torch.randn(1, 2, 5), torch.ones(1, 2, dtype=torch.bool)).shape == (1, 2)


def test_a_document_is_scored_as_alone_whatever_lies_beside_it(files):
    model, tokenizers = scorer(files)
    with torch.inference_mode():
        together = model(*batch(tokenizers, TEXTS))
        assert together.mask.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
        for row, text in enumerate(TEXTS):
            alone = model(*batch(tokenizers, [text])).logits[0]
            assert torch.allclose(together.logits[row, : len(alone)], alone, atol=1e-5)
        known = model(*batch(tokenizers, TEXTS), sentences=3)
    assert torch.equal(known.logits, together.logits)


@pytest.mark.parametrize("padded", [False, True])
def test_means_are_those_of_each_sentence_s_tokens(files, padded: bool):
    model, tokenizers = scorer(files, sentence_pooling="mean")
    ids, mask = batch(tokenizers, TEXTS if padded else TEXTS[:1])
    with torch.inference_mode():
        states = model.encoder(ids, mask, token_type_ids=interval_segments(ids, tokenizers.end_id)).last_hidden_state
        found = model(ids, mask)
        rows = []
        for row, length in enumerate(mask.sum(dim=1).tolist()):
            begins = (ids[row, :length] == tokenizers.start_id).nonzero()[:, 0].tolist()
            parts = [states[row, at:end].mean(dim=0) for at, end in zip(begins, [*begins[1:], length], strict=True)]
            rows.append(torch.stack(parts))
        for row, expected in enumerate(rows):
            alone = model.sentence_head(expected[None], torch.ones(1, len(expected), dtype=torch.bool))[0]
            assert torch.allclose(found.logits[row, : len(expected)], alone, atol=1e-5)


def test_segments_change_the_scores_and_are_made_by_the_model(files):
    model, tokenizers = scorer(files)
    plain, _ = scorer(files, encoder_segments="first")
    ids, mask = batch(tokenizers, TEXTS)
    segments = torch.zeros_like(ids)
    with torch.inference_mode():
        assert torch.equal(model(ids, mask, token_type_ids=segments).logits, plain(ids, mask).logits)
        assert not torch.allclose(model(ids, mask).logits, plain(ids, mask).logits)


def test_the_loss_is_the_mean_over_sentences_that_have_a_label(files):
    model, tokenizers = scorer(files)
    labels = torch.tensor([[1, 0, 0], [0, -100, -100], [0, 1, -100]])
    found = model(*batch(tokenizers, TEXTS), labels=labels)
    losses = [
        functional.binary_cross_entropy(found.logits[row, at].sigmoid(), torch.tensor(float(labels[row, at])))
        for row, at in (labels != -100).nonzero().tolist()
    ]
    assert torch.allclose(found.loss, torch.stack(losses).mean())
    found.loss.backward()
    assert all(each.grad is not None for each in model.parameters())


def test_a_document_without_a_sentence_has_no_part_in_the_gradient(files):
    model, tokenizers = scorer(files)
    ids, mask = batch(tokenizers, TEXTS[:1])
    nothing = torch.zeros_like(ids)
    found = model(torch.cat([ids, nothing]), torch.cat([mask, nothing]), labels=torch.tensor([[1, 0, 0], [-100] * 3]))
    found.loss.backward()
    assert all(torch.isfinite(each.grad).all() for each in model.parameters())
    assert torch.allclose(found.loss, model(ids, mask, labels=torch.tensor([[1, 0, 0]])).loss)


def test_a_saved_folder_is_the_encoder_and_a_file_beside_it(files, tmp_path: Path):
    model, tokenizers = scorer(files, sentence_layers=1, encoder_positions=100)
    model.save_pretrained(tmp_path)
    tokenizers.save_pretrained(tmp_path)
    ids, mask = batch(tokenizers, TEXTS)
    opened = SentenceScorer.from_pretrained(tmp_path)
    assert opened.composition == model.composition
    copied = rebuild(model.config.to_dict())
    copied.load_state_dict(model.state_dict())
    with torch.inference_mode():
        expected = model(ids, mask).logits
        assert torch.equal(opened(ids, mask).logits, expected)
        assert torch.equal(copied.eval()(ids, mask).logits, expected)
        stock = AutoModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
        assert torch.equal(stock(ids, mask)[0], model.encoder(ids, mask)[0])
    pair = compose(str(tmp_path), files.bert, encoder_sentences="en", encoder_segments="interval")
    assert torch.equal(pair.encoder.embeddings.word_embeddings.weight, model.encoder.embeddings.word_embeddings.weight)
    assert pair.encoder.config.max_position_embeddings == 100
    again = compose(str(tmp_path), None, encoder_sentences="en")
    assert "sentence_head.score.weight" in again.config.fresh_parameters  # a composition starts its head anew


def test_arguments_that_other_models_take(files, tmp_path: Path):
    model, _ = scorer(files)
    model.save_pretrained(tmp_path)
    opened, report = SentenceScorer.from_pretrained(
        tmp_path, config=AutoConfig.from_pretrained(tmp_path), dtype=torch.bfloat16, output_loading_info=True
    )
    assert opened.dtype == torch.bfloat16 and not report["mismatched_keys"]


def test_a_deberta_is_opened_in_one_dtype(probe, tmp_path: Path):
    tokenizers = Tokenizers(tiny.wordpiece(), sentences="lines")
    model = compose(probe.folder("deberta-v2"), None, encoder_sentences="lines", tokenizers=tokenizers)
    model.save_pretrained(tmp_path)
    opened = SentenceScorer.from_pretrained(tmp_path, dtype=torch.bfloat16)
    with torch.inference_mode():
        assert torch.isfinite(opened(*batch(tokenizers, ["The list.\nIt is sorted."])).logits).all()


def test_states_that_heads_cannot_share_out_are_refused(files, tmp_path: Path):
    narrow = tiny.checkpoint(tmp_path / "narrow", "bert", width=12)
    found = check(encoder=narrow, **EXTRACTS)
    assert [str(each) for each in found.problems] == [
        "sentence_layers is 2: 8 heads cannot share out bert's states, which are 12 wide; use 0."
    ]
    assert check(encoder=narrow, sentence_layers=0, **EXTRACTS).ok


def test_other_folders_are_refused(files, tmp_path: Path):
    with pytest.raises(UserError, match=r"sentence_head\.safetensors"):
        SentenceScorer.from_pretrained(files.bert)
    one, _ = scorer(files, sentence_layers=1)
    one.save_pretrained(tmp_path / "one")
    two, _ = scorer(files, sentence_layers=2)
    two.save_pretrained(tmp_path / "two")
    (tmp_path / "one" / "sentence_head.safetensors").replace(tmp_path / "two" / "sentence_head.safetensors")
    with pytest.raises(UserError, match="of another model"):
        SentenceScorer.from_pretrained(tmp_path / "two")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"weights": "tied"}, "weights"),
        ({"decoder_init": "random"}, "decoder_init"),
        ({"cross_attention_every": 2}, "cross_attention_every"),
        ({"decoder_embeddings_init": "encoder"}, "decoder_embeddings_init"),
        ({"encoder_sentences": None, "encoder_segments": "first"}, "encoder_sentences"),
        ({"encoder": None}, "decoder"),
        ({"sentence_layers": -1}, "sentence_layers"),
    ],
)
def test_what_does_not_fit_an_encoder_alone_is_said(files, options, field):
    found = check(**{"encoder": files.bert, **EXTRACTS, **options})
    assert field in [each.field for each in found.problems]


@pytest.mark.parametrize("family", ["roberta", "distilbert", "modernbert", "t5", "llama", "deberta-v2"])
def test_other_families_score_sentences_too(probe, family):
    options = probe.options("encoder", family)
    folder = options["encoder"]
    tokenizers = Tokenizers(tiny.wordpiece(), sentences="lines")
    torch.manual_seed(0)
    model = compose(
        folder, None, encoder_sentences="lines", encoder_bidirectional=options["encoder_bidirectional"],
        tokenizers=tokenizers,
    ).eval()  # fmt: skip
    with torch.inference_mode():
        together = model(*batch(tokenizers, ["The list.\nIt is sorted.", "The end."]))
        alone = model(*batch(tokenizers, ["The end."]))
    assert together.mask.tolist() == [[True, True], [True, False]]
    assert torch.allclose(together.logits[1, :1], alone.logits[0], atol=1e-4)
