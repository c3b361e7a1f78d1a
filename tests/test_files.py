"""Files appear whole or not at all; archives that are not whole are found out."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from encdec_lightning.errors import UserError
from encdec_lightning.files import clear_leftovers, damage, kind_of, replacing


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_replaced_in_one_step_and_brought_to_the_disk(tmp_path, monkeypatch):
    path, done = tmp_path / "inner" / "a.json", []
    for owner, name in ((os, "fsync"), (Path, "replace")):
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, n=name, f=original: (done.append((n, path.exists())), f(*a))[1])
    with replacing(path) as stream:
        stream.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one" and names(path.parent) == {"a.json"}
    assert done == [("fsync", False), ("replace", False), ("fsync", True)]  # the file, its name, the folder


def test_what_fails_meanwhile_leaves_the_file_of_before(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"before")
    with pytest.raises(KeyError), replacing(path) as stream:
        stream.write(b"half")
        raise KeyError
    assert path.read_bytes() == b"before" and names(tmp_path) == {"a"}


def test_the_version_of_before_stays_where_it_is_asked_for(tmp_path):
    path, before = tmp_path / "a", tmp_path / "a.before"
    for content in (b"1", b"2", b"3"):
        with replacing(path, before) as stream:
            stream.write(content)
    assert (path.read_bytes(), before.read_bytes()) == (b"3", b"2")


def test_a_file_system_without_second_names_will_do(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    test_the_version_of_before_stays_where_it_is_asked_for(tmp_path)


def test_a_full_disk_is_one_sentence_and_nothing_is_lost(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    torch.save({"a": 1}, path)
    original = os.fsync

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(UserError, match=r"No space left on device.*the file of before is kept"),
        replacing(path) as stream,
    ):
        torch.save({"a": 2}, stream)
    monkeypatch.setattr(os, "fsync", original)
    assert torch.load(path, weights_only=True) == {"a": 1} and names(tmp_path) == {"a.ckpt"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_what_torch_hides_of_a_full_disk_is_found(tmp_path, monkeypatch):
    """torch answers a write that failed with an error of its own about positions."""
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a: original(Path("/dev/full"), *a, buffering=0))
    with pytest.raises(UserError, match="No space left on device"), replacing(tmp_path / "a.ckpt") as stream:
        torch.save({"a": torch.zeros(100_000)}, stream)


def test_an_error_of_another_kind_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(RuntimeError, match="mine"), replacing(tmp_path / "a"):
        raise RuntimeError("mine")


def test_leftovers_of_others_are_cleared(tmp_path):
    for name in (".last.ckpt.123", f".a.{os.getpid()}", ".lock", ".hidden.txt", "a.123"):
        (tmp_path / name).touch()
    (tmp_path / ".model-x").mkdir()
    (tmp_path / ".model-x" / "a").touch()
    clear_leftovers(tmp_path)
    clear_leftovers(tmp_path / "nowhere")
    assert names(tmp_path) == {f".a.{os.getpid()}", ".lock", ".hidden.txt", "a.123"}


def test_kinds_of_paths(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    paths = [__file__, tmp_path, tmp_path / "pipe", "/dev/zero", tmp_path / "nowhere", "a\0b", "a" * 100_000, ""]
    assert [kind_of(path) for path in paths] == ["file", "folder", "other", "other", None, None, None, None]


CONTENT = {"weights": torch.arange(999.0), "bytes": torch.arange(256, dtype=torch.uint8), "plain": [1, "a", {"b": 2.5}]}


def same(content: dict) -> bool:
    tensors = all(torch.equal(content[name], CONTENT[name]) for name in ("weights", "bytes"))
    return tensors and content["plain"] == CONTENT["plain"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "x.ckpt"
    torch.save(CONTENT, path)
    return path


def unnoticed(path: Path) -> bool:
    """Whether a damaged copy passes for whole and is read as something else."""
    if damage(path) is not None:
        return False
    try:
        return not same(torch.load(path, weights_only=True))
    except Exception:
        return False  # noticed by torch


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_no_flipped_byte_goes_unnoticed(every, archive, tmp_path):
    """A bit of a byte flipped, of one in eleven or all bytes: the damage is noticed, or changes no value."""
    whole, found = archive.read_bytes(), 0
    assert damage(archive) is None
    for position in range(0, len(whole), every):
        path = tmp_path / f"{position}.ckpt"
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
        found += damage(path) is not None
        assert not unnoticed(path), position
        path.unlink()
    assert found > 0.6 * len(whole) / every  # the rest is padding, dates and the like


def test_torch_alone_would_not_notice(archive, tmp_path):
    whole = archive.read_bytes()
    at = whole.index(CONTENT["weights"].numpy().tobytes()) + 1
    path = tmp_path / "flipped.ckpt"
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert not same(torch.load(path, weights_only=True))
    assert "damaged" in str(damage(path))


@pytest.mark.parametrize("length", [0, 1, 30, 500, -1, -22, -200])
def test_a_broken_off_archive_is_found(length, archive, tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(archive.read_bytes()[:length])
    assert "broken off" in str(damage(path)) or "damaged" in str(damage(path))


def test_a_change_is_seen_whatever_was_read_before(archive, tmp_path):
    path = Path(shutil.copy(archive, tmp_path / "x.ckpt"))
    assert damage(path) is None
    path.write_bytes(b"PK")
    assert damage(path) is not None


def test_what_is_no_such_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(50_000_000))
    os.mkfifo(tmp_path / "pipe")
    answers = {name: str(damage(tmp_path / name)) for name in ("bomb.ckpt", "pipe", "gone", ".")}
    assert "compressed" in answers["bomb.ckpt"] and "no regular file" in answers["pipe"]
    assert "no such file" in answers["gone"] and "folder" in answers["."]
