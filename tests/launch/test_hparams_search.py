"""A search: its points follow from its seed, it goes on where it was, and it says what is wrong before it starts."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from encdec_lightning.cli import sweep as overview_command
from encdec_lightning.cli.train import main
from encdec_lightning.hparams_search.space import Dimension
from encdec_lightning.launch import processes
from encdec_lightning.launch.command_line.ranges import space_of
from encdec_lightning.run import Run

RATE = "training.learning_rate=tag(log,interval(1e-5,1e-1))"
STEPS = 3


class Trainings:
    """Stand in for trainings: validations whose loss is least at a learning rate of 1e-3, and no scores."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.fails = self.interrupts = math.inf
        """The count of trainings, from 1 on, of the one that ends so."""

    def __call__(self, run: Run, lock: int, several: bool, unpromising: Callable[[], bool]) -> None:
        self.trained.append(run.folder.name)
        number, rate = len(self.trained), run.config()["training"]["learning_rate"]
        loss = abs(math.log10(rate) + 3)
        (run.folder / "validations.jsonl").unlink(missing_ok=True)
        for step in range(1, STEPS + 1):
            (run.folder / "progress.json").write_text(json.dumps({"step": step, "steps": STEPS, "scores": {}}))
            with (run.folder / "validations.jsonl").open("a") as stream:
                stream.write(json.dumps({"step": step, "scores": {"val/loss": loss + (STEPS - step)}}) + "\n")
            if number == self.interrupts:
                raise KeyboardInterrupt
            if number == self.fails:
                raise RuntimeError("not this one")
            if unpromising():
                raise processes.Pruned


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    fake = Trainings()
    monkeypatch.setattr(processes, "_in_worker", fake)
    return fake


@pytest.fixture
def options(files, in_tmp: Path) -> list[str]:
    more = ("hparams_search=optuna", RATE, "search.trials=3", "search.startup_trials=1", "search.pruner=none")
    return ["--multirun", *files.overrides("export=false", *more)]


def rates(trained: list[str]) -> list[float]:
    return [Run(Path("runs/run", name)).config()["training"]["learning_rate"] for name in trained]


def journal(name: str = "run") -> Path:
    return Path("runs", name, "study", "journal.log")


def test_an_interrupted_search_goes_on_as_it_would_have_gone(options, trainings, capsys):
    assert main([*options, "name=other"]) == 0
    whole, trainings.trained = trainings.trained, []
    trainings.interrupts = 2
    assert main(options) == 130
    assert capsys.readouterr().err.endswith("The search is interrupted; the same command goes on with it.\n")
    with journal().open("a") as stream:
        stream.write('{"op_code":')  # what a process leaves that is killed while it writes
    journal().with_name("journal.log.lock").symlink_to("journal.log")
    assert main(options) == 0
    assert trainings.trained == [*whole[:2], *whole[1:]]
    assert len(set(whole)) == 3 and len(list(Path("runs/run").iterdir())) == 4
    out = capsys.readouterr().out
    best = json.loads(Path("runs/run/study/best.json").read_text())
    assert "3 trials: 3 finished" in out and best["command"] in " ".join(out.split())
    assert best["value"] == min(abs(math.log10(rate) + 3) for rate in rates(whole))
    assert best["params"]["training.learning_rate"] in rates(whole)
    assert main(options) == 0
    assert len(trainings.trained) == 4  # all are finished
    assert main([*options, "search.trials=4"]) == 0
    assert len(trainings.trained) == 5


def test_the_best_trials_command_trains_the_same_run(options, trainings, monkeypatch):
    import shlex

    assert main([*options, "search.trials=1"]) == 0
    (name,) = trainings.trained
    command = shlex.split(json.loads(Path("runs/run/study/best.json").read_text())["command"])
    assert command[0] == "encdec-train"
    monkeypatch.setattr(processes, "start", lambda run: run.set_state("finished"))
    assert main([*command[1:], "folder=again"]) == 0
    again = Run(Path("again"))
    assert again.identity().startswith(name) and again.config() | {"folder": None} == Run(f"runs/run/{name}").config()


