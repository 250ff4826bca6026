"""``/health`` while a model is being downloaded, on the port on which the engine will answer it afterwards.

This is how the operator hears of the progress: it asks the engine's pods on this port anyway, and pods need
no right at the API server for it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from octavo_engine.errors import EngineError
from octavo_engine.sources.progress import Progress


@contextmanager
def answering(host: str, port: int, progress: Progress) -> Iterator[int]:
    """Answer while the block runs; the value is the port. Errors: :class:`EngineError` when it is taken."""

    class Handler(_Handler):
        shown = progress

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise EngineError(
            f"Cannot listen on {host} port {port}: {error.strerror}; choose another --port."
        ) from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True, name="health")
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    shown: Progress

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/health":
            self.send_error(404)
            return
        now = self.shown.now
        body = {"status": "downloading", "message": now.sentence, "download": now}
        encoded = msgspec.json.encode(body)
        self.send_response(503)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing: the operator asks every other second."""
