"""Load and pods for bench/router.py, in one process and one event loop, so that both fit on one core.

Usage: python bench/router_peer.py WORKLOAD PORT FIRST_POD_PORT SECONDS [AMOUNT]. Prints one JSON object.
PORT is the router's, or the first pod's own for the same without a router. AMOUNT: see WORKLOADS.
The pods do not parse more than they must: what is measured is the router.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import cast

import uvloop

PODS = 8
CHUNK_BYTES = 250
CHUNKS_PER_S = 25
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    b"x-answer: %b\r\ncontent-length: %d\r\n\r\n"
)
JSON_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
Figures = dict[str, float]


def request(body_bytes: int, kind: str) -> bytes:
    """A chat request of about `body_bytes`; `kind` tells the pod how to answer: json, stream or silent."""
    text = "x" * max(0, body_bytes - 100)
    body = json.dumps({"model": "bench", "messages": [{"role": "user", "content": text}]}).encode()
    return HEAD % (kind.encode(), len(body)) + body


def quantile(values: list[float], q: float) -> float:
    return statistics.quantiles(values, n=1000, method="inclusive")[round(q * 1000) - 1]


class PodConnection(asyncio.Protocol):
    """Answers as the request's `x-answer` says."""

    transport: asyncio.Transport

    def __init__(self, pods: Pods) -> None:
        self._pods = pods
        self._missing = 0
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            end = data.index(b"\r\n\r\n") + 4
            at = data.index(b"content-length: ", 0, end) + 16
            self._missing = int(data[at : data.index(b"\r", at)]) + end
            self._head = data[:end]
        self._missing -= len(data)
        if not self._missing:
            self._answer()

    def _answer(self) -> None:
        if b"x-answer: json" in self._head:
            self.transport.write(JSON_ANSWER)
        elif b"x-answer: stream" in self._head:
            self.transport.write(STREAM_HEAD + chunk())
            self._pods.streams[self.transport] = None
        else:
            self._pods.silent.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._pods.lost(time.perf_counter())
        self._pods.streams.pop(self.transport, None)


def chunk() -> bytes:
    """One SSE event of CHUNK_BYTES that carries the time it was sent at."""
    text = b"data: %020d " % time.perf_counter_ns()
    return b"%x\r\n%b\n\n\r\n" % (CHUNK_BYTES, text.ljust(CHUNK_BYTES - 2, b"."))


class Pods:
    """All pods of the bench. `lost` is told when a connection of a client or of the router ends."""

    def __init__(self) -> None:
        self.streams: dict[asyncio.Transport, None] = {}  # open streams, in order
        self.silent = asyncio.Event()  # a request has come that gets no answer
        self.lost: Callable[[float], None] = lambda when: None

    async def start(self, first_port: int) -> None:
        loop = asyncio.get_running_loop()
        for number in range(PODS):
            await loop.create_server(
                lambda: PodConnection(self), "127.0.0.1", first_port + number, backlog=4096
            )

    async def pump(self, until: float, rate: float) -> None:
        """Sends `rate` chunks a second on each stream, spread evenly over time."""
        streams = list(self.streams)
        started, sent = time.perf_counter(), 0
        while (now := time.perf_counter()) < until:
            due = int((now - started) * rate * len(streams)) - sent
            for number in range(sent, sent + due):
                streams[number % len(streams)].write(chunk())
            sent += due
            await asyncio.sleep(0.001)


class Caller(asyncio.Protocol):
    """A client that asks again as soon as it is answered, or reads one stream."""

    def __init__(self, data: bytes, closed_loop: bool) -> None:
        self._data = data
        self._closed_loop = closed_loop
        self.answers = self.chunks = 0
        self.latencies: list[float] = []
        self.delays: list[float] = []
        self.first = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.ask()

    def ask(self) -> None:
        self._asked = time.perf_counter()
        self.transport.write(self._data)

    def data_received(self, data: bytes) -> None:
        if not self._closed_loop:
            self._read_stream(data)
            return
        self.answers += 1
        self.latencies.append(time.perf_counter() - self._asked)
        self.ask()

    def _read_stream(self, data: bytes) -> None:
        found = data.count(b"data: ")
        self.chunks += found
        if not self.first.done():
            self.first.set_result(time.perf_counter() - self._asked)
        elif found and self.chunks % 8 == 0:
            at = data.rindex(b"data: ") + 6
            self.delays.append((time.perf_counter_ns() - int(data[at : at + 20])) / 1e6)


async def callers(count: int, port: int, data: bytes, *, closed_loop: bool) -> list[Caller]:
    loop = asyncio.get_running_loop()
    made = []
    for start in range(0, count, 50):
        batch = [
            loop.create_connection(lambda: Caller(data, closed_loop), "127.0.0.1", port)
            for _ in range(min(50, count - start))
        ]
        made += [protocol for _, protocol in await asyncio.gather(*batch)]
    return made


