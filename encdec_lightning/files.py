"""Files that appear whole or not at all, whatever happens meanwhile, and archives that are whole when they are read."""

from __future__ import annotations

import errno
import functools
import itertools
import os
import shutil
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from encdec_lightning.errors import UserError

CHUNK = 1 << 20  # bytes read at once
LONGEST_NAME = 200  # bytes; file systems take 255, and `replacing` adds some


def remedy(error: OSError) -> str:
    """What to do about a file that the system does not let be written, as a part of a sentence."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "allow writing there"
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return "a file is where a folder must be, or the other way round: move it away"
    return "mend that"


class Stream:
    """A file to write to, which remembers why it could not be written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.refused: OSError | None = None

    def write(self, content: bytes) -> int:
        """Write it all; raises `OSError`."""
        with self._remembering():
            return self._file.write(content)

    def flush(self) -> None:
        """Hand what was written to the system; raises `OSError`."""
        with self._remembering():
            self._file.flush()

    @contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.refused = error
            raise


@contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[Stream]:
    """A stream whose content becomes the file `path` when the block ends well, in one step that a power cut survives.

    It is written beside `path`, so that the step is a renaming within one file system, wherever TMPDIR lies. Until then
    `path` stays as it was; after it the file of before is `previous`, if that is given. Raises `UserError` when the
    file cannot be written, because the disk is full for example.
    """
    temporary, stream = path.with_name(f".{path.name}.{os.getpid()}"), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if previous is not None and path.exists():
            previous.unlink(missing_ok=True)  # there is never room needed for three
        with temporary.open("wb") as opened:
            stream = Stream(opened)
            yield stream
            opened.flush()
            os.fsync(opened.fileno())
        if previous is not None and path.exists():
            _give_second_name(path, previous)
        temporary.replace(path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        hidden = None if stream is None else stream.refused  # torch does not hand it on
        reason = error if isinstance(error, OSError) else hidden
        if reason is None:
            raise
        kept = ", the file of before is kept" if path.exists() else ""
        told = f"it cannot be written ({reason.strerror or reason}){kept}"
        expected = f"{told}; {remedy(reason)}, then give the same command again"
        raise UserError("file", str(path), expected) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole, in UTF-8; raises `UserError` as `replacing`."""
    with replacing(path) as stream:
        stream.write(text.encode("utf-8"))


def _give_second_name(path: Path, name: Path) -> None:
    try:
        os.link(path, name)
    except OSError:  # a file system without hard links
        path.replace(name)


def sync_folder(folder: Path) -> None:
    """Make renamings in a folder last beyond a power cut, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make all files of a folder last beyond a power cut."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


def clear_leftovers(folder: Path) -> None:
    """Remove what killed processes have left half written in a folder: `.<name>.<process id>`, `.model-<letters>`.

    Call it only while no other process writes there.
    """
    own = str(os.getpid())
    for path in folder.glob(".*"):
        if is_leftover(path.name) and path.name.rpartition(".")[2] != own and path.is_file():
            path.unlink(missing_ok=True)
        elif path.name.startswith(".model-") and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def new_folder(path: Path) -> Path:
    """Make a folder that nobody else has made: `path`, or `path-2`, `path-3`, ...; gives `path` where none can be."""
    for number in itertools.count(1):
        folder = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:
            break
        return folder
    return path


def is_file_name(name: str) -> bool:
    """Whether a file can have this name in its folder: one part of a path, printable, of 200 bytes at most."""
    sound = name.isprintable() and "/" not in name and len(name.encode(errors="replace")) <= LONGEST_NAME
    return sound and bool(name.strip(". "))


def is_leftover(name: str) -> bool:
    """Whether a file's name is one under which `replacing` writes: `.<name>.<process id>`."""
    return name.startswith(".") and name.rpartition(".")[2].isdecimal()


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """`file`, `folder`, `other` (a pipe, a device), or None for what does not exist or cannot be a path.

    Nothing is opened: opening a pipe would wait for its writer.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def damage(path: str | os.PathLike[str]) -> str | None:
    """What is wrong with a zip archive as torch writes it, members uncompressed with a CRC-32; None if nothing is.

    The whole file is read, once for each of its states.
    """
    kind = kind_of(path)
    if kind != "file":
        return {None: "there is no such file", "folder": "it is a folder"}.get(kind, "it is no regular file")
    state = os.stat(path)  # noqa: PTH116
    return _damage(os.path.realpath(path), state.st_ino, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _damage(path: str, *state: int) -> str | None:
    try:
        if not zipfile.is_zipfile(path):
            return "it is broken off or no checkpoint"
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    return f"its part {member.filename} is compressed, which torch never does"
                with archive.open(member) as stream:
                    while stream.read(CHUNK):
                        pass
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        return f"it is damaged ({error})"
    return None
