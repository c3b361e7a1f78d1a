"""The rows of a split, wherever they lie, and a hash of their content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from encdec_lightning.cache.fingerprints import file_hash, hash_of, state
from encdec_lightning.data.options import Task
from encdec_lightning.data.sources import hub
from encdec_lightning.data.sources.lines import Row
from encdec_lightning.data.sources.locations import HubSplit, Location, locate
from encdec_lightning.data.sources.pairs import PairReader, Split
from encdec_lightning.data.sources.pydoc import DATA_SETS, pydoc, pydoc_key
from encdec_lightning.data.sources.readers import read_rows, table_rows, wanted_columns
from encdec_lightning.errors import UserError
from encdec_lightning.records import Pair

Rows = Iterable[Row | tuple[int, Pair]]


@dataclass(frozen=True)
class Source:
    """Rows, read when they are iterated, and what tells their content."""

    rows: Rows
    files: tuple[Path, ...] = ()
    also: tuple[str, ...] = ()

    def content(self, cache: Path, fresh: bool = False) -> str:
        """A hash of the content; those of unchanged files are remembered in the cache, unless it shall be `fresh`."""
        try:
            return hash_of([*(file_hash(file, cache, fresh) for file in self.files), *self.also])
        except OSError as error:
            raise UserError("task", str(error.filename), f"it cannot be read ({error.strerror})") from error

    def states(self) -> list[list[int]]:
        """What differs once one of the files was changed."""
        try:
            return [state(file) for file in self.files]
        except OSError as error:
            raise UserError("task", str(error.filename), f"it cannot be read ({error.strerror})") from error


def find_source(task: Task, split: Split, cache: Path) -> Source:
    """Where the rows of a split come from. URLs and data sets of the Hub are downloaded if this machine lacks them."""
    name, text = f"task.{split}", task.path(split)
    place = locate(name, text, cache)
    if task.columns is not None and not (isinstance(place, tuple) and place[0].format in (".csv", ".tsv")):
        raise UserError("task.columns", task.columns, f"{name} ({text}) is no csv or tsv file, its columns have names")
    return source_at(name, place, task, split, cache)


def source_at(name: str, place: Location, task: Task, split: Split, cache: Path) -> Source:
    """The rows at a location, which the option `name` gives; of an embedded data set, those of a split."""
    options = [task.source, task.target, *([task.id] if task.id is not None else []), *(task.references or [])]
    if isinstance(place, str):
        return Source(_embedded(place, split, cache), also=(place, split, pydoc_key()))
    if isinstance(place, HubSplit):
        dataset = hub.load(name, place, cache)
        wanted = wanted_columns(dataset.column_names, options)
        rows = table_rows(name, hub.batches(dataset.select_columns(wanted)))
        return Source(rows, tuple(hub.files(dataset)), (place.split, str(len(dataset))))
    rows = read_rows(name, place, task.columns, options)
    formats = tuple(f"{file.member} {file.format} {file.compression}" for file in place)
    return Source(rows, tuple(file.path for file in place), formats)


def check_source(task: Task, split: Split, cache: Path, skip_bad_rows: bool) -> None:
    """Raise `UserError` for what is wrong with a local file as far as its first example shows it.

    Nothing is downloaded for this, and no embedded data set is built.
    """
    text = task.path(split)
    if text in DATA_SETS or text.startswith("hub:") or "://" in text:
        return
    reader = PairReader(task, split, (lambda row, problem: None) if skip_bad_rows else None)
    if next(reader.read(find_source(task, split, cache).rows), None) is None:
        raise reader.no_example(text)


def _embedded(data_set: str, split: Split, cache: Path) -> Iterator[tuple[int, Pair]]:
    yield from enumerate(pydoc(data_set, cache)[split], start=1)
