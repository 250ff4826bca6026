"""Both ends of the data path on loopback: a pod that behaves as told, a router, and a client of raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import h11

from octavo_router.endpoints import Address
from octavo_router.keys import Keyring
from octavo_router.metrics import Figures
from octavo_router.proxy.gateway import Gateway
from octavo_router.proxy.pool import Pool
from octavo_router.registry import Registry, make_registry
from octavo_router.routing import Deployment
from octavo_router.settings import Settings

DEADLINE_S = 5.0
CHAT = "/v1/chat/completions"


async def until(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Waits for a condition, and fails with its name at the deadline."""
    end = asyncio.get_running_loop().time() + DEADLINE_S
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"waited {DEADLINE_S} s for {what}"
        await asyncio.sleep(0.002)


@dataclass
class Call:
    """One request that has arrived at a pod, and the means to answer it."""

    head: bytes
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def header(self, name: str) -> str | None:
        found = re.search(rf"(?im)^{re.escape(name)}: *([^\r]*)\r$", self.head.decode("latin-1"))
        return found and found[1]

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def event(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def reset(self) -> None:
        """Ends the connection with a reset, as a killed process does."""
        self.writer.transport.abort()


Behaviour = Callable[[Call], Awaitable[None]]
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def answers(body: bytes = b"{}", status: bytes = b"200 OK", headers: bytes = b"") -> Behaviour:
    async def behave(call: Call) -> None:
        length = b"content-length: %d\r\n" % len(body)
        await call.send(b"HTTP/1.1 %b\r\n%b%b\r\n%b" % (status, length, headers, body))

    return behave


def sends(data: bytes, *, then_close: bool = False) -> Behaviour:
    async def behave(call: Call) -> None:
        await call.send(data)
        if then_close:
            call.writer.close()

    return behave


def once_per_connection() -> Behaviour:
    """Answers a connection's first request; closes it as the second comes."""
    served = set()

    async def behave(call: Call) -> None:
        if call.writer in served:
            call.reset()
            return
        served.add(call.writer)
        await answers()(call)

    return behave


async def resets(call: Call) -> None:
    call.reset()


@dataclass
class Pod:
    """A server on loopback that behaves as told."""

    behave: Behaviour = field(default_factory=answers)
    calls: list[Call] = field(default_factory=list)
    opened: int = 0
    closed: int = 0
    port: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> Pod:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=1 << 26)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.opened += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b""
                call = Call(head, body, reader, writer)
                self.calls.append(call)
                await self.behave(call)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.closed += 1
            self._tasks.discard(task)
            writer.transport.abort()


@contextlib.contextmanager
def unanswering_port() -> Iterator[int]:
    """A port that leaves connections unanswered: its queue is full."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


@dataclass
class Response:
    """A response as h11, an independent parser, reads it."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool  # False: the connection ended in the response's midst

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json()["error"]["message"])


class Client:
    """A raw connection to the router."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def expect(self, method: str = "POST") -> None:
        """Tells the parser that a request has gone out."""
        if self._parser.our_state is h11.DONE and self._parser.their_state is h11.DONE:
            self._parser.start_next_cycle()
        self._parser.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        self._parser.send(h11.EndOfMessage())

    async def event(self) -> Any:
        while True:
            event = self._parser.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._parser.receive_data(await asyncio.wait_for(self.reader.read(1 << 16), DEADLINE_S))

    async def response(self, method: str = "POST") -> Response:
        """Reads one whole response, or as much as there is of it."""
        self.expect(method)
        head = await self.event()
        while isinstance(head, h11.InformationalResponse):
            head = await self.event()
        assert isinstance(head, h11.Response), head
        body, complete = bytearray(), True
        try:
            while isinstance(event := await self.event(), h11.Data):
                body += event.data
        except (h11.RemoteProtocolError, ConnectionError):
            complete = False
        headers = {name.decode(): value.decode() for name, value in head.headers}
        return Response(head.status_code, headers, bytes(body), complete)

    async def post(self, body: bytes, path: str = CHAT, headers: str = "") -> Response:
        self.send(request_bytes(body, path, headers))
        return await self.response()

    async def closed(self) -> bytes:
        """What still comes until the router closes the connection."""
        try:
            return await asyncio.wait_for(self.reader.read(-1), DEADLINE_S)
        except ConnectionError:
            return b""

    def leave(self) -> None:
        self.writer.transport.abort()


def request_bytes(body: bytes, path: str = CHAT, headers: str = "", method: str = "POST") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: router\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode("latin-1") + body


def body_for(model: str, **more: Any) -> bytes:
    return json.dumps({"model": model, **more}).encode()


@dataclass
class Router:
    """A router in this event loop, and the pods behind it."""

    gateway: Gateway
    registry: Registry
    figures: Figures
    port: int = 0
    _clients: list[Client] = field(default_factory=list)

    async def client(self) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 26)
        self._clients.append(client := Client(reader, writer))
        return client

    async def post(self, body: bytes, path: str = CHAT, headers: str = "") -> Response:
        client = await self.client()
        try:
            return await client.post(body, path, headers)
        finally:
            client.leave()

    def serve(self, model: str, *pods: Pod, **fields: Any) -> None:
        """Makes `pods` the ready pods of `model`; `fields` are those of its Deployment."""
        known = {route.deployment.key: route.deployment for route in self.registry.routes()}
        self.registry.set_deployments(known | {model: Deployment(model, model, **fields)})
        self.registry.set_addresses(model, [pod.address for pod in pods])

    def leave(self) -> None:
        for client in self._clients:
            client.leave()


@contextlib.asynccontextmanager
async def running_router(*, keyring: Keyring | None = None, **settings: Any) -> AsyncIterator[Router]:
    """A router on a free port; `settings` are fields of Settings."""
    usual = {"host": "127.0.0.1", "port": 0, "lame_duck": 0, "policy": "least-load"}
    chosen = Settings.load({}, **{**usual, **settings})
    figures = Figures()
    pool = Pool(chosen, figures)
    registry = make_registry(chosen, figures, pool.withdraw)
    gateway = Gateway(chosen, registry, pool, figures, keyring)
    router = Router(gateway, registry, figures)
    router.port = await gateway.start()
    try:
        yield router
    finally:
        router.leave()
        await gateway.stop()


@contextlib.asynccontextmanager
async def running_pods(*behaviours: Behaviour) -> AsyncIterator[list[Pod]]:
    pods = [await Pod(behave).start() for behave in behaviours]
    try:
        yield pods
    finally:
        for pod in pods:
            await pod.stop()
