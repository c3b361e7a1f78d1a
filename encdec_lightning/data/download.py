"""Files at URLs, fetched once into the cache."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import fsspec
from filelock import FileLock
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from encdec_lightning.errors import UserError

CHUNK = 1 << 20  # bytes


def download(field: str, url: str, cache: Path) -> Path:
    """The file of a URL (http, https, hf, s3, ... as far as fsspec knows them) in the cache.

    It gets its name when it is whole; a cached one is not asked for again. Raises `UserError` when it cannot be had.
    """
    folder = cache / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:16]
    try:
        path = folder / (PurePosixPath(urlsplit(url).path).name or "file")
    except ValueError as error:
        raise UserError(field, url, f"it is no URL ({error})") from error
    if path.is_file():
        return path
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UserError(field, url, "it is not in the cache, and HF_HUB_OFFLINE is set; run encdec-prepare before")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError("data.cache", str(cache), f"it cannot be written ({error.strerror})") from error
    with FileLock(folder / ".lock"):
        if not path.is_file():
            try:
                _fetch(url, path)
            except (OSError, ValueError, ImportError) as error:
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise UserError(field, url, f"it cannot be fetched ({reason})") from error
            except Exception as error:  # what the libraries behind fsspec raise has no common class
                if type(error).__module__.partition(".")[0] in ("aiohttp", "botocore", "requests", "httpx"):
                    raise UserError(field, url, f"it cannot be fetched ({type(error).__name__})") from error
                raise
    return path


def _fetch(url: str, path: Path) -> None:
    part = path.with_name(".part")  # what a killed process has left there is overwritten: the caller holds the lock
    try:
        with fsspec.open(url, "rb") as remote, part.open("wb") as local, _progress() as progress:
            size = getattr(remote, "size", None)
            task = progress.add_task(path.name, total=size)
            while chunk := remote.read(CHUNK):
                local.write(chunk)
                progress.advance(task, len(chunk))
        if size is not None and part.stat().st_size != size:
            raise OSError(f"the connection broke off after {part.stat().st_size} of {size} bytes")
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)
