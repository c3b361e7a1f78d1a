"""What the documents show, works: every command is run, every block of Python executed, on tiny files."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import tiny
from transformers import AutoTokenizer

from encdec_lightning.cli import check, evaluate, predict, prepare, report, sweep, train
from encdec_lightning.composition.architectures import ARCHITECTURES
from encdec_lightning.composition.local_checkpoints import SMOLLM2, local_or_hub
from encdec_lightning.launch.command_line.presets import choices

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "encdec-check": check.main,
    "encdec-train": train.main,
    "encdec-evaluate": evaluate.main,
    "encdec-predict": predict.main,
    "encdec-prepare": prepare.main,
    "encdec-sweep": sweep.main,
    "encdec-report": report.main,
}


DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "conf" / "README.md",
    *sorted((ROOT / "encdec_lightning").rglob("README.md")),
    *sorted((ROOT / "experiments").rglob("README.md")),
]
WITH_COMMANDS = [file for file in DOCUMENTS if "experiments" not in file.parts]


def named(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def text_of(*places: str) -> str:
    return ROOT.joinpath(*places).read_text(encoding="utf-8")


def blocks(language: str, file: Path) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", file.read_text(encoding="utf-8"), re.S)


def commands(file: Path) -> list[str]:
    return [line for block in blocks("bash", file) for line in block.splitlines() if line]


@pytest.fixture
def folder(files: tiny.Files, in_tmp: Path) -> Path:
    """A working folder with the files that the documents speak of."""
    for name, count in (("train", 32), ("validation", 8), ("test", 8)):
        tiny.write_rows(in_tmp / f"{name}.jsonl", tiny.pairs(count))
    AutoTokenizer.from_pretrained(files.bert).save_pretrained(in_tmp / "vocabulary")
    for name in ("sources.txt", "others.txt", "right.txt"):
        (in_tmp / name).write_text("The matrix is given.\nThe path is read.\n", encoding="utf-8")
    for name in ("cnndm.candidate", "cnndm.gold"):
        (in_tmp / name).write_text("the matrix is given<q>it is old\nthe path is read\n", encoding="utf-8")
    for block in blocks("yaml", ROOT / "README.md"):
        preset = in_tmp / block.splitlines()[0].removeprefix("# ")
        preset.parent.mkdir(parents=True)
        preset.write_text(block, encoding="utf-8")
    return in_tmp


def run_all(file: Path, files: tiny.Files, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the commands of a document, trainings on tiny checkpoints for a step."""
    small = ["task.max_source_length=40", "task.max_target_length=12", "hardware=cpu", "debug=step"]
    roles = [f"checkpoints.{role}={getattr(files, role)}" for role in ("bert", "roberta", "gpt2", "presumm")]
    for line in commands(file):
        command, *arguments = shlex.split(line, comments=True)
        if command == "make":
            assert f"\n{arguments[0]}:" in text_of("Makefile")
            continue
        if "checkpoints=smollm2" in arguments and not Path(local_or_hub(SMOLLM2)).is_dir():  # no command fetches it
            arguments += [f"checkpoints.encoder={files.bert}", f"checkpoints.decoder={files.llama}"]
        if any(each.startswith("model=") for each in arguments):
            arguments = [re.sub("^model=.*", f"model={files.gpt2}", each) for each in [*arguments, *small[:2]]]
        elif {"task=mine", "task=jsonl"} & {*arguments}:
            exported = "folder=runs/extracts" in arguments  # the next line reads it, and one debug step exports nothing
            arguments = [
                each.replace("max_steps=1000", "max_steps=1").replace("trials=30", "trials=1")
                for each in [*arguments, *(small[:-1] if exported else small), *roles]
            ]
        try:
            code = COMMANDS[command](arguments)
        except SystemExit as end:  # a help text
            code = end.code
        assert code == 0, (line, capsys.readouterr().err)


