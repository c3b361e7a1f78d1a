"""The tokenized examples of a split, built once and kept in the cache under a fingerprint of all that makes them."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from encdec_lightning.cache.entries import clear, damage, entry
from encdec_lightning.cache.fingerprints import hash_of
from encdec_lightning.cache.folder import cache_folder
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.examples.building import build
from encdec_lightning.data.examples.sentence_labels import SentenceLabels
from encdec_lightning.data.examples.store import OnDisk
from encdec_lightning.data.options import Loading, Task
from encdec_lightning.data.preprocessing import code_hash
from encdec_lightning.data.sources.pairs import PairReader, Split
from encdec_lightning.data.sources.source import Source, find_source
from encdec_lightning.errors import UserError
from encdec_lightning.files import remedy

VERSION = 5  # of what a row becomes and of the store's files: part of every fingerprint
READ_FIELDS = ("source", "target", "references", "id", "columns", "max_source_length", "max_target_length")


def prepared(
    task: Task, loading: Loading, split: Split, tokenizers: Tokenizers, labels: SentenceLabels | None = None
) -> OnDisk:
    """A split's examples, from the cache if they are there and whole, else built into it.

    With `labels` these are the targets. Of several processes one builds and the others wait. What is built is built
    from what the files hold now, whatever their times say. Raises `UserError` naming the row that is wrong, an empty
    split, a file that changes while it is read, or a cache that cannot be written.
    """
    cache = cache_folder(loading.cache)

    def place(source: Source) -> Path:
        return cache / "examples" / _key(task, loading, split, labels or tokenizers, source.content(cache))

    source = find_source(task, split, cache)
    folder = place(source)
    try:
        if damage(folder) is not None:
            source.content(cache, fresh=True)
            source = find_source(task, split, cache)  # a damaged download is fetched anew
            before, folder = source.states(), place(source)

            def build_from_it(building: Path) -> None:
                skips = loading.on_bad_row == "skip"
                build(building, task, split, tokenizers, labels, source.rows, skip_bad_rows=skips)
                if source.states() != before:
                    expected = "it has changed while it was read, start again once it is complete"
                    raise UserError(f"task.{split}", task.path(split), expected)

            entry(folder, build_from_it)
        clear(folder.parent)
        return OnDisk(folder)
    except OSError as error:
        reason = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        expected = f"it cannot be written ({reason}): {remedy(error)}, or choose another folder"
        raise UserError("data.cache", str(cache), expected) from error


def _key(task: Task, loading: Loading, split: Split, encoder: SentenceLabels | Tokenizers, content: str) -> str:
    """The fingerprint of what the examples of a split are made from."""
    fields: dict[str, Any] = {name: getattr(task, name) for name in READ_FIELDS}
    fields |= {"examples": getattr(task, f"{split}_examples"), "on_bad_row": loading.on_bad_row}
    if split == "train":
        fields |= {"too_long": task.too_long, "share": task.train_share}
        fields |= {"target_of": task.train_target} if task.train_target != "first" else {}
    code = [(name, code_hash(function)) for name, function in PairReader(task, split).functions]
    versions = [VERSION, version("tokenizers")]
    return hash_of([fields, code, versions, encoder.signature(), content])[:32]
