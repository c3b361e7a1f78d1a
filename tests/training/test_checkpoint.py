from __future__ import annotations

from pathlib import Path

import pytest
import torch

from encdec_lightning.errors import UserError
from encdec_lightning.training.checkpoint import load_checkpoint, pack_folder, unpack_folder


def write(folder: Path) -> None:
    (folder / "a.json").write_text("{}", encoding="utf-8")
    (folder / "inner").mkdir()
    (folder / "inner" / "b.model").write_bytes(bytes(range(256)))
    (folder / "empty").write_bytes(b"")


def read(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_survives_a_checkpoint_without_pickles(tmp_path: Path) -> None:
    torch.save(pack_folder(write), tmp_path / "file")
    files = unpack_folder(torch.load(tmp_path / "file", weights_only=True), read)
    assert files == {"a.json": b"{}", "inner/b.model": bytes(range(256)), "empty": b""}


def test_a_path_that_leads_outside_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="outside"):
        unpack_folder({"../outside": torch.zeros(1, dtype=torch.uint8)}, read)


def test_files_that_are_no_checkpoint_of_ours_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    torch.save(Path("x"), tmp_path / "pickled.ckpt")
    (tmp_path / "damaged.ckpt").write_bytes(b"PK\x03\x04 and no more")
    for name in ("foreign", "pickled", "damaged", "missing"):
        with pytest.raises(UserError, match=f"{name}.ckpt"):
            load_checkpoint(tmp_path / f"{name}.ckpt", "cpu")
