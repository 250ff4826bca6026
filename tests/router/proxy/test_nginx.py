"""The same bytes to nginx: where both read a request, it is the same one, or requests could be smuggled."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.router_subjects import nginx_program
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.router.proxy.test_reader import Read, streams

DEADLINE_S = 20.0
CONFIG = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_header_timeout 2s; client_body_timeout 2s; lingering_close off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://127.0.0.1:{pod}; proxy_ignore_client_abort on; }}
  }}
}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


class Nginx:
    """A running nginx, and what it makes of streams of bytes."""

    def __init__(self, port: int, pod: int) -> None:
        self._port, self._pod = port, pod
        self._seen: dict[int, list[bytes]] = {}

    def bodies(self, written: list[bytes]) -> list[list[bytes]]:
        """For each stream the bodies of the requests that nginx passes on."""
        self._seen = {number: [] for number in range(len(written))}
        asyncio.run(self._send_all(written))
        return [self._seen[number] for number in range(len(written))]

    async def _send_all(self, written: list[bytes]) -> None:
        pod = await asyncio.start_server(self._answer, "127.0.0.1", self._pod)
        async with pod:
            await asyncio.gather(*(self._send(number, data) for number, data in enumerate(written)))

    async def _send(self, number: int, data: bytes) -> None:
        """Sends a stream, ends it, and waits until nginx has done with it."""
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(data.replace(b"/v1/x", b"/v1/%d" % number))
            with contextlib.suppress(ConnectionError, OSError):
                writer.write_eof()
                await reader.read(-1)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A pod: notes one request's body under the stream's number, which is in its path."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            number = re.search(rb" /v1/(\d+)", head)
            assert number is not None, head
            self._seen[int(number[1])].append(body)
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        writer.close()


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    program = nginx_program()
    if program is None:
        pytest.skip("nginx is not installed, and Debian's package cannot be downloaded")
    folder: Path = tmp_path_factory.mktemp("nginx")
    port, pod = free_port(), free_port()
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, port=port, pod=pod))
    with subprocess.Popen([program, "-p", str(folder), "-c", str(config)]) as process:
        try:
            await_port(port, process)
            yield Nginx(port, pod)
        finally:
            process.kill()


def await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
    raise RuntimeError(f"nginx ended with code {process.returncode}")


def test_nginx_reads_a_plain_request_as_it_is(nginx: Nginx) -> None:
    plain = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    assert nginx.bodies([plain * 2, plain[:-1]]) == [[b"abc", b"abc"], []]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(streams(), min_size=25, max_size=25))
def test_what_both_take_nginx_reads_alike(nginx: Nginx, written: list[bytes]) -> None:
    for data, theirs in zip(written, nginx.bodies(written), strict=True):
        ours = [request.body for request in Read(data).requests]
        both = min(len(ours), len(theirs))  # nginx refuses what h11 takes: a tab before a length
        assert ours[:both] == theirs[:both], f"another reading of {data!r}"
