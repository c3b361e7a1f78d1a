"""Code that a checkpoint brings never runs, whoever loads it, and nobody is asked whether it may."""

from __future__ import annotations

import ast
import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from test_architecture import FILES, HOUSE

from encdec_lightning import EncoderDecoder, PrefixDecoder, Seq2SeqModule, Task, Tokenizers, check, compose
from encdec_lightning.cli import check as check_command
from encdec_lightning.composition.checkpoints import load_config, vocabulary
from encdec_lightning.composition.convert import convert
from encdec_lightning.composition.foreign import opened
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.training.checkpoint import load_checkpoint

AUTO = ["AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForTextEncoding"]


@pytest.fixture(autouse=True)
def guard(tmp_path, monkeypatch):
    """After each test: no foreign code has run, and nothing was read from the terminal, where `y` waits."""
    marker, answers = tmp_path / "ran", io.StringIO("y\n" * 100)
    monkeypatch.setattr(sys, "stdin", answers)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    yield marker
    assert not marker.exists()
    assert answers.tell() == 0


def bring_code(folder: Path, marker: Path) -> None:
    """Python files with all classes that an `auto_map` below names; importing one writes the marker."""
    kinds = "\n".join(f"class My{name}: from_pretrained = from_config = None" for name in (*AUTO, "AutoTokenizer"))
    text = f"import pathlib\npathlib.Path({str(marker)!r}).write_text('ran')\n{kinds}\ndef generate(*a, **k): pass\n"
    (folder / "custom_generate").mkdir(exist_ok=True)
    for name in ("mine.py", "custom_generate/generate.py"):
        (folder / name).write_text(text)


def change(file: Path, **values) -> None:
    known = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**known, **values}))


MAP = {name: f"mine.My{name}" for name in AUTO}
TOKENIZER_MAP = {"AutoTokenizer": [None, "mine.MyAutoTokenizer"]}


@pytest.fixture
def copy(files, tmp_path, guard):
    """A copy of a tiny checkpoint with code beside it, and the values of its config.json and tokenizer_config.json."""

    def copy(family="bert", config=None, tokenizer=None) -> str:
        folder = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(getattr(files, family), folder)
        bring_code(folder, guard)
        change(folder / "config.json", **(config or {}))
        change(folder / "tokenizer_config.json", **(tokenizer or {}))
        return str(folder)

    return copy


def refusal(work) -> str:
    with pytest.raises((UserError, UserErrors)) as caught:
        work()
    return str(caught.value)


def test_the_trap_works(copy, guard):
    """Without the door the code runs: else nothing below could fail."""
    from transformers import AutoConfig

    folder = copy(config={"model_type": "mine", "auto_map": MAP})
    with pytest.raises(Exception, match=r"."):
        AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert guard.exists()
    guard.unlink()


def test_a_family_of_its_own_is_refused_by_every_loader(copy, files):
    folder = copy(
        config={"model_type": "mine", "auto_map": MAP}, tokenizer={"tokenizer_class": "My", "auto_map": TOKENIZER_MAP}
    )
    loaders = {
        "config": lambda: load_config("encoder", folder),
        "encoder": lambda: compose(folder, files.bert),
        "decoder": lambda: compose(files.bert, folder),
        "vocabulary": lambda: compose(files.bert, files.bert, encoder_vocabulary=folder),
        "words": lambda: vocabulary("encoder_vocabulary", folder),
        "tokenizer": lambda: Tokenizers.from_pretrained(folder),
        "model": lambda: EncoderDecoder.from_pretrained(folder, trust_remote_code=True),
        "prefix": lambda: PrefixDecoder.from_pretrained(folder, trust_remote_code=True),
    }
    for name, work in loaders.items():
        assert "brings code of its own, which is never run" in refusal(work), name
    assert not check(folder, files.bert).ok


