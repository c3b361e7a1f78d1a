"""The model card of an exported model: what it is, how it was trained, its scores, and code that runs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from encdec_lightning.composition.checkpoints import load_config
from encdec_lightning.composition.local_checkpoints import hub_id
from encdec_lightning.composition.options import Composition
from encdec_lightning.composition.sharing import SCHEMES
from encdec_lightning.data.options import Extraction, Task
from encdec_lightning.generation.options import Generation
from encdec_lightning.reporting.card_code import code, extract_code
from encdec_lightning.reporting.composition import added, what_is_added
from encdec_lightning.reporting.final_table import Cell, header_and_rows, scored
from encdec_lightning.run import Run
from encdec_lightning.training.options import Freeze, Training

TASK = "text-generation"
"""The Hub's task: text2text-generation, which it once had, is a part of it."""
SUMMARIZATION = "summarization"
"""The Hub's name of what an extract is for."""
LIBRARY = "encdec_lightning"
FROZEN: dict[Freeze, str] = {
    "pretrained": "what started as a checkpoint has it",
    "all_but_cross_attention": "all but cross-attention and a projection to the decoder's width",
    "encoder": "the encoder, with what it shares",
    "decoder": "the decoder, with what it shares",
}
STARTS = {
    "pretrained": "starts as {}",
    "random": "starts at random, with the shape of {}",
    "embeddings": "takes its embeddings from {} and starts at random for the rest",
    "layers": "takes its layers from {} and starts with random embeddings",
}


@dataclass(frozen=True)
class Data:
    """A split as the card names it: no path of the machine where it lay."""

    name: str
    hub: str | None = None
    configuration: str | None = None
    split: str | None = None
    revision: str | None = None

    @classmethod
    def of(cls, location: str) -> Data:
        """What an option such as `task.train` names."""
        if not location.startswith("hub:"):
            files = [location] if "://" in location else location.split("+")
            return cls("+".join(PurePosixPath(file.partition("?")[0]).name for file in files))
        _, place, configuration, split = location.split(":", 3)
        identifier, _, revision = (place, "", "") if Path(place).is_dir() else place.partition("@")
        name = f"{PurePosixPath(identifier).name}, {split}"
        return cls(name, hub_id(identifier), configuration or None, split, revision or None)


def write_card(run: Run, folder: Path) -> None:
    """Write README.md into the folder of a run's exported model, from the run's config and metrics."""
    config, metrics = run.config(), run.metrics()
    model, task = Composition(**config["model"]), Task(**config["task"])
    name = str(config["name"])
    head = _head(name, model, task, metrics)
    parts = [
        f"# {name}",
        _what(model, task, metrics, folder),
        "## Scores",
        _scores(task, metrics),
        "## How to run it",
        extract_code(task, Extraction(**config["extraction"]))
        if model.scores_sentences
        else code(folder, task, Generation(**config["generation"])),
        _precision(metrics),
        "## How it was trained",
        _training(config, task, metrics),
        "## License",
        "None is chosen yet. What the base models and the data allow decides; add `license:` to the head of this file.",
    ]
    text = "\n\n".join(part for part in parts if part)
    ModelCard(f"---\n{head.to_yaml()}\n---\n\n{text}\n").save(folder / "README.md")


def _head(name: str, model: Composition, task: Task, metrics: dict[str, Any]) -> ModelCardData:
    """What the Hub reads. License and languages are not known here and left out."""
    used = [side.checkpoint for side in model.sides if side.init != "random"]
    bases = list(dict.fromkeys(found for each in used if (found := hub_id(each))))
    splits = [Data.of(task.path(split)) for split in ("train", "validation", "test")]
    sets = list(dict.fromkeys(each.hub for each in splits if each.hub))
    tested, names = splits[2], _known(metrics)
    task_type = SUMMARIZATION if model.scores_sentences else TASK
    results = [
        EvalResult(
            task_type=task_type,
            dataset_type=tested.hub or tested.name,
            dataset_name=tested.name,
            dataset_config=tested.configuration,
            dataset_split=tested.split,
            dataset_revision=tested.revision,
            metric_type=_kind(each),
            metric_name=each,
            metric_value=round(metrics[f"test/{each}"], 2),
        )
        for each in names
    ]
    return ModelCardData(
        base_model=bases or None,
        datasets=sets or None,
        library_name="transformers",
        metrics=list(dict.fromkeys(map(_kind, names))) or None,
        model_name=name if results else None,
        eval_results=results or None,
        pipeline_tag=task_type,
        tags=[LIBRARY, *_tags(model)],
    )


def _tags(model: Composition) -> list[str]:
    if model.scores_sentences:
        return ["extractive-summarization", "encoder"]
    return ["text2text-generation", "decoder" if model.reads_prefix else "encoder-decoder"]


