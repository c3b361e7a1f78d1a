"""The cache of tokenized examples when processes die, race, or find the disk full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from encdec_lightning import Loading, Task, Tokenizers
from encdec_lightning.data.prepared import prepared

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
import sys
sys.path.insert(0, {tests!r})
import tiny
from encdec_lightning import Loading, Task, Tokenizers
from encdec_lightning.data import building
from encdec_lightning.data import building
from encdec_lightning.data import prepared as module

chunks, build = building._chunks, module.build
def slow(*arguments):
    for chunk in chunks(*arguments):
        print("chunk", flush=True)
        yield chunk
        if {pause}:
            import time
            time.sleep({pause})
def counted(*arguments, **options):
    print("build", flush=True)
    build(*arguments, **options)
building._chunks, module.build = slow, counted
task = Task(train={file!r}, validation={file!r}, source="document", target="summary", id="key")
examples = module.prepared(task, Loading(cache={cache!r}), "train", Tokenizers(tiny.wordpiece()))
print("done", len(examples.lengths), examples.folder.name, flush=True)
"""


def start(task, loading, pause=0.0):
    """A process that prepares the training examples."""
    code = BUILD.format(tests=str(Path(tiny.__file__).parent), file=task.train, cache=loading.cache, pause=pause)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_build_leaves_nothing_that_counts(task, loading):
    process = start(task, loading, pause=60)
    assert process.stdout.readline() == "build\n"
    assert process.stdout.readline() == "chunk\n"
    deadline = time.monotonic() + 30
    while not any(name.startswith(".building-") for name in folders(loading)) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (left,) = folders(loading)
    assert left.startswith(".building-")
    examples = prepared(task, loading, "train", BERT)
    assert len(examples.lengths) == 3000
    assert folders(loading) == [examples.folder.name]  # what was left is gone


def test_two_processes_build_once(task, loading):
    processes = [start(task, loading, pause=1.0) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    said = [output.splitlines() for output, _ in outputs]
    assert sorted(lines.count("build") for lines in said) == [0, 1]
    assert said[0][-1] == said[1][-1] == f"done 3000 {folders(loading)[0]}"
    assert sum("waiting for another process" in errors for _, errors in outputs) == 1


def test_the_disk_is_full(task, loading):
    """A file may not grow beyond what the limit allows: the system's own error, in the midst of writing."""
    limited = f"ulimit -f 64; trap '' XFSZ; exec {sys.executable} -c \"$CODE\""
    code = BUILD.format(tests=str(Path(tiny.__file__).parent), file=task.train, cache=loading.cache, pause=0.0)
    result = subprocess.run(["bash", "-c", limited], env=os.environ | {"CODE": code}, capture_output=True, text=True, check=False)  # fmt: skip
    assert f"data.cache is {loading.cache!r}: it cannot be written (File too large)" in result.stderr.splitlines()[-1]
    assert folders(loading) == []
    assert len(prepared(task, loading, "train", BERT).lengths) == 3000
