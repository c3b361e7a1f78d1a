"""Sources with a mark around each sentence, and segments that take turns (Liu & Lapata, section 3.1)."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RobertaModel

from encdec_lightning import Composition, Generation, Tokenizers, UserError, UserErrors, check, compose, generate
from encdec_lightning.cli.check import main as inspect
from encdec_lightning.cli.evaluate import main as evaluate
from encdec_lightning.cli.predict import main as predict
from encdec_lightning.cli.train import main as train
from encdec_lightning.composition.paper import paper_row
from encdec_lightning.composition.segments import interval_segments
from encdec_lightning.composition.sentence_rules import split_sentences
from encdec_lightning.composition.sentence_tokenizer import SentenceTokenizer
from encdec_lightning.data.batches.batch import Batch, collate
from encdec_lightning.data.examples.examples import tokenize
from encdec_lightning.generation.other_model import OtherModel, Reading
from encdec_lightning.records import Pair
from encdec_lightning.run import Run
from encdec_lightning.training.loss import TrainingLoss, token_losses

MARKED = dict(encoder_sentences="en", encoder_segments="interval")
TEXTS = [
    "The list is sorted. It has keys.",
    "No end of a sentence here",
    "One. [SEP] Two [CLS] words! Three? Four.",
    "The end. " * 2000,
    "   \n ",
]


def tokenizer_of(sentences: str = "en") -> SentenceTokenizer:
    return SentenceTokenizer(tiny.wordpiece(), sentences)


def test_each_sentence_is_what_the_tokenizer_makes_of_it():
    plain = tiny.wordpiece()
    first = tokenizer_of()([TEXTS[0]])[0].tolist()
    expected = [plain(each)["input_ids"] for each in ("The list is sorted.", "It has keys.")]
    assert first == expected[0] + expected[1]
    lines = tokenizer_of("lines")(["The list is sorted. It\n\n has keys."])[0].tolist()
    assert lines == plain("The list is sorted. It")["input_ids"] + plain("has keys.")["input_ids"]
    assert tokenizer_of()([TEXTS[1]])[0].tolist() == plain(TEXTS[1])["input_ids"]


def test_tokens_that_a_text_spells_out_are_no_marks():
    plain, ids = tiny.wordpiece(), tokenizer_of("lines")(["One [SEP] two [CLS]\nthree"])[0]
    start, end = plain.cls_token_id, plain.sep_token_id
    assert (ids == start).sum() == (ids == end).sum() == 2
    assert (ids == plain.unk_token_id).sum() >= 2


def test_a_limit_that_holds_no_word():
    (ids,) = tokenizer_of()([TEXTS[0]])
    assert tokenizer_of().cut(ids, 2).tolist() == [ids[0], ids[-1]]


def test_a_text_without_words_has_the_two_tokens_alone():
    assert [len(ids) for ids in tokenizer_of()([TEXTS[4], ""])] == [2, 2]
    assert (tokenizer_of()([TEXTS[3]])[0] == tiny.wordpiece().sep_token_id).sum() == 2000


def test_lines_and_the_rules_of_a_language_end_sentences():
    assert split_sentences("Dr. Smith came. He left.\nAnd so on", "en") == ["Dr. Smith came.", "He left.", "And so on"]
    assert split_sentences("Am 3. Mai kam er. Ja.", "de") == ["Am 3. Mai kam er.", "Ja."]
    assert split_sentences("a. b.\n\n  c ", "lines") == ["a. b.", "c"]


@given(st.lists(st.sampled_from(["the list", "a key is old", "sort"]), min_size=1, max_size=12), st.integers(3, 40))
@settings(max_examples=60, deadline=None)
def test_a_cut_source_ends_a_sentence_and_holds_no_empty_one(sentences: list[str], limit: int):
    tokenizer = tokenizer_of("lines")
    (ids,) = tokenizer(["\n".join(sentences)])
    cut = tokenizer.cut(ids, limit)
    start, end = int(tokenizer.prefix[0]), int(tokenizer.suffix[0])
    assert limit - 2 <= len(cut) <= limit or len(ids) <= limit
    assert cut[0] == start and cut[-1] == end and (cut == start).sum() == (cut == end).sum()
    assert np.array_equal(cut[:-1], ids[: len(cut) - 1])
    assert not any(one == start and two == end for one, two in itertools.pairwise(cut))


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=9), min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_segments_are_those_of_a_slow_count_padded_or_side_by_side(rows: list[list[int]]):
    def slow(row: list[int]) -> list[int]:
        return [row[:at].count(3) % 2 for at in range(len(row))]

    padded = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = torch.tensor(row)
    found = interval_segments(padded, 3)
    for number, row in enumerate(rows):
        assert found[number, : len(row)].tolist() == slow(row)
    side_by_side = torch.tensor([[each for row in rows for each in row]])
    positions = torch.tensor([[at for row in rows for at in range(len(row))]])
    assert interval_segments(side_by_side, 3, positions)[0].tolist() == [each for row in rows for each in slow(row)]


@pytest.fixture(scope="module")
def tokenizers(files: tiny.Files) -> Tokenizers:
    return Tokenizers.from_pretrained(files.bert, sentences="en")


def a_batch(tokenizers: Tokenizers) -> Batch:
    sources = ["The list is sorted. It has keys. So.", "One. Two.", "A single one"]
    pairs = [Pair(str(number), source, "the key") for number, source in enumerate(sources)]
    return collate(tokenize(pairs, tokenizers, 30, 9), range(3), tokenizers, 9)


@pytest.fixture(scope="module")
def with_segments(files: tiny.Files, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A RoBERTa with two segments, which counts positions from above its padding token."""
    folder = tmp_path_factory.mktemp("segments")
    shutil.copytree(files.roberta, folder, dirs_exist_ok=True)
    config = tiny.config("roberta", len(tiny.byte_pairs(roberta=True)))
    config.type_vocab_size = 2
    RobertaModel(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("family", "weights"), [("bert", "untied"), ("bert", "tied"), ("roberta", "tied")])
