"""``octavo-engine serve --node-rank N``: another pod of a group, started with its leader's own command line.

It does what ``join`` does, and answers ``/health`` as the leader does, so that a group is ready as one.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from octavo_engine.cli.join import Node
from octavo_engine.errors import ConfigError, EngineError

_LEADER_SECONDS = 1.5  # below the probes' own limit

Answer = tuple[int, bytes]
"""Status code and JSON body."""


def add_member_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several nodes")
    group.add_argument(
        "--node-rank",
        type=int,
        default=0,
        metavar="N",
        help="0 serves; any other joins --leader, and of the other flags only those of the network count",
    )
    group.add_argument("--leader", default=None, metavar="HOST", help="host of the one with --node-rank 0")


def run_member(arguments: argparse.Namespace) -> None:
    """Until the leader is gone. Errors: EngineError; ConfigError when there is no leader."""
    if not arguments.leader:
        raise ConfigError(f"--node-rank {arguments.node_rank} needs --leader, the host of --node-rank 0.")
    logging.basicConfig(level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    leader = arguments.leader, arguments.port
    node = Node(
        arguments.leader, arguments.ray_port, arguments.group_start_timeout, lambda: is_loading(*leader)
    )
    with answering(arguments.host, arguments.port, arguments.leader, arguments.port):
        node.run()


@contextmanager
def answering(host: str, port: int, leader: str, leader_port: int) -> Iterator[int]:
    """Answer while the block runs; the value is the port. Errors: EngineError when it is taken."""

    class Handler(_Handler):
        asked = leader, leader_port

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise EngineError(
            f"Cannot listen on {host} port {port}: {error.strerror}; choose another --port."
        ) from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True, name="health").start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def leaders_health(host: str, port: int) -> Answer:
    """The leader's own answer, or 503 when it gives none."""
    connection = http.client.HTTPConnection(host, port, timeout=_LEADER_SECONDS)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/health")
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 503, _body("unreachable", f"the leader {host} does not answer")


def is_loading(host: str, port: int) -> bool:
    """Whether the leader waits for ranks. One that serves has all of its own, and ends when it misses one."""
    try:
        return msgspec.json.decode(leaders_health(host, port)[1], type=_Said).status == "loading"
    except msgspec.MsgspecError:
        return False


class _Said(msgspec.Struct):
    status: str


class _Handler(BaseHTTPRequestHandler):
    asked: tuple[str, int]

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path != "/health":
            self.send_error(404)
            return
        alive = "probe=live" in query  # this process lives, whatever the leader does
        code, body = (200, _body("ok", "")) if alive else leaders_health(*self.asked)
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing: the kubelet asks every other second."""


def _body(status: str, message: str) -> bytes:
    return msgspec.json.encode({"status": status, "message": message})
