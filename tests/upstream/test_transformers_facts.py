"""One test per fact of transformers that composition relies on or works around.

A test that fails after an upgrade names what to change: `..._so_<consequence>` is what the code does today because of
the fact; if the fact is gone, the workaround may go, too.
"""

import copy
import inspect
import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertModel,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D


def stock(files, decoder="bert", **more):
    return EncoderDecoderModel.from_encoder_decoder_pretrained(files.bert, getattr(files, decoder), **more)


def ids(count=5, rows=2):
    return torch.randint(5, 100, (rows, count), generator=torch.Generator().manual_seed(0))


def test_tie_encoder_decoder_is_ignored_so_sharing_py_ties(files):
    model = stock(files, tie_encoder_decoder=True)
    model.config.tie_encoder_decoder = True
    model.tie_weights()
    own = {id(one) for one in model.encoder.parameters()}
    assert not own & {id(one) for one in model.decoder.parameters()}


def test_sharing_by_hand_cannot_be_saved_so_model_py_saves_copies(files, tmp_path):
    model = stock(files)
    model.decoder.bert.encoder.layer[0].output.dense.weight = model.encoder.encoder.layer[0].output.dense.weight
    with pytest.raises(RuntimeError, match="shared"):
        model.save_pretrained(tmp_path)


def test_tied_keys_come_from_get_expanded_tied_weights_keys_so_model_py_overrides_it():
    arguments = inspect.signature(PreTrainedModel.get_expanded_tied_weights_keys).parameters
    assert list(arguments) == ["self", "all_submodels"]
    for method in (PreTrainedModel.post_init, PreTrainedModel.tie_weights):
        assert "get_expanded_tied_weights_keys" in inspect.getsource(method)
    model = AutoModelForCausalLM.from_config(tiny.config("gpt2", 50))
    assert model.all_tied_weights_keys == {"lm_head.weight": "transformer.wte.weight"}  # and save_pretrained reads it


def test_post_init_is_called_last_so_model_py_builds_its_map_there():
    source = inspect.getsource(EncoderDecoderModel.__init__)
    assert source.strip().endswith("self.post_init()")


def test_adjust_bias_cuts_the_bias_of_conv1d_so_model_py_overrides_it():
    layer = Conv1D(12, 4)  # weight (4, 12), bias (12,)
    AutoModel.from_config(tiny.config("bert", 50))._adjust_bias(layer, layer.weight)
    assert layer.bias.shape == (4,)


def test_assign_unties_so_model_py_ties_again_in_load_state_dict(files):
    model = AutoModelForCausalLM.from_pretrained(files.gpt2)
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    assert model.lm_head.weight is not model.transformer.wte.weight


def test_from_encoder_decoder_pretrained_is_in_eval_mode_so_compose_calls_train(files):
    model = stock(files)
    assert not model.encoder.training and not model.decoder.training
    assert not AutoModel.from_pretrained(files.bert).training


def test_a_parent_built_of_sides_in_eval_mode_calls_itself_training_so_compose_sets_every_module(files):
    sides = AutoModel.from_pretrained(files.bert), AutoModelForCausalLM.from_pretrained(files.bert)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(*(side.config for side in sides))
    model = EncoderDecoderModel(config, *sides)
    assert model.training and not model.encoder.training


def test_from_config_is_in_training_mode_so_both_inits_agree_only_by_compose():
    assert AutoModel.from_config(tiny.config("bert", 50)).training


def test_labels_warn_and_ignore_num_items_in_batch_so_training_computes_its_own_loss(files):
    model = stock(files)
    model.config.decoder_start_token_id, model.config.pad_token_id = 2, 0
    losses = []
    for count in (1, 100):
        with pytest.warns(FutureWarning):
            losses.append(model(input_ids=ids(), labels=ids(), num_items_in_batch=torch.tensor(count)).loss)
    assert losses[0] == losses[1]


def test_the_decoder_mask_comes_from_pad_ids_so_batches_bring_decoder_input_ids_of_their_own():
    source = inspect.getsource(EncoderDecoderModel.forward)
    assert "decoder_attention_mask = (decoder_input_ids != self.config.pad_token_id)" in source


def test_no_source_mask_is_inferred_so_batches_bring_one(files):
    model = stock(files)
    padded = torch.cat([ids(), torch.zeros(2, 3, dtype=torch.long)], dim=1)
    mask = (padded != 0).long()
    with torch.no_grad():
        without, given = model.encoder(padded)[0], model.encoder(padded, attention_mask=mask)[0]
    assert (without[:, :5] - given[:, :5]).abs().amax() > 1e-4


def test_a_removed_pooler_is_missing_on_reload_so_model_py_saves_zeros_for_it(files, tmp_path):
    model = stock(files)
    model.encoder.pooler = None
    model.save_pretrained(tmp_path)
    _, report = EncoderDecoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert {*report["missing_keys"]} == {"encoder.pooler.dense.weight", "encoder.pooler.dense.bias"}


def test_the_pooler_gets_no_gradient_so_model_py_drops_it(files):
    model = stock(files)
    model(input_ids=ids(), decoder_input_ids=ids()).logits.sum().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == ["encoder.pooler.dense.weight", "encoder.pooler.dense.bias"]


