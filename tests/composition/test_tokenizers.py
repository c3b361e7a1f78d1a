"""The special-token contract: one and two tokenizers, training and generation alike, saved and loaded."""

import shutil
from pathlib import Path

import pytest
import tiny
import torch
from composed import ENCODERS, composed, every_pair, inputs, kept, logits, own
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.model import EncoderDecoder
from encdec_lightning.composition.tokenizers import DECODER_FOLDER, Tokenizers
from encdec_lightning.errors import UserError

SOURCES = ["The matrix is given. Use this to sort the matrix of a list.", "merge the graph"]
FIRST_END_PAD = {
    "bert": ("[CLS]", "[SEP]", "[PAD]"),
    "roberta": ("<s>", "</s>", "<pad>"),
    "gpt2": ("<|endoftext|>",) * 3,
}
every_family = pytest.mark.parametrize("family", FIRST_END_PAD)


def tokenizers_of(files, encoder: str, decoder: str) -> Tokenizers:
    return Tokenizers.from_pretrained(getattr(files, encoder), getattr(files, decoder))


@every_pair
def test_start_end_and_padding(files, encoder, decoder):
    tokenizers = tokenizers_of(files, encoder, decoder)
    ids = tokenizers.target.convert_tokens_to_ids(list(FIRST_END_PAD[decoder]))
    assert [tokenizers.start_id, tokenizers.end_id, tokenizers.pad_id] == ids
    assert tokenizers.source_pad_id == tokenizers.source.convert_tokens_to_ids(FIRST_END_PAD[encoder][2])
    assert (tokenizers.source is tokenizers.target) == (encoder == decoder)


@every_family
def test_one_tokenizer_serves_both_sides(files, family):
    folder = getattr(files, family)
    for one in (Tokenizers.from_pretrained(folder), Tokenizers(AutoTokenizer.from_pretrained(folder))):
        assert one.source is one.target


@every_family
def test_a_source_is_what_its_tokenizer_makes_of_it(files, family):
    tokenizers = tokenizers_of(files, family, "gpt2")
    plain = AutoTokenizer.from_pretrained(getattr(files, family))
    assert tokenizers.encode_sources(SOURCES, 64) == [plain(text)["input_ids"] for text in SOURCES]
    cut = tokenizers.encode_sources(SOURCES, 5)
    assert [len(ids) for ids in cut] == [5, min(5, len(plain(SOURCES[1])["input_ids"]))]
    if family != "gpt2":
        assert {(ids[0], ids[-1]) for ids in cut} == {(plain.cls_token_id, plain.sep_token_id)}


@every_family
@pytest.mark.parametrize("length", [1, 2, 4, 64])
def test_a_target_always_ends(files, family, length):
    tokenizers = tokenizers_of(files, "bert", family)
    special = set(tokenizers.target.all_special_ids)
    for ids, text in zip(tokenizers.encode_targets(SOURCES, length), SOURCES, strict=True):
        whole = tokenizers.target(text, add_special_tokens=False)["input_ids"]
        assert ids == [*whole[: length - 1], tokenizers.end_id]
        assert len(ids) <= length and not special & set(ids[:-1])


@every_family
def test_decoding_gives_the_text_back(files, family):
    tokenizers = tokenizers_of(files, "bert", family)
    texts = ["sort the matrix", "merge the graph"]
    rows = [[tokenizers.start_id, *ids] for ids in tokenizers.encode_targets(texts, 32)]
    width = max(map(len, rows)) + 2
    padded = torch.tensor([[*row, *[tokenizers.pad_id] * (width - len(row))] for row in rows])
    assert tokenizers.decode(padded) == texts