def test_the_command_asks_nobody(copy, files, capsys):
    folder = copy(config={"model_type": "mine", "auto_map": MAP}, tokenizer={"auto_map": TOKENIZER_MAP})
    assert check_command.main(files.overrides(f"model.encoder={folder}")) == 2
    assert "brings code of its own" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_known_family_is_loaded_as_transformers_own(family, copy, files):
    folder = copy(family, config={"auto_map": MAP}, tokenizer={"auto_map": TOKENIZER_MAP})
    assert type(load_config("encoder", folder)).__module__.startswith("transformers.")
    model = compose(None, folder) if family == "gpt2" else compose(folder, folder, "tied")
    assert type(model.decoder).__module__.startswith("transformers.")
    tokenizers = Tokenizers.from_pretrained(folder)
    assert tokenizers.source.get_vocab() == Tokenizers.from_pretrained(getattr(files, family)).source.get_vocab()


@pytest.mark.parametrize(
    ("config", "tokenizer"),
    [
        ({"model_type": "mine", "auto_map": MAP}, {"tokenizer_class": "AutoConfig"}),  # a loader called without `False`
        ({"model_type": "mine", "auto_map": MAP, "tokenizer_class": "AutoModel"}, {"tokenizer_class": None}),
        ({"model_type": "mine", "auto_map": MAP}, {"tokenizer_class": "AutoTokenizer", "auto_map": TOKENIZER_MAP}),
        ({}, {"tokenizer_class": "RagTokenizer"}),
        ({}, {"tokenizer_class": "pipeline"}),
        ({"model_type": "rag"}, {"tokenizer_class": None}),
    ],
    ids=str,
)
def test_no_other_class_opens_a_tokenizer(config, tokenizer, copy):
    folder = copy(config=config, tokenizer=tokenizer)
    for part in ("question_encoder_tokenizer", "generator_tokenizer"):
        shutil.copytree(folder, Path(folder) / part)
        change(Path(folder) / part / "config.json", model_type="mine", auto_map=MAP)
        change(Path(folder) / part / "tokenizer_config.json", tokenizer_class="My", auto_map=TOKENIZER_MAP)
    assert folder in refusal(lambda: Tokenizers.from_pretrained(folder))


def test_where_transformers_would_ask_it_raises(copy):
    """The last line, for a loader of transformers that calls another without `trust_remote_code`."""
    from transformers import AutoConfig

    folder = copy(config={"model_type": "mine", "auto_map": MAP})

    class Forgetful:
        @staticmethod
        def from_pretrained(checkpoint, **_):
            return AutoConfig.from_pretrained(checkpoint)

    with pytest.raises(ValueError, match="execute"):
        opened(Forgetful, folder)


def test_a_class_that_a_family_lacks_is_not_taken_from_the_folder(files, tmp_path, guard):
    """T5 has no causal language model, and transformers would take the folder's."""
    import tiny

    folder = Path(tiny.family_checkpoint(tmp_path / "t5", "t5"))
    bring_code(folder, guard)
    change(folder / "config.json", auto_map=MAP)
    assert "t5" in refusal(lambda: compose(files.bert, str(folder)))


def test_an_export_with_code_beside_it_is_loaded_without(files, tmp_path, guard):
    compose(files.bert, files.bert, "tied").save_pretrained(tmp_path / "export")
    bring_code(tmp_path / "export", guard)
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    for values in (config, config["encoder"], config["decoder"]):
        values["auto_map"] = MAP
    (tmp_path / "export" / "config.json").write_text(json.dumps(config))
    model = EncoderDecoder.from_pretrained(tmp_path / "export", trust_remote_code=True)
    assert type(model.encoder).__name__ == "BertModel"
    model.generate(torch.tensor([[2, 5, 3]]), max_new_tokens=2, decoder_start_token_id=2)


