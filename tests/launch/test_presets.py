"""Every preset composes with what it says, and every preset of a part of a run trains."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from itertools import cycle, zip_longest
from pathlib import Path
from typing import Any

import pytest
import tiny
import wandb
import yaml
from tiny import Files

from encdec_lightning.cli.train import main
from encdec_lightning.composition.checks.skeleton import skeleton
from encdec_lightning.composition.local_checkpoints import MINILM, SMOLLM2
from encdec_lightning.composition.paper import ROWS
from encdec_lightning.config import Config
from encdec_lightning.errors import UserErrors
from encdec_lightning.launch.checks.checks import check_all
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.command_line.presets import choices, conf_folder, roles
from encdec_lightning.run import Run

PRESETS = [(group, name) for group, names in choices().items() for name in names]
NOT_RUN_HERE = {
    ("logger", "wandb"): "test_wandb_offline below trains it",
    ("logger", "tensorboard"): "needs its extra; test_loggers.py trains with it",
    ("logger", "mlflow"): "needs its extra; test_loggers.py trains with it",
    ("debug", "profiler"): "test_the_profiler below trains with it",
    ("hardware", "ddp"): "needs GPUs",
    ("hardware", "gpu"): "needs a GPU",
    ("hardware", "fsdp"): "needs GPUs; test_fsdp_run.py trains it on the processor",
    ("hardware", "ddp_cpu"): "test_processes.py trains it",
    ("precision", "fp16"): "needs a GPU",
    ("hparams_search", "learning_rate"): "test_sweep.py sweeps it",
    ("hparams_search", "optuna"): "test_hparams_search.py searches with it",
    ("hparams_search", "optuna_learning_rate"): "test_hparams_search.py searches with it",
    ("task", "pydoc"): "embedded data: test_pydoc.py makes them",
    ("task", "pydoc_names"): "embedded data: test_pydoc.py makes them",
    ("checkpoints", "published"): "needs the Hub",
    ("checkpoints", "published_large"): "needs the Hub",
    ("checkpoints", "multilingual"): "needs the Hub",
    ("checkpoints", "minilm"): "needs the Hub; the experiment replaces its checkpoint",
    ("slurm", "one_gpu"): "acts with a launcher alone; test_submission.py prints its script",
    ("checkpoints", "miniature"): "test_checkpoints_that_a_recipe_makes below",
    **{("checkpoints", name): "needs the Hub" for name in ("smollm2", "qwen3")},
    **{("checkpoints", f"ettin_{size}"): "needs the Hub" for size in ("17m", "32m", "68m", "150m")},
}
RUN = [preset for preset in PRESETS if preset not in NOT_RUN_HERE]
TOGETHER = ("variant", "task", "generation", "optimizer", "precision", "logger", "callbacks")
"""Groups of which one run can take a preset each; a run of the others has one preset."""
RUNS = [
    *(tuple(filter(None, row)) for row in zip_longest(*([each for each in RUN if each[0] == g] for g in TOGETHER))),
    *((preset,) for preset in RUN if preset[0] not in TOGETHER),
]


def options(files: Files) -> list[str]:
    """What every preset needs, and nothing that a preset chooses."""
    kept = ("task.train=", "task.validation=", "checkpoints.")
    return [line for line in files.overrides() if line.startswith(kept)]


def preset(group: str, name: str) -> tuple[str, dict[str, Any]]:
    """The node in which a preset's values lie, and the values."""
    text = (conf_folder() / group / f"{name}.yaml").read_text(encoding="utf-8")
    first = text.splitlines()[0]
    package = first.removeprefix("# @package ") if first.startswith("# @package ") else group
    return package.replace("_global_", ""), yaml.safe_load(text)


def leaves(prefix: str, node: Any) -> dict[str, Any]:
    """{dotted path: value} of a tree's leaves."""
    if not isinstance(node, dict):
        return {prefix: node}
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= leaves(f"{prefix}.{key}" if prefix else key, value)
    return found


