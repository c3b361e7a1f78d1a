"""A Hub of the tests' own: repositories are folders, served with as much of the Hub's API as its clients need here."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


def commit(revision: str) -> str:
    """The commit that a revision names."""
    return hashlib.sha1(revision.encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    root: Path
    protocol_version = "HTTP/1.1"
    _commit = commit("main")

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self._answer(body=True, sent=self.rfile.read(length))

    def _answer(self, body: bool, sent: bytes = b"") -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "api":
            self._api(parts[1], "/".join(parts[2:4]), parts[4:], sent)
            return
        kind = parts.pop(0) if parts[0] == "datasets" else "models"
        repository = self._repository(kind, "/".join(parts[:2]), parts[3] if len(parts) > 3 else "main")
        file = (repository or self.root / "none") / "/".join(parts[4:])  # owner, name, "resolve", revision, path
        if parts[2:3] == ["resolve"] and file.is_file():
            content = file.read_bytes()
            self._send(200, content if body else b"", "application/octet-stream", content)
        else:
            self._send(404, b"", "text/plain", code="EntryNotFound" if file.parent.is_dir() else "RepoNotFound")

    def _repository(self, kind: str, name: str, revision: str) -> Path | None:
        """The folder `name`, or `name@revision`, that a revision or a commit names."""
        folder = self.root / kind / name
        for each in folder.parent.glob(f"{folder.name}*") if folder.parent.is_dir() else []:
            known = each.name.removeprefix(folder.name).removeprefix("@") or "main"
            if revision in (known, commit(known)):
                self._commit = commit(known)
                return each
        return None

    def _api(self, kind: str, name: str, rest: list[str], sent: bytes) -> None:
        repository = self._repository(kind, name, rest[1] if len(rest) > 1 else "main")
        if repository is None:
            self._send(404, b"{}", "application/json", code="RepoNotFound")
            return
        files = sorted(path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file())
        if rest[:1] == ["tree"]:
            folder = "/".join(rest[2:])
            wanted = [file for file in files if file.startswith(f"{folder}/" if folder else "")]
            self._json([self._entry(repository, file) for file in wanted])
        elif rest[:1] == ["paths-info"]:
            asked = json.loads(sent)["paths"] if sent.startswith(b"{") else []
            found: list[dict[str, Any]] = [self._entry(repository, path) for path in asked if path in files]
            folders = [path for path in asked if any(file.startswith(f"{path}/") for file in files)]
            self._json(
                found + [{"type": "directory", "path": path, "oid": self._commit, "size": 0} for path in folders]
            )
        elif not rest or rest[0] == "revision":
            siblings = [{"rfilename": file} | self._large(repository / file) for file in files]
            self._json({"id": name, "sha": self._commit, "private": False, "tags": [], "siblings": siblings})
        else:
            self._send(404, b"{}", "application/json")

    def _entry(self, repository: Path, file: str) -> dict[str, Any]:
        return {
            "type": "file",
            "path": file,
            "size": (repository / file).stat().st_size,
            "oid": _oid(repository / file),
        }

    def _large(self, file: Path) -> dict[str, Any]:
        """What the Hub tells of weights beside their name."""
        if file.suffix != ".safetensors":
            return {}
        content = file.read_bytes()
        return {"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}}

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str, content: bytes | None = None, code: str = "") -> None:
        self.send_response(status)
        whole = body if content is None else content
        headers = {"Content-Length": str(len(whole)), "Content-Type": kind, "X-Repo-Commit": self._commit}
        headers |= {"ETag": f'"{hashlib.sha1(whole).hexdigest()}"'} if content is not None else {}
        headers |= {"X-Error-Code": code} if code else {}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


def _oid(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def serve(root: Path) -> Iterator[str]:
    """The address of a Hub whose repositories are root/(datasets|models)/<owner>/<name>, other revisions <name>@<revision>."""
    handler = type("Handler", (Handler,), {"root": root})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
