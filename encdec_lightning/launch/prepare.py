"""All that a job needs, fetched and tokenized before it runs: on a login node, say, for a machine without a network."""

from __future__ import annotations

from dataclasses import asdict

from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.config import Config
from encdec_lightning.data.examples.store import OnDisk
from encdec_lightning.data.sources.pairs import SPLITS
from encdec_lightning.evaluation.registry import load_metric
from encdec_lightning.launch.job.modules import new_data
from encdec_lightning.launch.job.targets import check_targets


def prepare(config: Config, with_model: bool = True) -> tuple[Tokenizers, dict[str, OnDisk]]:
    """The tokenizers of a job and the examples of its splits, all of them and the base weights in the caches now.

    So are models of metrics, those that have a method `prepare()`.

    The config has been checked; raises `UserError` for what is wrong with the texts.
    """
    tokenizers = Tokenizers.of(config.model)
    if with_model:
        compose(**asdict(config.model), tokenizers=tokenizers)
        for spec in config.task.scored_with:
            prepared = getattr(load_metric(spec), "prepare", None)
            if prepared is not None:
                prepared()
    data = new_data(config, tokenizers)
    check_targets(config, data)
    return tokenizers, {split: data.examples(split) for split in SPLITS}
