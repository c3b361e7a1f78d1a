"""Configs in, one job of Slurm's out: their runs are made and frozen, and a script that runs them is submitted."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from encdec_lightning.cluster.queue import check_array, check_here, devices_of, in_queue, submitted
from encdec_lightning.cluster.script import Work, script
from encdec_lightning.config import Config
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.files import write_text
from encdec_lightning.launch.command_line.hydra_compose import compose_raw
from encdec_lightning.launch.command_line.names import check_overrides
from encdec_lightning.launch.run_folder import make_run
from encdec_lightning.run import Run

SAME = "it must be the same for all points of a sweep, which are one job"


def submit(configs: Sequence[Config], sweep: Path | None = None, points: Sequence[str] = ()) -> None:
    """Make the checked configs' runs, and submit or print a script for those that are not done and not in the queue.

    `sweep` is the sweep's folder, which takes the script and the output; without one there is one run, which takes
    them; `points` says what sets each config of a sweep apart. Nothing of this process is needed afterwards. Raises
    `UserErrors`.
    """
    slurm = configs[0].slurm
    if not slurm.print:
        check_here()
        if sweep is not None:
            check_array(len(configs))
    told = points if sweep is not None else [None] * len(configs)
    made = [make_run(config, point, checked=True) for config, point in zip(configs, told, strict=True)]
    runs = list({run.folder: run for run in made}.values())
    waiting = [run for run in runs if run.status().get("state") != "finished"]
    if not waiting:
        print(f"Nothing is submitted: {_counted(len(runs))} finished.")
        return
    if not slurm.print:
        jobs = {run.folder: _job(run) for run in waiting}
        there = in_queue(job for job in jobs.values() if job)
        for run in [run for run in waiting if jobs[run.folder] in there]:
            print(f"{run.folder} is in the queue already, as job {jobs[run.folder]}.")
            waiting.remove(run)
        if not waiting:
            return
    place = (waiting[0].slurm if sweep is None else sweep).absolute()
    text = script(_work(configs[0], waiting, place, array=sweep is not None), slurm)
    write_text(place / "job.sh", text)
    for name in secrets_left_behind(configs[0]):
        print(f"{name} is set here and not in the job: slurm.environment=[{name}] takes it along.", file=sys.stderr)
    if slurm.print:
        print(text, end="")
        print(f"Nothing is submitted; sbatch {place / 'job.sh'} does it.", file=sys.stderr)
        return
    number = submitted(place / "job.sh")
    for task, run in enumerate(waiting):
        write_text(run.slurm / "job", number if sweep is None else f"{number}_{task}")
    print(f"Job {number} is submitted: {_counted(len(waiting))} in the queue, {len(runs) - len(waiting)} not in it.")
    print(f"  script and output: {place}")
    print(f"  squeue --job={number} shows where it is; scancel {number} ends it, with a checkpoint.")
    if sweep is not None or configs[0].folder is not None:
        print("  The same command again submits what is not finished then, and shows nothing but that.")
    else:
        print(f"  The same command with folder={waiting[0].folder} submits it again, should it end unfinished.")


def secrets_left_behind(config: Config) -> list[str]:
    """Variables with a password or a key that the shell has, that the job may need, and that it does not take along."""
    loggers = [each for each in config.logger.values() if each is not None and "Wandb" in str(each.get("_target_"))]
    online = any(not each.get("offline") for each in loggers)
    needed = ["HF_TOKEN", *(["WANDB_API_KEY"] if online else [])]
    return [name for name in needed if name in os.environ and name not in config.slurm.environment]


def job_problems(configs: Sequence[Config]) -> list[UserError]:
    """What keeps the configs from being one job of Slurm's."""
    found = [problem for config in configs for problem in _problems(config)]
    for option in ("devices", "num_nodes"):
        values = [str(config.trainer.get(option, 1)) for config in configs]
        if len({*values}) > 1:
            found.append(UserError(f"trainer.{option}", ",".join(dict.fromkeys(values)), SAME))
    first = configs[0].slurm
    for name, value in vars(first).items():
        others = [getattr(config.slurm, name) for config in configs if getattr(config.slurm, name) != value]
        found += [UserError(f"slurm.{name}", others[0], SAME)] if others else []
    return list({str(problem): problem for problem in found}.values())


