"""Pickles and scripts in place of data: they never run, and one sentence says what is wrong."""

from __future__ import annotations

import io
import pickle
import shutil
import tarfile
from pathlib import Path

import originals
import pyarrow
import pytest
import torch
from evil import Evil, plain_pickle
from pyarrow import parquet
from tiny import Files

from encdec_lightning.cli.prepare import main as prepare


@pytest.fixture(autouse=True)
def marker(tmp_path: Path):
    """After each test nothing is there."""
    file = tmp_path / "code-has-run"
    yield file
    assert not file.exists()


def extension(file: Path, evil: Evil) -> None:
    """A parquet file whose column is of an extension type of Python's, which old versions of pyarrow unpickled."""
    metadata = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(evil)}
    fields = [pyarrow.field(name, pyarrow.string(), metadata=metadata) for name in ("document", "summary", "key")]
    rows = [{"document": "a", "summary": "b", "key": str(number)} for number in range(4)]
    table = pyarrow.Table.from_pylist(rows, pyarrow.schema(fields))
    parquet.write_table(table, file)


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.tsv", "x.parquet", "x.jsonl.gz", "x.zip", "x.pkl", "x.pt"])
def test_a_pickle_by_another_name(name, files: Files, marker: Path, in_tmp: Path, capsys):
    plain_pickle(in_tmp / name, Evil(marker))
    assert prepare([*files.overrides(f"task.train={name}", "data.cache=cache")]) == 2
    assert capsys.readouterr().err.startswith("task.train")


def test_an_extension_type_of_parquet_is_not_made(files: Files, marker: Path, in_tmp: Path):
    extension(in_tmp / "x.parquet", Evil(marker))
    assert prepare(files.overrides("task.train=x.parquet", "data.cache=cache")) == 0


def test_a_cached_store(files: Files, marker: Path, in_tmp: Path, capsys):
    """What is damaged in the cache is built anew, whatever it holds."""
    options = files.overrides("data.cache=cache", "variant=bertshare")
    assert prepare(options) == 0
    stores = [file for file in Path("cache").rglob("*") if file.is_file() and not file.name.startswith(".")]
    assert len(stores) > 10
    for file in stores:
        plain_pickle(file, Evil(marker))
    assert prepare(options) == 0
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["plain.py", "x.pkl", "x.tar"])
def test_a_data_set_of_the_hub(name, files: Files, marker: Path, in_tmp: Path, capsys):
    """A loading script, a pickle as its data, or an archive of pickles."""
    folder = originals.hub_folder(in_tmp / "set", "plain", {"train": [{"document": "a", "summary": "b", "key": "1"}]})
    text = f"import os; os.mkdir({str(marker)!r})\n"
    if name == "plain.py":
        shutil.rmtree(folder / "plain")
        (folder / "README.md").unlink()
        (folder / "set.py").write_text(text)
    elif name == "x.pkl":
        plain_pickle(folder / name, Evil(marker))
        (folder / "README.md").write_text("---\nconfigs:\n- config_name: plain\n  data_files: x.pkl\n---\n")
    else:
        with tarfile.open(folder / name, "w") as archive:
            for member in ("0.pyd", "0.pickle", "0.pth", "0.npy", "0.npz", "0.document.txt"):
                content = io.BytesIO()
                torch.save(Evil(marker), content) if member == "0.pth" else content.write(pickle.dumps(Evil(marker)))
                info = tarfile.TarInfo(member)
                info.size = len(content.getvalue())
                content.seek(0)
                archive.addfile(info, content)
        (folder / "README.md").write_text("---\nconfigs:\n- config_name: plain\n  data_files: x.tar\n---\n")
    assert prepare(files.overrides(f"task.train=hub:{folder}:plain:train", "data.cache=cache")) == 2
    assert "task." in capsys.readouterr().err
