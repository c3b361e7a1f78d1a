"""The tokenized examples of a split, built once and kept in the cache under a fingerprint of all that makes them."""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import AcquireReturnProxy, FileLock, Timeout
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from encdec_lightning.cache import cache_folder
from encdec_lightning.composition.encoding import Encoder, Ids
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.options import Loading, Task
from encdec_lightning.data.pairs import PairReader, Split
from encdec_lightning.data.preprocessing import code_hash
from encdec_lightning.data.sources import Rows, find_source, hash_of
from encdec_lightning.data.store import META, SIDES, OnDisk, StoreWriter
from encdec_lightning.errors import UserError
from encdec_lightning.records import Pair

VERSION = 1  # of what a row becomes and of the store's files: part of every fingerprint
CHUNK = 1000  # pairs tokenized together
SKIPPED = "skipped.jsonl"
READ_FIELDS = ("source", "target", "id", "columns", "preprocess", "max_source_length", "max_target_length")


Given = TypeVar("Given")
Made = TypeVar("Made")


def prepared(task: Task, loading: Loading, split: Split, tokenizers: Tokenizers) -> OnDisk:
    """A split's examples, from the cache if they are there, else built into it.

    Of several processes one builds and the others wait. A build that is killed leaves nothing that would be taken for
    whole, and the next one clears it away. Raises `UserError` naming the row that is wrong, an empty split, or a cache
    that cannot be written.
    """
    cache = cache_folder(loading.cache)
    source = find_source(task, split, cache)
    folder = cache / "examples" / _key(task, loading, split, tokenizers, source.content(cache))
    if not (folder / META).is_file():
        try:
            _build_once(folder, task, loading, split, tokenizers, source.rows)
        except OSError as error:
            expected = f"it cannot be written ({error.strerror or error}): free space there or choose another folder"
            raise UserError("data.cache", str(cache), expected) from error
    return OnDisk(folder)


