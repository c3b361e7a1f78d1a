"""The test of a run: texts for its test set, their scores, the exported model."""

from __future__ import annotations

import lightning

from encdec_lightning.config import Config
from encdec_lightning.data.datamodule import Seq2SeqDataModule
from encdec_lightning.launch.job.at_work import at_work
from encdec_lightning.launch.job.metrics_json import DATA_COUNTS
from encdec_lightning.launch.loggers.showing import show_predictions
from encdec_lightning.records import Prediction
from encdec_lightning.reporting.card import write_card
from encdec_lightning.reporting.results import write_results
from encdec_lightning.run import Run
from encdec_lightning.training.fsdp import whole
from encdec_lightning.training.task_module import TaskModule


def test(run: Run, config: Config, trainer: lightning.Trainer, data: Seq2SeqDataModule, module: TaskModule) -> None:
    """Generate the test set, score it, write it into the run, and export the model."""

    def keep(predictions: list[Prediction]) -> None:
        run.write_predictions(predictions)
        show_predictions(trainer, "test/predictions", predictions)

    module.keep_predictions = keep
    with at_work(run, trainer):
        trainer.test(module, data, verbose=False)
    if config.export:
        module.model = whole(module.model)  # of all ranks' pieces; rank 0 writes it
    if trainer.is_global_zero:
        metrics, baselines = config.task.scored_with, config.task.baselines or []
        write_results(run, module.predictions, module.scores, metrics, baselines, module.failed_scores)
        meta = data.examples("test").meta
        told = {f"data/test_{name}": meta[name] for name in ("fingerprint", *DATA_COUNTS)}
        run.write_metrics({**run.metrics(), **told, "test/precision": str(trainer.precision)})
        if config.export:
            with run.replacing_model() as folder:
                module.export(folder, as_a_t5gemma=config.export == "t5gemma")
                write_card(run, folder)
        elif run.model.is_dir():
            write_card(run, run.model)  # tested again: what its card says of scores is out of date
