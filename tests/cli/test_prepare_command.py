"""`encdec-prepare`, then training without a network: against a Hub of the test's own, which is gone by then."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import originals
import pytest
import tiny
from hub_server import commit, serve

from encdec_lightning.cli.prepare import main
from encdec_lightning.run import Run


@pytest.fixture
def hub(files: tiny.Files, tmp_path: Path) -> Path:
    """A model of two revisions and a data set."""
    for name in ("bert", "bert@v2"):
        shutil.copytree(files.bert, tmp_path / "hub" / "models" / "owner" / name)
    rows = {
        split: tiny.pairs(count, seed)
        for split, count, seed in (("train", 40, 1), ("validation", 8, 2), ("test", 6, 3))
    }
    originals.hub_folder(tmp_path / "hub" / "datasets" / "owner" / "texts", "plain", rows)
    return tmp_path / "hub"


def run(command: str, options: list[str], home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = str(Path(sys.executable).with_name(command))
    kept = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_ENDPOINT")}
    own = {"HF_HOME": str(home / "hf"), "ENCDEC_LIGHTNING_CACHE": str(home / "cache"), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [path, *options], env={**kept, **own, **environment}, capture_output=True, text=True, check=False
    )


def test_prepared_on_a_machine_with_a_network_and_trained_without(hub, in_tmp):
    options = [
        *("task=hub", "task.source=document", "task.target=summary", "task.id=key"),
        *(f"task.{split}=hub:owner/texts:plain:{split}" for split in ("train", "validation", "test")),
        *("task.max_source_length=40", "task.max_target_length=12", "variant=bert2bert", "checkpoints.bert=owner/bert"),
        "model.encoder=owner/bert@v2",
        *("hardware=cpu", "trainer.max_steps=2", "trainer.enable_progress_bar=false", "folder=run"),
    ]
    with serve(hub) as address:
        made = run("encdec-prepare", options, in_tmp, HF_ENDPOINT=address)
    assert made.returncode == 0, made.stderr
    assert "│ train      │       40 │" in made.stdout
    assert not Path("run").exists()
    trained = run("encdec-train", options, in_tmp, HF_ENDPOINT=address, HF_HUB_OFFLINE="1")
    assert trained.returncode == 0, trained.stderr
    assert sorted(each.id for each in Run.open("run").predictions()) == [f"row-3-{number}" for number in range(6)]
    commits = [Run.open("run").metrics()[f"checkpoint/{role}"] for role in ("encoder", "decoder")]
    assert commits == [commit("v2"), commit("main")]


@pytest.mark.slow
def test_without_a_network_a_revision_is_that_revision_or_refused(hub, in_tmp, files):
    """`datasets` alone would offer whatever revision it has used last."""
    for revision, count in (("v1", 5), ("v2", 9)):
        rows = {split: tiny.pairs(count) for split in ("train", "validation")}
        originals.hub_folder(hub / "datasets" / "owner" / f"texts@{revision}", "plain", rows)

    def prepare(revision, **environment):
        places = [f"task.{split}=hub:owner/texts@{revision}:plain:{split}" for split in ("train", "validation")]
        options = [*files.overrides(*places, "task.test=null", "data.batch_tokens=500"), "--no-model"]
        return run("encdec-prepare", options, in_tmp, HF_ENDPOINT=address, **environment)

    with serve(hub) as address:
        for revision, count in (("v1", 5), ("v2", 9)):
            made = prepare(revision)
            assert f"│ train      │        {count} │" in made.stdout, made.stderr
    found = {revision: prepare(revision, HF_HUB_OFFLINE="1") for revision in ("v1", "v2", "v3")}
    assert sorted(each.returncode for each in found.values()) == [0, 2, 2]
    for revision, each in found.items():
        if each.returncode:
            assert f"hub:owner/texts@{revision}': without a network `datasets` offers another revision" in each.stderr
    right = next(each for each in found.values() if each.returncode == 0)
    assert "│        9 │" in right.stdout if right is found["v2"] else "│        5 │" in right.stdout


def test_data_alone_and_what_is_wrong_with_them(files, in_tmp, capsys):
    assert main([*files.overrides("data.batch_tokens=500"), "--no-model", f"data.cache={in_tmp / 'cache'}"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for words in ("Prepared", "source tokens", f"train: {in_tmp / 'cache'}/examples/"):
        assert words in captured.out
    with Path(files.test).open(encoding="utf-8") as stream:
        (in_tmp / "bad.jsonl").write_text(stream.read() + "no json\n", encoding="utf-8")
    bad = files.overrides(f"task.test={in_tmp / 'bad.jsonl'}", f"data.cache={in_tmp / 'cache'}")
    assert main([*bad, "--no-model"]) == 2
    assert capsys.readouterr().err.startswith("task.test line 13 is 'no json': it must be one JSON object")
    assert main([*bad, "--no-model", "data.on_bad_row=skip"]) == 0
    out = capsys.readouterr().out
    assert "test: rows skipped are listed in " in out
    listed = Path(out.rpartition("listed in ")[2].strip())
    assert '"row": 13' in listed.read_text()