@every_pair
def test_both_configs_of_a_model_say_the_same(files, tmp_path, encoder, decoder):
    tokenizers = tokenizers_of(files, encoder, decoder)
    model = composed(files, encoder, decoder, tokenizers=tokenizers)
    model.save_pretrained(tmp_path)
    for one in (model, EncoderDecoder.from_pretrained(tmp_path), AutoModelForSeq2SeqLM.from_pretrained(tmp_path)):
        for config in (one.config, one.generation_config):
            found = config.decoder_start_token_id, config.eos_token_id, config.pad_token_id
            assert found == (tokenizers.start_id, tokenizers.end_id, tokenizers.pad_id)
        assert one.generation_config.bos_token_id == tokenizers.start_id


@every_pair
def test_an_export_carries_both_tokenizers(files, tmp_path, encoder, decoder):
    tokenizers = tokenizers_of(files, encoder, decoder)
    kept(files, encoder, decoder).save_pretrained(tmp_path)
    tokenizers.save_pretrained(tmp_path)
    second = tmp_path / DECODER_FOLDER
    assert second.name == "decoder_tokenizer" and second.is_dir() == (encoder != decoder)
    loaded = Tokenizers.load(tmp_path)
    assert (loaded.source is loaded.target) == (encoder == decoder)
    stock = (
        AutoTokenizer.from_pretrained(tmp_path),
        AutoTokenizer.from_pretrained(second if second.is_dir() else tmp_path),
    )
    for text in SOURCES:
        assert stock[0](text)["input_ids"] == loaded.source(text)["input_ids"] == tokenizers.source(text)["input_ids"]
        assert stock[1](text)["input_ids"] == loaded.target(text)["input_ids"] == tokenizers.target(text)["input_ids"]
    assert loaded.encode_targets(SOURCES, 9) == tokenizers.encode_targets(SOURCES, 9)
    names = ("start_id", "end_id", "pad_id", "source_pad_id")
    assert [getattr(loaded, name) for name in names] == [getattr(tokenizers, name) for name in names]


def test_saving_one_tokenizer_leaves_no_second_one_of_before(files, tmp_path):
    tokenizers_of(files, "bert", "gpt2").save_pretrained(tmp_path)
    tokenizers_of(files, "bert", "bert").save_pretrained(tmp_path)
    assert Tokenizers.load(tmp_path).end_id == tokenizers_of(files, "bert", "bert").end_id


@every_family
def test_a_missing_tokenizer_is_refused(files, tmp_path, family):
    for file in ("config.json", "model.safetensors"):
        shutil.copy(Path(getattr(files, family)) / file, tmp_path)
    with pytest.raises(UserError) as caught:
        Tokenizers.from_pretrained(files.bert, str(tmp_path))
    assert str(caught.value) == f"decoder is {str(tmp_path)!r}: no tokenizer of it can be loaded."
    with pytest.raises(UserError, match=r"^encoder is .*: no tokenizer of it can be loaded"):
        Tokenizers.from_pretrained("nobody/nothing", files.bert)
    with pytest.raises(UserError, match=r"^encoder is .*: it is neither a folder"):
        Tokenizers.from_pretrained(str(tmp_path / "nowhere"), files.bert)


def test_a_tokenizer_without_a_last_token_is_refused(files):
    tokenizer = AutoTokenizer.from_pretrained(files.roberta)
    tokenizer.sep_token = tokenizer.eos_token = None
    with pytest.raises(UserError, match="it needs a sep_token or eos_token"):
        Tokenizers(AutoTokenizer.from_pretrained(files.bert), tokenizer)


@pytest.mark.parametrize("lacking", [(), ("pad_token",)])
def test_a_tokenizer_without_a_first_token_starts_with_padding_or_the_end(files, lacking):
    """Qwen's have no beginning of sequence; its pretraining put what is now padding between its texts."""
    tokenizer = AutoTokenizer.from_pretrained(files.llama)
    expected = tokenizer.pad_token_id if not lacking else tokenizer.eos_token_id
    for name in ("cls_token", "bos_token", *lacking):
        setattr(tokenizer, name, None)
    tokenizers = Tokenizers(AutoTokenizer.from_pretrained(files.bert), tokenizer)
    assert tokenizers.start_id == expected != AutoTokenizer.from_pretrained(files.llama).bos_token_id


