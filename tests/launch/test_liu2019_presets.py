"""The presets of Liu & Lapata's models: what they say, and what they leave to the user."""

from __future__ import annotations

import pytest
from tiny import Files

from encdec_lightning.composition.checks.skeleton import skeleton
from encdec_lightning.errors import UserErrors
from encdec_lightning.launch.command_line.overrides import compose_config


def options(files: Files) -> list[str]:
    """Texts and checkpoints."""
    kept = ("task.train=", "task.validation=", "checkpoints.")
    return [line for line in files.overrides() if line.startswith(kept)]


@pytest.mark.parametrize("task", ["cnn_dailymail", "xsum", "nyt"])
def test_a_second_stage_must_be_told_the_first(task, files):
    chosen = [*options(files), f"experiment=liu2019/{task}_ext_abs"]
    with pytest.raises(UserErrors, match=r"model\.encoder is '': it must be a Hub id or a folder"):
        compose_config(chosen)
    config = compose_config([*chosen, f"model.encoder={files.bert}"])
    assert config.model.encoder_positions is None and config.model.encoder_segments == "interval"


@pytest.mark.parametrize(("task", "longest"), [("cnn_dailymail", 200), ("xsum", 100), ("nyt", 200)])
def test_bertsumabs_is_trained_with_two_rates(task, longest):
    """Liu & Lapata, section 4.2: peaks of 2e-3 / sqrt(20,000) and 0.1 / sqrt(10,000)."""
    files = ["task.train=a.jsonl", "task.validation=b.jsonl"] if task == "nyt" else []
    config = compose_config([f"experiment=liu2019/{task}_abs", *files])
    training = config.training
    assert (
        training.encoder_learning_rate == pytest.approx(2e-3 / 20_000**0.5) and training.encoder_warmup_steps == 20_000
    )
    assert training.learning_rate == pytest.approx(0.1 / 10_000**0.5) and training.warmup_steps == 10_000
    assert config.optimizer["eps"] == 1e-9
    assert (config.trainer["max_steps"], config.generation.num_beams, config.generation.max_length) == (
        200_000,
        5,
        longest,
    )
    built = skeleton(config.model)
    further = (800 - 512) * 768 if task == "nyt" else 0
    assert sum(each.numel() for each in built.parameters()) == 179_601_408 + further
