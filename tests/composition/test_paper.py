"""The sizes of the paper's models: recounted by hand, and what the paper prints."""

from __future__ import annotations

import pytest

from encdec_lightning.composition.checkpoints import load_config
from encdec_lightning.composition.compatibility import check
from encdec_lightning.composition.families import SHIPPED
from encdec_lightning.composition.options import Composition
from encdec_lightning.composition.paper import ROWS, has_printed_size, paper_row

B, R, G = "bert-base-cased", "roberta-base", "gpt2"
LARGE, MULTILINGUAL = "bert-large-cased", "bert-base-multilingual-cased"
CROSS_ATTENTION = 12 * (4 * (768**2 + 768) + 2 * 768)
LAYERS = 12 * (4 * (768**2 + 768) + 2 * 768 + 2 * 768 * 3072 + 3072 + 768 + 2 * 768)
TRANSFORM = 768**2 + 768 + 2 * 768
VARIANTS = {
    "rnd2rnd": dict(encoder=B, decoder=B, weights="tied_embeddings", encoder_init="random", decoder_init="random"),
    "bert2rnd": dict(encoder=B, decoder=B, weights="tied_embeddings", decoder_init="random"),
    "rnd2bert": dict(encoder=B, decoder=B, weights="tied_embeddings", encoder_init="random"),
    "bert2bert": dict(encoder=B, decoder=B, weights="tied_embeddings"),
    "bertshare": dict(encoder=B, decoder=B, weights="tied"),
    "robertashare": dict(encoder=R, decoder=R, weights="tied"),
    "gpt": dict(encoder=None, decoder=G),
    "rnd2gpt": dict(encoder=B, encoder_init="random", encoder_vocabulary=G, decoder=G, weights="tied_embeddings"),
    "bert2gpt": dict(encoder=B, decoder=G),
    "roberta2gpt": dict(encoder=R, decoder=G),
}
EXACT = {
    **dict.fromkeys(("rnd2rnd", "bert2rnd", "rnd2bert", "bert2bert"), 221_140_992),
    "bertshare": 136_086_528,
    "robertashare": 152_421_888,
    "gpt": 124_439_808,
    "rnd2gpt": 238_257_408,
    "bert2gpt": 260_526_336,
    "roberta2gpt": 276_861_696,
}
RANDOM = {
    "rnd2rnd": 221_140_992,
    **dict.fromkeys(("bert2rnd", "rnd2bert"), LAYERS + CROSS_ATTENTION),
    **dict.fromkeys(("bert2bert", "bertshare", "robertashare", "bert2gpt", "roberta2gpt"), CROSS_ATTENTION),
    "gpt": 0,
    "rnd2gpt": LAYERS + CROSS_ATTENTION + 512 * 768 + 2 * 768 + 2 * 768,
}


def counts(options):
    answer = check(**options)
    assert answer.ok, answer.problems
    return answer.parameters


def test_every_row_of_the_table_is_there():
    assert tuple(VARIANTS) == ROWS


@pytest.mark.parametrize("variant", ROWS)
def test_by_the_papers_rule_the_totals_are_the_recounts(variant):
    parameters = counts(VARIANTS[variant])
    own = parameters.by_the_paper
    assert own.total == EXACT[variant]
    assert own.random == RANDOM[variant]
    assert own.pretrained == own.total - own.random
    row = paper_row(Composition(**VARIANTS[variant]))
    assert row.variant == variant and has_printed_size(Composition(**VARIANTS[variant]))
    assert abs(own.total / 1e6 - row.total) < 1
    assert abs(own.embedding / 1e6 - row.embedding) < 1
    misprint = {"rnd2bert": 112}.get(variant, row.random)
    assert abs(own.random / 1e6 - misprint) < 2.5  # cross-attention is printed as 26 and has 28.4
    assert abs(own.pretrained / 1e6 - row.initialized) < 2.5  # printed with the pooler


def test_as_built_a_bert_has_a_transform_and_a_bias_before_the_softmax():
    parameters = counts(VARIANTS["bertshare"])
    assert parameters.head == parameters.as_built.total - 136_086_528 == TRANSFORM + 28_996
    assert counts(VARIANTS["gpt"]).head == 0
    bias = 50_265
    assert counts(VARIANTS["robertashare"]).head == TRANSFORM + bias


@pytest.mark.parametrize(
    ("options", "total"),
    [
        (dict(encoder=LARGE, decoder=LARGE, weights="tied", encoder_layers=10, decoder_layers=10), 198_187_008),
        (dict(encoder=LARGE, decoder=LARGE, weights="tied_embeddings", encoder_layers=10, decoder_layers=10), 324_149_248),
        (dict(encoder=LARGE, decoder=LARGE, weights="tied"), 433_340_416),
        (dict(encoder="roberta-large", decoder="roberta-large", weights="tied"), 455_120_896),
        (dict(encoder=MULTILINGUAL, decoder=MULTILINGUAL, weights="tied"), 205_629_696),
        (dict(encoder=MULTILINGUAL, decoder=MULTILINGUAL, weights="tied_embeddings"), 290_684_160),
        (dict(encoder="bert-base-uncased", decoder="bert-base-uncased", weights="tied"), 137_258_496),
        (dict(encoder="bert-base-uncased", decoder="bert-base-uncased", weights="tied_embeddings"), 222_312_960),
    ],
)  # fmt: skip
def test_larger_models_too(options, total):
    assert counts(options).by_the_paper.total == total


def test_without_sharing_it_is_the_stock_models_size():
    """247,363,386 in Hugging Face's account of bert2bert uncased, the pooler's 590,592 included."""
    options = dict(encoder="bert-base-uncased", decoder="bert-base-uncased")
    assert counts(options).as_built.total == 247_363_386 - 590_592


def test_a_tied_cased_bert_is_the_size_that_hugging_face_gives():
    assert counts(VARIANTS["bertshare"]).as_built.total == 137_298_244 - 590_592


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.json")), ids=lambda file: file.stem)
def test_shipped_configs_are_found_under_both_names(file):
    import json

    owner = json.loads(file.read_text())["owner"]
    old, new = load_config("encoder", file.stem), load_config("encoder", f"{owner}/{file.stem}")
    assert old.to_dict() == new.to_dict() and old.architectures
    from encdec_lightning.composition.checkpoints import shipped_config

    assert shipped_config(f"somebody/{file.stem}") is None


def test_a_folder_of_that_name_goes_before_what_is_shipped(files, in_tmp):
    import shutil

    shutil.copytree(files.bert, in_tmp / "bert-base-cased")
    assert load_config("encoder", "bert-base-cased").hidden_size == 32


def test_a_composition_that_the_paper_does_not_have(files):
    assert paper_row(Composition(encoder=B, decoder=R)) is None
    assert (
        paper_row(Composition(encoder=LARGE, decoder=LARGE, weights="tied", encoder_layers=10, decoder_layers=10))
        is None
    )
    large = Composition(encoder=LARGE, decoder=LARGE, weights="tied")
    assert paper_row(large).variant == "bertshare" and not has_printed_size(large)
