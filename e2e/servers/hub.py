"""A server in the shape of a model hub, for tests: revisions, redirects, ranges, gates, and faults."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LFS_BYTES = 1000  # larger files are stored apart, as a hub stores what its users mark
PIECE = 64 * 1024


@dataclass
class Repository:
    """Files by path at one commit. A `gated` one is listed for everybody and read with the token alone."""

    files: Mapping[str, bytes]
    gated: bool = False
    private: bool = False
    branches: tuple[str, ...] = ("main",)

    @property
    def commit(self) -> str:
        text = "".join(f"{path} {git_id(content)}\n" for path, content in sorted(self.files.items()))
        return hashlib.sha1(text.encode()).hexdigest()


@dataclass
class Faults:
    """What goes wrong: each `drops` and `statuses` once for a path, `damaged` every time."""

    drops: dict[str, int] = field(default_factory=dict)  # bytes after which the connection ends
    statuses: dict[str, list[int]] = field(default_factory=dict)  # answers before the right one
    damaged: set[str] = field(default_factory=set)
    ranges: bool = True
    bytes_per_second: float = float("inf")


@dataclass(frozen=True)
class Asked:
    """One request; `path` is a file's path in its repository where it is for a file's content."""

    path: str
    range: str
    authorized: bool
    redirected: bool


class Hub:
    """Runs in threads of this process."""

    def __init__(self, host: str = "127.0.0.1", token: str = "hf_right") -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults = Faults()
        self.asked: list[Asked] = []
        self.token = token
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://{host}:{self.port}"
        # Large files come from another origin, to which no token may be sent.
        self.storage_url = f"http://localhost:{self.port}" if host == "127.0.0.1" else self.url

    @contextmanager
    def running(self) -> Iterator["Hub"]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def contents(self, path: str) -> list[Asked]:
        """The requests that were for the content of a file."""
        return [each for each in self.asked if each.path == path]


class _Handler(BaseHTTPRequestHandler):
    server_hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._list(found[1], found[2].replace("%2F", "/"))
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(found[1], found[2], found[3])
        elif found := re.fullmatch(r"/storage/([^/]+/[^/]+)/(.+)", path):
            self._send_file(found[2], self.server_hub.repositories[found[1]].files[found[2]], True)
        else:
            self._refuse(404, "EntryNotFound")

    def _list(self, name: str, revision: str) -> None:
        repository = self._repository(name)
        if repository is None or self._fails("listing"):
            pass
        elif revision not in (*repository.branches, repository.commit):
            self._refuse(404, "RevisionNotFound")
        else:
            siblings = [_sibling(path, content) for path, content in repository.files.items()]
            self._json({"id": name, "modelId": name, "sha": repository.commit, "siblings": siblings})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repository = self._repository(name)
        if repository is None:
            pass
        elif repository.gated and not self._authorized:
            self._refuse(403 if self.headers["Authorization"] else 401, "GatedRepo")
        elif revision != repository.commit or path not in repository.files:
            self._refuse(404, "EntryNotFound")
        elif len(content := repository.files[path]) <= LFS_BYTES:
            self._send_file(path, content, False)
        else:
            self._redirect(name, path, content)

    def _redirect(self, name: str, path: str, content: bytes) -> None:
        self.send_response(302)
        self.send_header("Location", f"{self.server_hub.storage_url}/storage/{name}/{path}")
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Linked-ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_file(self, path: str, content: bytes, redirected: bool) -> None:
        hub, faults = self.server_hub, self.server_hub.faults
        asked_range = self.headers.get("Range", "")
        hub.asked.append(Asked(path, asked_range, "Authorization" in self.headers, redirected))
        if self._fails(path):
            return
        begin = int(asked_range.removeprefix("bytes=").rstrip("-")) if asked_range and faults.ranges else 0
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        damage = path in faults.damaged
        self._write(
            content[begin:] if not damage else bytes(len(content) - begin), faults.drops.pop(path, None)
        )

    def _write(self, content: bytes, most: int | None) -> None:
        for at in range(0, len(content), PIECE):
            piece = content[at : at + PIECE]
            if most is not None and at + len(piece) > most:
                self.wfile.write(piece[: most - at])
                self.wfile.flush()
                self.close_connection = True
                return
            try:
                self.wfile.write(piece)
            except OSError:  # the client has left
                self.close_connection = True
                return
            time.sleep(len(piece) / self.server_hub.faults.bytes_per_second)

    def _repository(self, name: str) -> Repository | None:
        repository = self.server_hub.repositories.get(name)
        if repository is None or (repository.private and not self._authorized):
            self._refuse(404 if self._authorized else 401, "RepoNotFound")
            return None
        return repository

    @property
    def _authorized(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.server_hub.token}"

    def _fails(self, what: str) -> bool:
        """True when a fault was answered in the place of what was asked for."""
        statuses = self.server_hub.faults.statuses.get(what)
        if not statuses:
            return False
        self._refuse(statuses.pop(0), "")
        return True

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if status == 429:
            self.send_header("Retry-After", "3")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing."""


def git_id(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _sibling(path: str, content: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": git_id(content)}
    if len(content) > LFS_BYTES:
        found["lfs"] = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
            "pointerSize": 134,
        }
    return found