def needed(group: str, name: str, files: Files) -> list[str]:
    """What a preset leaves to the user."""
    if (group, name) == ("decoder", "none"):
        return ["model.encoder_sentences=en"]
    return [f"model.encoder={files.bert}"] if name.endswith("_ext_abs") else []


def test_all_that_can_run_here_does():
    assert sorted(preset for row in RUNS for preset in row) == sorted(RUN)


def test_there_are_presets():
    assert len(PRESETS) >= 36
    assert set(NOT_RUN_HERE) <= set(PRESETS)
    assert roles() == ["bert", "decoder", "encoder", "gpt2", "presumm", "roberta"]


@pytest.mark.parametrize(("group", "name"), PRESETS, ids=lambda value: value)
def test_every_preset_composes_alone(group, name, files):
    chosen = [*options(files), "training.schedule=constant", f"{group}={name}", *needed(group, name, files)]
    config = compose_config(chosen, multirun=group == "hparams_search")
    assert isinstance(config, Config)
    composed = leaves("", asdict(config))
    node, values = preset(group, name)
    fixed = {"training.schedule", "task.train", "task.validation"}
    for path, value in leaves(node, {key: each for key, each in values.items() if key != "defaults"}).items():
        given = any(line.startswith(f"{path}=") for line in needed(group, name, files))
        if (
            path in fixed
            or path.startswith(("hydra.", "checkpoints."))
            or "${" in str(value)
            or value == "???"
            or given
        ):
            continue
        expected = float(value) if path.startswith("training.") and isinstance(value, str) else value
        assert composed[path] == expected, path


@pytest.mark.parametrize("presets", RUNS, ids=lambda row: "+".join(f"{group}={name}" for group, name in row))
def test_every_preset_runs(presets, files, in_tmp, capsys):
    more = ["debug=step", f"folder={in_tmp / 'run'}", *(f"{group}={name}" for group, name in presets)]
    for group, name in presets:
        more += needed(group, name, files)
        if (group, name) == ("encoder", "none"):
            more += ["decoder=gpt2"]
        if name.endswith("_of_large"):
            more += [f"checkpoints.bert={tiny.checkpoint(in_tmp / 'deep', 'bert', layers=24)}"]
        if group == "task":  # the few pairs here may all lie outside 1%, and none has a target of 50 words
            more += ["task.train_share=1.0", "task.test_preprocess=null", "task.columns=null"]
        if group == "experiment":
            more += [f"checkpoints.bert={files.bert}", "task=jsonl", "hardware=cpu"]
    base = [line for line in files.overrides() if not line.startswith("trainer.max_steps")]
    assert main([*base, *more]) == 0, capsys.readouterr().err
    run = Run(in_tmp / "run")
    assert (run.status()["state"], run.metrics()["train/steps"]) == ("finished", 1)
    assert run.predictions()


@pytest.mark.parametrize(
    ("variant", "encoder", "decoder", "weights", "inits"),
    [
        ("enc2lm", "bert", "llama", "untied", ("pretrained", "pretrained")),
        ("gpt", None, "gpt2", "untied", ("pretrained", "pretrained")),
        ("lm", None, "llama", "untied", ("pretrained", "pretrained")),
        ("lm2lm", "llama", "llama", "tied_embeddings", ("pretrained", "pretrained")),
        ("lmshare", "llama", "llama", "tied", ("pretrained", "pretrained")),
        ("rnd2gpt", "bert", "gpt2", "tied_embeddings", ("random", "pretrained")),
        ("bert2bert", "bert", "bert", "tied_embeddings", ("pretrained", "pretrained")),
        ("bert2gpt", "bert", "gpt2", "untied", ("pretrained", "pretrained")),
        ("bert2rnd", "bert", "bert", "tied_embeddings", ("pretrained", "random")),
        ("bertsumabs", "bert", "presumm", "untied", ("pretrained", "random")),
        ("bertshare", "bert", "bert", "tied", ("pretrained", "pretrained")),
        ("rnd2bert", "bert", "bert", "tied_embeddings", ("random", "pretrained")),
        ("rnd2rnd", "bert", "bert", "tied_embeddings", ("random", "random")),
        ("roberta2gpt", "roberta", "gpt2", "untied", ("pretrained", "pretrained")),
        ("robertashare", "roberta", "roberta", "tied", ("pretrained", "pretrained")),
    ],
)
def test_variants_are_the_rows_of_the_paper_and_those_of_a_language_model(
    variant, encoder, decoder, weights, inits, files
):
    model = compose_config(files.overrides(f"variant={variant}")).model
    assert (model.encoder, model.decoder) == (encoder and getattr(files, encoder), getattr(files, decoder))
    assert model.encoder_vocabulary == (files.gpt2 if variant == "rnd2gpt" else None)
    assert (model.weights, (model.encoder_init, model.decoder_init)) == (weights, inits)
    assert model.encoder_bidirectional == (encoder == "llama")


