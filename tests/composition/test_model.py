"""Shared tensors stay one Parameter, and the exported folder is whole, whatever is done to a composed model."""

import copy
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import torch
from composed import WEIGHTS, composed, every_cell, inputs, kept, logits, own, tied_cells
from huggingface_hub import ModelCard
from safetensors import safe_open
from tiny import checkpoint_activations
from transformers import AutoModelForSeq2SeqLM, EncoderDecoderModel

from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.model import EncoderDecoder, count_ties
from encdec_lightning.composition.prefix import PrefixDecoder
from encdec_lightning.errors import UserError


def whole(model: EncoderDecoder) -> bool:
    """Whether everything that should be shared is, within each side too."""
    head_is_tied = model.get_output_embeddings().weight is model.decoder.get_input_embeddings().weight
    return count_ties(model) == len(model.shared) and head_is_tied


def same_values(model: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def step(model: EncoderDecoder) -> None:
    """One step of training, after which nothing is as in any checkpoint."""
    model.train()(**inputs(model)).logits.square().mean().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(parameter.grad, alpha=0.5)
            parameter.grad = None


@every_cell
def test_a_saved_folder_opens_in_this_class(files, tmp_path, encoder, decoder, weights):
    model = own(files, encoder, decoder, weights)
    step(model)
    model.save_pretrained(tmp_path)
    assert whole(model)  # saving did nothing to it
    loaded, report = EncoderDecoder.from_pretrained(tmp_path, output_loading_info=True)
    assert whole(loaded) and loaded.shared == model.shared and loaded.composition == model.composition
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert same_values(loaded, model)
    assert torch.equal(logits(loaded), logits(model))
    assert not loaded.training


@every_cell
def test_a_saved_folder_opens_in_the_stock_class(files, tmp_path, encoder, decoder, weights):
    model = own(files, encoder, decoder, weights)
    step(model)
    model.save_pretrained(tmp_path)
    stock, report = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(stock) is EncoderDecoderModel
    assert {name: found for name, found in report.items() if found} == {}
    assert torch.equal(logits(stock), logits(model))
    assert {*model.state_dict()} <= {*stock.state_dict()}
    stock.save_pretrained(tmp_path / "again")  # and back
    again = EncoderDecoder.from_pretrained(tmp_path / "again")
    assert whole(again) and torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(
    ("kind", "family", "expected"),
    [
        (EncoderDecoder, "bert", "its family is bert, not encoder-decoder; compose one."),
        (EncoderDecoder, None, "it is neither a folder with a config.json nor"),
        (PrefixDecoder, "bert", "its family bert cannot stand alone."),
        (PrefixDecoder, "pair", "its family encoder-decoder cannot stand alone."),
    ],
)
def test_a_folder_of_another_kind_is_refused(files, tmp_path, kind, family, expected):
    folder = str(tmp_path / "nowhere") if family is None else getattr(files, family, str(tmp_path))
    if family == "pair":
        own(files, "bert", "bert", "untied").save_pretrained(tmp_path)
    with pytest.raises(UserError) as caught:
        kind.from_pretrained(folder)
    assert str(caught.value).startswith(f"model is {folder!r}: {expected}")


def test_the_folder_names_the_stock_class_and_holds_no_pickle(files, tmp_path):
    model = own(files, "bert", "bert", "tied")
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["EncoderDecoderModel"]
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors"}
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert {*model.shared} <= {*file.keys()}


def test_what_is_pushed_to_the_hub_names_the_stock_class(files, tmp_path, monkeypatch):
    pushed = {}

    def uploaded(model, folder, repo_id, **more):
        pushed[repo_id] = json.loads((Path(folder) / "config.json").read_text())["architectures"]

    answer = SimpleNamespace(create_repo=lambda name, **more: SimpleNamespace(repo_id=name))
    monkeypatch.setattr("transformers.utils.hub.hf_api", lambda: answer)
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *given, **more: ModelCard("none"))
    monkeypatch.setattr(EncoderDecoder, "_upload_modified_files", uploaded)
    model = own(files, "bert", "bert", "tied")
    model.save_pretrained(tmp_path / "first", push_to_hub=True)
    model.save_pretrained(tmp_path / "first", push_to_hub=True, repo_id="me/second", commit_message="new")
    model.push_to_hub("me/third")
    assert pushed == {name: ["EncoderDecoderModel"] for name in ("first", "me/second", "me/third")}


def test_a_folder_of_several_files_and_another_precision(files, tmp_path):
    model = own(files, "bert", "gpt2").to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    stock, report = EncoderDecoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and torch.equal(logits(stock), logits(model))
    assert {parameter.dtype for parameter in stock.parameters()} == {torch.bfloat16}


