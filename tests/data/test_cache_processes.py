"""The cache of tokenized examples when processes die, race, or find the disk full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from encdec_lightning import Loading, Task, Tokenizers
from encdec_lightning.data.examples.prepared import prepared

BERT = Tokenizers(tiny.wordpiece())


@pytest.fixture
def task(tmp_path):
    file = str(tiny.write_rows(tmp_path / "train.jsonl", tiny.pairs(3000)))
    return Task(train=file, validation=file, source="document", target="summary", id="key")


@pytest.fixture
def loading(tmp_path):
    return Loading(cache=str(tmp_path / "cache"))


def folders(loading):
    return sorted(path.name for path in (Path(loading.cache) / "examples").iterdir() if not path.name.endswith(".lock"))


BUILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import tiny
from encdec_lightning import Loading, Task, Tokenizers
from encdec_lightning.data.examples import building
from encdec_lightning.data.examples import prepared as module

chunks, build = building._chunks, module.build
def slow(*arguments):
    for chunk in chunks(*arguments):
        print("chunk", flush=True)
        yield chunk
        while {until!r} and not Path({until!r}).exists():
            time.sleep(0.05)
def counted(*arguments, **options):
    print("build", flush=True)
    build(*arguments, **options)
building._chunks, module.build = slow, counted
task = Task(train={file!r}, validation={file!r}, source="document", target="summary", id="key")
examples = module.prepared(task, Loading(cache={cache!r}), "train", Tokenizers(tiny.wordpiece()))
print("done", len(examples.lengths), examples.folder.name, flush=True)
"""


def start(task, loading, until=""):
    """A process that prepares the training examples, and after each chunk waits until a file exists."""
    code = BUILD.format(tests=str(Path(tiny.__file__).parent), file=task.train, cache=loading.cache, until=str(until))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_build_leaves_nothing_that_counts(task, loading, tmp_path):
    process = start(task, loading, until=tmp_path / "never")
    assert process.stdout.readline() == "build\n"
    assert process.stdout.readline() == "chunk\n"
    deadline = time.monotonic() + 30
    while not any(name.startswith(".building-") for name in folders(loading)) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (left,) = folders(loading)
    assert left.startswith(".building-")
    other = prepared(replace(task, max_source_length=9), loading, "train", BERT)
    assert folders(loading) == [other.folder.name]  # what was left is gone, whoever comes next
    assert len(prepared(task, loading, "train", BERT).lengths) == 3000


def test_two_processes_build_once(task, loading, tmp_path):
    processes = [start(task, loading, until=tmp_path / "go")]
    assert processes[0].stdout.readline() == "build\n"
    processes.append(start(task, loading))
    waiting = processes[1].stderr.readline()
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    said = [output.splitlines() for output, _ in outputs]
    assert [lines.count("build") for lines in said] == [0, 0]  # the first one's was read above
    assert said[0][-1] == said[1][-1] == f"done 3000 {folders(loading)[0]}"
    assert "waiting for another process" in waiting


def test_the_disk_is_full(task, loading):
    """A file may not grow beyond what the limit allows: the system's own error, in the midst of writing."""
    limited = f"ulimit -f 64; trap '' XFSZ; exec {sys.executable} -c \"$CODE\""
    code = BUILD.format(tests=str(Path(tiny.__file__).parent), file=task.train, cache=loading.cache, until="")
    result = subprocess.run(["bash", "-c", limited], env=os.environ | {"CODE": code}, capture_output=True, text=True, check=False)  # fmt: skip
    assert f"data.cache is {loading.cache!r}: it cannot be written (File too large)" in result.stderr.splitlines()[-1]
    assert folders(loading) == []
    assert len(prepared(task, loading, "train", BERT).lengths) == 3000
