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
    from claims import Claim
    from findings import found, table
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


def test_a_claim_holds_where_neither_examples_nor_seeds_explain_it():
    from claims import Claim
    from findings import Finding

    claim = Claim("c", "fusion", {}, {})

    def told(value: float, by_chance: float | None) -> str:
        return Finding(claim, {"1": value}, value, 0.5, 1.4, 0.001, by_chance).verdict(0.001)

    assert (told(1.0, 1.1), told(1.0, None)) == ("seeds differ as much", "one seed alone")
    assert (told(1.2, 1.1), told(-1.2, 1.1)) == ("holds", "the contrary holds")
    assert Finding(claim, {"1": 2.0}, 2.0, 0.5, 1.4, 0.001, 0.1).verdict(0.06) == "too small to tell"


def kept_run(row: str, seed: str, score: float, **more: Any) -> Any:
    from results import Result

    fields = {
        "point": {"seed": seed, "variant": row}, "identity": row + seed, "scores": {"sari": score}, "costs": {},
        "metrics": ["sari"], "test": "t", "setting": "s", "baselines": {}, "checkpoints": {"bert": "1"},
        "precision": "p", "processor": "cpu",
    }  # fmt: skip
    return Result(**(fields | more))


def test_the_variance_over_seeds_is_what_is_left_of_rows_and_seeds(monkeypatch: pytest.MonkeyPatch):
    """By hand: rows 50, 60, 70; the second seed is 3 higher for all, and 1 more or less for single rows."""
    import findings

    runs = {"a": (50.0, 54.0), "b": (60.0, 62.0), "c": (70.0, 73.0)}
    kept = [kept_run(row, str(seed), score) for row, scores in runs.items() for seed, score in enumerate(scores, 1)]
    monkeypatch.setattr(findings, "read", lambda block, folder: kept)
    deviation, freedom = findings.spread("fusion", "sari")
    rest = [half * side for half in (0.5, -0.5, 0.0) for side in (1, -1)]
    assert freedom == 2 and deviation == pytest.approx((sum(each**2 for each in rest) / 2) ** 0.5)
    assert findings.by_chance("fusion", "sari", 2) == pytest.approx(4.30 * deviation)
    assert findings.by_chance("fusion", "sari", 1) == pytest.approx(4.30 * deviation * 2**0.5)
    kept = kept[::2]
    assert findings.spread("fusion", "sari") is None and findings.by_chance("fusion", "sari", 1) is None


@pytest.mark.parametrize(
    ("own", "expected"),
    [(None, 2.23), ((2.0, 3), 3.18 * 2), ((2.0, 2), 2.23), ((0.1, 4), 2.23)],
    ids=["none", "more", "a handful of runs", "less"],
)
def test_seeds_of_a_block_count_where_they_differ_more(monkeypatch: pytest.MonkeyPatch, own, expected: float):
    """Beside those of its task's rows, with a deviation of 1 and ten degrees of freedom."""
    import findings

    known = {"minilm": own, "summarization": (1.0, 10)}
    monkeypatch.setattr(findings, "spread", lambda block, score, folder: known[block])
    assert findings.by_chance("minilm", "rougeL", 2) == pytest.approx(expected)


def test_rows_of_one_seed_are_compared_where_their_checkpoints_are_the_same():
    from findings import _comparable

    one = kept_run("a", "1", 50.0)
    assert _comparable(one, kept_run("b", "1", 60.0, checkpoints={"bert": "1", "gpt2": "2"}))
    assert _comparable(one, kept_run("b", "1", 60.0, checkpoints={"gpt2": "2"}))
    assert not _comparable(one, kept_run("b", "1", 60.0, checkpoints={"bert": "2"}))
    assert not _comparable(one, kept_run("b", "1", 60.0, precision="q"))


def test_every_claim_is_about_rows_that_a_block_has():
    from claims import claims
    from run import AXIS, BLOCKS

    for claim in claims():
        for block, point in ((claim.block, claim.more), (claim.other_block or claim.block, claim.less)):
            axes = {each.partition("=")[0].rpartition(".")[2]: each.partition("=")[2] for each in BLOCKS[block].axes}
            assert point.keys() == axes.keys(), claim.text
            assert all(value in AXIS.split(axes[name]) for name, value in point.items()), claim.text


