"""Lightning's Trainer with our way of writing and reading checkpoints, and what it refuses to go on from."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import lightning
import pytest
import torch

from encdec_lightning import Seq2SeqModule, Task, Tokenizers, compose
from encdec_lightning.errors import UserError
from encdec_lightning.training.checkpoint import load_checkpoint
from encdec_lightning.training.checkpoint_io import DurableCheckpointIO


class Plain(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, index):
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)


def trainer(folder: Path, io: DurableCheckpointIO | None, steps: int = 4) -> lightning.Trainer:
    return lightning.Trainer(max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, plugins=io and [io],
                             enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder)  # fmt: skip


def fit(folder: Path, io: DurableCheckpointIO, steps: int = 4, ckpt: Path | None = None) -> lightning.Trainer:
    torch.manual_seed(0)
    runner, module = trainer(folder, io, steps), Plain()
    runner.fit(module, torch.utils.data.DataLoader(torch.ones(4, 2)), ckpt_path=ckpt)
    return runner


def test_a_fit_goes_on_from_what_was_written(tmp_path):
    io = DurableCheckpointIO()
    fit(tmp_path, io).save_checkpoint(tmp_path / "inner" / "a.ckpt")
    assert [path.name for path in (tmp_path / "inner").iterdir()] == ["a.ckpt"]
    resumed = fit(tmp_path, io, 8, tmp_path / "inner" / "a.ckpt")
    whole = fit(tmp_path, io, 8)
    assert resumed.global_step == whole.global_step == 8
    for name, value in whole.lightning_module.state_dict().items():
        assert torch.equal(resumed.lightning_module.state_dict()[name], value)


def test_the_temporary_folder_is_not_used(tmp_path, monkeypatch):
    """On clusters it is another file system, across which nothing can be renamed."""
    runner = fit(tmp_path, DurableCheckpointIO())

    def refuse(*_, **__):
        raise AssertionError("the temporary folder")

    for name in ("mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryFile"):
        monkeypatch.setattr(tempfile, name, refuse)
    runner.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(AssertionError):  # Lightning's own way, else the above could not fail
        trainer(tmp_path, None).strategy.checkpoint_io.save_checkpoint({}, tmp_path / "b.ckpt")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full_keeps_the_checkpoint_of_before(small_disk):
    io = DurableCheckpointIO({small_disk / "last.ckpt": small_disk / "before.ckpt"})
    io.save_checkpoint({"a": torch.zeros(50_000)}, small_disk / "last.ckpt")
    with pytest.raises(UserError, match=r"No space left on device.*the file of before is kept"):
        io.save_checkpoint({"a": torch.zeros(500_000)}, small_disk / "last.ckpt")
    assert [path.name for path in small_disk.iterdir()] == ["last.ckpt"]
    assert len(torch.load(small_disk / "last.ckpt", weights_only=True)["a"]) == 50_000


def saved(tmp_path) -> tuple[Path, dict]:
    runner = fit(tmp_path, DurableCheckpointIO())
    runner.save_checkpoint(tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt", torch.load(tmp_path / "a.ckpt", weights_only=True)


@pytest.mark.parametrize("name", ["state_dict", "loops", "optimizer_states", "lr_schedulers", "global_step"])
@pytest.mark.parametrize("value", ["gone", 1.5, "text"])
def test_a_fit_does_not_go_on_from_half_a_state(name, value, tmp_path):
    path, content = saved(tmp_path)
    if value == "gone":
        del content[name]
    else:
        content[name] = value
    torch.save(content, path)
    with pytest.raises(UserError, match=f"its {name} is no"):
        fit(tmp_path, DurableCheckpointIO(), 4, path)


@pytest.mark.parametrize("harm", ["pipe", "folder", "empty", "half", "flipped", "pickle"])
def test_a_fit_does_not_go_on_from_what_is_no_checkpoint(harm, tmp_path):
    path, state = saved(tmp_path)
    content = path.read_bytes()
    path.unlink()
    if harm == "pipe":
        os.mkfifo(path)
    elif harm == "folder":
        path.mkdir()
    elif harm == "pickle":
        torch.save({"state_dict": Path("x")}, path)
    else:
        at = content.index(state["state_dict"]["layer.weight"].numpy().tobytes()) + 1
        flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        path.write_bytes({"empty": b"", "half": content[:at], "flipped": flipped}[harm])
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        DurableCheckpointIO().load_checkpoint(path, weights_only=False)


# -- a module's own checkpoint ------------------------------------------------------------------------------------------


@pytest.fixture
def own(files):
    """What a module keeps in a checkpoint."""
    tokenizers = Tokenizers.from_pretrained(files.bert)
    model = compose(files.bert, files.bert, "tied", tokenizers=tokenizers)
    module = Seq2SeqModule(model, tokenizers, Task(train="a", validation="b", source="c", target="d"))
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    return module, checkpoint


def refusal(checkpoint, path: Path) -> str:
    torch.save(checkpoint, path)
    with pytest.raises(UserError) as caught:
        Seq2SeqModule.load_from_checkpoint(path)
    assert caught.value.field == "checkpoint" and caught.value.value == str(path)
    return caught.value.expected


def test_a_module_is_read_back(own, tmp_path):
    module, checkpoint = own
    torch.save(checkpoint, tmp_path / "x.ckpt")
    loaded = Seq2SeqModule.load_from_checkpoint(tmp_path / "x.ckpt")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("name", ["model", "generation_config", "tokenizers", "task", "training", "generation"])
def test_what_is_not_a_mapping_is_named(name, own, tmp_path):
    kept = own[1]["encdec_lightning"]
    for value in (None, 5, "text", [1]):
        kept[name] = value
        assert f"encdec_lightning.{name} is no mapping" in refusal(own[1], tmp_path / "x.ckpt")


HARMS = {
    "another family": (("model", "decoder", "model_type"), "nothing", "model cannot be right"),
    "layers without end": (("model", "decoder", "num_hidden_layers"), 10_000_000, "model cannot be right"),
    "no heads": (("model", "encoder", "num_attention_heads"), 0, "model cannot be right"),
    "wide beyond memory": (("model", "encoder", "intermediate_size"), 10**13, "model cannot be right"),
    "another option": (("task", "colour"), "red", "options cannot be right"),
    "an option of another type": (("training", "warmup_steps"), "many", "options cannot be right"),
    "a file as text": (("tokenizers", "tokenizer.json"), "text", "other things than tensors"),
    "a file of zeros": (
        ("tokenizers", "tokenizer.json"),
        torch.zeros(99, dtype=torch.uint8),
        "tokenizers cannot be right",
    ),
    "a file outside": (("tokenizers", "../x"), torch.zeros(9, dtype=torch.uint8), "tokenizers cannot be right"),
    "a file with no name": (("tokenizers", "a\0b"), torch.zeros(9, dtype=torch.uint8), "tokenizers cannot be right"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_values_that_cannot_be_right(harm, own, tmp_path):
    (*places, last), value, sentence = HARMS[harm]
    part = own[1]["encdec_lightning"]
    for place in places:
        part = part[place]
    part[last] = value
    assert sentence in refusal(own[1], tmp_path / "x.ckpt")


def test_tensors_that_do_not_fit_are_named(own, tmp_path):
    module, checkpoint = own
    state = dict(module.state_dict())
    name = next(iter(state))
    for changed, sentence in (
        ({**state, name: torch.zeros(3)}, f"its tensor {name} is (3,), the model's is"),
        ({**state, "x": torch.zeros(3)}, "has a tensor that the model lacks, x"),
        ({key: value for key, value in state.items() if key != name}, f"its state_dict lacks {name}"),
        ({**state, name: "text"}, "other things than tensors"),
        ({5: torch.zeros(1)}, "other things than tensors"),
    ):
        assert sentence in refusal({**checkpoint, "state_dict": changed}, tmp_path / "x.ckpt")
    own[0].trainer = lightning.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    with pytest.raises(UserError, match="lacks"):
        module.on_load_checkpoint({"state_dict": {}})


def test_a_flipped_byte_is_noticed_when_a_checkpoint_is_opened(own, tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save(own[1], path)
    content = path.read_bytes()
    weight = own[0].state_dict()["model.encoder.embeddings.word_embeddings.weight"].numpy().tobytes()
    at = content.index(weight) + 2
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    for load in (lambda: load_checkpoint(path, "cpu"), lambda: Seq2SeqModule.load_from_checkpoint(path)):
        with pytest.raises(UserError, match="it is damaged"):
            load()
