"""Processes killed, and disks that fail, at each operation on the cache's files: nothing half-built ever counts.

Run as a program (`python test_cache_kills.py folder step`) it kills forks of itself at every `step`th operation and
prints what they have left.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import signal
import subprocess
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny

from encdec_lightning import Loading, Task, Tokenizers
from encdec_lightning.cache import entries, fingerprints
from encdec_lightning.data.examples.prepared import prepared
from encdec_lightning.errors import UserError

OPERATIONS = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir")


@contextmanager
def at_operation(number, act):
    """Call `act` before the operation of this number, counted over all of `OPERATIONS`; gives a list of those done."""
    done = []

    def counted(name, operation, *arguments, **options):
        done.append(name)
        if len(done) == number:
            act(name)
        return operation(*arguments, **options)

    originals = {name: getattr(os, name) for name in OPERATIONS}
    for name, operation in originals.items():
        setattr(os, name, functools.partial(counted, name, operation))
    try:
        yield done
    finally:
        for name, operation in originals.items():
            setattr(os, name, operation)


def prepare(folder: Path, tokenizers: Tokenizers) -> tuple[str, int]:
    """Fetch a file, remember hashes, build examples: all that is written into the cache."""
    os.environ["HF_HUB_OFFLINE"] = "0"
    file = folder / "train.jsonl"
    task = Task(train=f"file://{file}", validation=str(file), source="document", target="summary", id="key")
    examples = prepared(task, Loading(cache=str(folder / "cache")), "train", tokenizers)
    return examples.meta["fingerprint"] + examples.meta["tokens"], len(examples.lengths)


def leftovers(cache: Path) -> list[str]:
    names = [str(path.relative_to(cache)) for path in cache.rglob("*")]
    return [name for name in names if any(sign in name for sign in (".building-", ".damaged-", ".part", ".note-"))]


def in_a_fork(work) -> int:
    """Do something in a child; gives how it ended."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def campaign(folder: Path, step: int) -> None:
    """Kill at each operation of a first build, then of one that replaces a damaged entry and a damaged download."""
    tokenizers = Tokenizers(tiny.wordpiece())
    tokenizers.signature()
    fingerprints.SETTLED, entries.ABANDONED = -1.0, -1.0
    os.fsync = lambda file: None  # a kill takes no power away
    for damaged in (False, True):
        number = 1 - step
        while True:
            number += step
            here = folder / f"{damaged}-{number}"
            here.mkdir()
            (here / "train.jsonl").write_bytes((folder / "train.jsonl").read_bytes())
            if damaged:
                in_a_fork(lambda here=here: prepare(here, tokenizers))
                for name in ("examples/*/target.bin", "downloads/*/train.jsonl", "hashes/*"):
                    for file in (here / "cache").glob(name):
                        os.truncate(file, 0)

            def killed(here=here, number=number, damaged=damaged):
                with at_operation(number, lambda name: os.kill(os.getpid(), signal.SIGKILL)) as done:
                    prepare(here, tokenizers)
                print(json.dumps({"damaged": damaged, "operations": done}))
                sys.stdout.flush()

            ended = in_a_fork(killed)

            def after(here=here, number=number, ended=ended, damaged=damaged):
                left = leftovers(here / "cache")
                found, count = prepare(here, tokenizers)
                still = leftovers(here / "cache")
                print(json.dumps({"damaged": damaged, "at": number, "ended": ended, "left": left, "still": still,
                                  "found": found, "count": count}))  # fmt: skip
                sys.stdout.flush()

            assert in_a_fork(after) == 0
            if ended == 0:
                break


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_each_operation(step, tmp_path):
    rows = tmp_path / "train.jsonl"
    tiny.write_rows(rows, tiny.pairs(20))
    folders = os.pathsep.join([str(Path(tiny.__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": folders}
    command = [sys.executable, "-W", "ignore", __file__, str(tmp_path), str(step)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    said = [json.loads(line) for line in result.stdout.splitlines()]
    whole = [each["operations"] for each in said if "operations" in each]
    kills = [each for each in said if "at" in each and each["ended"] == -signal.SIGKILL]
    assert len(whole) == 2 and len(kills) == sum(-(-len(each) // step) for each in whole) > 70 // step
    assert {name for names in whole for name in names} == set(OPERATIONS)
    expected = prepare(tmp_path, Tokenizers(tiny.wordpiece()))
    assert {(each["found"], each["count"]) for each in said if "at" in each} == {expected}
    assert step > 1 or any(each["left"] for each in kills)
    assert [each for each in said if each.get("still")] == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
def test_a_disk_that_fails_at_each_operation(code, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(fingerprints, "SETTLED", -1.0)
    monkeypatch.setattr(entries, "ABANDONED", -1.0)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    tokenizers = Tokenizers(tiny.wordpiece())
    tiny.write_rows(tmp_path / "train.jsonl", tiny.pairs(20))
    expected = prepare(tmp_path, tokenizers)

    def fail(name):
        raise OSError(code, os.strerror(code))

    number = refused = 0
    done = [""]
    while number < len(done):
        number += 1
        here = tmp_path / str(number)
        here.mkdir()
        (here / "train.jsonl").write_bytes((tmp_path / "train.jsonl").read_bytes())
        with at_operation(number, fail) as done:
            try:
                assert prepare(here, tokenizers) == expected  # what is only remembered may fail
            except UserError as problem:
                refused += 1
                sentence = f"data.cache is '{here / 'cache'}': it cannot be written ({os.strerror(code)}"
                assert str(problem).startswith(sentence) and str(problem).endswith("or choose another folder.")
                done += [""] * (number == len(done))
        assert prepare(here, tokenizers) == expected
        assert leftovers(here / "cache") == []
    assert number > 30 and refused > 15
    assert "Traceback" not in capfd.readouterr().err


if __name__ == "__main__":
    campaign(Path(sys.argv[1]), int(sys.argv[2]))
