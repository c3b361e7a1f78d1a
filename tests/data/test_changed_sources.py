"""Files that change: in place with their times set back, without any sign, or while they are read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import originals
import pytest
import tiny

from encdec_lightning import Loading, Pair, Task, Tokenizers
from encdec_lightning.cache import fingerprints
from encdec_lightning.data.examples import prepared as module
from encdec_lightning.data.examples.prepared import prepared
from encdec_lightning.errors import UserError

BERT = Tokenizers(tiny.wordpiece())


@pytest.fixture(autouse=True)
def remembered_at_once(monkeypatch):
    monkeypatch.setattr(fingerprints, "SETTLED", -1.0)


@pytest.fixture
def task(tmp_path):
    file = str(tiny.write_rows(tmp_path / "train.jsonl", tiny.pairs(12)))
    return Task(train=file, validation=file, source="document", target="summary", id="key")


@pytest.fixture
def loading(tmp_path):
    return Loading(cache=str(tmp_path / "cache"))


def test_a_file_edited_in_place_with_its_time_set_back(task, loading):
    before = prepared(task, loading, "train", BERT)
    file = Path(task.train)
    times = file.stat()
    assert b"matrix" in file.read_bytes()
    with file.open("r+b") as stream:
        edited = file.read_bytes().replace(b"matrix", b"matrox")
        stream.write(edited)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns, file.stat().st_ino) == (times.st_size, times.st_mtime_ns, times.st_ino)  # fmt: skip
    assert prepared(task, loading, "train", BERT).meta["fingerprint"] != before.meta["fingerprint"]


def test_what_is_built_is_built_from_the_content_whatever_the_times_say(task, loading, monkeypatch, capfd):
    """A disk that fails changes a file and none of its times."""
    monkeypatch.setattr(fingerprints, "_state", lambda found: [found.st_size, 0, 0, 0, 0])
    before = prepared(task, loading, "train", BERT)
    Path(task.train).write_bytes(Path(task.train).read_bytes().replace(b"matrix", b"matrox"))
    assert prepared(task, loading, "train", BERT).folder == before.folder  # nothing tells, and nothing is read
    other = prepared(replace(task, max_source_length=9), loading, "train", BERT)
    assert other.meta["fingerprint"] != before.meta["fingerprint"]
    assert "has changed although its times have not" in capfd.readouterr().err
    assert prepared(task, loading, "train", BERT).folder != before.folder


def test_a_file_that_changes_while_it_is_read(task, loading, monkeypatch):
    def slow(folder, *arguments, **options):
        build(folder, *arguments, **options)
        with Path(task.train).open("a") as stream:
            stream.write("\n")

    build = module.build
    monkeypatch.setattr(module, "build", slow)
    with pytest.raises(UserError, match=r"task.train is '.*': it has changed while it was read, start again"):
        prepared(task, loading, "train", BERT)
    assert [path for path in (Path(loading.cache) / "examples").iterdir() if path.suffix != ".lock"] == []


def test_a_hub_folder_edited_in_place_with_its_time_set_back(tmp_path, loading):
    rows = [{"source": f"text {number}", "target": "t"} for number in range(7)]
    folder = originals.hub_folder(tmp_path / "set", "plain", {"train": rows})
    task = Task(train=f"hub:{folder}:plain:train", validation="-")
    prepared(task, loading, "train", BERT)
    file = next(folder.rglob("*.parquet"))
    times = file.stat()
    originals.hub_folder(folder, "plain", {"train": [{**row, "target": "u"} for row in rows]})
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert prepared(task, loading, "train", BERT).pair(0) == Pair("1", "text 0", "u")
