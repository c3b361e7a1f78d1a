"""Where the rows of a split lie: embedded, on the Hub, in files here, in archives, or at a URL."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from glob import glob
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import pyarrow

from encdec_lightning.data.sources.download import download
from encdec_lightning.data.sources.pydoc import DATA_SETS
from encdec_lightning.errors import UserError
from encdec_lightning.files import kind_of

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
KINDS = (
    f"a {', '.join(FORMATS)} file, perhaps compressed ({', '.join(COMPRESSIONS)}), several as `part-*.jsonl`, two text"
    " files `a+b`, a URL,"
    f" `hub:<id>:<configuration>:<split>`, or {' or '.join(DATA_SETS)}"
)
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError)
UNOPENED = (*DAMAGED, ValueError)  # names of members that are no text, for example


@dataclass(frozen=True)
class HubSplit:
    """A split of a data set of the Hub, or of a folder laid out like one."""

    dataset: str
    revision: str | None
    configuration: str | None
    split: str


@dataclass(frozen=True)
class File:
    """A file on this machine, or one inside a zip archive."""

    path: Path
    member: str | None = None
    kind: str | None = None
    """The ending that it should have, for one whose name tells another format, or none."""

    @property
    def _endings(self) -> list[str]:
        return [suffix.lower() for suffix in PurePosixPath(self.member or self.path.name).suffixes]

    @property
    def compression(self) -> str:
        """The ending that tells the compression: .gz, or nothing."""
        return next((suffix for suffix in self._endings[-1:] if suffix in COMPRESSIONS), "")

    @property
    def format(self) -> str:
        """The ending that tells the format: .jsonl, or nothing."""
        if self.kind is not None:
            return self.kind
        endings = self._endings[: -1 if self.compression else None]
        return endings[-1] if endings else ""

    @contextmanager
    def open(self, field: str) -> Iterator[IO[bytes]]:
        """The content, unpacked as it is read; raises `UserError` for a file that is broken off or damaged."""
        with ExitStack() as held:
            try:
                stream = self._opened(held)
            except UNOPENED as error:
                raise self._unread(field, error) from error
            try:
                yield stream
            except DAMAGED as error:
                raise self._unread(field, error) from error

    def _opened(self, held: ExitStack) -> IO[bytes]:
        if self.member is None:
            packed: IO[bytes] = held.enter_context(self.path.open("rb"))
        else:
            packed = held.enter_context(zipfile.ZipFile(self.path)).open(self.member)
        return held.enter_context(self._unpacked(packed))

    def _unread(self, field: str, error: BaseException) -> UserError:
        if isinstance(error, OSError) and error.strerror:
            return UserError(field, str(self.path), f"it cannot be read ({error.strerror})")
        if isinstance(error, RuntimeError) and self.member is not None:  # a password, a method of its own
            return UserError(field, str(self.path), f"its part {self.member} cannot be unpacked ({error})")
        kind = self.compression.removeprefix(".") or "zip"
        return UserError(field, str(self.path), f"the {kind} file is broken off or damaged")

    def _unpacked(self, packed: IO[bytes]) -> IO[bytes]:
        if self.compression == ".zst":
            stream: Any = pyarrow.input_stream(packed, compression="zstd")
            return cast(IO[bytes], io.BufferedReader(stream))
        opened: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(self.compression)
        return packed if opened is None else cast(IO[bytes], opened(packed, "rb"))


Location = str | HubSplit | tuple[File, ...]


def locate(field: str, text: str, cache: Path, plain: bool = False) -> Location:
    """What an option such as `task.train` names: an embedded data set, a Hub's split, a file, or two parallel ones.

    `part-*.jsonl` are all files of such a name, in the order of their names, if no file is called exactly so. A URL is
    downloaded into the cache first. Where `plain`, a single file may have a name that tells no format: it is text.
    Raises `UserError` for what does not exist.
    """
    if text in DATA_SETS:
        return text
    if text.startswith("hub:"):
        parts = text.split(":", 3)
        if len(parts) < 4 or not parts[1] or not parts[3]:
            raise UserError(
                field, text, "it must have the form hub:<id or folder>[@<revision>]:<configuration>:<split>"
            )
        dataset, _, revision = (parts[1], "", "") if kind_of(parts[1]) == "folder" else parts[1].partition("@")
        return HubSplit(dataset, revision or None, parts[2] or None, parts[3])
    if "*" in text and "://" not in text and not _exists(text):
        return _parts(field, text)
    parallel = "+" in text and not _exists(text)  # a plus in a URL is written %2B
    sides = text.split("+") if parallel else [text]
    if len(sides) > 2:
        raise UserError(field, text, "two text files belong together, not more")
    kinds = f"{KINDS}, or a text file with a source a line" if plain else KINDS
    files = tuple(_file(field, side, cache, kinds) for side in sides)
    if parallel and any(file.format in FORMATS for file in files):
        raise UserError(field, text, "only plain text files are read side by side")
    if not parallel and not plain and files[0].format not in FORMATS:
        raise UserError(field, text, f"its name does not tell a format that can be read; give {KINDS}")
    return files


def _parts(field: str, pattern: str) -> tuple[File, ...]:
    """The files of a pattern; raises `UserError` where there is none, or they are of several formats."""
    paths = sorted(glob(pattern, recursive=True))  # noqa: PTH207  # Path's has no absolute patterns
    files = tuple(File(Path(path)) for path in paths if kind_of(path) == "file")
    if not files:
        raise UserError(field, pattern, "there is no file with such a name")
    formats = sorted({file.format for file in files})
    if len(formats) > 1 or formats[0] not in FORMATS:
        found = ", ".join(each or "none" for each in formats)
        raise UserError(
            field, pattern, f"its files must have one of the endings {', '.join(FORMATS)}, and have {found}"
        )
    return files


def _file(field: str, text: str, cache: Path, kinds: str) -> File:
    """The file that a path or URL names, `archive.zip/member` included; raises `UserError` when there is none."""
    at, member = _at_archive(text)
    path = download(field, at, cache) if "://" in at else Path(at)
    if "://" not in at and not _exists(at):
        raise UserError(field, text, f"there is no such file; give {kinds}")
    if path.suffix.lower() != ".zip":
        return File(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if not name.endswith("/")]
    except UNOPENED as error:
        raise UserError(field, text, "the zip file is broken off or damaged") from error
    if member is None and len(members) == 1:
        member = members[0]
    if member not in members:
        raise UserError(field, text, f"name a file inside the archive: {', '.join(members[:10]) or 'it is empty'}")
    return File(path, member)


def _exists(text: str) -> bool:
    """Whether a path, or the archive of `archive.zip/member`, is a file."""
    archive, member = _at_archive(text)
    return kind_of(archive) == "file" and "+" not in (member or "")


def _at_archive(text: str) -> tuple[str, str | None]:
    """A path or URL, and what follows `.zip/` in it."""
    archive, separator, member = text.partition(".zip/")
    if not separator or ("://" not in text and kind_of(text) == "file"):
        return text, None
    return f"{archive}.zip", member