def test_a_given_state_dict_is_what_is_saved(files, tmp_path):
    model, other = (composed(files, "bert", "bert", "tied", encoder_init="random", seed=seed) for seed in (1, 2))
    step(other)
    model.save_pretrained(tmp_path, state_dict=other.state_dict())
    assert same_values(EncoderDecoder.from_pretrained(tmp_path), other)


@tied_cells
def test_copies_share_among_themselves_only(files, encoder, decoder, weights):
    model = kept(files, encoder, decoder, weights)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301 - made here
        assert whole(twin) and torch.equal(logits(twin), logits(model))
        assert not {id(one) for one in twin.parameters()} & {id(one) for one in model.parameters()}


@tied_cells
def test_moving_keeps_what_is_shared(files, encoder, decoder, weights):
    model = own(files, encoder, decoder, weights)
    count = len(list(model.parameters()))
    for moved in (model.to(torch.float64), model.half(), model.to("cpu"), model.float()):
        assert whole(moved) and len(list(moved.parameters())) == count


@pytest.mark.parametrize("assign", [False, True])
@tied_cells
def test_loading_a_state_dict_keeps_what_is_shared(files, encoder, decoder, weights, assign):
    model = own(files, encoder, decoder, weights)
    trained = own(files, encoder, decoder, weights)
    step(trained)
    assert not same_values(model, trained)
    report = model.load_state_dict(copy.deepcopy(trained.state_dict()), assign=assign)
    assert not report.missing_keys and not report.unexpected_keys
    assert whole(model) and same_values(model, trained)


class Holder(lightning.LightningModule):
    """The least that Lightning trains."""

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.model = model

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@tied_cells
def test_lightning_checkpoints_keep_what_is_shared(files, tmp_path, encoder, decoder, weights):
    quiet = dict(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    trained = Holder(own(files, encoder, decoder, weights))
    step(trained.model)
    trainer = lightning.Trainer(**quiet)
    trainer.strategy.connect(trained)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    fresh = own(files, encoder, decoder, weights)
    assert not same_values(fresh, trained.model)
    loaded = Holder.load_from_checkpoint(tmp_path / "a.ckpt", model=fresh, weights_only=True)
    assert whole(loaded.model) and same_values(loaded, trained)
    assert torch.equal(logits(loaded.model), logits(trained.model))


@tied_cells
def test_the_gradient_of_a_shared_tensor_is_the_sum_of_both_sides(files, encoder, decoder, weights):
    tied = own(files, encoder, decoder, weights).double().eval()
    untied = own(files, encoder, decoder, "untied").double().eval()
    untied.load_state_dict(tied.state_dict())
    assert torch.equal(logits(untied), logits(tied))
    for model in (tied, untied):
        model(**inputs(model)).logits.logsumexp(-1).square().sum().backward()
    shared = {source: target for target, source in tied.shared.items()}
    parts = {name: parameter.grad for name, parameter in untied.named_parameters()}
    both = 0
    for name, parameter in tied.named_parameters():
        expected = parts[name]
        if name in shared and shared[name] in parts:
            both += bool(expected.abs().amax() > 1e-6 and parts[shared[name]].abs().amax() > 1e-6)
            expected = expected + parts[shared[name]]
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-9, atol=1e-11)
    assert both >= len(shared) // 2  # both sides contribute (of the attention's key biases neither does)


@every_cell
def test_every_parameter_gets_a_gradient(files, encoder, decoder, weights):
    model = own(files, encoder, decoder, weights)
    model(**inputs(model)).logits.square().mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@every_cell
def test_generation_is_the_stock_classes(files, tmp_path, encoder, decoder, weights):
    model = kept(files, encoder, decoder, weights).eval()
    model.save_pretrained(tmp_path)
    stock = EncoderDecoderModel.from_pretrained(tmp_path)
    batch = {name: value for name, value in inputs(model).items() if name != "decoder_input_ids"}
    options = dict(num_beams=3, max_new_tokens=5, decoder_start_token_id=2, eos_token_id=3, pad_token_id=0)
    sequences = model.generate(**batch, **options)
    assert torch.equal(sequences, stock.generate(**batch, **options))
    assert sequences.shape[0] == 2 and (sequences[:, 0] == 2).all()


def test_gradient_checkpointing_changes_no_gradient(files):
    model = composed(files, "bert", "bert", "tied", dropout=0.0)
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(**inputs(model), use_cache=False).logits.square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        checkpoint_activations(model, on=True)
    for plain, saving in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, saving)


def test_a_tied_model_is_smaller_than_its_parts(files):
    sizes = {weights: compose(files.bert, files.bert, weights).num_parameters() for weights in WEIGHTS}
    assert all(size < sizes["untied"] for weights, size in sizes.items() if weights != "untied")
    assert sizes["tied_embeddings"] > sizes["tied"]
