"""Whether what is monitored will be known: the names of all that a training logs follow from its config."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lightning.pytorch.callbacks import ModelCheckpoint

from encdec_lightning.config import Config
from encdec_lightning.errors import UserError, did_you_mean, one_of
from encdec_lightning.launch.slots.build import is_known, target_of
from encdec_lightning.rules import concerned

ALWAYS = ("val/loss", "val/perplexity", "train/loss")
COUNTERS = ("epoch", "step")  # what a ModelCheckpoint knows beside what is logged


def check_monitors(config: Config, doubtful: set[str]) -> Iterator[UserError]:
    """`task.monitor`, and the `monitor` of each callback, must be names of what is logged."""
    if concerned(["task.metrics"], doubtful):
        return
    metrics = metric_names(config)
    task = config.task
    if not concerned(["task.monitor"], doubtful) and task.monitor.startswith("val/"):
        known = [*(name for name in always(config) if name.startswith("val/")), *metrics]
        if task.monitor not in known:
            hint = did_you_mean(task.monitor, known)
            expected = f"{one_of(known)}, as task.metrics has them{hint}"
            yield UserError("task.monitor", task.monitor, expected)
            doubtful.add("task.monitor")
    yield from _check_callbacks(config, doubtful, metrics)


def metric_names(config: Config) -> list[str]:
    """The names under which validation would log the scores of the texts it generates."""
    from encdec_lightning.evaluation.registry import load_metric

    return [f"val/{name}" for metric in config.task.scored_with for name in load_metric(metric).names]


def always(config: Config) -> list[str]:
    """What every fit logs; a perplexity only where words are guessed, and not whether a sentence is right."""
    return [name for name in ALWAYS if name != "val/perplexity" or not config.model.scores_sentences]


def names_logged_by(callbacks: Iterable[type | None]) -> list[str]:
    """The names of what these classes of callbacks log, each once: their attribute `logged`, where they have one."""
    return list(dict.fromkeys(name for each in callbacks for name in getattr(each, "logged", ())))


def _check_callbacks(config: Config, doubtful: set[str], metrics: list[str]) -> Iterator[UserError]:
    used = {name: node for name, node in config.callbacks.items() if node is not None}
    if concerned([f"callbacks.{name}._target_" for name in used], doubtful):
        return
    targets = {name: target_of(node) for name, node in used.items()}
    if not all(target is not None and is_known(target) for target in targets.values()):
        return  # a callback of the user's own may log anything
    generated = ["val/texts_per_second", *metrics]
    validated = generated if config.task.validation_generate else ()
    known = [*always(config), *validated, *names_logged_by(targets.values())]
    for name, node in used.items():
        field, monitor = f"callbacks.{name}.monitor", node.get("monitor")
        if not isinstance(monitor, str) or concerned([field], doubtful):
            continue
        if monitor == config.task.monitor:  # `task.monitor` is what the user chose
            continue
        if monitor in known or (monitor in COUNTERS and issubclass(targets[name] or object, ModelCheckpoint)):
            continue
        if monitor in generated:
            yield UserError(field, monitor, "it is only known where texts are generated: set task.validation_generate")
        else:
            expected = f"{one_of(known)}, which are logged{did_you_mean(monitor, known)}"
            yield UserError(field, monitor, expected)
