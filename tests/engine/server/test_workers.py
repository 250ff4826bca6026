"""Several API processes on one port: one truth in metrics and admission, drain, and each part's death."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.engine.server.running_server import UNLOADABLE, RunningServer, until

Start = Callable[..., RunningServer]
WORKERS = ("--api-workers", "3")
STREAM = {"prompt": "hello", "max_tokens": 20, "stream": True, "ignore_eos": True}


def workers(server: RunningServer) -> list[psutil.Process]:
    return children(server, "octavo_engine.server.worker")


def children(server: RunningServer, module: str) -> list[psutil.Process]:
    return [child for child in psutil.Process(server.process.pid).children() if runs(child, module)]


def runs(process: psutil.Process, module: str) -> bool:
    """Not so when it has ended since it was listed."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and module in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def ready(server: RunningServer) -> RunningServer:
    """All workers answer: connections go to any of them."""
    server.until_ready()
    until(lambda: all(connections_of(worker) for worker in workers(server)) and len(workers(server)) == 3)
    until(lambda: all(fresh(server, "/health").status_code == 200 for _ in range(12)), seconds=60)
    return server


def connections_of(worker: psutil.Process) -> list[Any]:
    return [found for found in worker.net_connections("tcp") if found.status == psutil.CONN_LISTEN]


def fresh(server: RunningServer, path: str, body: object = None) -> httpx.Response:
    """Asked on a connection of its own, which any worker may get."""
    if body is None:
        return httpx.get(server.url + path, timeout=30)
    return httpx.post(server.url + path, json=body, timeout=30)