def test_a_cell_is_trained_as_its_block_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    import reproduce

    started: list[list[str]] = []

    class Ended:
        returncode = 7

    def run(line: list[str], check: bool) -> Ended:
        started.append(line)
        return Ended()

    kept = kept_run("bertshare", "1", 20.0)
    monkeypatch.setattr(reproduce, "read", lambda block: [kept])
    monkeypatch.setattr(reproduce.subprocess, "run", run)
    monkeypatch.setattr("sys.argv", ["reproduce.py", "minilm", "variant=bertshare", "--data", str(tmp_path)])
    assert reproduce.main() == 7
    assert {"checkpoints=minilm", "model.dropout=0.0", "variant=bertshare", "seed=1"} <= set(started[0])
    assert "--multirun" not in started[0]


def test_a_cell_has_reproduced_inside_the_spread_of_its_seeds():
    from reproduce import expected, judged

    low, high = expected([20.0, 21.0, 22.0], [[20.0, 21.0, 22.0], [5.0]])
    assert (low + high) / 2 == 21 and high - 21 == pytest.approx(4.30 * (4 / 3) ** 0.5)
    assert judged(24.0, (low, high))[1] == 0 and judged(26.0, (low, high))[1] == 1
    low, high = expected([20.0], [[20.0], [5.0, 7.0], [3.0, 5.0]])
    assert high - 20 == pytest.approx(4.30 * 2.0)
    assert expected([20.0], [[20.0], [5.0]]) is None is expected([], [[5.0, 6.0]])
    words, code = judged(26.0, None)
    assert code == 3 and "too few seeds to tell" in words
    assert expected([20.0] * 30, [[20.0] * 29 + [21.0]])


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
    from tables import table

    scores = {"rouge1": 1.0, "rouge2": 2.0, "loss": 5.0}
    more = {"costs": {"parameters": 7.0, "train/seconds": 60.0}, "metrics": ["rouge"]}
    kept = [
        kept_run(row, seed, 0.0, scores=scores | {"rougeL": score}, **more)
        for row, seed, score in (("gpt", "1", 9.0), ("bertshare", "1", 20.0), ("bertshare", "2", 22.0))
    ]
    monkeypatch.setattr(reproduce, "read", lambda block: kept)
    assert table("summarization").splitlines()[2:] == [
        "| BERTSHARE | 1, 2 | 1.00 ± 0.00 | 2.00 ± 0.00 | 21.00 ± 1.41 | 5.00 ± 0.00 | 7 | 1.0 |",
        "| GPT | 1 | 1.00 | 2.00 | 9.00 | 5.00 | 7 | 1.0 |",
    ]
    of_fusion = {"exact": 3.0, "sari": 60.0, "loss": 5.0}
    kept = [kept_run("gpt", "1", 0.0, scores=of_fusion, baselines={"copy/sari": 50.0, "copy/exact": 0.5}, **more)]
    kept[0].metrics[:] = ["exact_match", "sari"]
    assert table("fusion").splitlines()[2:] == [
        "| GPT | 1 | 3.00 | 60.00 | 5.00 | 7 | 1.0 |",
        "| copy | | 0.50 | 50.00 |  | | |",
    ]


def test_the_figures_have_a_dot_a_run_and_an_interval_a_claim(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import figures
    from claims import Claim
    from findings import Finding

    claims = [
        Claim("first", "fusion", {"variant": "bert2rnd"}, {"variant": "rnd2rnd"}),
        Claim("second", "translation", {"variant": "bert2rnd"}, {"variant": "rnd2rnd"}),
        Claim("part", "summarization", {"variant": "bertshare"}, {"variant": "bertshare"}, "parts"),
    ]
    findings = [
        Finding(claim, {"1": 1.0, "2": 2.0}, 1.5, 0.5, 2.5, p, 1.0)
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
    blocks = [block for block in figures.MATRIX if figures.read(block)]
    dots = [sum(len(line.get_xdata()) for line in axes.lines) for axes in figures.rows(blocks).axes]
    assert dots == [len(figures.read(block)) for block in blocks]
    monkeypatch.setattr(figures, "read", lambda block: [])
    assert figures.main() == 1
    assert "There are no results yet" in capsys.readouterr().err
