"""Limits of API keys over several routers: what is used at one is known at the others, and counted once."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import aiohttp
import httpx
import pytest
from tests.router.loopback import answers, body_for, running_pods, until
from tests.router.test_discovery import FakeApiServer, deployment, endpoint, endpoint_slice
from tests.router.test_service import ports, started
from tests.router.test_workers import comes_true, ready

from octavo_router.admin import admin_server, admin_socket, create_app
from octavo_router.errors import TokenRateError
from octavo_router.keys import Key, Keyring, KeySpec
from octavo_router.metrics import Figures
from octavo_router.objects import TOKEN_LIMIT
from octavo_router.settings import Settings
from octavo_router.sharing import Ledger, Peers, Sharing, sharing

ADA = b"sk-ada-0123456789"
NAME = "a/s/ada"
LIMIT = 600


class Process:
    """A process of a router: its figures, its keys."""

    def __init__(self, limit: int | None = LIMIT) -> None:
        self.figures = Figures()
        self.keyring = Keyring(self.figures)
        self.limit(limit)

    def limit(self, tokens: int | None) -> None:
        self.keyring.replace({"a/s": [KeySpec(NAME, "a", sha256(ADA).digest(), tokens)]})

    @property
    def ada(self) -> Key:
        return self.keyring.find(b"Bearer " + ADA)

    def refuses(self) -> bool:
        try:
            self.ada.check_rate(time.monotonic())
        except TokenRateError:
            return True
        return False


@contextlib.asynccontextmanager
async def pod(*processes: Process) -> AsyncIterator[str]:
    """Serves the admin port of a pod of these processes; gives its URL."""

    def total() -> Figures:
        figures = Figures()
        for process in processes:
            figures.add(process.figures.snapshot())
        return figures

    listening = admin_socket(Settings(host="127.0.0.1", admin_port=0))
    server = admin_server(create_app(total, lambda: None, lambda: None))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


def sharing_of(process: Process, own: str, *urls: str, alone: bool = True) -> Sharing:
    async def find() -> tuple[str, ...]:
        return urls

    return Sharing(process.keyring, own, find, alone=alone)


async def test_what_a_key_uses_at_one_replica_is_taken_at_the_other_and_not_twice_at_its_own() -> None:
    one, two = Process(), Process()
    async with pod(one) as a, pod(two) as b, aiohttp.ClientSession() as session:
        first, second = sharing_of(one, a, a, b), sharing_of(two, b, a, b)
        for each in (first, second):
            await each.compare(session)
        one.ada.used(LIMIT - 100, 0)
        for each in (first, second):
            await each.compare(session)
        assert not one.refuses()
        assert not two.refuses()
        two.ada.used(100 + LIMIT // 10, 0)  # more than fills up meanwhile
        assert two.refuses()
        assert not one.refuses()
        await first.compare(session)
        assert one.refuses()


async def test_processes_of_one_pod_share_by_its_sum() -> None:
    one, two = Process(), Process()
    async with pod(one, two) as url, aiohttp.ClientSession() as session:
        shared = [sharing_of(process, url, alone=False) for process in (one, two)]
        for each in shared:
            await each.compare(session)
        one.ada.used(LIMIT - 100, 0)
        for each in shared:
            await each.compare(session)
        assert not one.refuses(), "its own is not counted twice"
        two.ada.used(100 + LIMIT // 10, 0)
        assert not one.refuses()
        await shared[0].compare(session)
        assert one.refuses()


async def test_what_was_used_before_a_router_came_is_not_its_concern() -> None:
    old, new = Process(), Process()
    old.ada.used(50 * LIMIT, 0)
    async with pod(old) as a, pod(new) as b, aiohttp.ClientSession() as session:
        shared = sharing_of(new, b, a, b)
        await shared.compare(session)
        await shared.compare(session)
    assert not new.refuses()


@pytest.mark.parametrize("former", [None, LIMIT // 2], ids=["no limit", "another limit"])
async def test_what_was_used_before_a_limit_was_set_is_not_taken_from_it(former: int | None) -> None:
    one, two = Process(former), Process(former)
    async with pod(one) as a, pod(two) as b, aiohttp.ClientSession() as session:
        shared = sharing_of(two, b, a, b)
        await shared.compare(session)
        one.ada.used(50 * LIMIT, 0)
        for process in (one, two):
            process.limit(LIMIT)
        one.ada.used(LIMIT - 100, 0)
        await shared.compare(session)
        assert not two.refuses()
        one.ada.used(100 + LIMIT // 10, 0)
        await shared.compare(session)
        assert two.refuses()


async def test_what_a_replica_could_not_tell_comes_later_and_costs_a_minute_at_most() -> None:
    one, two = Process(), Process()
    async with pod(one) as a, pod(two) as b, aiohttp.ClientSession() as session:
        urls = [a]

        async def find() -> list[str]:
            return urls

        shared = Sharing(two.keyring, b, find, alone=True)
        await shared.compare(session)
        one.ada.used(100 * LIMIT, 0)
        urls[:] = ["http://127.0.0.1:1"]
        await shared.compare(session)
        assert not two.refuses()
        urls[:] = [a]
        await shared.compare(session)
        with pytest.raises(TokenRateError) as refused:
            two.ada.check_rate(time.monotonic())
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s <= 61


def test_a_ledger_knows_growth_only_from_what_was_told_before() -> None:
    ledger = Ledger()
    assert ledger.grown({"a": {"k": 5}}) == {}
    assert ledger.grown({"a": {"k": 7, "l": 1}, "b": {"k": 9}}) == {"a": {"k": 2, "l": 1}}
    assert ledger.grown({"b": {"k": 9}}) == {"b": {"k": 0}}
    assert ledger.grown({"a": {"k": 8, "l": 1}}) == {"a": {"k": 1, "l": 0}}


async def test_peers_are_found_by_name_and_a_name_that_leads_nowhere_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert "http://127.0.0.1:8081" in await Peers("localhost:8081").urls()
    with caplog.at_level(logging.WARNING):
        nowhere = Peers("nowhere.invalid:8081")
        assert [await nowhere.urls() for _ in range(2)] == [[], []]
    assert len(caplog.records) == 1
    assert "limits hold for each pod" in caplog.text


async def test_a_router_shares_by_its_settings() -> None:
    here, there = Process(), Process()
    async with pod(here) as a, pod(there) as b:
        own, peers = int(a.rpartition(":")[2]), b.removeprefix("http://")
        settings = Settings(host="0.0.0.0", admin_port=own, peers=peers)
        async with sharing(settings, here.keyring):

            def refused() -> bool:
                there.ada.used(LIMIT, 0)
                return here.refuses()

            await until(refused, "the limit to hold here for what is used there")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port: int = held.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def cluster(folder: Path, engine_port: int) -> AsyncIterator[str]:
    """An API server that knows the model m and the key; gives the path of a kubeconfig."""
    server, slices = FakeApiServer(), endpoint_slice("m", "m", endpoint("127.0.0.1"))
    slices["ports"] = [{"name": "http", "port": engine_port}]
    meta = {"name": "keys", "namespace": "default", "annotations": {TOKEN_LIMIT: str(LIMIT)}}
    server.objects["secrets"], server.watches["secrets"] = {}, []
    server.put("llmdeployments", deployment("m"))
    server.put("endpointslices", slices)
    server.put("secrets", {"metadata": meta, "data": {"ada": base64.b64encode(ADA).decode()}})
    await server.start()
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.port}"}}],
        "users": [{"name": "u", "user": {}}],
    }
    (folder / "config").write_text(json.dumps(config))
    try:
        yield str(folder / "config")
    finally:
        await server.stop()


async def test_a_limit_holds_for_all_workers_of_a_router(tmp_path: Path) -> None:
    used = answers(b'{"usage": {"prompt_tokens": 900, "completion_tokens": 200}}')
    environ = {"OCTAVO_API_KEYS": "true", "OCTAVO_WORKERS": "3", "OCTAVO_ADMIN_PORT": str(free_port())}
    async with running_pods(used) as (engine,), cluster(tmp_path, engine.port) as config:
        router = await started(**environ, KUBECONFIG=config, OCTAVO_LAME_DUCK="0")
        try:
            admin, port = await ports(router)

            url, headers = (
                f"http://127.0.0.1:{port}/v1/completions",
                {"Authorization": f"Bearer {ADA.decode()}"},
            )

            async def status(model: str) -> int:
                """Of a request on a connection of its own, which any worker may get."""
                async with httpx.AsyncClient() as http:
                    return (await http.post(url, content=body_for(model), headers=headers)).status_code

            async def all_refuse() -> bool:
                return {await status("unknown, so that it takes nothing") for _ in range(20)} == {429}

            async with httpx.AsyncClient() as http:
                await ready(http, admin)
            assert await status("m") == 200
            await comes_true(all_refuse)
        finally:
            router.send_signal(signal.SIGTERM)
            await router.wait()