@pytest.mark.slow
def test_a_failed_trial_is_told_and_tried_again(options, trainings, capsys):
    trainings.fails = 2
    assert main(options) == 1
    name = trainings.trained[1]
    err = capsys.readouterr().err.splitlines()
    assert err[-2] == "1 of 3 trials failed, the same command tries them again:"
    assert err[-1].endswith(f"runs/run/{name}: RuntimeError: not this one")
    assert len(trainings.trained) == 3
    assert main(options) == 0
    assert trainings.trained[3:] == [name]
    assert "3 trials: 3 finished" in capsys.readouterr().out


def test_a_trial_that_others_outdo_is_pruned_for_good(options, trainings, capsys):
    pruning = [*options, "search.pruner=median", "search.pruning_trials=1", "search.seed=7", "search.sampler=random"]
    assert main(pruning) == 0
    count = len(trainings.trained)
    states = {name: Run(Path("runs/run", name)).status()["state"] for name in trainings.trained}
    losses = dict(zip(trainings.trained, [abs(math.log10(rate) + 3) for rate in rates(trainings.trained)], strict=True))
    pruned = {name for name, state in states.items() if state == "pruned"}
    assert 0 < len(pruned) < 3 and trainings.trained[0] not in pruned
    assert min(losses, key=lambda name: losses[name]) not in pruned
    rows = Path("runs/run/study/trials.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1:4:2] for row in rows] == [
        ["pruned", "1"] if name in pruned else ["finished", "3"] for name in trainings.trained
    ]
    assert main(pruning) == 0
    assert len(trainings.trained) == count
    assert f"{len(pruned)} pruned" in capsys.readouterr().out
    assert overview_command.main(["runs/run"]) == 0
    assert f"{len(pruned)} pruned" in capsys.readouterr().out


def test_a_shipped_search_and_one_of_the_users_own(options, trainings, in_tmp):
    assert (
        main([*[each for each in options if each != RATE], "hparams_search=optuna_learning_rate", "search.trials=1"])
        == 0
    )
    assert all(1e-5 <= rate <= 1e-3 for rate in rates(trainings.trained))
    own = {"training.learning_rate": "interval(0.1, 0.2)", "seed": "range(3, 9999, 2)", "data.accumulate": "1, 2"}
    preset = {"defaults": [{"override /hydra/sweeper": "optuna"}], "hydra": {"sweeper": {"params": own}}}
    (in_tmp / "mine" / "hparams_search").mkdir(parents=True)
    text = f"# @package _global_\n{yaml.safe_dump({**preset, 'search': {'trials': 2}, 'validate_every': 2})}"
    (in_tmp / "mine" / "hparams_search" / "mine.yaml").write_text(text)
    trainings.trained.clear()
    kept = [each for each in options if not each.startswith(("hparams", "search.trials", RATE))]
    assert main([*kept, "--config-dir=mine", "hparams_search=mine", "training.learning_rate=0.5", "name=own"]) == 0
    configs = [Run(Path("runs/own", name)).config() for name in trainings.trained]
    assert len(configs) == 2
    assert all(each["seed"] in range(3, 9999, 2) and each["data"]["accumulate"] in (1, 2) for each in configs)
    assert {(each["training"]["learning_rate"], each["validate_every"]) for each in configs} == {(0.5, 2)}
    assert json.loads(Path("runs/own/study/best.json").read_text())["command"] == ""  # the preset sets another option


def test_ranges_become_dimensions():
    given = [
        "seed=interval(0,4)",
        "a=interval(1,2)",
        "++b=tag(log,interval(1,2))",
        "c=range(1,8,3)",
        "d=x,'y z'",
        "e=1",
    ]
    space, fixed = space_of(["e=1,2", *given])
    assert space == [
        Dimension("seed", "seed", low=0, high=4),
        Dimension("a", "a", low=1.0, high=2.0),
        Dimension("b", "++b", low=1.0, high=2.0, log=True),
        Dimension("c", "c", low=1, high=7, step=3),
        Dimension("d", "d", choices=("x", "'y z'")),
    ]
    assert fixed == ["e=1"]
    value = 1.2345678901234567e-05
    assert float(space[1].override(value).removeprefix("a=")) == value