def metric(server: RunningServer, name: str) -> float:
    lines = fresh(server, "/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(name + "{")).split()[-1])


class Streams:
    """Streams read side by side, each on a connection of its own."""

    def __init__(self, server: RunningServer, count: int, **changes: object) -> None:
        self.lines: list[list[str]] = [[] for _ in range(count)]
        self.statuses = [0] * count
        self._url, self._body = server.url + "/v1/completions", {**STREAM, **changes}
        self._threads = [threading.Thread(target=self._read, args=(i,), daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def _read(self, place: int) -> None:
        try:
            with httpx.stream("POST", self._url, json=self._body, timeout=60) as answer:
                self.statuses[place] = answer.status_code
                self.lines[place].extend(line for line in answer.iter_lines() if line)
        except httpx.TransportError:
            self.lines[place].append("broken")

    def finish(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a stream never ended"


@pytest.fixture(scope="module")
def shared(tiny_model: Path) -> Iterator[RunningServer]:
    server = RunningServer(tiny_model, *WORKERS)
    try:
        yield ready(server)
    finally:
        server.close()


def test_metrics_count_the_requests_of_all_workers_and_ids_are_unique(shared: RunningServer) -> None:
    before = metric(shared, "octavo_e2e_request_latency_seconds_count")
    body = {"prompt": "hello", "max_tokens": 4, "ignore_eos": True}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: fresh(shared, "/v1/completions", body), range(40)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 40
    assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1
    for name in ("octavo_e2e_request_latency_seconds_count", "octavo_time_to_first_token_seconds_count"):
        assert {metric(shared, name) for _ in range(12)} == {before + 40}
    assert {metric(shared, "octavo_generation_tokens_total") for _ in range(12)} == {4 * (before + 40)}
    assert {metric(shared, "octavo_http_requests_active") for _ in range(12)} == {0}


def test_the_requests_spread_over_the_workers(start: Start) -> None:
    server = ready(start(*WORKERS))
    server.gate.touch()
    streams = Streams(server, 24)
    until(lambda: metric(server, "octavo_http_requests_active") == 24)
    until(lambda: sum(established(worker, server.port) > 0 for worker in workers(server)) == 3)
    server.gate.unlink()
    streams.finish()
    assert all(lines[-1] == "data: [DONE]" for lines in streams.lines)


def established(worker: psutil.Process, port: int) -> int:
    return sum(
        found.status == psutil.CONN_ESTABLISHED and found.laddr.port == port
        for found in worker.net_connections("tcp")
    )


def test_the_queue_has_one_limit_for_all_workers(start: Start) -> None:
    server = ready(start(*WORKERS, "--max-num-seqs", "1", "--max-waiting", "2"))
    server.gate.touch()
    waiting = Streams(server, 1)
    until(lambda: metric(server, "octavo_http_requests_active") == 1)
    more = Streams(server, 9)
    until(lambda: metric(server, "octavo_http_requests_active") + more.statuses.count(429) == 10)
    server.gate.unlink()
    waiting.finish()
    more.finish()
    done = [lines[-1] == "data: [DONE]" for lines in more.lines]
    assert more.statuses.count(200) == sum(done)
    assert sum(done) <= 3
    refused = [lines[-1] for lines, status in zip(more.lines, more.statuses, strict=True) if status == 429]
    assert refused
    assert {json.loads(line)["error"]["code"] for line in refused} == {"queue_full"}


def test_a_client_that_leaves_frees_its_place(shared: RunningServer) -> None:
    for _ in range(6):
        body = {**STREAM, "max_tokens": 4000}
        with httpx.stream("POST", shared.url + "/v1/completions", json=body, timeout=30) as answer:
            next(answer.iter_lines())
    until(lambda: metric(shared, "octavo_num_requests_running") == 0)
    until(lambda: metric(shared, "octavo_http_requests_active") == 0)


def test_a_dead_worker_is_replaced_and_the_streams_of_the_others_go_on(start: Start) -> None:
    server = ready(start(*WORKERS))
    server.gate.touch()
    streams = Streams(server, 24)
    until(lambda: metric(server, "octavo_http_requests_active") == 24)
    victim = next(worker for worker in workers(server) if established(worker, server.port))
    lost = established(victim, server.port)
    victim.kill()
    until(lambda: victim.pid not in {worker.pid for worker in workers(server)} and len(workers(server)) == 3)
    server.gate.unlink()
    streams.finish()
    assert sum(lines == ["broken"] or "broken" in lines for lines in streams.lines) <= lost
    assert sum(lines[-1] == "data: [DONE]" for lines in streams.lines) >= 24 - lost > 0
    until(lambda: metric(server, "octavo_num_requests_running") == 0)
    ready(server)
    assert {metric(server, "octavo_http_requests_active") for _ in range(12)} == {0}
    body = {"prompt": "hello", "max_tokens": 2}
    assert {fresh(server, "/v1/completions", body).status_code for _ in range(12)} == {200}


def test_sigterm_drains_every_worker_and_exits_0(start: Start) -> None:
    server = ready(start(*WORKERS, "--drain-timeout", "30"))
    server.gate.touch()
    streams = Streams(server, 12)
    until(lambda: metric(server, "octavo_http_requests_active") == 12)
    server.process.send_signal(signal.SIGTERM)
    until(lambda: all(fresh(server, "/health").json()["status"] == "draining" for _ in range(12)))
    refused = [fresh(server, "/v1/completions", {"prompt": "late", "max_tokens": 1}) for _ in range(6)]
    server.gate.unlink()
    streams.finish()
    assert {answer.status_code for answer in refused} == {503}
    assert all("retry-after" in answer.headers for answer in refused)
    assert all(lines[-1] == "data: [DONE]" for lines in streams.lines)
    assert server.end()[0] == 0


def test_a_second_sigterm_ends_all_processes_at_once(start: Start) -> None:
    server = ready(start(*WORKERS, "--drain-timeout", "60"))
    server.gate.touch()
    Streams(server, 4)
    until(lambda: metric(server, "octavo_http_requests_active") == 4)
    family = psutil.Process(server.process.pid).children()
    server.process.send_signal(signal.SIGTERM)
    until(lambda: fresh(server, "/health").json()["status"] == "draining")
    server.process.send_signal(signal.SIGTERM)
    code, stderr = server.end()
    assert code == 1
    assert stderr.splitlines()[-1] == "Stopped at once: running requests were not finished."
    assert not psutil.wait_procs(family, timeout=10)[1]


def test_the_cores_death_is_told_on_every_stream_and_ends_the_server(start: Start) -> None:
    server = ready(start(*WORKERS))
    streams = Streams(server, 9, max_tokens=4000)
    until(lambda: metric(server, "octavo_num_requests_running") == 9)
    (core,) = children(server, "octavo_engine.core_process")
    core.kill()
    code, stderr = server.end()
    streams.finish()
    for lines in streams.lines:
        assert lines[-2] == "event: error"
        assert "killed" in json.loads(lines[-1].removeprefix("data: "))["error"]["message"]
    assert code == 1
    assert stderr.splitlines()[-1].startswith("The engine core was killed (SIGKILL)")


def test_no_process_outlives_the_supervisor(start: Start) -> None:
    server = ready(start(*WORKERS))
    family = psutil.Process(server.process.pid).children()
    server.process.kill()
    assert len(family) == 4
    assert not psutil.wait_procs(family, timeout=20)[1]


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (("--chat-template", "/nowhere"), 2, "--chat-template /nowhere cannot be read"),
        (("--api-workers", "0"), 2, "--api-workers must be between 1 and 64, not 0."),
    ],
)
def test_a_wrong_setting_is_one_sentence_and_exit_code_2(
    start: Start, flags: tuple[str, ...], code: int, sentence: str
) -> None:
    found, stderr = start(*WORKERS, *flags).end()
    assert found == code
    assert stderr.splitlines()[-1].startswith(sentence)


def test_a_model_that_does_not_load_is_one_sentence_and_exit_code_1(start: Start) -> None:
    code, stderr = start(*WORKERS, runner=UNLOADABLE).end()
    assert code == 1
    assert stderr.splitlines()[-1] == "The weights need 80 GiB and 16 are free; choose a smaller model."


def test_a_busy_port_is_told(shared: RunningServer, start: Start) -> None:
    code, stderr = start(*WORKERS, "--port", str(shared.port)).end()
    assert code == 1
    assert f"Cannot listen on 127.0.0.1 port {shared.port}" in stderr.splitlines()[-1]