def _what(model: Composition, task: Task, metrics: dict[str, Any], folder: Path) -> str:
    starts = [f"the {side.role} {STARTS[side.init].format(_name(side.checkpoint))}" for side in model.sides]
    kind = "A language model that reads the source as a prefix" if model.reads_prefix else "An encoder-decoder"
    does = f"to write the column `{task.target}` for the column `{task.source}`"
    if model.scores_sentences:
        kind = "An encoder and a score for each sentence"
        does = f"to choose the sentences of the column `{task.source}` that say most of the column `{task.target}`"
    sentences = [f"{kind}, trained with `{LIBRARY}` {does}:", f"{' and '.join(starts)}."]
    if len(model.sides) == 2:
        sentences.append(f"The sides {SCHEMES[model.weights].sentence}.")
        given = added(load_config("model", str(folder)).decoder, model.cross_attention_init)
        if given is not None:
            sentences.append(f"The decoder is a language model that had none: {what_is_added(given)}.")
    if "parameters" in metrics:
        sentences.append(f"It has {metrics['parameters']:,} parameters.")
    return " ".join(sentences)


def _scores(task: Task, metrics: dict[str, Any]) -> str:
    """The table of the terminal, and what each metric is exactly."""
    names = _known(metrics)
    if not names:
        return "It was not scored."
    header, rows = header_and_rows(metrics, names)
    lines = [f"| | {' | '.join(header)} |", f"|---|{'---:|' * len(header)}"]
    lines += [f"| {row.label} | {' | '.join(map(_cell, row.cells))} |" for row in rows]
    tested = f"On {metrics['test/examples']:,} examples of {Data.of(task.path('test')).name}, with 95% intervals"
    control = "" if not any(key.startswith("control/") for key in metrics) else (
        "; `sources permuted` scores each text against another example's reference"
    )  # fmt: skip
    signatures = [f"- {name}: `{metrics[f'test/{name}/signature']}`" for name in names]
    return "\n\n".join([f"{tested}{control}.", "\n".join(lines), "\n".join(signatures)])


def _other_rates(training: Training) -> list[str]:
    """What not all parameters have in common, in words."""
    told = []
    if training.encoder_learning_rate is not None or training.encoder_warmup_steps is not None:
        rate = training.encoder_learning_rate or training.learning_rate
        warmup = training.warmup_steps if training.encoder_warmup_steps is None else training.encoder_warmup_steps
        told.append(f"the encoder's learning rate {rate:g}, {warmup:,} steps of warm-up")
    if training.fresh_learning_rate is not None:
        told.append(f"learning rate {training.fresh_learning_rate:g} of what started at random")
    return told


def _training(config: dict[str, Any], task: Task, metrics: dict[str, Any]) -> str:
    training = Training.of(config["training"])
    lines = []
    for split in ("train", "validation"):
        count = metrics.get(f"data/{split}_examples")
        lines.append(f"{split} pairs: {Data.of(task.path(split)).name}{'' if count is None else f', {count:,} pairs'}")
    of_a_target = "" if config["model"]["decoder"] is None else f" and {task.max_target_length} of a target"
    lines.append(f"at most {task.max_source_length} tokens of a source{of_a_target}")
    if task.preprocess:
        lines.append(f"texts prepared by {', '.join(task.preprocess)}, which the code above does not do")
    optimizer = str((config.get("optimizer") or {}).get("_target_", "")).rpartition(".")[2]
    lines += [
        *([f"not trained: {FROZEN[training.freeze]}"] if training.freeze is not None else []),
        *([f"{metrics['train/steps']:,} steps of {optimizer}"] if "train/steps" in metrics else []),
        *([f"{metrics['train/examples']:,} examples read"] if "train/examples" in metrics else []),
        f"learning rate {training.learning_rate:g}, schedule {training.schedule}, {training.warmup_steps:,} steps of "
        f"warm-up, weight decay {training.weight_decay:g}, label smoothing {training.label_smoothing:g}",
        *_other_rates(training),
        f"seed {config['seed']}",
        *([f"precision {metrics['train/precision']}"] if "train/precision" in metrics else []),
    ]
    lora = training.lora
    if lora.rank is not None:
        where = "" if lora.sides == "both" else f" of the {lora.sides}"
        sizes = f"rank {lora.rank}, alpha {lora.alpha:g}, dropout {lora.dropout:g}"
        lines.append(f"LoRA beside attention's weights{where} ({sizes}), merged into them")
    versions = [f"{key.removeprefix('version/')} {value}" for key, value in metrics.items() if "version/" in key]
    return "\n".join(f"- {line}" for line in [*lines, ", ".join(versions)] if line)


def _precision(metrics: dict[str, Any]) -> str:
    precision = str(metrics.get("test/precision", metrics.get("train/precision", "32-true")))
    if precision == "32-true":
        return ""
    return f"The scores were made in {precision}; in another precision a few texts end otherwise."


def _known(metrics: dict[str, Any]) -> list[str]:
    """Names of the metrics that have a value on the test set; one that failed has none."""
    return [name for name in scored(metrics) if metrics[f"test/{name}"] is not None]


def _cell(cell: Cell) -> str:
    """A cell of the card, which is empty unless all of it is known."""
    if not cell.complete:
        return ""
    return f"{cell.value} ({cell.interval})" if cell.interval else cell.value


def _kind(metric: str) -> str:
    """The Hub's name of a metric."""
    return "rouge" if metric.startswith("rouge") else metric


def _name(checkpoint: str) -> str:
    """A checkpoint as the card names it."""
    known = hub_id(checkpoint)
    return f"`{Path(checkpoint).resolve().name}` (a local folder)" if known is None else f"`{known}`"
