"""Files at URLs, fetched once into the cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import fsspec
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from encdec_lightning.cache.entries import read_note, remove, say, write_note
from encdec_lightning.cache.fingerprints import file_hash
from encdec_lightning.errors import UserError
from encdec_lightning.files import remedy

CHUNK = 1 << 20  # bytes
SUM, PART = ".sha256", ".part"


def download(field: str, url: str, cache: Path) -> Path:
    """The file of a URL (http, https, hf, s3, ... as far as fsspec knows them) in the cache.

    It gets its name when it is whole; a cached one is not asked for again while it holds what was fetched, else stderr
    tells. Raises `UserError` when it cannot be had.
    """
    folder = cache / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:16]
    try:
        path = folder / (PurePosixPath(urlsplit(url).path).name[-100:] or "file")
    except ValueError as error:
        raise UserError(field, url, f"it is no URL ({error})") from error
    if _is_whole(path, cache):
        return path
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        state = "is damaged in the cache" if os.path.lexists(path) else "is not in the cache"
        raise UserError(field, url, f"it {state}, and HF_HUB_OFFLINE is set; run encdec-prepare before")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            _clear(folder.parent)
            if not _is_whole(path, cache):
                if os.path.lexists(path):
                    say(f"{path} is damaged: it is fetched anew")
                _fetch(field, url, path)
    except OSError as error:
        expected = f"it cannot be written ({error.strerror or error}): {remedy(error)}, or choose another folder"
        raise UserError("data.cache", str(cache), expected) from error
    return path


def _is_whole(path: Path, cache: Path) -> bool:
    """Whether a file holds what was fetched; without a note of that it is trusted once."""
    note = path.with_name(SUM)
    if not path.is_file():
        return False
    found = file_hash(path, cache)
    if os.path.lexists(note):
        return bool(read_note(note) == found)
    with suppress(OSError):
        write_note(note, found)
    return True


def _clear(downloads: Path) -> None:
    """Remove parts of files whose processes were killed: the locks of those are free."""
    for left in downloads.glob(f"*/{PART}"):
        with suppress(Timeout, OSError), FileLock(left.with_name(".lock")).acquire(timeout=0):
            remove(left)


def _fetch(field: str, url: str, path: Path) -> None:
    """Raises `UserError` for what is wrong at the other end, and `OSError` here."""
    part = path.with_name(PART)
    remove(part)
    digest = hashlib.sha256()
    try:
        with part.open("wb") as local:
            for chunk in _chunks(field, url, path.name):
                local.write(chunk)
                digest.update(chunk)
            local.flush()
            os.fsync(local.fileno())
        write_note(path.with_name(SUM), digest.hexdigest())
        if os.path.lexists(path):
            remove(path)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


def _chunks(field: str, url: str, name: str) -> Iterator[bytes]:
    """The content of a URL; raises `UserError` if it breaks off."""
    count = 0
    try:
        with fsspec.open(url, "rb") as remote, _progress() as progress:
            size = getattr(remote, "size", None)
            task = progress.add_task(name, total=size)
            while chunk := remote.read(CHUNK):
                yield chunk
                count += len(chunk)
                progress.advance(task, len(chunk))
        if size is not None and count != size:
            raise OSError(f"the connection broke off after {count} of {size} bytes")
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(field, url, f"it cannot be fetched ({reason})") from error
    except Exception as error:  # what the libraries behind fsspec raise has no common class
        if type(error).__module__.partition(".")[0] in ("aiohttp", "botocore", "requests", "httpx"):
            raise UserError(field, url, f"it cannot be fetched ({type(error).__name__})") from error
        raise


def _progress() -> Progress:
    console = Console(stderr=True, emoji=False)
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)
