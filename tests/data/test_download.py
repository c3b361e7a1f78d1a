"""Files at URLs, from a server of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tiny

from encdec_lightning import Task
from encdec_lightning.data.sources.download import download
from encdec_lightning.data.sources.pairs import PairReader
from encdec_lightning.data.sources.source import check_source, find_source
from encdec_lightning.errors import UserError


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, remembers what was asked for, and breaks off where the name says so."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if "broken" not in self.path:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(b"only this")

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    (tmp_path / "served").mkdir()
    tiny.write_rows(tmp_path / "served" / "rows.jsonl", tiny.pairs(5))
    Handler.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "served"))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_a_file_is_fetched_once_and_read(server, tmp_path, monkeypatch):
    task = Task(train=f"{server}/rows.jsonl", validation="-", source="document", target="summary", id="key")
    for _ in range(2):
        rows = find_source(task, "train", tmp_path / "cache").rows
        assert [pair.id for _, pair in PairReader(task, "train").read(rows)] == [f"row-0-{n}" for n in range(5)]
    assert Handler.asked.count("/rows.jsonl") == 1
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert find_source(task, "train", tmp_path / "cache").files[0].name == "rows.jsonl"


def test_a_check_fetches_nothing(server, tmp_path):
    check_source(Task(train=f"{server}/no.jsonl", validation="-"), "train", tmp_path / "cache", False)
    assert Handler.asked == []


def test_what_cannot_be_fetched(server, tmp_path, monkeypatch):
    for name in ("nothing.jsonl", "broken.jsonl"):
        with pytest.raises(UserError, match=r"task.train is 'http.*': it cannot be fetched"):
            download("task.train", f"{server}/{name}", tmp_path / "cache")
        assert [file.name for file in (tmp_path / "cache").rglob("*") if file.is_file()] in (
            [],
            [".lock"],
            [".lock"] * 2,
        )
    with pytest.raises(UserError, match="cannot be fetched"):
        download("task.train", "nosuchscheme://x/y.jsonl", tmp_path / "cache")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set; run encdec-prepare before"):
        download("task.train", f"{server}/rows.jsonl", tmp_path / "cache")