def test_the_commands_of_the_readme(files: tiny.Files, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_all(ROOT / "README.md", files, capsys)
    assert len((folder / "summaries.txt").read_text(encoding="utf-8").splitlines()) == 2
    assert len(list((folder / "runs" / "sharing").iterdir())) == 4
    assert list((folder / "runs" / "logged" / "logs").rglob("*.wandb"))


OTHERS = [file for file in WITH_COMMANDS if commands(file) and named(file) != "README.md"]


@pytest.mark.parametrize("file", OTHERS, ids=named)
def test_the_commands_of_each_other_document(
    files: tiny.Files, folder: Path, capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    if "run=runs/mine" in file.read_text(encoding="utf-8"):
        before = next(line for line in commands(ROOT / "README.md") if "folder=runs/mine" in line)
        roles = [f"checkpoints.bert={files.bert}", "hardware=cpu", "debug=step", "trainer.max_steps=1"]
        small = ["task.max_source_length=40", "task.max_target_length=12"]
        assert train.main([*shlex.split(before)[1:], *roles, *small]) == 0
    run_all(file, files, capsys)


def test_python(files: tiny.Files, folder: Path) -> None:
    (code,) = blocks("python", ROOT / "README.md")
    small = {"max_steps=1000": "max_steps=2, log_every_n_steps=1, accelerator='cpu', logger=False, enable_progress_bar=False, "
             "enable_model_summary=False, enable_checkpointing=False", "bert-base-cased": files.bert,
             'target="summary"': 'target="summary", max_source_length=40, max_target_length=12'}  # fmt: skip
    for shown, tried in small.items():
        assert shown in code
        code = code.replace(shown, tried)
    exec(compile(code, "README.md", "exec"), {})
    assert (folder / "bertshare" / "model.safetensors").is_file()


@pytest.mark.parametrize("file", DOCUMENTS, ids=named)
def test_presets_and_files_that_it_names_exist(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for group in ("variant", "hardware", "precision", "generation", "checkpoints", "task", "logger", "callbacks"):
        found = re.findall(rf"(?<![\w-])(?<!presets\W){group}=([a-z_0-9]+)", text)
        assert set(found) - {"null", "mine"} <= set(choices()[group]), group
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (file.parent / link).exists(), link


def test_the_table_of_groups_names_every_group_and_the_presets_of_a_row_that_lists_them() -> None:
    text = text_of("conf", "README.md").partition("## The groups")[2].partition("\n## ")[0]

    def words(text: str) -> set[str]:
        return set(re.findall(r"`(?:[a-z_]+=)?([a-z_0-9]+(?:/[a-z_0-9]+)?)`", text))

    named: set[str] = set()
    for row in re.findall(r"^\| (`.*) \|$", text, re.M):
        cell, _, meaning = row.partition(" | ")
        groups = re.findall(r"`([a-z_]+)=`", cell)
        named.update(groups)
        elsewhere = " ".join(text_of("conf", link) for link in re.findall(r"\]\(([^)]+)\)", meaning))
        listed, presets = words(meaning), {name for group in groups for name in choices()[group]}
        assert listed <= presets, groups
        assert not listed or presets <= listed | words(elsewhere), groups
    assert named == set(choices())


def test_contributing_names_files_that_exist() -> None:
    for path in re.findall(r"`((?:composition|training|evaluation|data|generation|kernels|reporting|launch)/[a-z_./]+)`",
                           text_of("CONTRIBUTING.md")):  # fmt: skip
        assert (ROOT / "encdec_lightning" / path).exists(), path
    for path in re.findall(r"`((?:tests|conf|experiments)/[a-z_./]+)`", text_of("CONTRIBUTING.md")):
        assert (ROOT / path).exists(), path


def test_security_says_what_every_dependency_is_for() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    extras = [each for name, kept in project["optional-dependencies"].items() if name != "dev" for each in kept]
    table = text_of("SECURITY.md").partition("## What each dependency is for")[2]
    for each in [*project["dependencies"], *extras]:
        name = re.split("[<>=!]", each)[0]
        assert re.search(rf"\b{name}\b", table), name


def test_the_readme_is_short() -> None:
    assert len(text_of("README.md").splitlines()) <= 160


def test_the_families_are_those_of_the_table() -> None:
    text = text_of("encdec_lightning", "composition", "README.md")

    def listed(title: str) -> set[str]:
        found = re.search(rf"\*\*{title}\*\*: (.*?)[.] ", " ".join(text.split()))
        assert found is not None
        return set(re.findall(r"[a-z0-9_-]+", re.sub(r"and those of |and ", "", found[1])))

    assert listed("Encoders") == {name for name, each in ARCHITECTURES.items() if each.encodes == "yes"}
    assert listed("Decoders") == {name for name, each in ARCHITECTURES.items() if each.decodes}
    alone = listed("Language models, alone or as bidirectional encoders")
    assert alone == {name for name, each in ARCHITECTURES.items() if each.prefixes}
    assert alone == {name for name, each in ARCHITECTURES.items() if each.encodes == "unmasked"}
