"""Cross-attention that a language model is given: its start, its place, what it computes, what is refused."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from families import batch, logits
from transformers import AutoModelForCausalLM, EncoderDecoderModel

from encdec_lightning.composition.adapter.cross_attention import CrossAttention
from encdec_lightning.composition.adapter.decoder import CrossAttendingLM, decoder_layers
from encdec_lightning.composition.architectures import ARCHITECTURES
from encdec_lightning.composition.compatibility import check
from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.model import EncoderDecoder

ADAPTED = [name for name, each in ARCHITECTURES.items() if each.layout is not None]
PECULIAR = [
    *(("falcon", {"parallel_attn": False}), ("falcon", {"multi_query": False}), ("falcon", {"alibi": True})),
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    ("gpt_neox", {"use_parallel_residual": False}),
    *(("opt", {"do_layer_norm_before": False}), ("phi", {"qk_layernorm": True})),
    *(("bloom", {"apply_residual_connection_post_layernorm": True}), ("olmo2", {"num_key_value_heads": 1})),
    *(("llama", {"attention_bias": True}), ("granite", {"residual_multiplier": 0.3, "attention_multiplier": 0.7})),
    *((family, {"sliding_window": 4}) for family in ("mistral", "gemma2", "gemma3_text", "modernbert-decoder")),
    ("qwen2", {"sliding_window": 4, "use_sliding_window": True, "layer_types": ["sliding_attention"] * 2}),
]
"""Families, and values of their configs by which their layers compute something else."""
every_adapted = pytest.mark.parametrize("family", ADAPTED)
every_peculiar = pytest.mark.parametrize(("family", "values"), PECULIAR, ids=lambda each: str(each).strip("{}"))
SPECIAL = {"decoder_start_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "do_sample": False}


@pytest.fixture
def peculiar(files, tmp_path, monkeypatch):
    """(family, values, options) -> a model whose decoder's config has these values, beside a bert."""

    def made(family, values, **options):
        with monkeypatch.context() as patched:
            patched.setitem(tiny.PECULIAR, family, {**tiny.PECULIAR.get(family, {}), **values})
            folder = tiny.family_checkpoint(tmp_path / family, family)
        torch.manual_seed(0)
        return compose(files.bert, folder, **options).eval(), folder

    return made


def is_the_language_model(model, folder):
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    inputs = batch(model)
    with torch.no_grad():
        return torch.equal(logits(model, **inputs), plain(inputs["decoder_input_ids"], use_cache=False).logits)


def gates(model):
    return [each.gate for each in model.decoder.modules() if isinstance(each, CrossAttention)]


@every_adapted
def test_with_a_closed_gate_step_0_is_the_language_model_and_the_gate_has_a_gradient(files, probe, family):
    model = compose(files.bert, probe.folder(family), cross_attention_gate="zero").eval()
    assert is_the_language_model(model, probe.folder(family))
    model(**batch(model), use_cache=False).logits.square().mean().backward()
    assert gates(model) and all(gate.grad.abs().item() > 0 for gate in gates(model))


@every_peculiar
def test_configs_by_which_layers_compute_something_else(peculiar, family, values):
    model, folder = peculiar(family, values, cross_attention_gate="zero")
    assert is_the_language_model(model, folder)
    for gate in gates(model):
        torch.nn.init.ones_(gate)
    before, inputs = copy.deepcopy(model), batch(model)
    assert not is_the_language_model(model, folder)
    del inputs["decoder_input_ids"]
    for beams in (1, 3):  # a window is self-attention's alone: the source is longer than it
        generate = {**inputs, **SPECIAL, "num_beams": beams, "max_new_tokens": 9, "min_new_tokens": 8}
        assert torch.equal(*(before.generate(**generate, use_cache=cached) for cached in (True, False)))


@every_peculiar
def test_configs_by_which_merged_attention_computes_something_else(peculiar, family, values):
    if not tiny.merges(family):
        pytest.skip("its self-attention cannot read a source")
    model, _ = peculiar(family, values, cross_attention_kind="merged")
    inputs = batch(model)
    del inputs["decoder_input_ids"]
    for beams in (1, 3):
        generate = {**inputs, **SPECIAL, "num_beams": beams, "max_new_tokens": 9, "min_new_tokens": 8}
        assert torch.equal(*(model.generate(**generate, use_cache=cached) for cached in (True, False)))


