"""Lines of files that hold no row, and first lines in other encodings."""

from __future__ import annotations

import pytest
from task_files import ROWS, WRITERS, read
from test_formats import refused


def test_a_header_that_is_no_utf8(tmp_path):
    file = tmp_path / "rows.csv"
    for encoding, end in (("latin-1", "it must be UTF-8."), ("utf-16", "it must be UTF-8, and is UTF-16.")):
        file.write_bytes("résumé,target\na,b\n".encode(encoding))
        sentence = refused(file, tmp_path)
        assert sentence.startswith("task.train line 1 is ") and sentence.endswith(end)


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv"])
def test_empty_lines_hold_nothing(ending, tmp_path):
    file = tmp_path / f"rows{ending}"
    rows = WRITERS[ending](ROWS)
    expected = read(file, tmp_path) if file.write_bytes(rows) else []
    for end in (b"\n", b"\r\n"):
        file.write_bytes(rows + end + end)
        assert read(file, tmp_path) == expected