def source_batch(tokenizers: Tokenizers, texts: list[str]) -> dict[str, torch.Tensor]:
    rows = tokenizers.encode_sources(texts, 40)
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[*row, *[tokenizers.source_pad_id] * (width - len(row))] for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
    }


@torch.no_grad()
@every_pair
def test_training_sees_what_generation_sees(files, encoder, decoder):
    tokenizers = tokenizers_of(files, encoder, decoder)
    model = own(files, encoder, decoder).eval()
    tokenizers.configure(model)
    batch = source_batch(tokenizers, SOURCES)
    options = dict(min_new_tokens=7, max_new_tokens=7, do_sample=False)
    result = model.generate(**batch, **options, return_dict_in_generate=True, output_logits=True)
    assert (result.sequences[:, 0] == tokenizers.start_id).all()
    taught = model(**batch, decoder_input_ids=result.sequences[:, :-1]).logits
    torch.testing.assert_close(taught, torch.stack(result.logits, dim=1), rtol=0, atol=1e-5)


@torch.no_grad()
@every_pair
def test_generation_ends_with_the_targets_end_and_pads(files, encoder, decoder):
    tokenizers = tokenizers_of(files, encoder, decoder)
    model = own(files, encoder, decoder).eval()
    tokenizers.configure(model)
    result = model.generate(
        **source_batch(tokenizers, SOURCES), forced_eos_token_id=tokenizers.end_id, max_new_tokens=4
    )
    assert result.shape[1] <= 5 and (result[:, 0] == tokenizers.start_id).all()
    for row in result.tolist():
        end = row.index(tokenizers.end_id, 1)
        assert set(row[end + 1 :]) <= {tokenizers.pad_id}


@every_pair
def test_padding_changes_nothing(files, encoder, decoder):
    tokenizers = tokenizers_of(files, encoder, decoder)
    model = kept(files, encoder, decoder)
    batch = source_batch(tokenizers, SOURCES)
    lengths = batch["attention_mask"].sum(1).tolist()
    targets = tokenizers.encode_targets(["sort the matrix of a list", "merge"], 20)
    width = max(map(len, targets))
    rows = [[tokenizers.start_id, *ids[:-1], *[tokenizers.pad_id] * (width - len(ids))] for ids in targets]
    together = logits(model, {**batch, "decoder_input_ids": torch.tensor(rows)})
    for row, ids in enumerate(targets):
        alone = {"input_ids": batch["input_ids"][row : row + 1, : lengths[row]]}
        alone["decoder_input_ids"] = torch.tensor([rows[row][: len(ids)]])
        torch.testing.assert_close(logits(model, alone)[0], together[row, : len(ids)], rtol=0, atol=1e-5)
    assert lengths[0] > lengths[1] and len(targets[0]) > len(targets[1])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_what_lies_under_the_source_mask_does_not_matter(files, encoder):
    model = kept(files, encoder, "gpt2")
    batch = inputs(model)
    changed = {**batch, "input_ids": batch["input_ids"].where(batch["attention_mask"].bool(), 11)}
    torch.testing.assert_close(logits(model, changed), logits(model, batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["bart", "blenderbot", "marian", "mbart"])
@pytest.mark.parametrize("other_words", [False, True])
def test_what_a_family_forces_and_forbids_follows_the_vocabulary(files, tmp_path, family, other_words):
    checkpoint = tiny.family_checkpoint(tmp_path, family)
    tokenizers = Tokenizers.from_pretrained(files.bert, files.bert if other_words else checkpoint)
    options = {"decoder_vocabulary": files.bert} if other_words else {}
    settings = compose(files.bert, checkpoint, **options, tokenizers=tokenizers).generation_config
    assert settings.forced_eos_token_id == tokenizers.end_id == (3 if other_words else 2)
    assert not settings.encoder_no_repeat_ngram_size
