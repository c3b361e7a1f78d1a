"""encdec-evaluate: a run's test set again, from its folder alone (the base checkpoints are gone)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from encdec_lightning.cli.evaluate import main
from encdec_lightning.run import Run


def contents(run: Run) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.folder.rglob("*") if path.is_file() and path.name != ".lock"}


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    assert main([*argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err.splitlines()


def test_the_same_results_again(trained, capsys):
    before, metrics = contents(trained), trained.metrics()
    del before[str(trained.folder / "metrics.json")]  # its lines come in another order
    assert main([f"run={trained.folder}"]) == 0
    assert "Test scores" in capsys.readouterr().out
    assert trained.metrics() == metrics
    after = contents(trained)
    assert {name: after[name] for name in before} == before and len(after) == len(before) + 1


def test_from_wherever_the_folder_is(trained):
    moved = Run(shutil.move(trained.folder, trained.folder.parent / "elsewhere"))
    before = moved.predictions()
    assert main([f"run={moved.folder}"]) == 0
    assert moved.predictions() == before


def test_other_options_go_into_a_folder_of_their_own(trained):
    before = contents(trained)
    assert main([f"run={trained.folder}", "generation.max_length=2", "generation.length_penalty=1e-1"]) == 0
    (folder,) = (trained.folder / "evaluations").iterdir()
    evaluation = Run.open(folder)
    assert evaluation.config()["generation"]["max_length"] == 2
    assert evaluation.config()["generation"]["length_penalty"] == 0.1
    assert all(len(each.prediction.split()) <= 2 for each in evaluation.predictions())
    assert evaluation.predictions() != trained.predictions()
    assert "test/rouge1/low" in evaluation.metrics()
    assert contents(trained).items() >= before.items()
    assert main([f"run={trained.folder}", "generation.max_length=2", "generation.length_penalty=0.1"]) == 0
    assert [path.name for path in (trained.folder / "evaluations").iterdir()] == [folder.name]


def test_other_test_examples_are_refused(trained, capsys):
    file = Path(trained.config()["task"]["test"] or trained.config()["task"]["validation"])
    content = file.read_text()
    try:
        file.write_text("".join(content.splitlines(keepends=True)[1:]))
        before = contents(trained)
        for options in ([], ["generation.max_length=2"]):
            (sentence,) = refused(capsys, f"run={trained.folder}", *options)
            assert sentence.startswith(
                f"task.test is {str(file)!r}: its examples are not those that the run was tested on ("
            )
        assert contents(trained) == before
    finally:
        file.write_text(content)
    assert main([f"run={trained.folder}"]) == 0


def test_checkpoints(trained):
    copy = shutil.copy(trained.checkpoint("last"), trained.folder.parent / "some.ckpt")
    for choice in ("last", str(copy)):
        assert main([f"run={trained.folder}", f"checkpoint={choice}"]) == 0
    first, second = (trained.folder / "evaluations").iterdir()
    assert Run.open(first).predictions() == Run.open(second).predictions()


def test_nothing_that_a_config_could_call_is_built(trained):
    file = trained.folder / "config.yaml"
    config = yaml.safe_load(file.read_text())
    evil = {"_target_": "subprocess.run", "args": ["touch", str(trained.folder / "owned")]}
    config |= {"callbacks": {"x": evil}, "logger": {"x": evil}, "optimizer": evil}
    config["trainer"] |= {"_target_": "subprocess.run", "plugins": evil}
    file.write_text(yaml.safe_dump(config))
    assert main([f"run={trained.folder}"]) == 0
    assert not (trained.folder / "owned").exists()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "run is None: the folder of a run must be given"),
        (["run=nowhere"], "run is 'nowhere': it is not the folder of a run"),
        (["run=run", "checkpont=last"], "checkpont is 'last': there is no such argument (did you mean 'checkpoint'?)."),
        (["run=run", "checkpoint=lst"], "checkpoint is 'lst': there is no lst; checkpoint=best takes the best one."),
        (
            ["run=run", "checkpoint=run/config.yaml"],
            "checkpoint is 'run/config.yaml': run/config.yaml cannot be read, it is broken off",
        ),
        (
            ["run=run", "generation.num_beam=2"],
            "generation.num_beam is '2': there is no such option in generation (did",
        ),
        (["run=run", "generation.num_beams=x"], "generation.num_beams is 'x': it must be a whole number."),
        (["run=run", "generation.num_beams=0"], "generation.num_beams is 0: it must be at least 1."),
        (["run=run", "generation.num_beams=[1"], "generation.num_beams is '[1': it must be a whole number."),
        (
            ["run=run", "generation.num_beams=2024-01-01"],
            "generation.num_beams is '2024-01-01': it must be a whole number",
        ),
        (["run=run", "generation.max_length=999"], "generation.max_length is 999: "),
        (["run=run", "task.test=x"], "task.test is 'x': a run keeps its own task; encdec-evaluate predictions="),
        (["run=run", "last"], "argument is 'last': it must have the form name=value."),
    ],
)
def test_one_mistake_is_one_sentence(argv, says, trained, capsys):
    before = contents(trained)
    (line,) = refused(capsys, *argv)
    assert line.startswith(says)
    assert contents(trained) == before


def test_a_locked_run_is_left_alone(trained, capsys):
    with trained.lock():
        (line,) = refused(capsys, f"run={trained.folder}")
    assert "another process is working in this run" in line


def test_a_broken_config(trained, capsys):
    (trained.folder / "config.yaml").write_text("model: [")
    (line,) = refused(capsys, "run=run")
    assert "its config.yaml cannot be read; delete that file, and the command that made the run writes it anew" in line
    assert Path("run/evaluations").exists() is False