def test_a_checkpoint_with_code_in_it_is_loaded_without(files, tmp_path, copy, guard):
    """The tokenizers of a checkpoint are files; these bring code of an unknown class, or of a known one."""
    tokenizers = Tokenizers.from_pretrained(files.bert)
    model = compose(files.bert, files.bert, "tied", tokenizers=tokenizers)
    module = Seq2SeqModule(model, tokenizers, Task(train="a", validation="b", source="c", target="d"))
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    kept = checkpoint["encdec_lightning"]
    for part in (kept["model"], kept["model"]["encoder"], kept["model"]["decoder"]):
        part["auto_map"] = MAP
    unknown = {"model_type": "mine", "auto_map": MAP}
    for config, words in (({}, {"tokenizer_class": "AutoConfig"}), (unknown, {}), ({}, {})):
        folder = Path(copy(config=config, tokenizer={"auto_map": TOKENIZER_MAP, **words}))
        kept["tokenizers"] = {
            path.relative_to(folder).as_posix(): torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
            for path in folder.rglob("*")
            if path.is_file() and path.suffix != ".safetensors"
        }
        torch.save(checkpoint, tmp_path / "x.ckpt")
        if config or words:
            assert "tokenizers cannot be right" in refusal(
                lambda: Seq2SeqModule.load_from_checkpoint(tmp_path / "x.ckpt")
            )
        else:
            loaded = Seq2SeqModule.load_from_checkpoint(tmp_path / "x.ckpt")
            assert loaded.tokenizers.source.get_vocab() == tokenizers.source.get_vocab()
    kept["tokenizers"] = {"../outside.py": torch.zeros(3, dtype=torch.uint8)}
    torch.save(checkpoint, tmp_path / "x.ckpt")
    assert "outside its folder" in refusal(lambda: Seq2SeqModule.load_from_checkpoint(tmp_path / "x.ckpt"))


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return (open, (self.marker, "w"))


def test_no_pickle_is_opened(files, tmp_path, copy, guard):
    folder = Path(copy())
    (folder / "model.safetensors").unlink()
    torch.save({"a": Evil(guard)}, folder / "pytorch_model.bin")
    assert "no model.safetensors" in refusal(lambda: compose(str(folder), files.bert))
    assert "more than tensors" in refusal(lambda: convert(folder))
    assert "plain values" in refusal(lambda: load_checkpoint(folder / "pytorch_model.bin", "cpu"))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"_attn_implementation": "someone/kernel"}, "code of the Hub"),
        ({"attn_implementation": "someone/kernel@main:fn"}, "code of the Hub"),
        ({"experts_implementation": "someone/kernel"}, "code of the Hub"),
        ({"transformers_weights": "adapter_model.bin"}, "transformers_weights"),
        ({"transformers_weights": "../gpt2/model.safetensors"}, "transformers_weights"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantized"),
    ],
    ids=str,
)
def test_what_a_config_can_ask_for_is_refused(config, sentence, copy, files):
    folder = copy(config=config)
    assert sentence in refusal(lambda: compose(folder, files.bert))


def test_an_adapter_is_refused(copy, files):
    folder = copy()
    (Path(folder) / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": files.gpt2}))
    assert "adapter of peft" in refusal(lambda: compose(folder, files.bert))


# -- nothing is loaded past the door ------------------------------------------------------------------------------------

DOORS = {
    "from_pretrained": {"composition/foreign.py"},
    "from_config": {"composition/foreign.py"},
    "load_dataset": {"data/sources/hub.py"},
    "torch.load": {"training/checkpoint.py", "composition/convert.py"},
}
OURS = {"Tokenizers", "EncoderDecoder", "PrefixDecoder"}  # go through the door
NEVER = {"pickle.load", "pickle.loads", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "eval", "exec", "input"}


def calls(tree: ast.Module):
    """(dotted name of what is called, keywords) of each call, and of each function that is handed on by its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {each.arg: ast.unparse(each.value) for each in node.keywords}


def trespasses(file: str, tree: ast.Module) -> list[str]:
    found = []
    for name, keywords in calls(tree):
        owner, _, last = name.rpartition(".")
        door = DOORS.get(name, DOORS.get(last))
        past = door is not None and file not in door and owner not in OURS
        if past or name in NEVER or (name == "torch.load" and keywords.get("weights_only") != "True"):
            found.append(name)
    return found


@pytest.mark.parametrize("file", FILES)
def test_nothing_is_loaded_past_the_door(file):
    assert trespasses(file, ast.parse((HOUSE / file).read_text(encoding="utf-8"))) == []


def test_loading_past_the_door_is_found():
    text = (
        "AutoModel.from_pretrained(x); a.from_config(c); torch.load(f); yaml.load(x); load_dataset(x); pickle.load(f)"
    )
    assert len(trespasses("composition/x.py", ast.parse(text))) == 6
    assert trespasses("training/checkpoint.py", ast.parse("torch.load(f, weights_only=False)"))