def _build_once(folder: Path, task: Task, loading: Loading, split: Split, tokenizers: Tokenizers, rows: Rows) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        if (folder / META).is_file():
            return
        building = folder.with_name(f".building-{folder.name}")
        shutil.rmtree(building, ignore_errors=True)  # what a killed process has left
        try:
            _build(building, task, loading, split, tokenizers, rows)
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _lock(folder: Path) -> AcquireReturnProxy[FileLock]:
    """The lock of a folder's builder, held until the end of a with block; waiting for it is said."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        return lock.acquire(timeout=1)
    except Timeout:
        Console(stderr=True).print("waiting for another process that prepares the same examples", highlight=False)
        return lock.acquire()


def _build(folder: Path, task: Task, loading: Loading, split: Split, tokenizers: Tokenizers, rows: Rows) -> None:
    name = f"task.{split}"
    too_long = task.too_long if split == "train" else "truncate"
    encoders = (tokenizers.source_encoder, tokenizers.target_encoder)
    limits = np.array([task.max_source_length, task.max_target_length])
    truncated, unknown, with_unknown = (np.zeros(2, dtype=np.int64) for _ in range(3))
    dropped = 0
    writer = StoreWriter(folder, (len(tokenizers.source), len(tokenizers.target)))
    with (folder / SKIPPED).open("w", encoding="utf-8") as listed:

        def skip(row: int, problem: UserError) -> None:
            listed.write(json.dumps({"row": row, "problem": str(problem)}, ensure_ascii=False) + "\n")

        reader = PairReader(task, split, skip if loading.on_bad_row == "skip" else None)
        try:
            chunks = _chunks(reader.read(rows), f"{name}: tokenizing {task.path(split)}")
            for (numbers, pairs), whole in _ahead(lambda chunk: (chunk, _encoded(encoders, chunk[1])), chunks):
                lengths = np.array([[len(ids) for ids in side] for side in whole], dtype=np.int32).T
                over = lengths > limits
                if too_long == "error" and over.any():
                    raise _too_long(name, numbers, lengths, limits)
                kept = np.flatnonzero(~over.any(axis=1) | (too_long != "drop")).tolist()
                dropped += len(pairs) - len(kept)
                if not kept:
                    continue
                cut = [
                    [encoder.cut(side[number], int(limit)) for number in kept]
                    for encoder, side, limit in zip(encoders, whole, limits, strict=True)
                ]
                truncated += over[kept].sum(axis=0)
                for side, (encoder, ids) in enumerate(zip(encoders, cut, strict=True)):
                    found = _unknown(ids, encoder.unknown_id)
                    unknown[side] += found.sum()
                    with_unknown[side] += np.count_nonzero(found)
                writer.extend([numbers[each] for each in kept], [pairs[each] for each in kept], cut, lengths[kept])
        finally:
            writer.abandon()
    if writer.count == 0:
        raise _empty(name, task.path(split), folder / SKIPPED)
    writer.close(
        split=split,
        location=task.path(split),
        skipped=reader.skipped,
        dropped_by_preprocessing=reader.dropped,
        not_drawn=reader.not_drawn,
        too_long_dropped=dropped,
        limits=limits.tolist(),
        truncated=truncated.tolist(),
        unknown_tokens=unknown.tolist(),
        with_unknown_tokens=with_unknown.tolist(),
    )
    repeated = OnDisk(folder).repeated_id() if task.id is not None else None
    if repeated is not None:
        raise UserError(f"{name} row {repeated[0]}", repeated[1], "an example before has the same id")


def _chunks(pairs: Iterable[tuple[int, Pair]], description: str) -> Iterator[tuple[list[int], list[Pair]]]:
    """Chunks of rows' numbers and pairs, with a sign of life."""
    columns = (SpinnerColumn(), TextColumn("{task.description}: {task.completed:,} examples"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=None)
        remaining = iter(pairs)
        while chunk := list(islice(remaining, CHUNK)):
            yield [number for number, _ in chunk], [pair for _, pair in chunk]
            progress.advance(task, len(chunk))


def _encoded(encoders: tuple[Encoder, Encoder], pairs: list[Pair]) -> tuple[list[Ids], list[Ids]]:
    """Ids of all sources and of all targets, whole."""
    source, target = encoders
    return source([pair.source for pair in pairs]), target([pair.target for pair in pairs])


def _ahead(work: Callable[[Given], Made], given: Iterable[Given]) -> Iterator[Made]:
    """What `work` makes of each, one ahead in a thread: tokenizers written in Rust leave Python free meanwhile."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: deque[Future[Made]] = deque()
        for each in given:
            waiting.append(pool.submit(work, each))
            if len(waiting) > 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _unknown(ids: list[Ids], unknown_id: int | None) -> NDArray[np.int64]:
    """The number of unknown tokens in each of some texts."""
    if unknown_id is None:
        return np.zeros(len(ids), dtype=np.int64)
    starts = np.cumsum([0, *(len(each) for each in ids[:-1])])
    return np.add.reduceat(np.concatenate(ids) == unknown_id, starts, dtype=np.int64)


def _too_long(name: str, rows: list[int], lengths: NDArray[np.int32], limits: NDArray[np.int64]) -> UserError:
    """What is wrong with the first pair that is longer than a limit."""
    number, side = np.argwhere(lengths > limits)[0]
    expected = f"it must not exceed task.max_{SIDES[side]}_length ({limits[side]}); see task.too_long"
    return UserError(f"{name} row {rows[number]}", f"{lengths[number, side]} tokens", expected)


def _empty(name: str, location: str, skipped: Path) -> UserError:
    with skipped.open(encoding="utf-8") as lines:
        first = next(lines, None)
    reason = f": all rows were skipped, the first because {json.loads(first)['problem']}" if first else ""
    return UserError(name, location, f"it holds no example{reason.rstrip('.')}")


def _key(task: Task, loading: Loading, split: Split, tokenizers: Tokenizers, content: str) -> str:
    """The fingerprint of what the examples of a split are made from."""
    fields: dict[str, Any] = {name: getattr(task, name) for name in READ_FIELDS}
    fields |= {"split": split, "examples": getattr(task, f"{split}_examples"), "on_bad_row": loading.on_bad_row}
    if split == "train":
        fields |= {"too_long": task.too_long, "share": task.train_share}
    if split == "test":
        fields["test_preprocess"] = task.test_preprocess
    code = [code_hash(function) for function in PairReader(task, split).functions.values()]
    versions = [VERSION, version("tokenizers")]
    return hash_of([fields, code, versions, tokenizers.signature(), content])[:32]