def attended(cross: CrossAttention, hidden: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """What cross-attention adds, from its definition, a query and a head at a time: (T, H) and (S, E) to (T, H)."""
    queries, keys, values = cross.q_proj(cross.norm(hidden)), cross.k_proj(source), cross.v_proj(source)
    size, shared = cross.head_dim, cross.heads // cross.groups
    rows = []
    for query in queries:
        heads = []
        for head in range(cross.heads):
            own = slice(head * size, (head + 1) * size)
            of = slice(head // shared * size, (head // shared + 1) * size)
            weights = torch.softmax(keys[:, of] @ query[own] * cross.scaling, dim=0)
            heads.append(weights @ values[:, of])
        rows.append(torch.cat(heads))
    return cross.o_proj(torch.stack(rows))


@torch.no_grad()
@pytest.mark.parametrize("place", ["between", "after"])
def test_a_llama_with_cross_attention_is_its_definition(files, probe, place):
    model = compose(files.bert, probe.folder("llama"), cross_attention_place=place).eval().double()
    inputs = batch(model, (9,))
    source = model.encoder(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    base, ids = model.decoder.model, inputs["decoder_input_ids"]
    hidden = base.embed_tokens(ids)
    positions = base.rotary_emb(hidden, torch.arange(ids.shape[1])[None])
    for layer in base.layers:
        own = layer.self_attn(layer.input_layernorm(hidden), position_embeddings=positions, attention_mask=None)[0]
        hidden = hidden + own
        if place == "between":
            hidden = hidden + attended(layer.cross_attention, hidden[0], source[0])[None]
        hidden = hidden + layer.mlp(torch.nn.Module.__call__(layer.post_attention_layernorm, hidden))
        if place == "after":
            hidden = hidden + attended(layer.cross_attention, hidden[0], source[0])[None]
    expected = model.decoder.lm_head(base.norm(hidden))
    assert (logits(model, **inputs) - expected).abs().max() < 1e-9


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "values"),
    [("bloom", {}), ("gpt_neox", {}), ("falcon", {"multi_query": False}), ("falcon", {}),
     ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2})],
    ids=lambda each: str(each).strip("{}"),
)  # fmt: skip
def test_copies_of_a_fused_projection_are_the_familys_own_queries_keys_and_values(peculiar, family, values):
    model, _ = peculiar(family, values, cross_attention_init="self_attention")
    layer = decoder_layers(model.decoder)[0]
    own, cross = getattr(layer, "attention", None) or layer.self_attention, layer.cross_attention
    states = torch.randn(2, 5, tiny.WIDTH)
    fused = own.query_key_value(states)
    if family == "gpt_neox":
        theirs = fused.view(2, 5, tiny.HEADS, 3, -1).unbind(3)
    elif family == "bloom":
        theirs = [each.transpose(1, 2) for each in own._reshape(fused)]
    else:
        theirs = own._split_heads(fused)
    for projection, expected in zip((cross.q_proj, cross.k_proj, cross.v_proj), theirs, strict=True):
        found = projection(states).view(2, 5, -1, cross.head_dim)
        if family == "falcon" and values.get("new_decoder_architecture"):  # it repeats keys for their queries
            found = found.repeat_interleave(expected.shape[2] // found.shape[2], dim=2)
        assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(cross.o_proj.weight, own.dense.weight)


@torch.no_grad()
def test_padding_before_the_target_changes_nothing(probe):
    for role, family in (("decoder", "llama"), ("merged", "llama"), ("decoder", "opt"), ("decoder", "gptj")):
        model = probe(role, family)
        inputs = batch(model)
        expected = logits(model, **inputs)
        target = inputs["decoder_input_ids"]
        padded = torch.cat([torch.full((2, 3), 1), target], dim=1)
        mask = torch.cat([torch.zeros(2, 3, dtype=torch.long), torch.ones_like(target)], dim=1)
        found = model(
            **{**inputs, "decoder_input_ids": padded}, decoder_attention_mask=mask, use_cache=False,
            decoder_position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        ).logits[:, 3:]  # fmt: skip
        assert (found - expected).abs().max() < 1e-5, (role, family)


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_every_nth_layer_is_given_cross_attention(files, tmp_path, monkeypatch, every):
    monkeypatch.setitem(tiny.SIZES, "num_hidden_layers", 5)
    folder = tiny.family_checkpoint(tmp_path / "five", "llama")
    for kind in ("separate", "merged"):
        model = compose(files.bert, folder, cross_attention_every=every, cross_attention_kind=kind)
        reading = [
            number for number, layer in enumerate(decoder_layers(model.decoder), start=1)
            if hasattr(layer, "cross_attention" if kind == "separate" else "merged")
        ]  # fmt: skip
        assert reading == list(range(every, 6, every))
    (problem,) = check(files.bert, folder, cross_attention_every=6).problems
    assert str(problem) == "cross_attention_every is 6: the decoder has 5 layers."
    (problem,) = check(files.bert, folder, decoder_layers=2, cross_attention_every=3).problems
    assert str(problem) == "cross_attention_every is 3: the decoder has 2 layers."


@pytest.mark.parametrize("start", ["random", "self_attention"])
def test_sides_of_two_widths(files, tmp_path, start):
    wide = tiny.checkpoint(tmp_path / "wide", "bert", width=48)
    llama = tiny.family_checkpoint(tmp_path / "llama", "llama")
    model = compose(wide, llama, cross_attention_init=start)
    keys = decoder_layers(model.decoder)[0].cross_attention.k_proj
    assert (keys.in_features, hasattr(model, "enc_to_dec_proj")) == ((48, False) if start == "random" else (32, True))
    merged = compose(wide, llama, cross_attention_kind="merged")
    fresh = set(merged.config.fresh_parameters)
    assert fresh == {"enc_to_dec_proj.weight", "enc_to_dec_proj.bias"}


def test_merged_attention_between_two_of_one_width_adds_no_parameter(files, probe):
    model = compose(files.bert, probe.folder("llama"), cross_attention_kind="merged")
    plain = AutoModelForCausalLM.from_pretrained(probe.folder("llama"))
    assert {name for name, _ in model.decoder.named_parameters()} == {name for name, _ in plain.named_parameters()}
    assert model.config.fresh_parameters == []


@pytest.mark.parametrize(
    ("family", "options", "expected"),
    [
        ("phi", {"cross_attention_place": "between"}, "phi has no between: both parts of its layers read the same"),
        ("gptj", {"cross_attention_kind": "merged"}, "gptj has no projections of its keys and values alone"),
        ("bloom", {"cross_attention_kind": "merged"}, "bloom has no projections of its keys and values alone"),
        ("llama", {"cross_attention_kind": "merged", "cross_attention_gate": "zero"}, "so it stays none"),
        ("llama", {"cross_attention_kind": "merged", "cross_attention_init": "random"}, "so it stays pretrained"),
        ("llama", {"cross_attention_every": 0}, "it must be a number of layers, 1 or more"),
        ("bert", {"cross_attention_gate": "zero"}, "(bert) has cross-attention of its own, so that none is added"),
        ("gpt2", {"cross_attention_every": 2}, "(gpt2) has cross-attention of its own, so that none is added"),
    ],
)
def test_what_contradicts_is_refused_in_one_sentence(files, probe, family, options, expected):
    (problem,) = check(files.bert, probe.folder(family), **options).problems
    assert expected in str(problem) and problem.field in options


def test_a_decoder_alone_is_given_none(files):
    (problem,) = check(None, files.llama, cross_attention_gate="zero").problems
    assert str(problem) == "cross_attention_gate is 'zero': without an encoder it stays none."


def test_a_decoder_that_was_given_cross_attention_is_a_checkpoint_that_has_it(files, tmp_path):
    model = compose(files.bert, files.llama, cross_attention_gate="zero", cross_attention_place="after").eval()
    for gate in gates(model):
        torch.nn.init.ones_(gate)
    model.decoder.save_pretrained(tmp_path / "decoder")
    (tmp_path / "decoder" / "tokenizer.json").write_bytes((Path(files.llama) / "tokenizer.json").read_bytes())
    again = compose(files.bert, str(tmp_path / "decoder")).eval()
    assert again.config.fresh_parameters == []
    assert torch.equal(logits(again, **batch(model)), logits(model, **batch(model)))
    (problem,) = check(files.bert, str(tmp_path / "decoder"), cross_attention_every=2).problems
    assert "(llama) has cross-attention of its own, so that none is added; leave it away" in str(problem)
    (problem,) = check(str(tmp_path / "decoder"), files.bert).problems
    assert "cannot be the encoder" in str(problem)


OPENING = """
import sys
import encdec_lightning
assert "transformers" not in sys.modules
from transformers import AutoConfig, AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(type(model).__name__, sum(each.double().sum().item() for each in model.parameters()))
"""
REFUSING = """
import sys
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
for kind, folder in ((AutoModelForCausalLM, sys.argv[1]), (AutoModelForSeq2SeqLM, sys.argv[2])):
    try:
        kind.from_pretrained(folder)
    except (KeyError, ValueError) as error:
        print("cross_attending_lm" in str(error))
import encdec_lightning
print(type(AutoConfig.from_pretrained(sys.argv[1])).__name__)
"""


def test_transformers_opens_it_after_the_import_and_refuses_it_before(files, tmp_path):
    model = compose(files.bert, files.llama)
    model.save_pretrained(tmp_path / "pair")
    model.decoder.save_pretrained(tmp_path / "decoder")

    def answer(script):
        command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "decoder"), str(tmp_path / "pair")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    total = sum(each.double().sum().item() for each in model.decoder.parameters())
    assert answer(OPENING) == ["CrossAttendingLlamaForCausalLM", str(total)]
    assert answer(REFUSING) == ["True", "True", "CrossAttendingLlamaConfig"]
    again = EncoderDecoder.from_pretrained(tmp_path / "pair")
    assert isinstance(again.decoder, CrossAttendingLM)
    stock = EncoderDecoderModel.from_pretrained(tmp_path / "pair")
    assert torch.equal(logits(stock, **batch(model)), logits(model.eval(), **batch(model)))


@torch.no_grad()
def test_without_a_source_it_is_the_language_model(files):
    model = compose(files.bert, files.llama).eval()
    plain, ids = AutoModelForCausalLM.from_pretrained(files.llama).eval(), torch.tensor([[0, 7, 8, 9]])
    assert torch.equal(model.decoder(ids).logits, plain(ids).logits)
    assert torch.equal(model.decoder.generate(ids, max_new_tokens=5), plain.generate(ids, max_new_tokens=5))