NEEDS_A_RANGE = "give an option to search, such as training.learning_rate=tag(log,interval(1e-5,1e-3))."


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["search.trials=0"], "search.trials is 0: it must be at least 1."),
        (["search.sampler=tp"], "search.sampler is 'tp': it must be one of tpe, random (did you mean 'tpe'?)."),
        (["search.study=a/b"], "search.study is 'a/b': it must be a name of letters, digits, -, _ and .."),
        (
            ["training.learning_rat=interval(1,2)"],
            "training.learning_rat is 'interval(1,2)': there is no such option in",
        ),
        (
            ["training.learning_rate=interval(2,1)"],
            "training.learning_rate is 'interval(2,1)': its first number must be",
        ),
        (
            ["training.learning_rate=tag(log,interval(0,1))"],
            "training.learning_rate is 'tag(log,interval(0,1))': a loga",
        ),
        (
            ["training.learning_rate=tag(lin,interval(0,1))"],
            "training.learning_rate is 'tag(lin,interval(0,1))': a tag",
        ),
        (["training.learning_rate=interval(-1,1)"], "training.learning_rate is -1.0: "),
        (["seed=interval(0.5,2)"], "seed is 'interval(0.5,2)': its ends must be whole numbers, as the option is."),
        (["seed=range(3,3)"], "seed is 'range(3,3)': there is no number in it."),
        (["seed=glob(*)"], "seed is 'glob(*)': glob() takes names of presets alone: give the values."),
        (["variant=bertshare,bertshar"], "variant is 'bertshar': it must be one of"),
        (["search.trials=1,2"], "search.trials is '1,2': it must be one value: it changes no result."),
        (["training.learning_rate=1e-4"], f"hparams_search is 'optuna': {NEEDS_A_RANGE}"),
        (["folder=one"], "folder is 'one': each trial needs a folder of its own: leave it away."),
        (["task.monitor=val/rouge1"], "task.monitor is 'val/rouge1': it is only known where texts are generated"),
        (["trainer.limit_val_batches=0"], "trainer.limit_val_batches is 0: a search needs validations"),
        (
            ["validate_every=9"],
            "validate_every is 9: a search needs a validation: it must be at most trainer.max_steps",
        ),
        (["hydra/launcher=slurm"], "hydra/launcher is 'slurm': it takes a grid alone: a search that chooses points"),
        (
            ["hydra.sweep.dir=x"],
            "hydra.sweep.dir is 'x': it has no effect on a search, which starts its trials itself.",
        ),
        (["hydra.sweeper.n_trials=9"], "hydra.sweeper.n_trials is 9: it has no effect here: the number of a search's"),
    ],
)
def test_mistakes_are_said_before_anything_starts(lines, sentence, options, trainings, in_tmp, capsys):
    assert main([*options, *lines]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(sentence)
    assert trainings.trained == [] and not (in_tmp / "runs").exists()


def test_options_of_a_search_need_one(files, in_tmp, capsys):
    assert main(files.overrides("search.trials=3")) == 2
    assert capsys.readouterr().err == "search.trials is 3: it acts with hparams_search=optuna alone.\n"
    assert main(files.overrides("hparams_search=optuna", RATE)) == 2
    assert "hparams_search is 'optuna': a search needs --multirun." in capsys.readouterr().err


@pytest.mark.slow
def test_another_search_does_not_go_on_in_a_studys_folder(options, trainings, capsys):
    assert main([*options, "search.trials=1"]) == 0
    capsys.readouterr()
    for line, sentence in [
        ("training.learning_rate=interval(1e-5,1e-2)", "over other values of training.learning_rate;"),
        ("seed=1", "with another value of seed;"),
    ]:
        assert main([*options, line]) == 2
        start = f"search.study is 'study': runs/run/study holds a search {sentence}"
        assert capsys.readouterr().err == f"{start} name another with search.study=<name>.\n"
    assert main([*options, "seed=1", "search.study=other", "search.trials=1"]) == 0
    assert len(trainings.trained) == 2


def test_a_search_without_optuna_says_what_to_install(options, trainings, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "encdec_lightning.hparams_search.study", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(options) == 2
    expected = "hydra/sweeper is 'optuna': it needs the package optuna, pip install 'encdec_lightning[search]'.\n"
    assert capsys.readouterr().err == expected