def test_add_pooling_layer_is_an_argument_of_the_base_model_so_architectures_py_passes_it():
    assert "add_pooling_layer" in inspect.signature(BertModel.__init__).parameters
    assert AutoModel.from_config(tiny.config("bert", 50), add_pooling_layer=False).pooler is None


def test_special_ids_must_be_on_generation_config_so_tokenizers_py_writes_both(files):
    model = stock(files)
    model.config.decoder_start_token_id, model.config.eos_token_id, model.config.pad_token_id = 2, 3, 0
    model.generation_config.bos_token_id = None
    with pytest.raises(ValueError, match="decoder_start_token_id"):
        model.generate(ids(), max_new_tokens=2)
    model.generation_config.decoder_start_token_id = 2
    model.generation_config.pad_token_id = 0
    assert (model.generate(ids(), max_new_tokens=2)[:, 0] == 2).all()


def test_is_causal_lives_on_the_module_so_sharing_py_shares_parameters_only(files):
    model = stock(files)
    encoder = model.encoder.encoder.layer[0].attention.self
    decoder = model.decoder.bert.encoder.layer[0].attention.self
    assert (encoder.is_causal, decoder.is_causal) == (False, True)


def test_checkpoints_load_in_their_own_dtype_so_initialization_py_asks_for_float32(files, tmp_path):
    AutoModel.from_pretrained(files.bert).bfloat16().save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).dtype == torch.bfloat16
    assert AutoModel.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


def test_layers_beyond_the_config_are_dropped_in_silence_so_initialization_py_reads_the_report(files):
    config = AutoModel.from_pretrained(files.bert).config
    config.num_hidden_layers = 1
    model, report = AutoModel.from_pretrained(files.bert, config=config, output_loading_info=True)
    assert len(model.encoder.layer) == 1
    assert any(name.startswith("encoder.layer.1.") for name in report["unexpected_keys"])


def test_a_folder_without_a_tokenizer_gives_one_of_special_tokens_only_so_tokenizers_py_counts(tmp_path):
    tiny.config("bert", 50).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == len(tokenizer.all_special_tokens) == 5


def test_the_meta_device_draws_nothing_so_check_leaves_the_seed_alone():
    state = torch.get_rng_state()
    with torch.device("meta"):
        AutoModel.from_config(tiny.config("bert", 50))
    assert torch.equal(torch.get_rng_state(), state)


def test_gpt2_lays_cross_attention_out_unlike_self_attention_so_initialization_py_copies_columns():
    config = tiny.config("gpt2", 50)
    config.add_cross_attention = True
    block = AutoModel.from_config(config).h[0]
    own = {name: tuple(value.shape) for name, value in block.attn.named_parameters()}
    cross = {name: tuple(value.shape) for name, value in block.crossattention.named_parameters()}
    assert own["c_attn.weight"] == (32, 96) and cross["c_attn.weight"] == (32, 64) and "q_attn.weight" in cross


@pytest.mark.parametrize(("family", "lost"), [("bart", "model.decoder.embed_tokens.weight"), ("bigbird_pegasus", "lm_head.weight")])  # fmt: skip
def test_decoders_of_seq2seq_folders_lose_tensors_so_architectures_py_renames_and_initialization_py_copies(
    tmp_path, family, lost
):
    folder = tiny.family_checkpoint(tmp_path, family)
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert lost in report["missing_keys"]
    words = AutoModelForSeq2SeqLM.from_pretrained(folder).model.shared.weight
    assert not torch.equal(model.get_parameter(lost), words)


def test_is_causal_of_the_config_takes_the_mask_away_so_architectures_py_encodes_with_language_models():
    config = tiny.family_config("llama", 100)
    model = AutoModel.from_config(config).eval()
    whole, cut = ids(6), ids(6)[:, :3]
    mask = torch.ones_like(whole), torch.ones_like(cut)
    assert torch.allclose(model(whole, mask[0]).last_hidden_state[:, :3], model(cut, mask[1]).last_hidden_state, atol=1e-5)  # fmt: skip
    config.is_causal = False
    open_to_both = AutoModel.from_config(config).eval()
    open_to_both.load_state_dict(model.state_dict())
    states = open_to_both(whole, mask[0]).last_hidden_state[:, :3]
    assert not torch.allclose(states, open_to_both(cut, mask[1]).last_hidden_state, atol=1e-3)


def test_a_tokenizer_class_is_opened_without_trust_remote_code_so_the_door_refuses_other_classes(
    files, tmp_path, monkeypatch
):
    """composition/foreign.py: `tokenizer_class: AutoConfig` asks on the terminal although `False` was given."""
    folder, asked = Path(shutil.copytree(files.bert, tmp_path / "copy")), []
    for name, values in (
        ("config.json", {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}),
        ("tokenizer_config.json", {"tokenizer_class": "AutoConfig"}),
    ):
        known = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**known, **values}))
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "n")
    with pytest.raises(ValueError, match="custom code"):
        AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    assert len(asked) == 1
