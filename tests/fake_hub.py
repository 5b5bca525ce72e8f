"""As much of the Hub as a download needs: a repository's list of files, and the files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Repositories = Mapping[str, Mapping[str, bytes]]
"""name -> file -> content"""


@contextmanager
def serve_hub(repositories: Repositories, sha: str) -> Iterator[str]:
    """The URL of a server that has these repositories at one commit; org/gated is gated."""
    server = _Hub(("127.0.0.1", 0), _Handler)
    server.repositories = repositories
    server.sha = sha
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Hub(ThreadingHTTPServer):
    repositories: Repositories
    sha: str


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def _answer(self) -> None:
        path = self.path.split("?")[0].strip("/")
        if path.startswith("api/models/"):
            name, _, revision = path.removeprefix("api/models/").partition("/revision/")
            self._list(name, revision)
        else:
            name, _, rest = path.partition("/resolve/")
            self._file(name, rest.partition("/")[2])

    def _list(self, name: str, revision: str) -> None:
        if name == "org/gated":
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif name not in self.server.repositories:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", self.server.sha):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [{"rfilename": file} for file in self.server.repositories[name]]
            body = {"id": name, "sha": self.server.sha, "siblings": siblings}
            body["pipeline_tag"] = "text-generation"
            self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, file: str) -> None:
        body = self.server.repositories.get(name, {}).get(file)
        if body is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        etag = hashlib.sha1(body).hexdigest()
        self._send(200, body, {"ETag": f'"{etag}"', "X-Repo-Commit": self.server.sha})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
