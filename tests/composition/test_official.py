"""Folders in the layout of Google's ports of the paper's checkpoints: bert-generation, tied, one copy on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from composed import logits
from safetensors.torch import load_file, save_file
from transformers import BertGenerationConfig, BertGenerationDecoder, BertGenerationEncoder

from encdec_lightning.composition.checkpoints import stored_names
from encdec_lightning.composition.convert import convert
from encdec_lightning.composition.model import EncoderDecoder, count_ties
from encdec_lightning.errors import UserError

SIZES = dict(
    vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
    max_position_embeddings=40, pad_token_id=0, bos_token_id=2, eos_token_id=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def original():
    """A tied model's tensors under all the names that the old library gave them, and its own logits."""
    torch.manual_seed(0)
    encoder = BertGenerationEncoder(BertGenerationConfig(**SIZES))
    decoder = BertGenerationDecoder(BertGenerationConfig(**SIZES, is_decoder=True, add_cross_attention=True))
    with torch.no_grad():
        for parameter in [*encoder.parameters(), *decoder.parameters()]:
            parameter.add_(torch.randn_like(parameter) * 0.05)
        own = dict(decoder.bert.named_parameters())
        for name, parameter in encoder.named_parameters():
            own[name].copy_(parameter)
    return encoder.eval(), decoder.eval()


def expected(original, inputs) -> torch.Tensor:
    encoder, decoder = original
    with torch.no_grad():
        states = encoder(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        return decoder(
            inputs["decoder_input_ids"],
            encoder_hidden_states=states,
            encoder_attention_mask=inputs["attention_mask"],
        ).logits


def folder_of(original, folder: Path, kept: str, flag: bool = True) -> Path:
    """A folder with the config of that time; `kept` names the side whose tensors are stored, or is `both`."""
    encoder, decoder = original
    tensors = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    tensors |= {f"decoder.{name}": value for name, value in decoder.state_dict().items()}
    shared = {f"encoder.{name}" for name in encoder.state_dict()}
    if kept == "encoder":
        tensors = {
            k: v for k, v in tensors.items() if k.replace("decoder.bert.", "encoder.") not in shared or k in shared
        }
    elif kept == "decoder":
        tensors = {k: v for k, v in tensors.items() if k not in shared}
    tensors = {k: v.clone() for k, v in tensors.items() if not k.startswith("decoder.lm_head.decoder")}
    tensors["encoder.embeddings.position_ids"] = torch.arange(40)[None]  # a buffer that files of 2020 have
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    side = {"model_type": "bert-generation", **SIZES}
    config = {
        "model_type": "encoder-decoder",
        "architectures": ["EncoderDecoderModel"],
        "encoder": side,
        "decoder": {**side, "is_decoder": True, "add_cross_attention": True},
        "is_encoder_decoder": True,
        "decoder_start_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps({**config, **({"tie_encoder_decoder": True} if flag else {})}))
    return folder


def inputs() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    ids = [torch.randint(3, 60, shape, generator=draw) for shape in ((2, 7), (2, 5))]
    return {"input_ids": ids[0], "attention_mask": mask, "decoder_input_ids": ids[1]}


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("kept", ["encoder", "decoder", "both"])
def test_one_copy_becomes_two_sides_that_share_it(original, tmp_path, kept, flag):
    if kept == "both" and not flag:
        pytest.skip("nothing says that they are tied: see the next test")
    folder = folder_of(original, tmp_path / "port", kept, flag)
    model = EncoderDecoder.from_pretrained(folder)
    assert model.composition.weights == "tied"
    assert count_ties(model) == len(model.shared) == len(dict(original[0].named_parameters()))
    assert torch.allclose(logits(model, inputs()), expected(original, inputs()), atol=1e-6)
    assert model.config.fresh_parameters == [] and not model.training


def test_two_equal_copies_without_a_word_stay_two(original, tmp_path):
    model = EncoderDecoder.from_pretrained(folder_of(original, tmp_path / "port", "both", flag=False))
    assert model.composition.weights == "untied" and model.shared == {}
    assert torch.allclose(logits(model, inputs()), expected(original, inputs()), atol=1e-6)


def test_it_generates_from_its_first_token_and_saves_as_ours(original, tmp_path):
    model = EncoderDecoder.from_pretrained(folder_of(original, tmp_path / "port", "decoder"))
    batch = {name: value for name, value in inputs().items() if name != "decoder_input_ids"}
    sequences = model.generate(**batch, max_new_tokens=4, do_sample=False, num_beams=2, decoder_start_token_id=2)
    assert (sequences[:, 0] == 2).all()
    model.save_pretrained(tmp_path / "ours")
    again = EncoderDecoder.from_pretrained(tmp_path / "ours")
    assert torch.equal(logits(again, inputs()), logits(model, inputs())) and count_ties(again) == len(again.shared)


def test_sides_that_differ_but_should_share_are_refused(original, tmp_path):
    folder = folder_of(original, tmp_path / "port", "both")
    tensors = load_file(folder / "model.safetensors")
    tensors["decoder.bert.encoder.layer.1.output.dense.weight"] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="its config says that the sides share weights, but they differ"):
        EncoderDecoder.from_pretrained(folder)


def test_a_folder_that_lacks_tensors_is_refused(original, tmp_path):
    folder = folder_of(original, tmp_path / "port", "decoder")
    tensors = load_file(folder / "model.safetensors")
    del tensors["decoder.bert.encoder.layer.1.crossattention.self.key.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"it lacks 1 tensors, such as decoder\.bert\.encoder\.layer\.1\.crossattention"
    ):
        EncoderDecoder.from_pretrained(folder)


def test_a_truncated_file_is_refused(original, tmp_path):
    folder = folder_of(original, tmp_path / "port", "decoder")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match="its safetensors cannot be read"):
        EncoderDecoder.from_pretrained(folder)


