"""What the miniature keeps of its runs: claims that are tested with it, cells that are trained again, and tables."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from encdec_lightning.evaluation.metric import score as score_all
from encdec_lightning.evaluation.registry import load_metric
from encdec_lightning.records import Prediction
from encdec_lightning.run import Run

FOLDER = Path(__file__).parents[2] / "experiments" / "miniature"


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


def finished_run(folder: Path, variant: str, seed: int, quality: float, noise: float = 0.2) -> None:
    """A run's folder with predictions that have so much of each reference right."""
    drawn = random.Random(f"{variant} {seed}")
    run = Run.create(folder, {"task": {"metrics": ["sari"]}, "seed": seed}, f"{variant}-{seed}")
    lines = []
    for number in range(200):
        words = [f"w{number * 7 + each}" for each in range(10)]
        own = [word if drawn.random() < quality + drawn.uniform(-noise, noise) else "other" for word in words]
        lines.append(Prediction(str(number), "", " ".join(words), " ".join(own)))
    run.write_predictions(lines)
    told = {name: score.value for name, score in score_all(lines, load_metric("sari")).items()}
    run.write_metrics({
        "test/sari": told["sari"], "test/sari/signature": "s", "best/val/loss": 2.5, "data/test_fingerprint": "same",
        "train/precision": "bf16-mixed", "train/seconds": 12.34, "parameters": 7,
    })  # fmt: skip
    run.note(point=f"variant={variant}, seed={seed}")
    run.set_state("finished")


def test_what_is_kept_of_a_block_is_enough_to_test_its_claims(tmp_path: Path):
    """A clear difference holds, its contrary too, and a difference of seeds is too small to tell."""
    from findings import Claim, found, table
    from results import keep, read

    qualities = {"bert2rnd": 0.8, "rnd2rnd": 0.5, "rnd2bert": 0.5}
    for variant, quality in qualities.items():
        for seed in (1, 2):
            finished_run(tmp_path / "runs" / f"{variant}-{seed}", variant, seed, quality)
    Run(tmp_path / "runs" / "rnd2rnd-1").set_state("running")
    kept = keep("fusion", tmp_path / "runs", tmp_path / "results")
    assert len(kept) == 5
    Run(tmp_path / "runs" / "rnd2rnd-1").set_state("finished")
    (tmp_path / "runs" / "bert2rnd-1" / "checkpoints").mkdir()
    shutil.rmtree(tmp_path / "runs" / "bert2rnd-2")
    assert keep("fusion", tmp_path / "runs", tmp_path / "results", drop_weights=True)
    assert len(read("fusion", tmp_path / "results")) == 6
    assert not (tmp_path / "runs" / "bert2rnd-1" / "checkpoints").exists()

    def tested(more: str, less: str) -> Any:
        return found(Claim("c", "fusion", {"variant": more}, {"variant": less}), tmp_path / "results")

    told = [tested(*rows) for rows in (("bert2rnd", "rnd2rnd"), ("rnd2rnd", "bert2rnd"), ("rnd2rnd", "rnd2bert"))]
    scores = {
        (each.point["variant"], each.point["seed"]): each.scores["sari"]
        for each in read("fusion", tmp_path / "results")
    }
    for seed in "12":
        assert told[0].seeds[seed] == pytest.approx(scores["bert2rnd", seed] - scores["rnd2rnd", seed], abs=1e-3)
    assert told[0].value == pytest.approx(sum(told[0].seeds.values()) / 2, abs=1e-6)
    assert told[0].low < told[0].value < told[0].high
    verdicts = [line.split(" | ")[-1].rstrip(" |") for line in table(told).splitlines()[2:]]
    assert verdicts == ["holds", "the contrary holds", "too small to tell"]
    assert tested("bert2rnd", "gpt") is None


def test_a_claim_does_not_hold_where_one_seed_has_the_other_sign():
    from findings import Claim, Finding

    claim = Claim("c", "fusion", {}, {})
    assert Finding(claim, {"1": 2.0, "2": -0.1}, 0.95, 0.5, 1.4, 0.001).verdict(0.001) == "too small to tell"
    assert Finding(claim, {"1": 2.0}, 2.0, 0.5, 1.4, 0.001).verdict(0.001) == "one seed alone"


def test_every_claim_is_about_rows_that_a_block_has():
    from findings import claims
    from run import AXIS, BLOCKS

    for claim in claims():
        for block, point in ((claim.block, claim.more), (claim.other_block or claim.block, claim.less)):
            axes = {each.partition("=")[0].rpartition(".")[2]: each.partition("=")[2] for each in BLOCKS[block].axes}
            assert point.keys() == axes.keys(), claim.text
            assert all(value in AXIS.split(axes[name]) for name, value in point.items()), claim.text


