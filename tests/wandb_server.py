"""A stand-in for wandb's server: it keeps what wandb sends of each run, as lines by their number, as the real one does."""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from encdec_lightning.launch.loggers.wandb_files import records

KEY = "0123456789" * 4


@dataclass
class Kept:
    """What the server has of one run."""

    fields: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.get("wandb-history.jsonl", [])]

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads(self.lines.get("wandb-summary.json", ["{}"])[-1])

    @property
    def config(self) -> dict[str, Any]:
        return {name: each["value"] for name, each in json.loads(self.fields.get("config", "{}")).items()}


class Server:
    """Answers what wandb 0.31 asks for when it begins, continues, ends and synchronizes a run."""

    def __init__(self) -> None:
        self.runs: dict[str, Kept] = {}
        self.text = ""
        """All that was sent."""

    def graphql(self, asked: dict[str, Any], url: str) -> dict[str, Any]:
        name = asked.get("operationName") or re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])[1]
        given = asked.get("variables") or {}
        project = {"id": "p", "name": "mine", "entity": {"id": "e", "name": "me"}}
        if name == "UpsertBucket":
            run = self.runs.setdefault(given["name"], Kept())
            run.fields |= {key: value for key, value in given.items() if value is not None}
            bucket = self._bucket(given["name"], run) | {"project": project}
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": False}}}
        if name == "RunResumeStatus":
            run = self.runs.get(given["name"])
            return {"data": {"model": project | {"bucket": run and self._bucket(given["name"], run)}}}
        if name == "Viewer":
            viewer = {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
            return {"data": {"viewer": viewer}}
        if name == "CreateRunFiles":
            files = [{"name": each, "uploadUrl": f"{url}/files"} for each in given["files"]]
            return {"data": {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}}
        return {"data": None, "errors": [{"message": "there is no such thing here"}]}

    def _bucket(self, name: str, run: Kept) -> dict[str, Any]:
        history, events = (run.lines.get(f"wandb-{each}.jsonl", []) for each in ("history", "events"))
        return {
            **{"id": name, "name": name, "displayName": run.fields.get("displayName"), "notes": None},
            **{"config": run.fields.get("config", "{}"), "wandbConfig": '{"t": 1}', "tags": run.fields.get("tags", [])},
            **{"summaryMetrics": json.dumps(run.summary), "logLineCount": len(run.lines.get("output.log", []))},
            **{"historyLineCount": len(history), "historyTail": json.dumps(history[-1:])},
            **{"eventsLineCount": len(events), "eventsTail": json.dumps(events[-1:])},
        }

    def stream(self, name: str, sent: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(name, Kept())
        for file, chunk in (sent.get("files") or {}).items():
            lines, first = run.lines.setdefault(file, []), chunk["offset"]
            lines[first : first + len(chunk["content"])] = chunk["content"]
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]
        return {}


@contextmanager
def serving() -> Iterator[tuple[Server, str]]:
    """A server and its address, for as long as the block lasts."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content = gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content
            server.text += content.decode(errors="replace")
            answer: dict[str, Any] = {}
            if self.path.endswith("/graphql"):
                answer = server.graphql(json.loads(content), url)
            elif self.path.endswith("/file_stream"):
                answer = server.stream(self.path.split("/")[-2], json.loads(content))
            said = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_PUT = do_GET = do_POST

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up
    url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield server, url
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def read(file: Path) -> list[Any]:
    """The records of a start that has ended; the last ones come a moment later, by wandb's own process."""
    deadline = time.monotonic() + 60
    while True:
        found = [*records(file)]
        if any(each.HasField("exit") for each in found):
            return found
        assert time.monotonic() < deadline, f"{file} has no end"
        time.sleep(0.1)