def _problems(config: Config) -> Iterator[UserError]:
    slurm, trainer = config.slurm, config.trainer
    devices, nodes = trainer.get("devices", "auto"), int(trainer.get("num_nodes", 1))
    processes = devices_of(devices)
    if processes is None:
        expected = "in a job of Slurm's it must be the number of processes on each node, such as trainer.devices=2"
        yield UserError("trainer.devices", devices, expected)
    elif slurm.ntasks_per_node not in (None, processes):
        expected = f"it must equal trainer.devices ({processes}), since each process is a task of Slurm's"
        yield UserError("slurm.ntasks_per_node", slurm.ntasks_per_node, expected)
    if slurm.nodes not in (None, nodes):
        yield UserError("slurm.nodes", slurm.nodes, f"it must equal trainer.num_nodes ({nodes})")
    asked = slurm.gpus_per_node is not None or any("gpu" in each or "gres" in each for each in slurm.options)
    if trainer.get("accelerator") in ("gpu", "cuda") and not asked:
        yield UserError("slurm.gpus_per_node", None, f"trainer.accelerator={trainer['accelerator']} needs GPUs")
    if trainer.get("precision") == "auto":
        expected = "this machine cannot know what is fast on the job's: give precision=bf16 or precision=fp32"
        yield UserError("precision", "auto", expected)


def _work(config: Config, runs: Sequence[Run], place: Path, array: bool) -> Work:
    return Work(
        name=config.name,
        folders=tuple(run.folder for run in runs),
        array=array,
        log=Path(str(place).replace("%", "%%"), "%A_%a.log" if array else "%j.log"),
        nodes=int(config.trainer.get("num_nodes", 1)),
        ntasks_per_node=devices_of(config.trainer.get("devices", 1)) or 1,
    )


def _job(run: Run) -> str:
    """The number of the job that was submitted for a run, empty where there was none."""
    try:
        return (run.slurm / "job").read_text(encoding="utf-8")
    except OSError:
        return ""


def _counted(count: int) -> str:
    return "1 run is" if count == 1 else f"{count} runs are"


def wants_slurm(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> bool:
    """Whether a command, or a preset of the user's own, asks for a job of Slurm's."""
    if config_dirs:
        with suppress(UserErrors):  # what is wrong is said by whoever composes the config
            _, usable = check_overrides(overrides, config_dirs)
            choices = compose_raw(usable, config_dirs, with_hydra=True).hydra.runtime.choices
            return str(choices["hydra/launcher"]) == "slurm"
    return "hydra/launcher=slurm" in [line.lstrip("+") for line in overrides]


def refused(config: Config, searched: bool = False, by_slurm: bool = False) -> list[UserError]:
    """Options of a job unless it is `by_slurm`, and of a search unless values are `searched`."""
    nodes = {} if by_slurm else {"slurm": "hydra/launcher=slurm"}
    nodes |= {} if searched else {"search": "hparams_search=optuna"}
    found = []
    for node, choice in nodes.items():
        options, defaults = vars(getattr(config, node)), type(getattr(config, node))()
        names = [name for name, value in options.items() if value != getattr(defaults, name)]
        found += [UserError(f"{node}.{name}", options[name], f"it acts with {choice} alone") for name in names]
    return found


def checked(configs: Sequence[Config]) -> Sequence[Config]:
    """The configs, if they can be one job of Slurm's; raises `UserErrors`."""
    problems = job_problems(configs)
    if problems:
        raise UserErrors(problems)
    return configs