@pytest.mark.parametrize("name", ["ettin_17m", "ettin_32m", "ettin_68m", "ettin_150m", "smollm2", "qwen3"])
def test_sets_of_a_pair_fill_the_roles_encoder_and_decoder(name, files, in_tmp, monkeypatch):
    monkeypatch.setenv("ENCDEC_LIGHTNING_CACHE", str(in_tmp))  # it holds no checkpoint
    own = ("checkpoints.encoder=", "checkpoints.decoder=")
    base = [each for each in options(files) if not each.startswith(own)]
    chosen = [*base, "training.schedule=constant", f"checkpoints={name}", "variant=enc2lm"]
    model = compose_config(chosen).model
    if name == "smollm2":
        assert (model.encoder, model.decoder) == (MINILM, SMOLLM2)
        (in_tmp / "checkpoints" / SMOLLM2.replace("/", "--")).mkdir(parents=True)
        (in_tmp / "checkpoints" / SMOLLM2.replace("/", "--") / "config.json").write_text("{}")
        model = compose_config(chosen).model
        assert (model.encoder, model.decoder) == (MINILM, str(in_tmp / "checkpoints" / SMOLLM2.replace("/", "--")))
    elif name.startswith("ettin"):
        assert model.encoder == model.decoder.replace("-decoder-", "-encoder-") != model.decoder
    else:
        assert (model.encoder, model.decoder) == ("answerdotai/ModernBERT-large", "Qwen/Qwen3-0.6B")


ROTHE = {  # updates, examples of each, beams: section 4 of the paper
    "discofuse": (300_000, 256, 1), "wikisplit": (300_000, 256, 1), "gigaword": (500_000, 256, 1),
    "cnn_dailymail": (300_000, 128, 1), "xsum": (200_000, 128, 1), "wmt14_en_de": (-1, 256, 4),
    "wmt14_de_en": (-1, 256, 4),
}  # fmt: skip


CELLS = [(task, variant) for task in ROTHE for variant in ROWS]
EACH_ONCE = {*zip(cycle(ROTHE), ROWS, strict=False), ("wmt14_en_de", "robertashare")}
assert {task for task, _ in EACH_ONCE} == {*ROTHE}


@pytest.mark.parametrize(
    ("task", "variant"), [each if each in EACH_ONCE else pytest.param(*each, marks=pytest.mark.slow) for each in CELLS]
)
def test_a_cell_of_the_paper_is_a_task_and_a_row(task, variant):
    if task.startswith("wmt14") and variant.startswith("roberta"):
        with pytest.raises(UserErrors, match=r"checkpoints\.roberta"):
            compose_config([f"experiment=rothe2020/{task}", f"variant={variant}"])
        return
    config = compose_config([f"experiment=rothe2020/{task}", f"variant={variant}"])
    steps, examples, beams = ROTHE[task]
    assert config.trainer["max_steps"] == steps and config.data.update_examples == examples
    assert config.trainer.get("max_epochs") == (None if steps > 0 else 30)
    assert [each for each in check_all(config) if each.field.startswith("trainer")] == []
    assert (config.generation.num_beams, config.training.schedule) == (beams, "noam")
    assert config.optimizer["_target_"] == "torch.optim.Adam"
    bert = "bert-base-multilingual-cased" if task.startswith("wmt14") else "bert-base-cased"
    assert {config.model.encoder, config.model.decoder} <= {bert, "gpt2", "roberta-base", None}
    built = skeleton(config.model)
    assert {parameter.device.type for parameter in built.parameters()} == {"meta"}


