"""Stock transformers opens an exported folder and writes, by itself, the texts that the model was tested with."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

from encdec_lightning import (
    Generation,
    Loading,
    PrefixDecoder,
    Seq2SeqDataModule,
    Seq2SeqModule,
    Task,
    Tokenizers,
    Training,
    compose,
)
from encdec_lightning.data.batches.batch import collate

OPTIONS = [
    Generation(),
    Generation(min_length=5, no_repeat_ngram_size=2),
    Generation(num_beams=4, length_penalty=2.0, min_length=4, no_repeat_ngram_size=2, early_stopping=True),
    Generation(num_beams=3, length_penalty=1.5, max_length=9, early_stopping="never", num_return_sequences=2),
]


@pytest.fixture(scope="module", params=["pair", "prefix"])
def tested(request, files):
    """A module whose texts differ by source and by length, and its test batch."""
    task = Task(train=files.train, validation=files.validation, test=files.test, source="document", target="summary",
                id="key", max_source_length=40, max_target_length=12)  # fmt: skip
    encoder = files.bert if request.param == "pair" else None
    tokenizers = Tokenizers.from_pretrained(encoder or files.gpt2, files.gpt2)
    torch.manual_seed(1)
    model = compose(encoder, files.gpt2, tokenizers=tokenizers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        model.decoder.get_output_embeddings().weight[tokenizers.end_id] += 0.35  # texts end at different lengths
    batch = collate(
        Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=400)).examples("test"), range(12), tokenizers, 1
    )
    return lambda generation: Seq2SeqModule(model, tokenizers, task, Training(), generation).eval(), batch, tokenizers


def stock_texts(folder, batch, tokenizers):
    """What transformers writes for the batch when nothing is said to it about how."""
    if (folder / "decoder_tokenizer").exists():
        model = AutoModelForSeq2SeqLM.from_pretrained(folder)
        ids = model.generate(input_ids=batch.source_ids, attention_mask=batch.source_mask)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder)
        ids = []
        for row, length in zip(batch.source_ids, batch.source_lengths, strict=True):  # alone, without any padding
            read = torch.cat([row[:length], torch.tensor([tokenizers.start_id])])[None]
            embeddings = model.get_input_embeddings()(read)
            mask = torch.ones_like(read)  # transformers would make one of the start token, which pads too
            ids += model.generate(input_ids=read[:, -1:], inputs_embeds=embeddings, attention_mask=mask).tolist()
    return tokenizers.decode(ids)


@pytest.mark.parametrize("generation", OPTIONS, ids=lambda each: f"{each.num_beams} beams")
def test_stock_generate_writes_what_the_model_was_tested_with(tested, tmp_path, generation):
    made, batch, tokenizers = tested
    module = made(generation)
    before = module.model.generation_config.to_dict()
    expected = [each.prediction for each in module.predict(batch)]
    module.export(tmp_path)
    assert module.model.generation_config.to_dict() == before
    assert len(set(expected)) > 1
    assert stock_texts(tmp_path, batch, tokenizers) == expected
    config = GenerationConfig.from_pretrained(tmp_path)
    config.validate(strict=True)  # raises for what transformers warns of
    assert config.num_return_sequences == 1


@pytest.mark.parametrize("tested", ["prefix"], indirect=True)
def test_a_prefix_counts_the_targets_tokens_alone_and_comes_back(tested, tmp_path):
    made, batch, tokenizers = tested
    module = made(OPTIONS[2])
    expected = [each.prediction for each in module.predict(batch)]
    module.export(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert {"max_length", "min_length", "decoder_start_token_id"}.isdisjoint(saved)
    assert (saved["max_new_tokens"], saved["min_new_tokens"], saved["bos_token_id"]) == (12, 4, tokenizers.start_id)
    again = PrefixDecoder.from_pretrained(tmp_path)
    ids = again.generate(input_ids=batch.source_ids, attention_mask=batch.source_mask)
    assert tokenizers.decode(ids) == expected
    again.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "generation_config.json").read_text()) == saved


def test_the_settings_of_the_base_model_do_not_come_back_in_an_export(files, tmp_path):
    plain = AutoModelForCausalLM.from_pretrained(files.gpt2)
    plain.generation_config = GenerationConfig(do_sample=True, temperature=0.6, bos_token_id=0, eos_token_id=0)
    plain.save_pretrained(tmp_path / "base")
    Tokenizers.from_pretrained(files.gpt2).save_pretrained(tmp_path / "base")
    tokenizers = Tokenizers.from_pretrained(str(tmp_path / "base"))
    model = compose(None, str(tmp_path / "base"), tokenizers=tokenizers)
    model.save_pretrained(tmp_path / "saved")
    saved = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert not saved.do_sample and saved.temperature in (None, 1.0)
    assert PrefixDecoder.from_pretrained(tmp_path / "base").generation_config.do_sample is not True  # a foreign model's


def test_sampling_options_and_special_tokens_are_carried(tested, tmp_path):
    made, _, tokenizers = tested
    module = made(Generation(do_sample=True, temperature=0.7, top_k=5, top_p=0.9))
    module.export(tmp_path)
    saved = GenerationConfig.from_pretrained(tmp_path)
    assert (saved.do_sample, saved.temperature, saved.top_k, saved.top_p) == (True, 0.7, 5, 0.9)
    assert (saved.bos_token_id, saved.eos_token_id, saved.pad_token_id) == (
        tokenizers.start_id,
        tokenizers.end_id,
        tokenizers.pad_id,
    )


def test_options_of_an_earlier_export_do_not_stay(tested, tmp_path):
    """Opened, trained on and exported again with a greedy search, a folder has no penalty of beams any more."""
    made, batch, tokenizers = tested
    first = made(OPTIONS[2])
    first.export(tmp_path)
    again = type(first.model).from_pretrained(tmp_path)
    module = Seq2SeqModule(again, tokenizers, first.task, Training(), Generation(max_length=6)).eval()
    expected = [each.prediction for each in module.predict(batch)]
    module.export(tmp_path / "again")
    assert stock_texts(tmp_path / "again", batch, tokenizers) == expected
    assert GenerationConfig.from_pretrained(tmp_path / "again").length_penalty in (None, 1.0)


def test_wu_is_left_out(tested, tmp_path):
    made, _, _ = tested
    made(Generation(num_beams=3, length_normalization="wu", length_penalty=0.6)).export(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path).length_penalty == 0.6
