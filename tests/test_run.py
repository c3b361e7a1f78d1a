"""A run's folder: written whole or not at all, one process at a time, nothing overwritten."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from encdec_lightning.errors import UserError
from encdec_lightning.records import Prediction
from encdec_lightning.run import Run

HOLD = "import sys, time; from encdec_lightning.run import Run\nwith Run(sys.argv[1]).lock():\n print('held', flush=True)\n time.sleep(60)"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", {"seed": 1, "name": "ü"}, "abc")


@contextmanager
def holder(run: Run):
    """Another process that holds the run's lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run.folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_create_freezes_the_config(run):
    assert (run.config(), run.identity()) == ({"seed": 1, "name": "ü"}, "abc")
    assert run.status() == {"identity": "abc", "id": run.id}
    assert re.fullmatch(r"abc-[0-9a-f]{6}-run", run.id)  # another run in this folder, later, is another for a dashboard
    assert Run.open(run.folder).folder == run.folder
    assert sorted(contents(run.folder)) == [".lock", "config.yaml", "status.json"]


def test_the_same_identity_is_the_same_run_and_what_changes_no_result_is_taken_over(run):
    run.set_state("failed", "ValueError: x")
    status = run.status()
    again = Run.create(run.folder, {"data": {"workers": 0}}, "abc")
    assert again.status() == status == {"identity": "abc", "id": run.id, "state": "failed", "error": "ValueError: x"}
    assert again.config() == {"data": {"workers": 0}}
    with again.lock():
        Run.create(run.folder, {"data": {"workers": 2}}, "abc")
    again.set_state("finished")
    before = contents(run.folder)
    Run.create(run.folder, {"data": {"workers": 2}}, "abc")
    assert contents(run.folder) == before and again.config() == {"data": {"workers": 0}}


def test_another_identity_is_refused_once_a_step_was_taken(run):
    run.note(trained=True)
    before = contents(run.folder)
    with pytest.raises(UserError, match="another configuration"):
        Run.create(run.folder, {}, "other")
    assert contents(run.folder) == before


def test_its_id_stays_where_the_folder_does_not(tmp_path):
    run = Run.create(tmp_path / "a run (1) é", {}, "0123456789")
    assert re.fullmatch("01234567-[0-9a-f]{6}-a_run__1___", run.id)
    before = run.id
    run.set_state("preempted")
    assert Run(run.folder.rename(tmp_path / "elsewhere")).id == before


def test_a_folder_of_something_else_is_refused_and_untouched(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("words")
    (tmp_path / "file").write_text("more words")
    before = contents(tmp_path)
    for name in ("mine", "file", "file/below"):
        with pytest.raises(UserError, match="folder is"):
            Run.create(tmp_path / name, {}, "abc")
    with pytest.raises(UserError, match=r"not the folder of a run \(it has no config.yaml\)\.$"):
        Run.open(tmp_path / "mine")
    assert contents(tmp_path) == before
    for at, name in enumerate(("older", "newer")):
        os.utime(Run.create(tmp_path / "runs" / name, {}, "abc").config_file, (at, at))
    with pytest.raises(UserError, match=f"; its newest run is {tmp_path}/runs/newer.$"):
        Run.open(tmp_path / "runs")
    (tmp_path / "empty").mkdir()
    assert Run.create(tmp_path / "empty", {}, "abc").identity() == "abc"


def test_files_appear_whole(run, monkeypatch):
    run.write_metrics({"test/rouge1": 1.0})

    def dies(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        run.write_metrics({"test/rouge1": 2.0})
    assert run.metrics() == {"test/rouge1": 1.0}


def test_metrics_and_predictions_come_back(run):
    assert run.metrics() == {}
    predictions = [Prediction("1", "a\u2028b", "ré\n", "p"), Prediction("2", "", "", "")]
    path = run.write_predictions(predictions)
    assert run.predictions() == predictions
    assert list(json.loads(path.read_text().split("\n")[0])) == ["id", "source", "references", "prediction"]


@pytest.mark.parametrize("text", ["a: [1", "- 1", "", "a: \xff".encode("latin-1"), "3"])
def test_a_broken_config_is_one_sentence(run, text):
    (run.folder / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"its config.yaml"):
        run.config()


@pytest.mark.parametrize("text", ['{"a": ', "", "[1]", "\0", "\udcff"])
def test_broken_metrics_are_one_sentence_and_a_broken_status_is_none(run, text):
    for name in ("metrics", "status"):
        (run.folder / f"{name}.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"its metrics.json cannot be read; encdec-evaluate run=\S+ writes it anew"):
        run.metrics()
    assert (run.status(), run.identity()) == ({}, "")
    aside = run.put_damaged_metrics_aside()
    assert aside.read_bytes() == text.encode(errors="surrogateescape")
    assert (run.metrics(), run.put_damaged_metrics_aside()) == ({}, None)


def test_one_process_at_a_time(run):
    with holder(run) as process:
        with pytest.raises(UserError, match="another process"), run.lock():
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with run.lock():
            pass
    with run.lock(), pytest.raises(UserError), Run(run.folder).lock():
        pass


def test_a_child_that_inherits_the_lock_holds_it(run):
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with run.lock() as lock:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[lock])
    with pytest.raises(UserError), run.lock():
        pass
    child.communicate()
    with run.lock():
        pass


def test_checkpoints(run, tmp_path):
    for choice in ("best", "last", "some.ckpt"):
        with pytest.raises(UserError, match=r"there is no .*; the run has none yet, encdec-train run=\S+ trains it"):
            run.checkpoint(choice)
    assert run.resumable() is None
    run.checkpoints.mkdir()
    half = run.checkpoints / "last.ckpt"
    half.write_bytes(b"PK\x03\x04 and then the disk was full")
    for read in (run.resumable, lambda: run.checkpoint("last"), lambda: run.checkpoint(str(half))):
        with pytest.raises(UserError, match="broken off"):
            read()
    with zipfile.ZipFile(half, "w") as archive:
        archive.writestr("data", "x")
    assert run.resumable() == run.checkpoint("last") == run.checkpoint(str(half)) == half
    assert run.checkpoint("last.ckpt") == half  # a name in the run's folder
    assert run.best_or_last() == half
    with pytest.raises(UserError, match=r"there is no .*best.ckpt; checkpoint=last takes the last one"):
        run.checkpoint("best")
    best = run.checkpoints / "best.ckpt"
    best.write_bytes(half.read_bytes())
    assert run.best_or_last() == best
    assert run.checkpoint(str(tmp_path)) == tmp_path  # a sharded checkpoint is a folder


def test_the_model_is_replaced_as_a_whole(run):
    for word in ("old", "new"):
        with run.replacing_model() as folder:
            folder.mkdir()
            (folder / word).write_text(word)
    assert contents(run.model) == {"new": b"new"}
    with pytest.raises(ZeroDivisionError), run.replacing_model() as folder:
        folder.mkdir()
        raise ZeroDivisionError
    assert contents(run.model) == {"new": b"new"}
    assert [path.name for path in run.folder.iterdir() if path.name.startswith(".model")] == []