async def closed_loop(port: int, seconds: float, clients: int, body_bytes: int) -> Figures:
    """Requests a second, and their latency, of clients that ask again as soon as they are answered."""
    asking = await callers(clients, port, request(body_bytes, "json"), closed_loop=True)
    await asyncio.sleep(1)  # warm
    before, started = sum(c.answers for c in asking), time.perf_counter()
    for caller in asking:
        caller.latencies.clear()
    await asyncio.sleep(seconds)
    rate = (sum(c.answers for c in asking) - before) / (time.perf_counter() - started)
    latencies = [1000 * value for c in asking for value in c.latencies]
    return {"req_s": rate, "p50_ms": quantile(latencies, 0.5), "p99_ms": quantile(latencies, 0.99)}


async def open_streams(port: int, count: int) -> list[Caller]:
    streaming = await callers(count, port, request(1000, "stream"), closed_loop=False)
    await asyncio.gather(*(c.first for c in streaming))
    return streaming


async def chunks(pods: Pods, port: int, seconds: float, rate: float) -> Figures:
    """Chunks delivered a second, and their delay, with 2,400 open streams at `rate` chunks a second each."""
    reading = await open_streams(port, 2400)
    pumping = asyncio.create_task(pods.pump(time.perf_counter() + seconds + 1, rate))
    await asyncio.sleep(1)
    for caller in reading:
        caller.delays.clear()
    before, started = sum(c.chunks for c in reading), time.perf_counter()
    await pumping
    delivered = (sum(c.chunks for c in reading) - before) / (time.perf_counter() - started)
    delays = [value for c in reading for value in c.delays]
    return {"chunks_s": delivered, "p50_ms": quantile(delays, 0.5), "p99_ms": quantile(delays, 0.99)}


async def first_bytes(pods: Pods, port: int, seconds: float, streams: int) -> Figures:
    """Time to first byte of further streams, while `streams` of them run at CHUNKS_PER_S."""
    await open_streams(port, streams)
    pumping = asyncio.create_task(pods.pump(time.perf_counter() + seconds, CHUNKS_PER_S))
    data, times = request(1000, "stream"), []
    while not pumping.done():
        (caller,) = await callers(1, port, data, closed_loop=False)
        times.append(1000 * await caller.first)
        caller.transport.abort()
        await asyncio.sleep(0.005)
    return {"p50_ms": quantile(times, 0.5), "p99_ms": quantile(times, 0.99), "count": len(times)}


async def cancels(pods: Pods, port: int, kind: str, count: int = 200) -> Figures:
    """From a client's leaving to the end of the pod's connection."""
    times = []
    for _ in range(count):
        gone: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        pods.silent.clear()
        (caller,) = await callers(1, port, request(1000, kind), closed_loop=False)
        await (caller.first if kind == "stream" else pods.silent.wait())
        pods.lost = gone.set_result
        left = time.perf_counter()
        caller.transport.abort()
        times.append(1000 * (await gone - left))
        pods.lost = lambda when: None
    return {"p50_ms": quantile(times, 0.5), "p99_ms": quantile(times, 0.99)}


async def hold(port: int, streams: int) -> Figures:
    """Opens streams, says so, and keeps them until stdin closes."""
    held = await open_streams(port, streams)
    print(json.dumps({"open": len(held)}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    return {}


Workload = Callable[[Pods, int, float, float], Awaitable[Figures]]
WORKLOADS: dict[str, Workload] = {  # the last argument is AMOUNT
    "short": lambda pods, port, seconds, clients: closed_loop(port, seconds, int(clients or 64), 1000),
    "big": lambda pods, port, seconds, clients: closed_loop(port, seconds, int(clients or 16), 220_000),
    "chunks": lambda pods, port, seconds, rate: chunks(pods, port, seconds, rate or CHUNKS_PER_S),
    "ttft": lambda pods, port, seconds, streams: first_bytes(pods, port, seconds, int(streams or 1000)),
    "cancel-stream": lambda pods, port, seconds, _: cancels(pods, port, "stream"),
    "cancel-silent": lambda pods, port, seconds, _: cancels(pods, port, "silent"),
    "hold": lambda pods, port, seconds, streams: hold(port, int(streams)),
}


async def main(workload: str, port: int, first_pod_port: int, seconds: float, amount: float) -> None:
    pods = Pods()
    await pods.start(first_pod_port)
    print(json.dumps(await WORKLOADS[workload](pods, port, seconds, amount)), flush=True)


if __name__ == "__main__":
    _, name, port, first_pod_port, seconds, *amount = sys.argv
    uvloop.run(main(name, int(port), int(first_pod_port), float(seconds), float(amount[0]) if amount else 0))
