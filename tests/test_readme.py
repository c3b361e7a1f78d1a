"""What README shows, works: every command is run, every block of Python executed, on tiny files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import tiny
from transformers import AutoTokenizer

from encdec_lightning.cli import check, evaluate, predict, prepare, train
from encdec_lightning.composition.architectures import ARCHITECTURES
from encdec_lightning.launch.presets import choices

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = {
    "encdec-check": check.main,
    "encdec-train": train.main,
    "encdec-evaluate": evaluate.main,
    "encdec-predict": predict.main,
    "encdec-prepare": prepare.main,
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def lines() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines() if line]


@pytest.fixture
def folder(files: tiny.Files, in_tmp: Path) -> Path:
    """A working folder with the files that README speaks of."""
    for name, count in (("train", 32), ("validation", 8)):
        tiny.write_rows(in_tmp / f"{name}.jsonl", tiny.pairs(count))
    AutoTokenizer.from_pretrained(files.bert).save_pretrained(in_tmp / "vocabulary")
    (in_tmp / "sources.txt").write_text("The matrix is given.\nThe path is read.\n", encoding="utf-8")
    return in_tmp


def test_commands(files: tiny.Files, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["task.max_source_length=40", "task.max_target_length=12", "hardware=cpu", "debug=step"]
    roles = [f"checkpoints.{role}={getattr(files, role)}" for role in ("bert", "roberta", "gpt2")]
    ran = 0
    for line in lines():
        command, *arguments = shlex.split(line, comments=True)
        if command == "make":
            assert f"\n{arguments[0]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
            continue
        if any(each.startswith("task.train=") for each in arguments):
            arguments = [each.replace("max_steps=1000", "max_steps=1") for each in [*arguments, *small, *roles]]
        assert COMMANDS[command](arguments) == 0, (line, capsys.readouterr().err)
        ran += 1
    assert ran >= 7
    assert len((folder / "summaries.txt").read_text(encoding="utf-8").splitlines()) == 2
    assert len(list((folder / "runs" / "sharing").iterdir())) == 2
    assert list((folder / "runs" / "logged" / "logs").rglob("*.wandb"))


def test_python(files: tiny.Files, folder: Path) -> None:
    (code,) = blocks("python")
    small = {"max_steps=1000": "max_steps=2, log_every_n_steps=1, accelerator='cpu', logger=False, enable_progress_bar=False, "
             "enable_model_summary=False, enable_checkpointing=False", "bert-base-cased": files.bert,
             'target="summary"': 'target="summary", max_source_length=40, max_target_length=12'}  # fmt: skip
    for shown, tried in small.items():
        assert shown in code
        code = code.replace(shown, tried)
    exec(compile(code, "README.md", "exec"), {})
    assert (folder / "bertshare" / "model.safetensors").is_file()


def test_presets_and_files_that_it_names_exist() -> None:
    for name in ("variant", "hardware", "precision", "generation", "checkpoints", "task", "logger", "callbacks"):
        named = re.findall(rf"\b{name}=([a-z_0-9]+)", README)
        assert set(named) - {"null", "mine"} <= set(choices()[name]), name
    for name in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / name).exists(), name


def test_the_families_are_those_of_the_table() -> None:
    def named(title: str) -> set[str]:
        found = re.search(rf"{title}: (.*?)[.] ", " ".join(README.split()))
        assert found is not None
        return set(re.findall(r"[a-z0-9_-]+", re.sub(r"and those of |and ", "", found[1])))

    assert named("Encoders") == {name for name, each in ARCHITECTURES.items() if each.encodes == "yes"}
    assert named("Decoders") == {name for name, each in ARCHITECTURES.items() if each.decodes}
    alone = named("Language models, alone or as bidirectional encoders")
    assert alone == {name for name, each in ARCHITECTURES.items() if each.prefixes}
    assert alone == {name for name, each in ARCHITECTURES.items() if each.encodes == "unmasked"}