def test_a_preset_in_a_folder_of_its_group(files, in_tmp):
    (in_tmp / "presets" / "task" / "mine").mkdir(parents=True)
    (in_tmp / "presets" / "task" / "mine" / "short.yaml").write_text("max_source_length: 17\n")
    given = [each for each in options(files) if each.startswith(("task.", "checkpoints."))]
    chosen = ["task=mine/short", "training.schedule=constant", "task.source=a", "task.target=b", *given]
    assert compose_config(chosen, [in_tmp / "presets"]).task.max_source_length == 17


def test_checkpoints_that_a_recipe_makes_are_looked_for_in_the_cache_folder(files, in_tmp, monkeypatch, capsys):
    monkeypatch.setenv("ENCDEC_LIGHTNING_CACHE", str(in_tmp / "cache"))
    options = [each for each in files.overrides("checkpoints=miniature") if not each.startswith("checkpoints.")]
    folder = in_tmp / "cache" / "checkpoints" / "miniature--bert"
    assert main([*options, "variant=bertshare", "folder=run"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"model.encoder is '{folder}': it is not in the cache folder yet; the preset that names it")
    tiny.checkpoint(folder, "bert")
    config = compose_config([*options, "variant=bertshare"])
    assert config.model.encoder == config.model.decoder == str(folder)


@pytest.mark.parametrize("chosen", ["minilm", "ettin_17m", "mine"])
def test_a_role_that_a_set_does_not_fill_is_named(chosen, in_tmp):
    (in_tmp / "presets" / "checkpoints").mkdir(parents=True)
    (in_tmp / "presets" / "checkpoints" / "mine.yaml").write_text("bert: a/b\n")
    with pytest.raises(UserErrors) as raised:
        compose_config([f"checkpoints={chosen}", "decoder=gpt2"], config_dirs=[in_tmp / "presets"])
    sentence = "this set of checkpoints has none for gpt2; choose another with checkpoints=, or set it."
    assert f"checkpoints.gpt2 is None: {sentence}" in str(raised.value)


def test_wandb_offline_has_curves_and_the_resolved_config(files, in_tmp):
    options = files.overrides("logger=wandb", "logger.wandb.offline=true", "debug=step", "name=blue", "folder=run")
    assert main(options) == 0
    wandb.finish()
    (log,) = Path("run/logs/wandb").glob("offline-run-*/*.wandb")
    deadline = time.monotonic() + 30
    while (content := log.read_bytes()).count(b"val/loss") == 0 and time.monotonic() < deadline:
        time.sleep(0.1)  # wandb's own process writes
    for word in ("train/loss", "val/loss", "batch_tokens", "num_beams", files.bert, "blue"):
        assert word.encode() in content, word
    assert b"${" not in content
    assert list(Path("run/logs/csv").glob("*/metrics.csv"))
    assert not (in_tmp / "wandb").exists()


def test_callbacks_are_the_runs_own(files, in_tmp):
    config = compose_config(files.overrides("callbacks=early_stopping", "callbacks.throughput=null"))
    assert config.callbacks["early_stopping"]["monitor"] == "val/loss"
    assert set(config.callbacks) == {*preset("callbacks", "default")[1], "early_stopping"}
    assert config.callbacks["throughput"] is None


def test_the_profiler_writes_a_trace_of_operators(files, in_tmp):
    base = [line for line in files.overrides() if not line.startswith("trainer.max_steps")]
    assert main([*base, "debug=profiler", "data.evaluation_batch_tokens=60", "folder=run"]) == 0
    traces = (in_tmp / "run").rglob("fit-profile*.pt.trace.json")
    names = {event.get("name") for trace in traces for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"aten::mm", "PackedScores", "LinearCrossEntropy"} <= names
    assert Run(in_tmp / "run").metrics()["train/steps"] == 12
