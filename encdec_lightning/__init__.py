"""encdec_lightning: warm-start sequence-to-sequence models from pretrained checkpoints, train and compare them.

The map, from left to right; each room imports only from rooms to its left:

    records.py, signals.py     Pair and Prediction; the request to end
    credentials.py, dotted.py  passwords and keys in options; objects of a user's own by their dotted path
    errors.py, progress.py     a user's mistake, one sentence, exit code 2; how far long work is
    files.py, owner.py         files written whole, archives read whole; who works in a folder
    cache/                     derived data on disk: folder.py, entries.py, fingerprints.py
    advice.py, run.py          what to do about a run's folder; that folder
    cluster/                   folders of runs in, a job of Slurm's out: options.py, script.py, queue.py
    hparams_search/            ranges of options in, values to try out: options.py, space.py, study.py
    evaluation/                texts in, scores out: metric.py, registry.py, rouge.py, bleu.py, chrf.py, ter.py,
                               sari.py, exact_match.py, descriptive.py, words.py, sentences.py, subsequence.py,
                               references.py, significance.py, comparison.py, extraction.py, baselines.py,
                               prediction_files.py
    kernels/                   what torch and transformers compute slowly: processor.py, attention.py,
                               attention_interface.py, packing.py, first_derivative.py, dropout.py, noise.py,
                               cross_entropy.py, working_copy.py, stand_in.py, gradients.py, products.py,
                               fast_functions.py, onednn_linear.py, int8_linear.py, short_attention.py, spans.py,
                               self_check.py, varlen.py
    composition/               two checkpoints in, one model out: compose.py, compatibility.py, signature.py,
                               assembly.py, composed_model.py, model.py, prefix.py, labels.py, lora.py,
                               sharing.py, layout.py, architecture.py, architectures.py, causality.py,
                               cross_attending.py, families.py, checkpoints.py, foreign.py, local_checkpoints.py,
                               gguf_checkpoint.py, convert.py, parameters.py, paper.py, tokenizers.py,
                               bulk_tokenizer.py, sentence_rules.py, sentence_tokenizer.py, segments.py,
                               sentence_head.py, sentence_scorer.py, bert_score.py
    composition/adapter/       a language model in, one with cross-attention out: registration.py,
                               source.py, cross_attention.py, merged.py, layers.py, decoder.py, copying.py,
                               t5gemma.py
    composition/sides/         a checkpoint in, one side out: config.py, names.py, origins.py, cross_attention.py,
                               random_values.py, initialization.py
    composition/checks/        what stands against a combination: family.py, pair.py, lengths.py, skeleton.py
    data/                      text in, batches out: preprocessing.py, inspection.py, datamodule.py
    data/sources/              rows in, pairs out: locations.py, download.py, hub.py, lines.py, readers.py, pairs.py,
                               source.py, pydoc.py, docstrings.py, splitting.py
    data/examples/             pairs in, tokenized examples out: examples.py, label_workers.py, sentence_labels.py,
                               building.py, store.py, prepared.py
    data/batches/              examples in, batches out: plan.py, updates.py, drawn_targets.py, batch.py, loader.py
    generation/                batches in, predictions out: predict.py, memory.py, generate.py, support.py,
                               engine.py, model_runner.py, positions.py, visibility.py, cache.py, logits.py,
                               candidates.py, constraints.py, search.py, beam_search.py, sampling.py,
                               special_tokens.py, export_config.py, other_model.py
    training/                  batches in, checkpoints out: module.py, extractive_module.py, task_module.py, loss.py,
                               flops.py, freezing.py, lora.py, optimizers.py, schedules.py, arrange.py, fsdp.py,
                               pieces.py, resuming.py, trainer_check.py, precision.py, product_speeds.py,
                               checkpoint.py, checkpoint_io.py, callbacks/
    reporting/                 runs in, tables and plots out: opening.py, overview.py, fitting.py,
                               progress_table.py, trials.py, results.py,
                               final_table.py, curves.py, card.py, card_code.py, composition.py, memory.py, data.py,
                               systems.py
    reporting/report/          folders of runs in, tables out: folders.py, rows.py, paired.py, printed.py,
                               formats.py
    reporting/page/            tables and runs in, one page of HTML out: page.py, runs.py, tables.py, plots.py,
                               examples.py; the page's own page.html, page.css and scripts
    config.py, rules.py        the tree of options; composed values in, checked objects out
    launch/                    command lines in, runs out: settle.py, auto_precision.py, garbage.py, nursery.py,
                               processes.py, run_folder.py, worker.py, submit.py, prepare.py, evaluation.py,
                               points.py, elsewhere.py, hparams_search.py, sweep.py
    launch/command_line/       overrides in, a config out: presets.py, reading.py, hydra_nodes.py, hydra_errors.py,
                               hydra_compose.py, hydra_values.py, names.py, draft.py, overrides.py,
                               ranges.py
    launch/slots/              the open slots' nodes in, objects out: argument_types.py, build.py, places.py
    launch/loggers/            what a training logs in, runs of a dashboard out: labels.py, journal.py, wandb_files.py,
                               wandb_run.py, mlflow_run.py, tensorboard_run.py, showing.py
    launch/job/                a run's folder in, its results out: job.py, modules.py, quiet.py, trainer.py, ranks.py,
                               refusals.py, at_work.py, targets.py, weights.py, metrics_json.py, testing.py,
                               late_export.py, rank_starter.py, meeting.py, devices.py
    launch/checks/             what is checked before a run: checks.py, model.py, paths.py, monitors.py, constructors.py
    prediction/                files of sources in, files of texts out: inputs.py, predict_file.py, extracts.py,
                               lines.py, partial.py, other_model.py
    cli/                       the commands: train.py, evaluate.py, predict.py, check.py, prepare.py, sweep.py,
                               report.py,
                               arguments.py, environment.py, help.py

Each room's options are dataclasses in its options.py. The names below are stable, and loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from encdec_lightning.composition.adapter.registration import register_when_imported

if TYPE_CHECKING:
    from encdec_lightning.composition.compatibility import Compatibility, check
    from encdec_lightning.composition.compose import compose
    from encdec_lightning.composition.model import EncoderDecoder
    from encdec_lightning.composition.options import Composition
    from encdec_lightning.composition.prefix import PrefixDecoder
    from encdec_lightning.composition.sentence_scorer import SentenceScorer
    from encdec_lightning.composition.tokenizers import Tokenizers
    from encdec_lightning.data.datamodule import ExtractiveDataModule, Seq2SeqDataModule
    from encdec_lightning.data.options import Extraction, Loading, Task
    from encdec_lightning.errors import UserError, UserErrors
    from encdec_lightning.generation.generate import generate
    from encdec_lightning.generation.options import Generation
    from encdec_lightning.generation.search import Hypothesis
    from encdec_lightning.records import Pair, Prediction
    from encdec_lightning.run import Run
    from encdec_lightning.training.extractive_module import ExtractiveModule
    from encdec_lightning.training.module import Seq2SeqModule
    from encdec_lightning.training.options import Training

_HOME = {
    "Compatibility": "composition.compatibility",
    "Composition": "composition.options",
    "EncoderDecoder": "composition.model",
    "Extraction": "data.options",
    "ExtractiveDataModule": "data.datamodule",
    "ExtractiveModule": "training.extractive_module",
    "Generation": "generation.options",
    "Hypothesis": "generation.search",
    "Loading": "data.options",
    "Pair": "records",
    "Prediction": "records",
    "PrefixDecoder": "composition.prefix",
    "Run": "run",
    "SentenceScorer": "composition.sentence_scorer",
    "Seq2SeqDataModule": "data.datamodule",
    "Seq2SeqModule": "training.module",
    "Task": "data.options",
    "Tokenizers": "composition.tokenizers",
    "Training": "training.options",
    "UserError": "errors",
    "UserErrors": "errors",
    "check": "composition.compatibility",
    "compose": "composition.compose",
    "generate": "generation.generate",
}

__all__ = [
    "Compatibility",
    "Composition",
    "EncoderDecoder",
    "Extraction",
    "ExtractiveDataModule",
    "ExtractiveModule",
    "Generation",
    "Hypothesis",
    "Loading",
    "Pair",
    "Prediction",
    "PrefixDecoder",
    "Run",
    "SentenceScorer",
    "Seq2SeqDataModule",
    "Seq2SeqModule",
    "Task",
    "Tokenizers",
    "Training",
    "UserError",
    "UserErrors",
    "check",
    "compose",
    "generate",
]


register_when_imported()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
