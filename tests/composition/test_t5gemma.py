"""Two gemma2 that were composed are a T5Gemma of transformers, to the bit, and back; merged attention is T5Gemma 2's."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import tiny
import torch
from families import batch, logits
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, T5Gemma2TextConfig
from transformers.models.t5gemma2.configuration_t5gemma2 import T5Gemma2DecoderConfig
from transformers.models.t5gemma2.modeling_t5gemma2 import T5Gemma2Decoder

from encdec_lightning.cli.evaluate import main as evaluate
from encdec_lightning.cli.train import main as train
from encdec_lightning.composition.adapter.t5gemma import as_t5gemma
from encdec_lightning.composition.compatibility import check
from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.cross_attending import with_cross_attention
from encdec_lightning.composition.model import count_ties
from encdec_lightning.errors import UserError
from encdec_lightning.run import Run

SIZES = {
    "small": {},
    "large": {"hidden_size": 48, "num_hidden_layers": 4},
    "whole": {"sliding_window": 64},
    "untied": {"num_hidden_layers": 4, "tie_word_embeddings": False},
}


@pytest.fixture(scope="module")
def gemmas(tmp_path_factory):
    """Four gemma2, three with a window of 4 tokens, and values large enough that every cap and norm shows."""
    folder, made = tmp_path_factory.mktemp("gemmas"), {}
    for name, values in SIZES.items():
        with pytest.MonkeyPatch.context() as patched:
            own = {"sliding_window": 4, "num_key_value_heads": 2, "query_pre_attn_scalar": 8, "hidden_size": tiny.WIDTH}
            patched.setitem(tiny.PECULIAR, "gemma2", {**own, **values})
            made[name] = tiny.family_checkpoint(folder / name, "gemma2")
        model = AutoModelForCausalLM.from_pretrained(made[name])
        torch.manual_seed(len(name))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(made[name])
    return made


@torch.no_grad()
@pytest.mark.parametrize(
    ("encoder", "decoder", "options"),
    [
        ("small", "small", {}),
        ("small", "small", {"cross_attention_init": "self_attention"}),
        ("small", "small", {"weights": "tied"}),
        ("small", "small", {"weights": "tied_embeddings"}),
        ("small", "large", {}),
        ("large", "small", {}),
        ("small", "untied", {"cross_attention_gate": "zero"}),
    ],
)
def test_transformers_opens_the_export_with_the_same_logits_and_its_sides_are_checkpoints(
    gemmas, tmp_path, encoder, decoder, options
):
    model = compose(gemmas[encoder], gemmas[decoder], encoder_bidirectional=True, **options).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.normal_(parameter)
    inputs = batch(model, (12, 7), 9)  # longer than the window
    expected = logits(model, **inputs)
    as_t5gemma(model).save_pretrained(tmp_path)
    stock = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(stock).__name__ == "T5GemmaForConditionalGeneration"
    found = stock(**inputs, use_cache=False).logits
    assert expected.abs().max() > 5
    if "cross_attention_gate" in options:  # becomes a part of the norm before it, so that it is rounded otherwise
        assert torch.allclose(found, expected, atol=1e-4)
    else:
        assert torch.equal(found, expected)
    back = compose(str(tmp_path), str(tmp_path)).eval()
    assert back.config.fresh_parameters == [] and torch.equal(logits(back, **inputs), found)
    tied = compose(str(tmp_path), str(tmp_path), "tied_embeddings") if encoder == decoder else None
    assert tied is None or count_ties(tied) == len(tied.shared) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"cross_attention_place": "after"},
            "a T5Gemma has cross-attention between self-attention and the feed-forward",
        ),
        ({"cross_attention_every": 2}, "a T5Gemma has separate cross-attention in every layer"),
        ({"cross_attention_kind": "merged"}, "a T5Gemma has separate cross-attention in every layer"),
    ],
)
def test_a_model_of_another_shape_is_no_t5gemma(gemmas, options, expected):
    model = compose(gemmas["small"], gemmas["small"], encoder_bidirectional=True, **options)
    with pytest.raises(UserError, match=f"export is 't5gemma': {expected}"):
        as_t5gemma(model)


def test_a_projection_between_widths_is_no_part_of_a_t5gemma(gemmas):
    options = {"encoder_bidirectional": True, "cross_attention_init": "self_attention"}
    with pytest.raises(UserError, match="its encoder's states pass a projection, which a T5Gemma lacks"):
        as_t5gemma(compose(gemmas["large"], gemmas["small"], **options))


def test_a_run_is_exported_as_a_t5gemma_and_scored_as_any_model(files, gemmas, in_tmp, capsys):
    pair = [f"checkpoints.decoder={gemmas['whole']}", "variant=lm2lm", "export=t5gemma", "folder=run"]
    assert train(files.overrides(*pair)) == 0, capsys.readouterr().err
    run = Run(in_tmp / "run")
    assert json.loads((run.model / "config.json").read_text())["model_type"] == "t5gemma"
    card = (run.model / "README.md").read_text()
    assert "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer" in card
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(run.model), AutoTokenizer.from_pretrained(run.model)
    rows = run.predictions()
    for row in rows[:4]:
        ids = model.generate(**tokenizer(row.source, return_tensors="pt", truncation=True, max_length=40))
        assert tokenizer.decode(ids[0], skip_special_tokens=True).strip() == row.prediction
    told = [each for each in files.overrides() if each.startswith("task")]
    assert evaluate([f"model={run.model}", *told, "folder=scored"]) == 0, capsys.readouterr().err
    assert train(files.overrides(f"model.encoder={run.model}", f"model.decoder={run.model}", "folder=on")) == 0


def test_an_export_that_cannot_be_is_refused_before_the_run(files, in_tmp, capsys):
    assert train(files.overrides("variant=bertshare", "export=t5gemma", "folder=run")) == 2
    assert "export is 't5gemma': its sides are bert and bert, and a T5Gemma's are gemma2." in capsys.readouterr().err
    assert train(files.overrides("variant=bertshare", "export=t5", "folder=run")) == 2
    assert "export is 't5': " in capsys.readouterr().err
    assert not Path("run").exists()


def test_a_t5gemma_is_no_decoder_of_another_width(gemmas, files, tmp_path):
    model = compose(gemmas["small"], gemmas["large"], encoder_bidirectional=True)
    as_t5gemma(model).save_pretrained(tmp_path)
    wide = tiny.checkpoint(tmp_path / "wide", "bert", width=64)
    (problem,) = check(wide, str(tmp_path)).problems
    assert "its cross-attention reads states 32 wide" in str(problem)


@torch.no_grad()
def test_merged_attention_is_that_of_t5gemma_2(monkeypatch):
    """With the same values, from the same states, in every kind of layer, within and beyond a window."""
    kinds = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4, "num_key_value_heads": 2}
    monkeypatch.setitem(tiny.PECULIAR, "gemma3_text", {**kinds, "query_pre_attn_scalar": 8})
    config = tiny.family_config("gemma3_text", 300)
    torch.manual_seed(0)
    ours = AutoModelForCausalLM.from_config(with_cross_attention(config, cross_attention_kind="merged")).eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    names = T5Gemma2DecoderConfig().to_dict().keys() & T5Gemma2TextConfig().to_dict().keys() - {"model_type"}
    values = {name: value for name, value in config.to_dict().items() if name in names}
    theirs = T5Gemma2Decoder(T5Gemma2DecoderConfig(**values, dropout_rate=0.0)).eval()
    renamed = {"input_layernorm": "pre_self_attn_layernorm", "post_attention_layernorm": "post_self_attn_layernorm"}
    state = {}
    for name, value in ours.model.state_dict().items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        state[name] = value
    missing, unexpected = theirs.load_state_dict(copy.deepcopy(state), strict=False)
    assert not unexpected and all("eoi" in name or "rotary" in name for name in missing), (missing, unexpected)
    ids, states = torch.randint(5, 300, (2, 9)), torch.randn(2, 12, tiny.WIDTH)
    mask = (torch.arange(12) < torch.tensor([[12], [7]])).long()
    beside = {"encoder_hidden_states": states, "encoder_attention_mask": mask, "use_cache": False}
    expected = theirs(ids, **beside).last_hidden_state
    found = ours(ids, **beside, output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(found, expected, atol=1e-5) and expected.abs().max() > 1
