"""All that a run has logged, in a file of its own: what a dashboard has lost, or should not get twice, is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from encdec_lightning.launch.loggers.labels import Table

Row = dict[str, Any]
"""{name: a number, a text or a `Table`} of one step."""


class Journal:
    """A file with a line for each call that logged something, `{"step": 4, "values": {...}, "tables": {...}}`.

    A line is with the system when `add` returns, so that it outlives the process. What a machine's failure leaves of
    the last one is passed over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> dict[int, Row]:
        """The values of each step, in the order of the steps; of a value that was logged twice, the later."""
        found: dict[int, Row] = {}
        if not self.path.exists():
            return found
        for line in self.path.read_bytes().splitlines():
            try:
                told = json.loads(line)
                tables = {name: Table.of(each) for name, each in told["tables"].items()}
                found.setdefault(told["step"], {}).update({**told["values"], **tables})
            except (ValueError, TypeError, LookupError, AttributeError):  # half a line
                continue
        return dict(sorted(found.items()))

    def add(self, step: int, row: Mapping[str, Any]) -> None:
        """Write down the values of a step. What is neither a number, a text nor a table is left out."""
        values = {name: each for name, each in row.items() if isinstance(each, bool | int | float | str)}
        tables = {name: asdict(each) for name, each in row.items() if isinstance(each, Table)}
        line = json.dumps({"step": step, "values": values, "tables": tables}, ensure_ascii=False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as stream:
            end = stream.tell()
            if end:
                stream.seek(end - 1)
                line = line if stream.read(1) == b"\n" else f"\n{line}"
            stream.write(f"{line}\n".encode())
