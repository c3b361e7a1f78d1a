"""`encdec-sweep`: what the folders of many runs tell, from outside."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
import tiny
from rich.console import Console

from encdec_lightning.cli import sweep, train
from encdec_lightning.reporting.overview import differing, each_once, find_runs, overview, run_names
from encdec_lightning.reporting.progress_table import overview_table, remarks
from encdec_lightning.run import Run

CONFIG = {"name": "a", "folder": None, "seed": 1, "model": {"encoder": "/big/bert", "weights": "tied"}}


def made(folder: Path, state: str | None, progress: dict | None = None, **changed) -> Run:
    run = Run.create(folder, {**CONFIG, **changed}, folder.name)
    if state is not None:
        run.set_state(state, "it is broken" if state == "failed" else None)
    if progress is not None:
        (folder / "progress.json").write_text(json.dumps(progress))
    return run


def told(**more) -> dict:
    return {"doing": "training", "step": 30, "steps": 90, "seconds_left": 600.0, "scores": {"val/loss": 2.5},
            "host": "node7", "job": "12_3", "time": time.time(), **more}  # fmt: skip


def written(*runs: Run, width: int = 160) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(overview_table([overview(run) for run in runs], width))
    return console.export_text()


def test_each_state_is_told(tmp_path: Path) -> None:
    runs = [
        made(tmp_path / "aa", "running", told()),
        made(tmp_path / "bb", "running", told(time=time.time() - 3600), seed=2),
        made(tmp_path / "cc", "preempted", told(), seed=3),
        made(tmp_path / "dd", "failed", seed=4),
        made(tmp_path / "ee", None, seed=5),
    ]
    finished = made(tmp_path / "ff", "finished", told(doing="testing"), seed=6)
    finished.write_metrics({"test/rouge1": 41.25, "test/rouge1/low": 40.0, "test/rouge1/high": 42.0})
    lines = {line.split()[0]: line for line in written(*runs, finished).splitlines() if line.strip()}
    assert "training" in lines["aa"] and "30 of 90" in lines["aa"] and "10 min" in lines["aa"]
    assert "node7, job 12_3" in lines["aa"] and "2.50" in lines["aa"]
    assert "silent for 60 min" in lines["bb"] and "preempted" in lines["cc"] and "failed" in lines["dd"]
    assert "waiting" in lines["ee"]
    assert "finished" in lines["ff"] and "41.25" in lines["ff"] and "node7" not in lines["ff"]
    said = "\n".join(remarks([overview(run) for run in [*runs, finished]]))
    assert "bb gives no sign of life" in said and "cc is preempted" in said and "dd: it is broken" in said
    assert "ff" not in said.replace(str(tmp_path), "")


def test_the_columns_are_what_differs(tmp_path: Path) -> None:
    one = made(tmp_path / "aa", None, name="x", model={"encoder": "/big/bert", "weights": "tied"})
    other = made(tmp_path / "bb", None, name="y", model={"encoder": "/big/roberta", "weights": "tied"})
    text = written(one, other)
    assert "encoder" in text and "roberta" in text and "weights" not in text and "seed" not in text


def test_what_changes_no_result_tells_no_runs_apart(tmp_path: Path) -> None:
    one = made(tmp_path / "aa", None, data={"workers": 0, "seed": 1}, checkpoint_minutes=5.0, trainer={"max_steps": 3})
    more = {"max_steps": 3, "enable_progress_bar": False, "log_every_n_steps": 7}
    other = made(tmp_path / "bb", None, data={"workers": 2, "seed": 1}, checkpoint_minutes=None, trainer=more)
    assert differing([overview(one), overview(other)]) == []


def test_damaged_files_are_told_and_stop_nothing(tmp_path: Path) -> None:
    made(tmp_path / "aa", "running").config_file.write_text("[")
    made(tmp_path / "bb", "running", seed=2)
    (tmp_path / "bb" / "progress.json").write_text("{")
    made(tmp_path / "cc", "finished", seed=3)
    (tmp_path / "cc" / "metrics.json").write_text("no")
    found = [overview(run) for run in find_runs(tmp_path)]
    assert [each.state for each in found] == ["running", "running", "finished"]
    assert found[0].error is not None and found[2].error is not None


def test_the_command(files: tiny.Files, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*files.overrides("debug=step", "variant=bertshare"), "folder=runs/x/one"]) == 0
    progress = json.loads(Path("runs/x/one/progress.json").read_text())
    assert progress["doing"] == "testing" and progress["step"] == 4 and progress["host"]
    capsys.readouterr()
    assert sweep.main(["runs", "--once"]) == 0
    out = capsys.readouterr().out
    assert "1 runs: 1 finished" in out and "rouge1" in out
    for arguments, sentence in (
        (["nowhere"], "folder is 'nowhere': there is no such folder."),
        ([str(in_tmp / "runs" / "x" / "one" / "logs")], "there is no run in it."),
        (["runs", "--every", "0"], "--every is 0.0: it must be a number of seconds above 0."),
        (["runs", "--evry"], "see encdec-sweep --help."),
    ):
        assert sweep.main(arguments) == 2
        assert sentence in capsys.readouterr().err


def test_options_with_several_values_are_told_in_words(tmp_path):
    first = {"task": {"metrics": ["rouge", {"name": "bertscore", "checkpoint": "/big/roberta"}]}}
    runs = [made(tmp_path / "a", "finished", **first), made(tmp_path / "b", "finished", task={"metrics": None})]
    told = written(*runs, width=200)
    assert "rouge, name=bertscore" in told and "checkpoint=roberta" in told and "null" in told


def test_a_narrow_table_cuts_nothing_and_names_the_columns_it_lacks(tmp_path: Path) -> None:
    runs = [
        made(tmp_path / f"run{seed}", "finished", told(scores={"val/loss": 12.345, "val/rouge1": 34.567}),
             seed=seed, model={"encoder": f"/big/bert{seed}", "weights": f"tied{seed}"})
        for seed in (1, 2)
    ]  # fmt: skip
    wide = written(*runs)
    for name in ("run", "state", "step", "seed", "encoder", "weights", "val/loss", "val/rouge1"):
        assert name in wide
    assert "no room" not in wide and "left" not in wide and "where" not in wide
    narrow = written(*runs, width=60)
    head, _, lacking = narrow.partition("There is no room here for ")
    assert "12.35" in head and "finished" in head and "30 of 90" in head
    assert "val/rouge1" not in lacking and "34.57" in head
    assert lacking.split(":")[0].split() == ["encoder,", "weights"]
    narrowest = written(*runs, width=40)
    assert "finished" in narrowest and "val/rouge1" in narrowest.partition("There is no room")[2]
    third = made(tmp_path / "run3", "finished", seed=1, model={"encoder": "/big/bert3", "weights": "tied1"})
    head, _, lacking = written(*runs, third, width=58).partition("There is no room here for ")
    assert "encoder" in head and "seed" in lacking and "weights" in lacking  # the option with most values stays


def test_equal_names_are_told_apart_and_evaluations_have_their_runs(tmp_path: Path) -> None:
    folders = ("a/x/f16e", "b/x/f16e", "a/mine", "a/mine/evaluations/9-best", "a/other/evaluations/9-best")
    runs = [made(tmp_path / folder, None) for folder in folders]
    names = run_names([overview(run) for run in runs])
    assert names == ["a/x/f16e", "b/x/f16e", "mine", "mine/9-best", "other/9-best"]
    assert run_names([]) == []
    assert run_names([overview(runs[0])]) == ["f16e"]


def test_a_run_that_lies_in_two_folders_counts_once(tmp_path: Path) -> None:
    first, copied = made(tmp_path / "a" / "x", "running"), made(tmp_path / "b" / "x", "finished", name="other")
    other = made(tmp_path / "c" / "x", "finished", seed=2)
    kept, said = each_once([overview(each) for each in (first, copied, other)])
    assert [each.run.folder for each in kept] == [copied.folder, other.folder]
    assert said == f"1 folder holds a run that another one holds too, such as {first.folder}: each run counts once."
    assert each_once(kept) == (kept, None)
