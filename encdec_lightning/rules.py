"""Rules that no option can check alone, and `convert`: composed values in, a `Config` that keeps all rules out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict

from encdec_lightning.config import Config, Node, validated
from encdec_lightning.credentials import HIDDEN, secrets_of
from encdec_lightning.data.options import Extraction
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.training.options import FSDP, FSDP_IN_PIECES, NO_SCALER_OF_SHARDS
from encdec_lightning.training.schedules import SCHEDULES

OWNED_ELSEWHERE = {  # {slot: {argument: the option that sets it}}
    "optimizer": {"lr": "training.learning_rate", "weight_decay": "training.weight_decay"},
    "trainer": {
        "accumulate_grad_batches": "data.accumulate",
        "val_check_interval": "validate_every",
        "check_val_every_n_epoch": "validate_every",
        "default_root_dir": "folder",
        "callbacks": "callbacks",
        "logger": "logger",
        "use_distributed_sampler": "nothing: the data plan shares the examples out",
    },
}
STEPS = ("trainer.max_steps", "trainer.max_epochs")  # what ends a training by itself
STEPS_AND_EPOCHS = ("max_steps", "max_epochs")
LEAST = {
    **dict.fromkeys((*STEPS_AND_EPOCHS, "min_steps", "min_epochs", "gradient_clip_val", "log_every_n_steps"), 0),
    "num_nodes": 1,
}
"""The least values of Trainer's arguments that Lightning does not check, or only when it is too late."""


def convert(values: Node) -> Config:
    """The checked config of composed plain values; raises `UserErrors` with every mistake."""
    config, found = validated(values)
    if config is not None:
        found = problems(config)
    if config is None or found:
        raise UserErrors(found)
    return config


def problems(config: Config, doubtful: Iterable[str] = ()) -> list[UserError]:
    """What rules across nodes say. A rule that reads a doubtful option is left out: it would blame the wrong one."""
    doubts = tuple(doubtful)
    return [problem for reads, rule in _RULES if not concerned(reads, doubts) for problem in rule(config)]


def concerned(paths: Iterable[str], doubtful: Iterable[str]) -> bool:
    """Whether one of the options, or a part of one, is doubtful; the doubtful "" is the whole config."""
    doubts = [f"{each}." if each else "" for each in doubtful]
    return any(f"{path}.".startswith(doubt) or doubt.startswith(f"{path}.") for path in paths for doubt in doubts)


Rule = Callable[[Config], Iterator[UserError]]
_RULES: list[tuple[tuple[str, ...], Rule]] = []


def _reads(*paths: str) -> Callable[[Rule], Rule]:
    """Make a function a rule, with the options that it reads."""

    def add(rule: Rule) -> Rule:
        _RULES.append((paths, rule))
        return rule

    return add


@_reads()
def _owned_elsewhere(config: Config) -> Iterator[UserError]:
    for slot, owners in OWNED_ELSEWHERE.items():
        node: Node = getattr(config, slot)
        for argument in sorted(node.keys() & owners.keys()):
            expected = f"it is not set here but by {owners[argument]}"
            yield UserError(f"{slot}.{argument}", node[argument], expected)


@_reads()
def _no_secrets(config: Config) -> Iterator[UserError]:
    """A run's options are written into its folder, its logs and wandb."""
    for option, secret in secrets_of(asdict(config)).items():
        expected = (
            f"it holds {secret}, which everybody who reads the run would see: give it in the environment (HF_TOKEN,"
            f" WANDB_API_KEY, ~/.netrc), or fetch the file before"
        )
        yield UserError(option, HIDDEN, expected)


@_reads("trainer")
def _trainer_counts(config: Config) -> Iterator[UserError]:
    for name, least in LEAST.items():
        value = config.trainer.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value < least and value != -1:
            endless = ", or -1 for no end" if name in STEPS_AND_EPOCHS else ""
            yield UserError(f"trainer.{name}", value, f"it must be at least {least}{endless}")
        elif value == -1 and name not in STEPS_AND_EPOCHS:
            yield UserError(f"trainer.{name}", value, f"it must be at least {least}")


@_reads("task.max_source_length", "task.max_target_length", "data.batch_tokens", "data.evaluation_batch_tokens")
def _a_pair_fits(config: Config) -> Iterator[UserError]:
    longest = config.task.max_source_length + config.task.max_target_length
    for name in ("batch_tokens", "evaluation_batch_tokens"):
        budget = getattr(config.data, name)
        if budget is not None and budget < longest:
            expected = f"it must hold the longest pair: task.max_source_length + task.max_target_length = {longest}"
            yield UserError(f"data.{name}", budget, expected)


@_reads(*STEPS, "training.schedule")
def _schedule_ends(config: Config) -> Iterator[UserError]:
    name = config.training.schedule
    if SCHEDULES[name].needs_steps and not any((config.trainer.get(each) or -1) > 0 for each in STEPS_AND_EPOCHS):
        expected = "it needs a number of steps: set trainer.max_steps or trainer.max_epochs"
        yield UserError("training.schedule", name, expected)


@_reads("task.monitor", "task.validation_generate")
def _monitored(config: Config) -> Iterator[UserError]:
    monitor = config.task.monitor
    if not monitor.startswith("val/"):
        yield UserError("task.monitor", monitor, "it must be val/loss or the name of a metric after val/")
    elif monitor != "val/loss" and not config.task.validation_generate:
        expected = "it is only known where texts are generated: set task.validation_generate"
        yield UserError("task.monitor", monitor, expected)


@_reads("generation.min_length", "generation.max_length", "task.max_target_length")
def _least_length(config: Config) -> Iterator[UserError]:
    if config.generation.min_length > (config.generation.max_length or config.task.max_target_length):
        expected = f"it must not exceed task.max_target_length ({config.task.max_target_length})"
        yield UserError("generation.min_length", config.generation.min_length, expected)


@_reads("extraction", "model.decoder")
def _extracts(config: Config) -> Iterator[UserError]:
    if config.model.scores_sentences:
        return
    for name, value in asdict(config.extraction).items():
        if value != getattr(Extraction, name):
            yield UserError(f"extraction.{name}", value, "it acts without a decoder alone (model.decoder=null)")


@_reads("trainer.precision", "trainer.strategy")
def _scaled(config: Config) -> Iterator[UserError]:
    precision = config.trainer.get("precision")
    if str(precision) in ("16", "16-mixed") and config.trainer.get("strategy") in (FSDP, FSDP_IN_PIECES):
        yield UserError("trainer.precision", precision, NO_SCALER_OF_SHARDS)