def test_a_cell_is_trained_as_its_block_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    import reproduce
    from results import Result

    started: list[list[str]] = []

    class Ended:
        returncode = 7

    def run(line: list[str], check: bool) -> Ended:
        started.append(line)
        return Ended()

    kept = Result({"variant": "bertshare", "seed": "1"}, "a", {"rougeL": 20.0}, {}, ["rouge"], "t", "s", "p", "cpu")
    monkeypatch.setattr(reproduce, "read", lambda block: [kept])
    monkeypatch.setattr(reproduce.subprocess, "run", run)
    monkeypatch.setattr("sys.argv", ["reproduce.py", "minilm", "variant=bertshare", "--data", str(tmp_path)])
    assert reproduce.main() == 7
    assert {"checkpoints=minilm", "model.dropout=0.0", "variant=bertshare", "seed=1"} <= set(started[0])
    assert "--multirun" not in started[0]


def test_a_cell_has_reproduced_inside_the_spread_of_its_seeds():
    from reproduce import expected, judged

    low, high = expected([20.0, 21.0, 22.0])
    assert (low + high) / 2 == 21 and high - 21 == pytest.approx(4.30 * (4 / 3) ** 0.5)
    assert judged(24.0, [20.0, 21.0, 22.0])[1] and not judged(26.0, [20.0, 21.0, 22.0])[1]
    assert "two other seeds are needed" in judged(26.0, [20.0])[0]
    assert expected([20.0] * 9 + [21.0])


def test_a_cell_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import reproduce

    monkeypatch.setattr("sys.argv", ["reproduce.py", "parts", "variant=nothing", "--data", str(tmp_path)])
    assert reproduce.main() == 2
    assert (
        "parts has no cell 'variant=nothing': give one value of each of its axes (variant=bertshare,bert2bert;"
        in capsys.readouterr().err
    )


def test_the_tables_have_the_papers_order_and_means_over_seeds(monkeypatch: pytest.MonkeyPatch):
    import reproduce
    from results import Result
    from tables import table

    kept = [
        Result({"variant": row, "seed": seed}, row + seed, {"rouge1": 1.0, "rouge2": 2.0, "rougeL": score, "loss": 5.0},
               {"parameters": 7.0, "train/seconds": 60.0}, ["rouge"], "t", "s", "p", "cpu")
        for row, seed, score in (("gpt", "1", 9.0), ("bertshare", "1", 20.0), ("bertshare", "2", 22.0))
    ]  # fmt: skip
    monkeypatch.setattr(reproduce, "read", lambda block: kept)
    assert table("summarization").splitlines()[2:] == [
        "| variant=bertshare | 1, 2 | 1.00 ± 0.00 | 2.00 ± 0.00 | 21.00 ± 1.41 | 5.00 ± 0.00 | 7 | 1.0 |",
        "| variant=gpt | 1 | 1.00 | 2.00 | 9.00 | 5.00 | 7 | 1.0 |",
    ]


def test_the_figures_have_a_dot_a_run_and_an_interval_a_claim(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import figures
    from findings import Claim, Finding

    claims = [
        Claim("first", "fusion", {"variant": "bert2rnd"}, {"variant": "rnd2rnd"}),
        Claim("second", "translation", {"variant": "bert2rnd"}, {"variant": "rnd2rnd"}),
        Claim("part", "summarization", {"variant": "bertshare"}, {"variant": "bertshare"}, "parts"),
    ]
    findings = [
        Finding(claim, {"1": 1.0, "2": 2.0}, 1.5, 0.5, 2.5, p)
        for claim, p in zip(claims, (0.01, 0.5, 0.5), strict=True)
    ]
    with monkeypatch.context() as replaced:
        replaced.setattr(figures, "claims", lambda: claims)
        drawn = figures.forests(findings)
    assert [axes.get_title() for axes in drawn["claims"].axes] == ["fusion", "translation"]
    assert [label.get_text() for label in drawn["claims"].axes[0].get_yticklabels()] == ["first", "second"]
    colors = [axes.lines[0].get_color() for axes in drawn["claims"].axes]
    assert colors == [figures.DECIDED, figures.OPEN]
    assert [*drawn["claims"].axes[0].lines[0].get_xdata()] == [0.5, 2.5]
    assert [label.get_text() for label in drawn["ablations"].axes[0].get_yticklabels()] == ["part"]
    blocks = [block for block in figures.TASKS if figures.read(block)]
    dots = [sum(len(line.get_xdata()) for line in axes.lines) for axes in figures.rows(blocks).axes]
    assert dots == [len(figures.read(block)) for block in blocks]
    monkeypatch.setattr(figures, "read", lambda block: [])
    assert figures.main() == 1
    assert "There are no results yet" in capsys.readouterr().err
