"""Three mistakes are three lines in every command; a command without a word says what to give."""

from __future__ import annotations

import subprocess
import sys

import pytest

from encdec_lightning.cli import check, evaluate, predict, prepare, train

WITHOUT_TORCH = """
import sys
from encdec_lightning.cli import {command}
code = {command}.main({argv!r})
print(code, [name for name in ("torch", "transformers", "lightning") if name in sys.modules])
"""
COMPOSING = {"train": train.main, "check": check.main, "prepare": prepare.main}
OF_A_RUN = {"evaluate": evaluate.main, "predict": predict.main}


def fields(capsys, command, *argv: str) -> list[str]:
    assert command([*argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return [line.partition(" is ")[0] for line in err.splitlines()]


@pytest.mark.parametrize("command", COMPOSING)
@pytest.mark.parametrize(
    "mistakes",
    [
        {"sed": 1, "training.learning_rate": -1, "model.weights": "tide"},
        {"seed": "x", "task.metrics": "[rogue]", "task.train": "none.jsonl"},
        {"variant": "bertshar", "trainer.max_step": 5, "task.test": "none.jsonl"},
        {"hydra.run.dir": "x", "optimizer.betas": 3, "init_from": "nowhere"},
        {"task.lenght": 3, "training.freeze": "encodr", "data.batch_tokens": 5, "logger.x._target_": "no.Such"},
    ],
    ids=lambda mistakes: next(iter(mistakes)),
)
def test_mistakes_of_all_kinds_are_a_line_each(command, mistakes, files, in_tmp, capsys):
    argv = files.overrides(*(f"{name}={value}" for name, value in mistakes.items()))
    assert sorted(fields(capsys, COMPOSING[command], *argv)) == sorted(mistakes)
    assert list(in_tmp.iterdir()) == []


def test_three_mistakes_for_programs(files, capsys):
    import json

    argv = files.overrides("seed=x", "task.metrics=[rogue]", "task.train=none.jsonl")
    assert check.main([*argv, "--json"]) == 2
    out, err = capsys.readouterr()
    assert err == ""
    assert [each["field"] for each in json.loads(out)["problems"]] == ["seed", "task.metrics", "task.train"]


@pytest.mark.parametrize("command", OF_A_RUN)
@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["rnu=x", "form", "generation.num_beems=2"], ["rnu", "argument", "generation.num_beems"]),
        (["run=nowhere", "chekpoint=x", "generation.num_beems=2"], ["run", "chekpoint", "generation.num_beems"]),
        (
            ["run=run", "generation.num_beams=x", "generation.max_length=0", "checkpoint=none.ckpt"],
            ["generation.num_beams", "generation.max_length", "checkpoint"],
        ),
        (["run=run", "generation.num_beams=1,2", "x=1", "y=2"], ["x", "y", "generation.num_beams"]),
    ],
)
def test_three_mistakes_with_a_run(command, argv, expected, trained, capsys):
    given = ["input=in.jsonl"] if command == "predict" else []
    assert fields(capsys, OF_A_RUN[command], *argv, *given) == expected


def test_three_mistakes_in_prediction_alone(trained, capsys, in_tmp):
    (in_tmp / "out.txt").write_text("precious")
    argv = ["run=run", "scores=yes", "output=out.txt", "generation.num_beams=0"]
    assert fields(capsys, predict.main, *argv) == ["input", "scores", "output", "generation.num_beams"]
    assert sorted(fields(capsys, predict.main)) == ["input", "run"]
    assert (in_tmp / "out.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("train", []),
        ("train", ["--multirun"]),
        ("train", ["--cfg"]),
        ("check", []),
        ("check", ["--data"]),
        ("prepare", []),
        ("prepare", ["--no-model"]),
    ],
)
def test_a_command_alone_says_what_to_give(command, argv):
    program = WITHOUT_TORCH.format(command=command, argv=argv)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "2 []\n"
    lines = result.stderr.splitlines()
    assert [line.partition(" is ")[0] for line in lines] == ["task", "variant", "trainer.max_steps"]
    for words in (
        "task.train=",
        "task.source=",
        "variant=bertshare",
        "model.encoder=",
        "experiment=quickstart",
        "--help",
    ):
        assert words in result.stderr


def test_mistyped_names_alone_are_answered_before_torch_is_loaded():
    argv = ["sed=1", "variant=bertshar", "tasc=jsonl"]
    for command in COMPOSING:
        program = WITHOUT_TORCH.format(command=command, argv=argv)
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert (result.stdout, len(result.stderr.splitlines())) == ("2 []\n", 3)


@pytest.mark.parametrize(
    ("argv", "more"),
    [
        (["variant=bertshare"], []),
        (["variant=gpt"], []),
        (["encoder=bert", "decoder=gpt2"], ["generation.num_beams=2"]),
    ],
)
def test_check_asks_for_the_model_alone(argv, more, files, in_tmp, capsys):
    roles = [f"checkpoints.{role}={getattr(files, role)}" for role in ("bert", "roberta", "gpt2")]
    for options in ([], roles):
        assert check.main([*argv, *more, *options]) == 0, capsys.readouterr().err
    capsys.readouterr()
    bad = ["task.train=none.jsonl", "trainer.max_steps=x", "task.max_source_length=100", "task.max_target_length=9"]
    found = fields(capsys, check.main, *argv, *more, *roles, *bad)
    assert sorted(found) == ["task.max_source_length", "task.train", "trainer.max_steps"]
    found = fields(capsys, train.main, *argv, *more, *roles, "task.max_source_length=30", "task.max_target_length=30")
    assert found == ["task.train", "task.validation", "training.schedule"]


def test_data_need_no_steps(files, in_tmp, capsys):
    options = [line for line in files.overrides("data.batch_tokens=500") if not line.startswith("trainer.max_steps")]
    cache = f"data.cache={in_tmp / 'cache'}"
    assert check.main(["--data", "--json", *options, cache]) == 0, capsys.readouterr().err
    assert prepare.main(["--no-model", *options, cache]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert fields(capsys, check.main, "--data", "variant=bertshare") == ["task.train", "task.validation"]


def test_what_stands_beside_a_run_is_not_ignored(trained, capsys, in_tmp):
    (in_tmp / "presets").mkdir()
    assert fields(capsys, train.main, "run=run", "--config-dir=presets") == ["run"]
    assert train.main(["run=run", "--cfg"]) == 0
    assert capsys.readouterr().out == (trained.folder / "config.yaml").read_text()
    assert fields(capsys, check.main, "run=run") == ["run"]
    assert fields(capsys, check.main, "--variants", "variant=bertshare") == ["variant"]
