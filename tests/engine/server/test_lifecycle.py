"""The server process from start to end: loading, hanging, dying, draining."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable

import httpx
from tests.engine.server.running_server import FAULTY, UNLOADABLE, RunningServer, until

Start = Callable[..., RunningServer]
STREAM = {"prompt": "hello", "max_tokens": 20, "stream": True, "ignore_eos": True}


class OpenStream:
    """A streamed completion read by a thread of its own."""

    def __init__(self, server: RunningServer, **changes: object) -> None:
        self.lines: list[str] = []
        self.status = 0
        self._server = server
        self._body = {**STREAM, **changes}
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with httpx.stream(
            "POST", self._server.url + "/v1/completions", json=self._body, timeout=30
        ) as answer:
            self.status = answer.status_code
            self.lines.extend(line for line in answer.iter_lines() if line)

    def finish(self) -> list[str]:
        self._thread.join(20)
        assert not self._thread.is_alive(), "the stream never ended"
        return self.lines


def test_sigterm_lets_a_stream_finish_refuses_new_requests_and_exits_0(start: Start) -> None:
    server = start("--drain-timeout", "20").until_ready()
    server.gate.touch()
    stream = OpenStream(server)
    until(lambda: _in_flight(server))
    server.process.send_signal(signal.SIGTERM)
    until(lambda: server.health() == (503, "draining"))
    refused = server.client.post("/v1/completions", json={"prompt": "late", "max_tokens": 1})
    alive = server.health("live")
    server.gate.unlink()
    lines = stream.finish()
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    assert alive == (200, "draining")
    assert stream.status == 200
    assert lines[-1] == "data: [DONE]"
    assert server.end()[0] == 0


def test_a_drain_that_takes_too_long_ends_the_stream_with_an_error_and_exits_0(start: Start) -> None:
    server = start("--drain-timeout", "0.2").until_ready()
    server.gate.touch()
    stream = OpenStream(server)
    until(lambda: _in_flight(server))
    server.process.send_signal(signal.SIGTERM)
    stream.finish()
    server.gate.unlink()
    assert stream.status == 503
    assert server.end()[0] == 0


def test_a_second_sigterm_ends_at_once(start: Start) -> None:
    server = start("--drain-timeout", "60").until_ready()
    server.gate.touch()
    OpenStream(server)
    until(lambda: _in_flight(server))
    server.process.send_signal(signal.SIGTERM)
    until(lambda: server.health() == (503, "draining"))
    server.process.send_signal(signal.SIGTERM)
    code, stderr = server.end()
    assert code == 1
    assert stderr.splitlines()[-1] == "Stopped at once: running requests were not finished."


def test_a_long_step_leaves_health_quick_and_ok_and_a_hung_one_does_not(start: Start) -> None:
    server = start("--step-timeout", "2.5").until_ready()
    server.gate.touch()
    stream = OpenStream(server)
    until(lambda: _in_flight(server))
    began = time.monotonic()
    assert server.health() == (200, "ok")
    assert time.monotonic() - began < 0.5
    until(lambda: server.health() == (503, "hung"))
    assert time.monotonic() - began > 1
    assert server.health("live") == (503, "hung")
    server.gate.unlink()
    until(lambda: server.health() == (200, "ok"))
    assert stream.finish()[-1] == "data: [DONE]"


def test_the_cores_death_ends_streams_with_an_error_event_and_the_server_with_exit_code_1(
    start: Start,
) -> None:
    server = start().until_ready()
    arrived: list[str] = []
    with server.client.stream("POST", "/v1/completions", json={**STREAM, "max_tokens": 4000}) as answer:
        for line in answer.iter_lines():
            if not arrived:
                server.core.kill()
            arrived.append(line)
    code, stderr = server.end()
    events = [line for line in arrived if line]
    assert events[-2] == "event: error"
    assert "killed" in json.loads(events[-1].removeprefix("data: "))["error"]["message"]
    assert "data: [DONE]" not in events
    assert code == 1
    assert stderr.splitlines()[-1].startswith("The engine core was killed (SIGKILL)")


def test_a_model_that_does_not_load_is_one_sentence_and_exit_code_1(start: Start) -> None:
    code, stderr = start(runner=UNLOADABLE).end()
    assert code == 1
    assert stderr.splitlines()[-1] == "The weights need 80 GiB and 16 are free; choose a smaller model."
    assert "Traceback" not in stderr


def test_a_fault_in_a_step_is_told_to_the_client_and_ends_the_server(start: Start) -> None:
    server = start(runner=FAULTY).until_ready()
    answer = server.client.post("/v1/completions", json={"prompt": "hello"})
    code, stderr = server.end()
    assert answer.status_code == 503
    assert "ZeroDivisionError" in answer.json()["error"]["message"]
    assert code == 1
    assert stderr.splitlines()[-1].startswith("The engine core failed: ZeroDivisionError")


def test_a_full_queue_answers_429_and_a_missing_key_401(start: Start) -> None:
    key = {"Authorization": "Bearer secret"}
    server = start("--max-num-seqs", "1", "--max-waiting", "1", "--api-key", "secret").until_ready()
    server.client.headers = httpx.Headers(key)
    server.gate.touch()
    streams = _fill(server)
    full = server.client.post("/v1/completions", json=STREAM)
    long = "x" * 10_000  # would be refused for its length, if it were tokenized
    too_long = [
        server.client.post("/v1/completions", json={"prompt": [long]}),
        server.client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": long}]}),
    ]
    server.client.headers = httpx.Headers({"Authorization": "Bearer wrong"})
    wrong = server.client.get("/v1/models")
    server.client.headers = httpx.Headers()
    missing = server.client.post("/v1/completions", json=STREAM)
    open_to_all = [server.client.get(path).status_code for path in ("/health", "/metrics", "/version")]
    server.gate.unlink()
    for stream in streams:
        stream.join(20)
    assert full.status_code == 429
    assert full.headers["retry-after"] == "1"
    assert full.json()["error"]["code"] == "queue_full"
    assert [answer.status_code for answer in too_long] == [429, 429]
    assert [wrong.status_code, missing.status_code] == [401, 401]
    assert open_to_all == [200, 200, 200]


def _fill(server: RunningServer) -> list[threading.Thread]:
    """One request runs (its step is held up), one waits."""
    headers = {"Authorization": "Bearer secret"}

    def post() -> None:
        httpx.post(
            server.url + "/v1/completions", json={**STREAM, "stream": False}, headers=headers, timeout=30
        )

    threads = [threading.Thread(target=post, daemon=True) for _ in range(2)]
    for count, thread in enumerate(threads, 1):
        thread.start()
        until(lambda count=count: server.metric("octavo_http_requests_active") == count)
    return threads


def _in_flight(server: RunningServer) -> bool:
    return server.metric("octavo_http_requests_active") == 1
