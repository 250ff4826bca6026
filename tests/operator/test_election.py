"""The Lease is let go of when a process is told to end, and never has two holders, whatever is done to it."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from octavo_operator.api_client import ApiClient
from octavo_operator.election import Election
from octavo_operator.errors import AlreadyExistsError, ConflictError, LeadershipLostError, NotFoundError
from octavo_operator.informer import INITIAL_END
from octavo_operator.telemetry import Telemetry


class LeaseServer:
    """An API server with one Lease; a write may be told to wait after it is done, before it is answered."""

    def __init__(self) -> None:
        self.version = 1
        self.spec: dict[str, Any] | None = {"holderIdentity": "", "leaseDurationSeconds": 1}
        self.answers, self.written = asyncio.Event(), asyncio.Event()
        self.answers.set()
        self.watches: list[asyncio.Queue[bytes]] = []

    @property
    def holder(self) -> str | None:
        return None if self.spec is None else self.spec["holderIdentity"]

    def document(self) -> dict[str, Any]:
        meta = {"name": "o", "namespace": "n", "resourceVersion": str(self.version)}
        return {"metadata": meta, "spec": self.spec}

    def write(self, kind: str, spec: dict[str, Any] | None) -> None:
        """Change the Lease, as anybody may, and tell all watches."""
        self.version += 1
        self.spec = spec if kind != "DELETED" else self.spec
        for watch in self.watches:
            watch.put_nowait(json.dumps({"type": kind, "object": self.document()}).encode())
        self.spec = spec

    async def request(self, verb: str, path: str, *, body: Any, **_: Any) -> bytes:
        if verb == "POST":
            if self.spec is not None:
                raise AlreadyExistsError(409, "AlreadyExists", "there is one")
            self.write("ADDED", body["spec"])
        elif self.spec is None:
            raise NotFoundError(404, "NotFound", "there is none")
        elif body["metadata"]["resourceVersion"] != str(self.version):
            raise ConflictError(409, "Conflict", "the object has been modified")
        else:
            self.write("MODIFIED", {**self.spec, **body["spec"]})
        answer = json.dumps(self.document()).encode()
        self.written.set()
        await self.answers.wait()
        return answer

    @asynccontextmanager
    async def lines(
        self, path: str, query: Mapping[str, str], silence: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        news = asyncio.Queue[bytes]()
        self.watches.append(news)

        async def told() -> AsyncIterator[bytes]:
            if self.spec is not None:
                yield json.dumps({"type": "ADDED", "object": self.document()}).encode()
            end = {"resourceVersion": str(self.version), "annotations": {INITIAL_END: "true"}}
            yield json.dumps({"type": "BOOKMARK", "object": {"metadata": end}}).encode()
            while True:
                yield await news.get()

        yield told()


async def at_once() -> None:
    """Nothing has to be waited for."""


def candidate(server: LeaseServer, identity: str) -> Election:
    return Election(cast(ApiClient, server), "n", "o", identity, Telemetry())


async def end_amid_a_write(server: LeaseServer, election: Election) -> None:
    """Ends the election after the server has written and before it has answered."""
    task = asyncio.create_task(election.run(at_once))
    async with asyncio.timeout(20):
        if server.answers.is_set():
            await election.won.wait()
            server.written.clear()
            server.answers.clear()
        await server.written.wait()
        task.cancel()
        await asyncio.wait([task])
        release = asyncio.create_task(election.release())
        server.answers.set()
        await release


def test_a_lease_that_is_just_being_renewed_is_released() -> None:
    async def play() -> str:
        server = LeaseServer()
        election = candidate(server, "me")
        await end_amid_a_write(server, election)
        assert not election.leads
        return str(server.holder)

    assert asyncio.run(play()) == ""


def test_a_lease_that_is_just_being_taken_is_released() -> None:
    async def play() -> str:
        server = LeaseServer()
        server.answers.clear()
        election = candidate(server, "me")
        await end_amid_a_write(server, election)
        return str(server.holder)

    assert asyncio.run(play()) == ""


@asynccontextmanager
async def leader_and_standby(server: LeaseServer) -> AsyncIterator[tuple[Election, Election]]:
    """Two replicas at work, of which the first leads and the second has heard of that."""
    first, second = candidate(server, "first"), candidate(server, "second")
    tasks = [asyncio.create_task(first.run(at_once))]
    try:
        async with asyncio.timeout(20):
            await first.won.wait()
            tasks.append(asyncio.create_task(second.run(at_once)))
            await renewal(server)
        yield first, second
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def renewal(server: LeaseServer) -> None:
    """Wait until somebody has written the Lease."""
    server.written.clear()
    async with asyncio.timeout(20):
        await server.written.wait()


async def test_a_deleted_lease_stays_its_holders() -> None:
    server = LeaseServer()
    async with leader_and_standby(server) as (first, second):
        server.write("DELETED", None)
        await renewal(server)
        assert (server.holder, first.leads, second.leads) == ("first", True, False)


async def test_a_lease_emptied_by_hand_stays_its_holders() -> None:
    server = LeaseServer()
    async with leader_and_standby(server) as (first, second):
        server.write("MODIFIED", {**(server.spec or {}), "holderIdentity": ""})
        await renewal(server)
        assert (server.holder, first.leads, second.leads) == ("first", True, False)


async def test_a_released_lease_is_taken_at_once() -> None:
    server = LeaseServer()
    async with leader_and_standby(server) as (first, second):
        await first.release()
        async with asyncio.timeout(5):
            await second.won.wait()
        assert (server.holder, first.leads) == ("second", False)


async def test_a_leader_that_sees_another_holder_ends_without_a_write() -> None:
    server = LeaseServer()
    leader = candidate(server, "first")
    task = asyncio.create_task(leader.run(at_once))
    async with asyncio.timeout(20):
        await leader.won.wait()
        server.write("MODIFIED", {**(server.spec or {}), "holderIdentity": "second"})
        taken = server.version
        with pytest.RaisesGroup(LeadershipLostError):
            await task
    assert (server.holder, server.version, leader.leads) == ("second", taken, False)


async def test_an_answer_that_comes_after_another_has_taken_the_lease_makes_no_leader() -> None:
    server = LeaseServer()
    server.answers.clear()
    first = candidate(server, "first")
    task = asyncio.create_task(first.run(at_once))
    async with asyncio.timeout(20):
        await server.written.wait()
        server.write("MODIFIED", {**(server.spec or {}), "holderIdentity": "second"})
        second = candidate(server, "second")  # whose watch tells the same, at the same time
        other = asyncio.create_task(second.run(at_once))
        server.answers.set()
        await second.won.wait()
    assert (server.holder, first.leads) == ("second", False)
    for running in (task, other):
        running.cancel()
    await asyncio.wait([task, other])


async def test_a_lease_that_another_takes_just_before_the_write_is_left_to_it() -> None:
    server = LeaseServer()
    taken = 0.0

    async def overtaken() -> None:  # heard after the turn has come, and before the write that follows
        nonlocal taken
        taken = asyncio.get_running_loop().time()
        server.write("MODIFIED", {**(server.spec or {}), "holderIdentity": "second"})

    first = candidate(server, "first")
    task = asyncio.create_task(first.run(overtaken))
    await renewal(server)
    task.cancel()
    await asyncio.wait([task])
    assert asyncio.get_running_loop().time() - taken >= 1, "the second's Lease had not run out"


async def test_a_renewal_that_gets_no_answer_is_tried_again_in_time() -> None:
    server = LeaseServer()
    leader = candidate(server, "first")
    task = asyncio.create_task(leader.run(at_once))
    async with asyncio.timeout(20):
        await leader.won.wait()
        server.answers.clear()
        await renewal(server)
        server.answers = asyncio.Event()  # what waits for the former one is never answered
        server.answers.set()
        await renewal(server)
    assert leader.leads
    task.cancel()
    await asyncio.wait([task])
