"""Several workers behind one port: as a process, with one killed, drained, and their figures added up."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.router.loopback import STREAM_HEAD, Call, answers, body_for, request_bytes, running_pods
from tests.router.test_service import ports, started

from octavo_router.metrics import Figures, without_gauges
from octavo_router.settings import Settings
from octavo_router.workers import worker_settings

DEADLINE_S = 30.0


async def comes_true(condition: Callable[[], Awaitable[bool]]) -> None:
    end = asyncio.get_running_loop().time() + DEADLINE_S
    while not await condition():
        assert asyncio.get_running_loop().time() < end, f"waited {DEADLINE_S} s"
        await asyncio.sleep(0.05)


async def ready(http: httpx.AsyncClient, admin: int, status: int = 200) -> None:
    async def answers_so() -> bool:
        return (await http.get(f"http://127.0.0.1:{admin}/readyz")).status_code == status

    await comes_true(answers_so)


async def metric(http: httpx.AsyncClient, admin: int, name: str) -> float:
    """The sum of a metric's samples."""
    text = (await http.get(f"http://127.0.0.1:{admin}/metrics")).text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    return sum(s.value for s in samples if s.name == name)


async def reaches(http: httpx.AsyncClient, admin: int, name: str, value: float) -> None:
    async def is_so() -> bool:
        return await metric(http, admin, name) == value

    await comes_true(is_so)


async def post_alone(port: int) -> int:
    """A request on a connection of its own, so that any of the workers may get it."""
    async with httpx.AsyncClient() as http:
        return (await http.post(f"http://127.0.0.1:{port}/v1/completions", content=body_for("m"))).status_code


async def test_workers_share_the_port_their_figures_add_up_and_a_killed_one_comes_back(
    tmp_path: Path,
) -> None:
    async with running_pods(answers()) as (pod,):
        (tmp_path / "models.yaml").write_text(f"models: {{m: {{urls: ['http://127.0.0.1:{pod.port}']}}}}")
        process = await started(
            "--static", str(tmp_path / "models.yaml"), "--workers", "2", OCTAVO_LAME_DUCK="0"
        )
        try:
            admin, port = await ports(process)
            async with httpx.AsyncClient() as http:
                await ready(http, admin)
                assert await metric(http, admin, "octavo_router_workers") == 2
                assert [await post_alone(port) for _ in range(40)] == [200] * 40
                await reaches(http, admin, "octavo_router_requests_total", 40)
                served = psutil.Process(process.pid).children()
                assert len(served) == 2
                os.kill(served[0].pid, signal.SIGKILL)
                await reaches(http, admin, "octavo_router_workers", 1)
                assert await post_alone(port) == 200, "the other one serves on"
                await ready(http, admin)
                assert len(psutil.Process(process.pid).children()) == 2
                await reaches(http, admin, "octavo_router_requests_total", 41)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_a_drain_waits_for_the_streams_of_all_workers(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def behave(call: Call) -> None:
        await call.send(STREAM_HEAD)
        await call.event(b"data: 1\n\n")
        await go.wait()
        await call.event(b"data: [DONE]\n\n")
        await call.send(b"0\r\n\r\n")

    async def stream(port: int, begun: asyncio.Semaphore) -> bytes:
        async with httpx.AsyncClient(timeout=DEADLINE_S) as http:
            url = f"http://127.0.0.1:{port}/v1/completions"
            async with http.stream("POST", url, content=body_for("m")) as response:
                pieces = response.aiter_raw()
                first = await anext(pieces)
                begun.release()
                return first + b"".join([piece async for piece in pieces])

    async with running_pods(behave) as (pod,):
        (tmp_path / "models.yaml").write_text(f"models: {{m: {{urls: ['http://127.0.0.1:{pod.port}']}}}}")
        process = await started(
            "--static", str(tmp_path / "models.yaml"), "--workers", "2", OCTAVO_LAME_DUCK="0"
        )
        try:
            admin, port = await ports(process)
            async with httpx.AsyncClient() as http:
                await ready(http, admin)
                begun = asyncio.Semaphore(0)
                streams = [asyncio.create_task(stream(port, begun)) for _ in range(12)]
                for _ in streams:
                    await asyncio.wait_for(begun.acquire(), DEADLINE_S)
                process.send_signal(signal.SIGTERM)
                await ready(http, admin, 503)
                go.set()
                assert await asyncio.gather(*streams) == [b"data: 1\n\ndata: [DONE]\n\n"] * 12
            assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text("models: {m: {urls: ['http://127.0.0.1:1']}}")
    process = await started("--static", str(tmp_path / "models.yaml"), "--workers", "2", OCTAVO_LAME_DUCK="0")
    admin, _ = await ports(process)
    async with httpx.AsyncClient() as http:
        await ready(http, admin)
    workers = psutil.Process(process.pid).children()
    process.kill()
    await process.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, workers, DEADLINE_S)
    assert not alive


