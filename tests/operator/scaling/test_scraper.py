"""Pods are scraped for who asks, and for no one else."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from octavo_operator.observed.pod import Pod, PodStatus
from octavo_operator.observed.wire import Condition
from octavo_operator.scaling import scraper
from octavo_operator.scaling.samples import Samples
from octavo_operator.scaling.scraper import INTERVAL, LONGEST, Scraper
from octavo_operator.telemetry import Telemetry

METRIC = "octavo_num_requests_waiting"


def pod(name: str, ready: bool = True, deployment: str = "m") -> Pod:
    conditions = [Condition(type="Ready", status="True" if ready else "False")]
    status = PodStatus(pod_ip="127.0.0.1", conditions=conditions)
    return Pod(name=name, namespace="here", deployment=deployment, status=status)


async def in_pieces(request: web.Request, pieces: list[bytes]) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for piece in pieces:
        await response.write(piece)
        for _ in range(100):  # turns of the event loop, in which the other side reads
            await asyncio.sleep(0)
    return response


class World:
    """Engines that all answer on one port and count how often they were asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.again = asyncio.Event()
        self.slow = False
        self.pieces: list[bytes] = []  # of the answer, instead of a value
        self.pods = [pod("a"), pod("loading", ready=False), pod("other", deployment="other")]
        self.samples = Samples()
        self.scraper: Scraper

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        if self.asked > 1:
            self.again.set()
        if self.slow:
            await asyncio.Event().wait()
        if self.pieces:
            return await in_pieces(request, self.pieces)
        return web.Response(text=f"{METRIC} {self.asked}\n")

    def value(self, name: str = "a") -> float | None:
        found = self.samples.get(("here", name), METRIC, time.time())
        return found[0] if found else None


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    found = World()
    app = web.Application()
    app.add_routes([web.get("/metrics", found.metrics)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    found.scraper = Scraper(lambda: found.pods, found.samples, Telemetry(), port)
    running = asyncio.create_task(found.scraper.run())
    try:
        await found.scraper.started.wait()
        yield found
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await runner.cleanup()


async def test_who_asks_first_gets_a_sample_taken_for_him() -> None:
    async with world() as w:
        assert w.asked == 0
        await w.scraper.freshen([w.pods[0]])
        assert w.value() == 1.0


async def test_pods_that_nobody_asks_for_or_that_load_are_left_alone() -> None:
    async with world() as w:
        await w.scraper.freshen(w.pods[:2])
        await w.scraper.round()
        assert w.asked == 2
        assert (w.value("loading"), w.value("other")) == (None, None)


async def test_a_second_question_within_the_second_costs_nothing() -> None:
    async with world() as w:
        await w.scraper.freshen([w.pods[0]])
        await w.scraper.freshen([w.pods[0]])
        assert w.asked == 1


async def test_a_resource_that_was_asked_for_is_scraped_by_itself() -> None:
    async with world() as w:
        await w.scraper.freshen([w.pods[0]])
        async with asyncio.timeout(10):
            await w.again.wait()


async def test_interest_ends_when_nobody_asks_any_more() -> None:
    async with world() as w:
        await w.scraper.freshen([w.pods[0]])
        former, scraper.INTEREST = scraper.INTEREST, 0.0
        try:
            await w.scraper.round()
        finally:
            scraper.INTEREST = former
        assert (w.asked, w.value()) == (1, None)


async def test_a_pod_that_does_not_answer_holds_a_round_up_for_a_second_only() -> None:
    async with world() as w:
        w.slow = True
        began = time.monotonic()
        await w.scraper.freshen([w.pods[0]])
        assert w.value() is None
        assert time.monotonic() - began < 10 * INTERVAL  # without a bound it would never end


async def test_an_answer_that_comes_in_pieces_is_read_to_its_end() -> None:
    async with world() as w:
        w.pieces = [f"{METRIC} 1".encode(), b"2\n", f'{METRIC}{{engine="1"}} 30\n'.encode()]
        await w.scraper.freshen([w.pods[0]])
        assert w.value() == 42.0


async def test_an_answer_without_end_is_no_sample() -> None:
    async with world() as w:
        w.pieces = [f"{METRIC} 1\n".encode(), *[b"#" * LONGEST] * 2]
        await w.scraper.freshen([w.pods[0]])
        assert w.value() is None


async def test_an_answer_that_is_no_exposition_ends_nothing() -> None:
    async with world() as w:
        w.pieces = [f"{METRIC}\n".encode()]
        await w.scraper.freshen([w.pods[0]])
        assert w.value() is None
        w.pieces = []
        async with asyncio.timeout(10):
            while w.value() is None:
                w.again.clear()
                await w.again.wait()
