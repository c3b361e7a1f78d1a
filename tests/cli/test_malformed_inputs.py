"""Malformed inputs of every kind, to every command: one sentence and exit code 2, or accepted; never a traceback."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import nasty
import nasty_files
import pytest
from attempts import attempt, good_run
from nasty import Case
from tiny import Files

KINDS = {
    "schema": nasty.from_schema,
    "signatures": nasty.from_signatures,
    "lines": nasty_files.from_lines,
    "presets": nasty_files.from_presets,
    "runs": nasty_files.from_runs,
    "data": nasty_files.from_data,
}
KNOWN = (  # each of them was a traceback, or was accepted
    ("trainer.max_steps=many", "trainer.max_steps is 'many': it must be a whole number."),
    ("trainer.max_steps=1.5", "trainer.max_steps is 1.5: it must be a whole number."),
    ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val is -1: it must be at least 0."),
    ("generation.length_penalty=nan", "generation.length_penalty is nan: it must be a finite number."),
    ("generation.early_stopping=maybe", "generation.early_stopping is 'maybe': it must be true or false or never."),
    ("optimizer.betas=abc", "optimizer.betas is 'abc': it must be a list."),
    (
        "data.seed=1000000000000000000000000000000",
        "data.seed is 1000000000000000000000000000000: it must be a number of",
    ),
    ("checkpoint=", "checkpoint is '': it must not be empty."),
)


def chosen(kind: str, count: int) -> list[Case]:
    cases = KINDS[kind]()
    return random.Random(count).sample(cases, min(count, len(cases)))


@pytest.fixture(scope="module")
def world(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    good_run(folder / "run", files)
    shutil.copy(files.test, folder / "test.jsonl")
    return folder


def faults(kind: str, count: int, files: Files, world: Path, folder: Path) -> dict[str, list[str]]:
    made = [attempt(case, files, world, folder / "case") for case in chosen(kind, count)]
    assert made and sum(each.code == 2 for each in made) > len(made) / 2
    return {f"{each.case.command} {each.case.name}": each.faults for each in made if each.faults}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_few_of_each_kind(kind, files, world, tmp_path):
    assert faults(kind, 6, files, world, tmp_path) == {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_hundreds_of_each_kind(kind, files, world, tmp_path):
    assert faults(kind, 200, files, world, tmp_path) == {}


@pytest.mark.parametrize(("line", "sentence"), KNOWN, ids=lambda value: value[:30])
def test_one_sentence_names_the_option(line, sentence, files, world, tmp_path):
    made = attempt(Case(line, "train", (line,), refused=True), files, world, tmp_path / "case")
    assert made.faults == [] and len(made.said) == 1 and made.said[0].startswith(sentence), made.said


def test_a_link_to_itself_is_no_run(files, world, tmp_path):
    for option in ("init_from", "folder", "run"):
        argv = (f"{option}=loop.jsonl",)
        made = attempt(
            Case(option, "train", argv, nasty_files.places, (option,), True), files, world, tmp_path / "case"
        )
        assert made.faults == [], made.faults