def test_training_generation_and_transformers_see_the_same_segments(files, with_segments, family, weights):
    torch.manual_seed(0)
    checkpoint = files.bert if family == "bert" else with_segments
    tokenizers = Tokenizers.from_pretrained(checkpoint, sentences="en")
    model = compose(checkpoint, checkpoint, weights, **MARKED, dropout=0.0, tokenizers=tokenizers)
    with torch.no_grad():  # so that a segment shows
        model.encoder.embeddings.token_type_embeddings.weight[1].add_(2.0)
    batch = a_batch(tokenizers)
    types = torch.zeros_like(batch.source_ids)
    for number, row in enumerate(batch.source_ids.tolist()):
        for at in range(len(row)):
            types[number, at] = row[:at].count(tokenizers.source.sep_token_id) % 2
    inputs = dict(
        input_ids=batch.source_ids, attention_mask=batch.source_mask, decoder_input_ids=batch.decoder_input_ids
    )
    logits = model(**inputs).logits
    torch.testing.assert_close(logits, model(**inputs, token_type_ids=types).logits)
    assert not torch.allclose(logits, model(**inputs, token_type_ids=types * 0).logits, atol=1e-3)
    states = model.encoder(batch.source_ids, batch.source_mask, token_type_ids=types)
    given_states = model(**{**inputs, "input_ids": None}, encoder_outputs=states).logits
    torch.testing.assert_close(logits, given_states)
    for types_of_nobody in (None, types):
        torch.testing.assert_close(logits, model(**inputs, token_type_ids=types_of_nobody).logits)
    embedded = {**inputs, "input_ids": None, "inputs_embeds": model.get_input_embeddings()(batch.source_ids)}
    with pytest.raises(ValueError, match="give these, or token_type_ids"):
        model(**embedded)
    torch.testing.assert_close(logits, model(**embedded, token_type_ids=types).logits)
    packed, plain = TrainingLoss(model)(batch), token_losses(model, batch).sum()
    torch.testing.assert_close(packed, plain, rtol=1e-5, atol=1e-5)
    model.eval()
    options = Generation(num_beams=3, max_length=8)
    ours = [each[0].tokens for each in generate(model, batch, options)]
    theirs = model.generate(
        batch.source_ids, attention_mask=batch.source_mask, num_beams=3, max_length=9, do_sample=False
    )
    for own, other in zip(ours, theirs.tolist(), strict=True):
        assert own == other[1 : len(own) + 1]