async def test_a_worker_that_cannot_start_ends_all_with_its_sentence() -> None:
    process = await started("--static", "missing.yaml", "--workers", "2")
    _, errors = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode == 2
    assert b"missing.yaml cannot be read" in errors
    assert b"Traceback" not in errors


SHARES = {
    "one worker has all": (1, {}, 1000, 10),
    "shares are rounded up": (3, {}, 334, 4),
    "a worker can take the largest body": (4, {"max_body_bytes": 900}, 900, 3),
    "of a few requests each worker holds one": (16, {"hold_requests": 2}, 100, 1),
    "of none, none": (2, {"hold_requests": 0}, 500, 0),
}


@pytest.mark.parametrize(("workers", "given", "held_bytes", "held"), SHARES.values(), ids=SHARES)
def test_workers_hold_together_what_one_would(
    workers: int, given: dict[str, int], held_bytes: int, held: int
) -> None:
    usual = {"max_body_bytes": 100, "max_buffered_bytes": 1000, "hold_requests": 10}
    settings = Settings.load({}, workers=workers, **(usual | given))
    each = worker_settings(settings)
    assert (each.max_buffered_bytes, each.hold_requests) == (held_bytes, held)
    shared = {"max_buffered_bytes", "hold_requests"}
    assert each.model_dump(exclude=shared) == settings.model_dump(exclude=shared)


async def test_a_started_worker_holds_its_share_only(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text("models: {m: {urls: ['http://127.0.0.1:1']}}")
    process = await started(
        "--static",
        str(tmp_path / "models.yaml"),
        "--workers",
        "2",
        OCTAVO_LAME_DUCK="0",
        OCTAVO_MAX_BODY_BYTES="1000",
        OCTAVO_MAX_BUFFERED_BYTES="2000",
    )
    writers: list[asyncio.StreamWriter] = []
    answered: list[asyncio.Task[bytes]] = []
    try:
        admin, port = await ports(process)
        async with httpx.AsyncClient() as http:
            await ready(http, admin)
            for _ in range(32):  # spread over the two at random: neither gets none
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writers.append(writer)
                writer.write(request_bytes(b"x" * 1000)[:-1])
                answered.append(asyncio.create_task(reader.readuntil(b"\r\n\r\n")))
            for first in itertools.islice(asyncio.as_completed(answered, timeout=DEADLINE_S), 30):
                assert b" 503 " in await first
            await reaches(http, admin, "octavo_router_buffered_bytes", 2 * 999)
    finally:
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*answered, return_exceptions=True)
        process.kill()
        await process.wait()


def counted(requests: int) -> Figures:
    figures = Figures()
    model = figures.of("m")
    for _ in range(requests):
        model.answered(200)
        model.first_byte(0.003)
    model.in_flight = figures.client_connections = 3
    figures.retries = 2
    return figures


def test_figures_add_up_label_by_label_and_bucket_by_bucket() -> None:
    total = Figures()
    for requests in (2, 5):
        total.add(counted(requests).snapshot())
    model = total.of("m")
    assert model.requests == {200: 7}
    assert sum(model.ttft_counts) == 7
    assert (model.in_flight, total.client_connections, total.retries) == (6, 6, 4)


def test_what_is_gone_leaves_its_counts_and_not_its_gauges() -> None:
    total = Figures()
    total.add(without_gauges(counted(2).snapshot()))
    assert total.of("m").requests == {200: 2}
    assert (total.of("m").in_flight, total.client_connections, total.retries) == (0, 0, 2)


async def test_the_page_of_several_workers_shows_the_models_of_all(tmp_path: Path) -> None:
    async with running_pods(answers()) as (pod,):
        (tmp_path / "models.yaml").write_text(f"models: {{m: {{urls: ['http://127.0.0.1:{pod.port}']}}}}")
        words = ("--static", str(tmp_path / "models.yaml"), "--workers", "2")
        process = await started(*words, OCTAVO_LAME_DUCK="0", OCTAVO_PAGE="true")
        try:
            admin, _ = await ports(process)
            async with httpx.AsyncClient() as http:
                await ready(http, admin)
                told = (await http.get(f"http://127.0.0.1:{admin}/page.json")).json()["models"]["m"]
            assert told["state"] == "ready"
            assert list(told["pods"]) == [f"127.0.0.1:{pod.port}"]
        finally:
            process.terminate()
            await process.wait()
