"""Every file of the cache, damaged in every way, its times set back: what is read is right, or made anew and said."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import originals
import pytest
import tiny

from encdec_lightning import Loading, Pair, Task, Tokenizers
from encdec_lightning.cache import entries, fingerprints
from encdec_lightning.data.examples.prepared import prepared
from encdec_lightning.data.examples.store import COLUMNS
from encdec_lightning.data.sources import pydoc
from encdec_lightning.data.sources.source import find_source
from encdec_lightning.errors import UserError

BERT = Tokenizers(tiny.wordpiece())
FILES = [f"{name}.bin" for name in ("source", "target", "texts", *COLUMNS)] + [
    "meta.json",
    "skipped.jsonl",
    "sums.json",
]


def flip(path: Path, at: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.write_bytes(content)


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    (path / "inner").mkdir(parents=True)


def replace_by_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)  # to itself: it cannot be read, not even by root


DAMAGES = {
    "emptied": lambda path: path.write_bytes(b""),
    "halved": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a flipped bit": flip,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "removed": Path.unlink,
    "a fifo": replace_by_fifo,
    "a folder": replace_by_folder,
    "a link": replace_by_link,
}


def damage(path: Path, how: str) -> None:
    times = path.stat()
    DAMAGES[how](path)
    if path.is_file():
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nothing waits for the disk, and hashes are remembered at once."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr(fingerprints, "SETTLED", -1.0)


@pytest.fixture
def task(tmp_path):
    rows = [*tiny.pairs(12), {"key": "bad", "document": "", "summary": "s"}]  # so that skipped.jsonl has a line
    names = {split: str(tiny.write_rows(tmp_path / f"{split}.jsonl", rows[at:])) for at, split in enumerate(("train", "validation", "test"))}  # fmt: skip
    return Task(**names, source="document", target="summary", id="key")


@pytest.fixture
def loading(tmp_path):
    return Loading(cache=str(tmp_path / "cache"), on_bad_row="skip")


def content(examples):
    numbers = range(len(examples.lengths))
    columns = {name: examples.column(name).tolist() for name in COLUMNS}
    ids = [[side.tolist() for side in examples.ids(number)] for number in numbers]
    return columns, ids, [examples.pair(number) for number in numbers], examples.meta


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_examples(name, how, task, loading, capfd):
    first = prepared(task, loading, "train", BERT)
    expected = content(first)
    assert {path.name for path in first.folder.iterdir()} == set(FILES)
    damage(first.folder / name, how)
    assert content(prepared(task, loading, "train", BERT)) == expected
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{first.folder} is damaged (") and name in line and line.endswith("): it is built anew")
    assert content(prepared(task, loading, "train", BERT)) == expected
    assert capfd.readouterr().err == ""
    assert [path.name for path in first.folder.parent.iterdir() if not path.name.endswith(".lock")] == [
        first.folder.name
    ]


@pytest.mark.parametrize("how", [how for how in DAMAGES if how != "longer" and how != "halved" and how != "emptied"])
def test_the_folder_of_examples(how, task, loading):
    folder = prepared(task, loading, "train", BERT).folder
    expected = content(prepared(task, loading, "train", BERT))
    shutil.rmtree(folder)
    folder.write_text("a file")
    damage(folder, how)
    assert content(prepared(task, loading, "train", BERT)) == expected


def test_examples_of_another_split_in_their_place(task, loading, capfd):
    """A folder that is whole, but not what its name says."""
    folders = {split: prepared(task, loading, split, BERT).folder for split in ("train", "test")}
    expected = content(prepared(task, loading, "test", BERT))
    shutil.rmtree(folders["test"])
    shutil.copytree(folders["train"], folders["test"])
    assert content(prepared(task, loading, "test", BERT)) == expected
    assert "sums.json does not hold what was written" in capfd.readouterr().err


@pytest.mark.parametrize("how", DAMAGES)
def test_remembered_hashes(how, task, loading, capfd):
    """Emptied ones once gave all splits one fingerprint: the test set was the validation set."""
    before = {split: prepared(task, loading, split, BERT).folder for split in ("train", "validation", "test")}
    notes = list((Path(loading.cache) / "hashes").iterdir())
    assert len(notes) == len(set(before.values())) == 3
    for note in notes:
        damage(note, how)
    assert {split: prepared(task, loading, split, BERT).folder for split in before} == before
    said = capfd.readouterr().err.splitlines()
    assert len(said) == (0 if how == "removed" else 3) and all(
        "is damaged: what it says is found anew" in line for line in said
    )
    assert {split: prepared(task, loading, split, BERT).folder for split in before} == before
    assert capfd.readouterr().err == ""


def test_a_remembered_hash_of_another_file(task, loading):
    before = {split: prepared(task, loading, split, BERT).folder for split in ("train", "validation", "test")}
    first, *others = (Path(loading.cache) / "hashes").iterdir()
    for other in others:
        shutil.copy(first, other)
    assert {split: prepared(task, loading, split, BERT).folder for split in before} == before


def test_files_that_are_cut_while_they_are_in_use(task, loading):
    examples = prepared(task, loading, "train", BERT)
    os.truncate(examples.folder / "target.bin", 10)
    with pytest.raises(UserError, match=r"data.cache is .*: its files were cut while they were in use: start again"):
        examples.ids(11)


@pytest.mark.parametrize("name", ["rows.jsonl", ".sha256"])
@pytest.mark.parametrize("how", DAMAGES)
def test_downloads(how, name, task, loading, monkeypatch, capfd):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    source = Path(task.train).rename(Path(task.train).with_name("rows.jsonl"))
    task = replace(task, train=f"file://{source}")
    cache = Path(loading.cache)
    expected = content(prepared(task, loading, "train", BERT))
    (file,) = cache.glob(f"downloads/*/{name}")
    damage(file, how)
    assert content(prepared(task, loading, "train", BERT)) == expected
    told = (how, name) != ("removed", ".sha256") and not (how == "removed" and name == "rows.jsonl")
    assert ("is damaged" in capfd.readouterr().err) is told
    assert find_source(task, "train", cache).files[0].read_bytes() == source.read_bytes()


def test_a_damaged_download_without_a_network(task, loading, monkeypatch):
    source = Path(task.train).rename(Path(task.train).with_name("rows.jsonl"))
    task = replace(task, train=f"file://{source}")
    with pytest.raises(UserError, match="it is not in the cache, and HF_HUB_OFFLINE is set"):
        prepared(task, loading, "train", BERT)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    prepared(task, loading, "train", BERT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (file,) = Path(loading.cache).glob("downloads/*/rows.jsonl")
    flip(file)
    with pytest.raises(UserError, match="it is damaged in the cache, and HF_HUB_OFFLINE is set; run encdec-prepare"):
        prepared(task, loading, "train", BERT)


@pytest.mark.parametrize("how", DAMAGES)
def test_what_datasets_keeps(how, tmp_path, loading, capfd, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    rows = [{"source": f"text {number}", "target": "t"} for number in range(7)]
    folder = originals.hub_folder(tmp_path / "set", "plain", {"train": rows})
    task = Task(train=f"hub:{folder}:plain:train", validation="-")
    expected = content(prepared(task, loading, "train", BERT))
    (file,) = find_source(task, "train", Path(loading.cache)).files
    damage(file, how)
    capfd.readouterr()
    if how in ("a fifo", "a folder"):  # in a cache that is not ours nothing is removed
        with pytest.raises(UserError, match=f"{file}, which `datasets` keeps, is no file: remove it"):
            prepared(task, loading, "train", BERT)
        return
    found = prepared(replace(task, max_source_length=511), loading, "train", BERT)
    assert content(found)[1:3] == expected[1:3]
    if how != "removed":
        assert "damaged" in capfd.readouterr().err


@pytest.mark.parametrize("how", DAMAGES)
def test_what_is_remembered_of_a_hub_folder(how, tmp_path, loading):
    rows = [{"source": f"text {number}", "target": "t"} for number in range(7)]
    folder = originals.hub_folder(tmp_path / "set", "plain", {"train": rows})
    task = Task(train=f"hub:{folder}:plain:train", validation="-")
    expected = content(prepared(task, loading, "train", BERT))
    (note,) = (path for path in (Path(loading.cache) / "hub").iterdir() if path.suffix != ".lock")
    damage(note, how)
    assert content(prepared(task, loading, "train", BERT)) == expected


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["pydoc/train.jsonl", "pydoc_names/test.jsonl", "sums.json"])
def test_pydoc(name, how, tmp_path, monkeypatch, capfd):
    pairs = {
        each: [Pair(f"m{n}:f", f"source {n} {each}", f"target {n}") for n in range(40)] for each in pydoc.DATA_SETS
    }
    monkeypatch.setattr(pydoc, "_build_in_a_process", lambda folder: pydoc._write(folder, pairs))
    expected = {data_set: pydoc.pydoc(data_set, tmp_path) for data_set in pydoc.DATA_SETS}
    assert sum(map(len, expected["pydoc"].values())) == 40
    (folder,) = (path for path in (tmp_path / "pydoc").iterdir() if path.suffix != ".lock")
    damage(folder / name, how)
    assert {data_set: pydoc.pydoc(data_set, tmp_path) for data_set in pydoc.DATA_SETS} == expected
    assert f"{folder} is damaged (" in capfd.readouterr().err


@pytest.mark.slow
def test_any_flipped_bit(task, loading):
    """Of every byte of an entry, one after the other."""
    folder = prepared(task, loading, "train", BERT).folder
    for name in FILES:
        file = folder / name
        for at in range(file.stat().st_size):
            flip(file, at)
            assert entries.damage(folder) not in (None, entries.MISSING), (name, at)
            flip(file, at)
        assert entries.damage(folder) is None