def test_a_pickle_is_converted_first(original, tmp_path):
    folder = folder_of(original, tmp_path / "port", "both")
    tensors = load_file(folder / "model.safetensors")
    alias = "encoder.encoder.layer.0.output.dense.weight"
    tensors[alias] = tensors["decoder.bert.encoder.layer.0.output.dense.weight"]  # one storage under two names
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds pytorch_model\.bin but no model\.safetensors; convert it once with"):
        EncoderDecoder.from_pretrained(folder)
    convert(folder)
    assert alias not in stored_names(str(folder))
    model = EncoderDecoder.from_pretrained(folder)
    assert torch.allclose(logits(model, inputs()), expected(original, inputs()), atol=1e-6)
    with pytest.raises(UserError, match=r"it holds a model\.safetensors already"):
        convert(folder)


def test_views_of_one_storage_are_converted_apart(in_tmp):
    whole = torch.arange(10.0)
    torch.save({"first": whole[:5], "whole": whole, "last": whole[5:]}, in_tmp / "pytorch_model.bin")
    tensors = load_file(convert(in_tmp))
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "first": list(range(5)), "last": list(range(5, 10)), "whole": list(range(10)),
    }  # fmt: skip


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("harmed"),))


@pytest.mark.parametrize("content", ["harmful", "damaged", "absent"])
def test_what_is_not_tensors_is_not_converted(in_tmp, content):
    if content == "harmful":
        torch.save({"weight": Harmful()}, in_tmp / "pytorch_model.bin")
    elif content == "damaged":
        (in_tmp / "pytorch_model.bin").write_bytes(b"PK damaged")
    with pytest.raises(UserError, match=r"it holds no pytorch_model\.bin|is damaged or holds more than tensors"):
        convert(in_tmp)
    assert {file.name for file in in_tmp.iterdir()} <= {"pytorch_model.bin"}