def test_they_survive_folders(files, tokenizers, tmp_path):
    model = compose(files.bert, files.bert, **MARKED, tokenizers=tokenizers).eval()
    model.save_pretrained(tmp_path)
    tokenizers.save_pretrained(tmp_path)
    again, read = type(model).from_pretrained(tmp_path).eval(), Tokenizers.load(tmp_path)
    assert read.sentences == "en" and read.signature() == tokenizers.signature()
    batch = a_batch(read)
    inputs = dict(input_ids=batch.source_ids, decoder_input_ids=batch.decoder_input_ids)
    assert torch.equal(model(**inputs).logits, again(**inputs).logits)
    Tokenizers.from_pretrained(files.bert).save_pretrained(tmp_path)
    assert Tokenizers.load(tmp_path).sentences is None
    assert tokenizers.signature() != Tokenizers.from_pretrained(files.bert, sentences="de").signature()
    with pytest.raises(UserErrors, match="the model reads sentences as 'en' says"):
        Tokenizers.from_pretrained(files.bert).configure(model)
    with pytest.raises(ValueError, match="configure"):
        compose(files.bert, files.bert, **MARKED)(**inputs)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"encoder_sentences": "english"}, "it must be lines, null, or a language that has rules: am, ar"),
        ({"encoder_sentences": ""}, "it must be lines, null, or a language that has rules"),
        ({"encoder_sentences": "deu"}, "it must be lines, null, or a language that has rules"),
        ({"encoder_segments": "interval"}, "it needs encoder_sentences, which says where a sentence ends"),
        ({"encoder_segments": "both"}, "it must be one of first, interval"),
        ({"encoder": None, "encoder_sentences": "en"}, "without an encoder it stays null"),
    ],
)
def test_what_makes_no_sense_is_refused(options, sentence):
    with pytest.raises(UserErrors, match=sentence):
        Composition(**{"encoder": "a", "decoder": "b", **options})


def test_encoders_without_segments_or_marks_are_refused_or_read_without(files, tmp_path):
    (problem,) = check(files.roberta, files.gpt2, **MARKED).problems
    assert str(problem) == (
        "encoder_segments is 'interval': roberta has 1 segment embeddings, and two take turns; use first."
    )
    assert check(files.roberta, files.gpt2, encoder_sentences="en").ok
    assert Tokenizers.from_pretrained(files.roberta, sentences="en").encode_sources([TEXTS[0]], 40)[0].count(0) == 2
    with pytest.raises(UserError, match="does not put one token before a text"):
        Tokenizers.from_pretrained(files.gpt2, sentences="en").encode_sources(["a"], 9)
    options = dict(encoder_sentences="en", encoder_bidirectional=True)
    with pytest.raises(UserErrors, match="does not put one token before a text"):
        compose(files.gpt2, files.gpt2, **options, tokenizers=Tokenizers.from_pretrained(files.gpt2, sentences="en"))


def test_what_stock_transformers_cannot_read_is_not_scored_by_it(files, tokenizers, tmp_path):
    model = compose(files.bert, files.bert, **MARKED, tokenizers=tokenizers)
    model.save_pretrained(tmp_path)
    tokenizers.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="score it with run="):
        OtherModel.open(str(tmp_path), Reading())


def test_no_row_of_the_other_paper(files):
    plain = Composition(encoder=files.bert, decoder=files.bert, weights="tied")
    assert paper_row(plain) is not None and paper_row(replace(plain, **MARKED)) is None


def test_from_the_command_line(files, in_tmp: Path, capsys):
    rows = [json.loads(line) for line in Path(files.test).read_text().splitlines()]
    listed = [row | {"document": ["The list is old. Sort", "", f"it by\n its key. {row['document']}"]} for row in rows]
    Path("listed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    marked = ["model.encoder_sentences=lines", "model.encoder_segments=interval"]
    options = [*files.overrides(), "variant=bertsumabs", *marked, "task.test=listed.jsonl", "folder=run"]
    options += ["training.encoder_learning_rate=1e-4", "training.encoder_warmup_steps=3"]
    assert inspect(options) == 0, capsys.readouterr().err
    assert train(options) == 0, capsys.readouterr().err
    first = Run("run").predictions()
    assert first[0].source.startswith("The list is old. Sort\nit by its key.")
    assert evaluate(["run=run"]) == 0, capsys.readouterr().err
    assert Run("run").predictions() == first
    capsys.readouterr()
    assert predict(["run=run", "input=listed.jsonl"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["prediction"] for line in out.splitlines()] == [each.prediction for each in first], err
    Path("bad.jsonl").write_text(json.dumps({"key": "1", "document": ["", " "], "summary": "a"}) + "\n")
    options = [each.replace("listed", "bad").replace("folder=run", "folder=other") for each in options]
    assert train(options) == 2
    assert "it must be a text that is not empty" in capsys.readouterr().err
