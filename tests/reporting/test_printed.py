"""The paper's figures in a report: beside which rows they stand, and that they are the paper's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from encdec_lightning.cli.report import main
from encdec_lightning.composition.paper import ROWS
from encdec_lightning.evaluation.registry import load_metric
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.command_line.presets import choices
from encdec_lightning.reporting.overview import overview
from encdec_lightning.reporting.report.printed import printed_tables, size_of, table_of, variant_of
from encdec_lightning.run import Run


def made(folder: Path, *overrides: str, score: float = 30.0) -> Run:
    """A run as the command would have frozen it, tested with made-up scores."""
    config = compose_config(["trainer.max_steps=1", *overrides])
    run = Run.create(folder, config.frozen(), folder.name)
    metrics = {"test/examples": 3, "data/test_fingerprint": config.task.path("test"), "train/flops": 3.21e15}
    for spec in config.task.metrics:
        for number, name in enumerate(load_metric(spec).names):
            metrics |= {f"test/{name}": score + number, f"test/{name}/signature": "s", f"test/{name}/better": "max"}
    run.write_metrics(metrics)
    run.set_state("finished")
    return run


PAPER = ("experiment=rothe",)


def test_each_task_of_the_paper_has_its_preset_and_each_preset_its_table():
    for task, table in printed_tables().items():
        config = compose_config([*PAPER, f"task={task}", "variant=bertshare", "trainer.max_steps=1"])
        assert (config.task.path("test"), config.task.source, config.task.train_share) == (
            table.test, table.source, table.share,
        )  # fmt: skip
        assert all(len(values) == len(table.scores) for values in table.rows.values())
        bases = {name.removesuffix("_24") for name in table.rows}
        assert bases <= set(choices()["variant"])
    assert len(printed_tables()) == 11


def test_means_that_the_papers_text_gives_follow_from_the_rows():
    """Section 4.3: how much the four models with a BERT encoder gain over RND2RND in ROUGE-L."""
    for task, gain in (("xsum", 6.85), ("cnn_dailymail", 3.53), ("gigaword", 1.02)):
        rows = printed_tables()[task].rows
        four = [rows[name][2] for name in ("bert2rnd", "bert2bert", "bertshare", "robertashare")]
        assert sum(four) / 4 - rows["rnd2rnd"][2] == pytest.approx(gain, abs=0.006)


@pytest.mark.parametrize("variant", sorted(ROWS))
def test_a_run_is_known_as_its_variant_and_size(variant, tmp_path):
    run = overview(made(tmp_path / "run", *PAPER, "task=xsum", f"variant={variant}"))
    assert variant_of(run) == variant and size_of(run.options) == ""
    assert table_of(run.options).task == "xsum"


def test_large_ones_are_known_too(tmp_path):
    run = overview(made(tmp_path / "run", *PAPER, "task=xsum", "variant=bertshare", "checkpoints=published_large"))
    assert (variant_of(run), size_of(run.options)) == ("bertshare", "_24")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": "bert", "hidden_size": "wide"}'])
def test_a_checkpoint_that_was_damaged_since_takes_no_results_away(content, tmp_path):
    checkpoint = tmp_path / "bert"
    checkpoint.mkdir()
    made(tmp_path / "runs" / "one", "experiment=rothe", "task=xsum", "variant=bertshare", f"model.encoder={checkpoint}",
         f"model.decoder={checkpoint}")  # fmt: skip
    (checkpoint / "config.json").write_text(content)
    out = tmp_path / "report.json"
    assert main([str(tmp_path / "runs"), "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())[0]["rows"]
    assert row["rouge1"] == 30.0 and "rouge1/paper" not in row


def test_the_figures_stand_beside_ours_in_the_papers_order(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    for number, variant in enumerate(("robertashare", "rnd2rnd", "bertshare")):
        made(tmp_path / "runs" / variant, *PAPER, "task=cnn_dailymail", f"variant={variant}", score=30.0 + number)
    out = tmp_path / "report.json"
    assert main([str(tmp_path / "runs"), "--json", str(out), "--markdown", str(tmp_path / "report.md")]) == 0
    rows = json.loads(out.read_text())[0]["rows"]
    assert [row["rouge1/paper"] for row in rows] == [35.77, 39.09, 40.10]
    assert [row["rouge1"] for row in rows] == [31.0, 32.0, 30.0]
    assert [row["variant"] for row in rows] == ["rnd2rnd", "bertshare", "robertashare"]
    told = capsys.readouterr().out
    assert "paper" in told and "Rothe, Narayan & Severyn (2020), table 5" in told and "3.21e+15" in told
    header = (tmp_path / "report.md").read_text().splitlines()[2]
    assert header.startswith("| variant | rouge1 | paper rouge1 |")
    assert "| rouge1 | paper rouge1 | rouge2 | paper rouge2 |" in header
    assert main([str(tmp_path / "runs"), "--json", str(out), "--sort", "rouge1"]) == 0
    assert [row["rouge1"] for row in json.loads(out.read_text())[0]["rows"]] == [32.0, 31.0, 30.0]


def test_another_size_or_test_set_has_no_figures_unless_they_are_asked_for(tmp_path, capsys):
    made(tmp_path / "runs" / "small", *PAPER, "task=gigaword", "variant=bertshare", "model.encoder_layers=[1,2]",
         "model.decoder_layers=[1,2]")  # fmt: skip
    made(tmp_path / "runs" / "others", *PAPER, "task=gigaword", "task.test=mine.jsonl", "variant=bertshare")
    out = tmp_path / "report.json"
    assert main([str(tmp_path / "runs"), "--json", str(out)]) == 0
    assert not any("rouge1/paper" in row for table in json.loads(out.read_text()) for row in table["rows"])
    assert main([str(tmp_path / "runs" / "others"), "--json", str(out), "--paper", "gigaword"]) == 0
    (row,) = json.loads(out.read_text())[0]["rows"]
    assert (row["rouge1/paper"], row["rouge2/paper"]) == (38.13, 19.81)
    capsys.readouterr()
    assert main([str(tmp_path / "runs"), "--paper", "gigawort"]) == 2
    assert "did you mean 'gigaword'" in capsys.readouterr().err


def test_the_file_says_where_its_figures_are_from():
    path = Path(__file__).parents[2] / "encdec_lightning" / "reporting" / "report" / "printed_scores.yaml"
    assert "Rothe, Narayan & Severyn (2020)" in path.read_text().splitlines()[0]
    assert {each["table"] for each in yaml.safe_load(path.read_text()).values()} == {2, 3, 4, 5}
