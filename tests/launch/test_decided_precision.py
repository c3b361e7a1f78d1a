"""precision=auto is decided before a run is frozen: one identity is one precision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from encdec_lightning.launch import auto_precision
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.run_folder import make_run
from encdec_lightning.training.product_speeds import ProductSpeeds


@pytest.fixture
def config(files, in_tmp):
    return compose_config(files.overrides("precision=auto"))


@pytest.fixture(autouse=True)
def with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """This processor has instructions for bf16."""
    monkeypatch.setattr("encdec_lightning.training.product_speeds.processor_has_bf16", lambda: True)


@pytest.mark.parametrize(("bf16", "expected"), [(166e9, "32-true"), (800e9, "bf16-mixed")])
def test_the_decision_is_said_and_frozen(config, monkeypatch, capsys, bf16: float, expected: str) -> None:
    monkeypatch.setattr(
        "encdec_lightning.training.product_speeds.product_speeds", lambda hidden, rows: ProductSpeeds(314e9, bf16)
    )
    monkeypatch.setenv("ENCDEC_LIGHTNING_CACHE", "cache")
    run = make_run(config)
    assert run.config()["trainer"]["precision"] == expected
    said = capsys.readouterr().err
    assert said == (
        f"precision=auto is {expected} here: products of this model's width run at {bf16 / 1e9:.0f} GFLOP/s in bf16"
        " and 314 in fp32.\n"
    )
    chosen = replace(config, trainer={**config.trainer, "precision": expected})
    assert run.identity() == make_run(replace(chosen, folder="other")).identity()
    assert capsys.readouterr().err == ""


def test_without_instructions_for_bf16_it_is_fp32(config, monkeypatch, capsys) -> None:
    monkeypatch.setattr("encdec_lightning.training.product_speeds.processor_has_bf16", lambda: False)
    assert make_run(config).config()["trainer"]["precision"] == "32-true"
    said = capsys.readouterr().err
    assert said == "precision=auto is 32-true here: this processor has no instructions for bf16.\n"


def test_a_gpu_is_asked_what_it_multiplies(config, monkeypatch) -> None:
    on_gpu = replace(config, trainer={**config.trainer, "accelerator": "gpu"})
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for knows, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation, knows=knows: knows)
        assert auto_precision.with_precision(on_gpu).trainer["precision"] == expected
