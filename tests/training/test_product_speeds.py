"""precision=auto: what is measured decides, and the answer stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from encdec_lightning.training import product_speeds as speeds
from encdec_lightning.training.product_speeds import ProductSpeeds, faster_precision, product_speeds


@pytest.fixture(autouse=True)
def with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """This processor has instructions for bf16."""
    monkeypatch.setattr("encdec_lightning.training.product_speeds.processor_has_bf16", lambda: True)


@pytest.mark.parametrize(
    ("fp32", "bf16", "expected"),
    [
        (314e9, 166e9, "32-true"),  # avx512_bf16 without AMX, where bf16 took 1.4 times as long
        (190e9, 371e9, "bf16-mixed"),
        (300e9, 315e9, "32-true"),  # hardly faster, and less exact
    ],
)
def test_the_faster_format_is_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fp32: float, bf16: float, expected: str
) -> None:
    monkeypatch.setattr(speeds, "product_speeds", lambda hidden, rows: ProductSpeeds(fp32, bf16))
    assert faster_precision(32, 400, tmp_path) == (expected, ProductSpeeds(fp32, bf16))


def test_the_answer_stays_however_busy_the_machine_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(speeds, "product_speeds", lambda hidden, rows: ProductSpeeds(2e9, 1e9))
    first = faster_precision(32, 400, tmp_path)
    monkeypatch.setattr(speeds, "product_speeds", lambda hidden, rows: ProductSpeeds(1e9, 2e9))
    assert faster_precision(32, 400, tmp_path) == first
    assert faster_precision(64, 400, tmp_path)[0] == "bf16-mixed"  # another shape is measured
    for file in (tmp_path / "precision").iterdir():
        file.write_text("{")  # a damaged file is no answer
    assert faster_precision(32, 400, tmp_path)[0] == "bf16-mixed"
    assert json.loads(next((tmp_path / "precision").glob("*-32-400.json")).read_text()) == {"fp32": 1e9, "bf16": 2e9}


def test_a_folder_that_cannot_be_written_is_no_obstacle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(speeds, "product_speeds", lambda hidden, rows: ProductSpeeds(2e9, 1e9))
    (tmp_path / "file").write_text("")
    assert faster_precision(32, 400, tmp_path / "file")[0] == "32-true"


def test_both_formats_are_measured_on_this_processor() -> None:
    speeds = product_speeds(64, 64, seconds=0.01)
    assert 1e6 < speeds.fp32 < 1e15 and 1e6 < speeds.bf16 < 1e15


def test_a_processor_that_emulates_bf16_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(speeds, "processor_has_bf16", lambda: False)
    monkeypatch.setattr(speeds, "product_speeds", None)
    assert faster_precision(4096, 1024, tmp_path) == ("32-true", None) and not [*tmp_path.iterdir()]
