"""The config of a folder is read once, and again as soon as a file changes; what one caller changes no other sees."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tiny import Files
from transformers import AutoConfig, PretrainedConfig

from encdec_lightning.composition.checkpoints import load_config
from encdec_lightning.errors import UserError


@pytest.fixture
def folder(files: Files, tmp_path: Path) -> Path:
    return Path(shutil.copytree(files.bert, tmp_path / "bert"))


def change(folder: Path, **values: object) -> None:
    """Values of the config, in a file of the same inode, and of the same time where its length is another one."""
    path = folder / "config.json"
    times = path.stat()
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_it_is_what_transformers_reads_and_each_callers_own(folder: Path) -> None:
    first, second = (load_config("encoder", str(folder)) for _ in range(2))
    assert first is not second and first.to_dict() == AutoConfig.from_pretrained(folder).to_dict()
    first.hidden_size, first.id2label[0] = 7, "changed"
    first.is_decoder = True
    for each in (second, load_config("encoder", str(folder))):
        assert each.to_dict() == AutoConfig.from_pretrained(folder).to_dict() and not each.is_decoder
        assert each._name_or_path == str(folder)


def test_the_second_time_nothing_is_made_of_its_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_config("encoder", str(folder))
    monkeypatch.setattr(PretrainedConfig, "from_dict", pytest.fail)
    load_config("encoder", str(folder))


def test_a_change_is_seen(folder: Path) -> None:
    before = load_config("encoder", str(folder)).num_hidden_layers
    change(folder, num_hidden_layers=before + 7)
    assert load_config("encoder", str(folder)).num_hidden_layers == before + 7
    change(folder, configuration_files=["config.4.0.0.json"])  # transformers reads that one, of its version
    (folder / "config.4.0.0.json").write_text(json.dumps({"model_type": "bert", "num_hidden_layers": 3}))
    assert load_config("encoder", str(folder)).num_hidden_layers == 3
    (folder / "config.4.0.0.json").write_text(json.dumps({"model_type": "bert", "num_hidden_layers": 12}))
    assert load_config("encoder", str(folder)).num_hidden_layers == 12


def test_one_that_has_become_wrong_is_refused(folder: Path) -> None:
    load_config("encoder", str(folder))
    change(folder, num_hidden_layers=10**6)
    with pytest.raises(UserError, match="num_hidden_layers = 1000000, more than 1000"):
        load_config("encoder", str(folder))
    shutil.rmtree(folder)
    with pytest.raises(UserError):
        load_config("encoder", str(folder))
