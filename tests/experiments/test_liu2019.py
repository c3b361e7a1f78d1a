"""The settings of the study of Liu & Lapata's model compose, and differ in what they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from encdec_lightning.launch.command_line.overrides import compose_config

PRESETS = Path(__file__).parents[2] / "experiments" / "liu2019" / "presets"


@pytest.mark.parametrize(
    ("name", "rates"), [("two_rates", (1e-3, 1e-4)), ("one_high_rate", (1e-3, None)), ("one_low_rate", (1e-4, None))]
)
def test_rates(name: str, rates: tuple[float, float | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ENCDEC_LIGHTNING_CACHE", str(tmp_path))
    files = [f"task.{part}=x.jsonl" for part in ("train", "validation", "test")]
    config = compose_config(["experiment=bertsum", *files, f"training={name}"], [PRESETS])
    assert (config.training.learning_rate, config.training.encoder_learning_rate) == rates
    assert config.model.encoder_segments == "interval" and config.model.decoder_embeddings_init == "encoder"
