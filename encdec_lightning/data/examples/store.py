"""Tokenized examples on disk: written in one pass, read by position, so that memory does not grow with their texts."""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.composition.bulk_tokenizer import Ids
from encdec_lightning.errors import UserError
from encdec_lightning.records import Pair

META = "meta.json"
SIDES = ("source", "target")
COLUMNS: dict[str, tuple[type[np.generic], int]] = {
    "lengths": (np.int32, 2),  # of source and target, as the model sees them
    "whole_lengths": (np.int32, 2),  # before they were cut
    "text_hashes": (np.uint64, 2),  # of source and target, but for case and white space
    "text_lengths": (np.int32, 1),  # bytes of an entry of texts.bin
    "id_hashes": (np.uint64, 1),
    "rows": (np.int64, 1),  # where the example stood in its file
}
"""{numbers kept of each example: their type and how many}; each in a file of its own."""


class StoreWriter:
    """Appends examples to a new folder. `close` writes `meta.json`; a folder without it is not whole."""

    def __init__(self, folder: Path, vocabularies: tuple[int, int]) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._types = [np.dtype(np.uint16 if size <= 2**16 else np.uint32) for size in vocabularies]
        self._files = {name: (folder / f"{name}.bin").open("wb") for name in (*SIDES, "texts", *COLUMNS)}
        self._digest, self._tokens = hashlib.sha256(), hashlib.sha256()
        self.count = 0

    def extend(
        self, rows: Sequence[int], pairs: Sequence[Pair], ids: Sequence[Sequence[Ids]], whole_lengths: NDArray[np.int32]
    ) -> None:
        """Add the examples of some rows: texts, ids of each side as the model will see them, lengths (n, 2) before."""
        texts = [texts_of(pair) for pair in pairs]
        entries = [json.dumps(text, ensure_ascii=False).encode() for text in texts]
        self._files["texts"].write(b"".join(entries))
        for side, each, kind in zip(SIDES, ids, self._types, strict=True):
            content = np.concatenate(each).astype(kind).tobytes()
            self._files[side].write(content)
            self._tokens.update(content)
        values = {
            "lengths": [[len(source), len(target)] for source, target in zip(*ids, strict=True)],
            "whole_lengths": whole_lengths,
            "text_hashes": [[_hash(_words(text)) for text in (source, target)] for _, source, target, *_ in texts],
            "text_lengths": [len(entry) for entry in entries],
            "id_hashes": [_hash(pair.id.encode()) for pair in pairs],
            "rows": rows,
        }
        for name, value in values.items():
            self._files[name].write(np.asarray(value, dtype=COLUMNS[name][0]).tobytes())
        self._tokens.update(np.asarray(values["lengths"], dtype=np.int32).tobytes())
        self._digest.update(b"".join(map(hashed, texts)))
        self.count += len(pairs)

    def close(self, **meta: Any) -> None:
        """Close the files, and write beside them what is known of all examples together."""
        self.abandon()
        meta |= {"examples": self.count, "fingerprint": self._digest.hexdigest(), "tokens": self._tokens.hexdigest()}
        meta |= {f"{side}_type": kind.name for side, kind in zip(SIDES, self._types, strict=True)}
        (self._folder / META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")

    def abandon(self) -> None:
        """Close the files."""
        with ExitStack() as stack:
            for stream in self._files.values():
                stack.callback(stream.close)


def texts_of(pair: Pair) -> list[str]:
    """An example's id and texts, whose hash over all examples is a split's fingerprint."""
    return [pair.id, pair.source, pair.target, *pair.other_targets]


def hashed(texts: Sequence[str]) -> bytes:
    """What an example adds to the fingerprint."""
    return "".join(f"{part}\0" for part in texts).encode()


class OnDisk:
    """The examples of a folder that a `StoreWriter` has written.

    Ids and texts are read where they lie, not mapped; of each example 32 bytes stay in memory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = json.loads((folder / META).read_text(encoding="utf-8"))
        self.lengths: NDArray[np.int32] = self.column("lengths")
        self._types = [np.dtype(self.meta[f"{side}_type"]) for side in SIDES]
        self._starts = [_starts(lengths) for lengths in self.lengths.T]
        self._text_starts = _starts(self.column("text_lengths"))
        self._files = [os.open(folder / f"{name}.bin", os.O_RDONLY) for name in (*SIDES, "texts")]
        for file in self._files:
            weakref.finalize(self, os.close, file)

    def __reduce__(self) -> tuple[type[OnDisk], tuple[Path]]:
        return OnDisk, (self.folder,)

    def column(self, name: str) -> NDArray[Any]:
        """One of `COLUMNS`: (N,) or (N, 2)."""
        kind, width = COLUMNS[name]
        values = np.fromfile(self.folder / f"{name}.bin", dtype=kind)
        return values.reshape(-1, 2) if width == 2 else values

    def ids(self, number: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """The token ids of an example's source, (S,), and target, (T,)."""
        return self._side_ids(0, number), self._side_ids(1, number)

    def _side_ids(self, side: int, number: int) -> NDArray[Any]:
        kind, starts = self._types[side], self._starts[side]
        begin, end = int(starts[number]) * kind.itemsize, int(starts[number + 1]) * kind.itemsize
        return np.frombuffer(self._read(side, begin, end), dtype=kind)

    def pair(self, number: int) -> Pair:
        """An example's id and texts."""
        begin, end = int(self._text_starts[number]), int(self._text_starts[number + 1])
        identity, source, target, *others = json.loads(self._read(-1, begin, end))
        return Pair(identity, source, target, tuple(others))

    def _read(self, file: int, begin: int, end: int) -> bytes:
        content = os.pread(self._files[file], end - begin, begin)
        if len(content) < end - begin:
            expected = "its files were cut while they were in use: start again, and they are built anew"
            raise UserError("data.cache", str(self.folder), expected)
        return content

    def repeated_id(self) -> tuple[int, str] | None:
        """The row and the id of the first example whose id one of another row before has, or None."""
        hashes, rows = self.column("id_hashes"), self.column("rows")
        order = np.argsort(hashes, kind="stable")
        places = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        repeated = [(int(order[place + 1]), int(order[place])) for place in places]
        for number, before in sorted(repeated):
            identity = self.pair(number).id
            if rows[number] != rows[before] and identity == self.pair(before).id:
                return int(rows[number]), identity
        return None


def _starts(lengths: NDArray[np.int32]) -> NDArray[np.int64]:
    """Where each of some entries begins, and where the last one ends."""
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def _words(text: str) -> bytes:
    """The same for texts that differ in case and white space alone."""
    return " ".join(text.lower().split()).encode()


def _hash(content: bytes) -> int:
    """64 bits."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
