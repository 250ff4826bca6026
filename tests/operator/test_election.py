"""The Lease is let go of when a process is told to end, whatever it was doing with it just then."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from octavo_operator.api_client import ApiClient
from octavo_operator.election import Election
from octavo_operator.errors import ConflictError
from octavo_operator.informer import INITIAL_END
from octavo_operator.telemetry import Telemetry


class LeaseServer:
    """An API server with one Lease; a write may be told to wait after it is done, before it is answered."""

    def __init__(self) -> None:
        self.version, self.spec = 1, dict[str, Any](holderIdentity="")
        self.answers, self.written = asyncio.Event(), asyncio.Event()
        self.answers.set()

    def document(self) -> dict[str, Any]:
        meta = {"name": "o", "namespace": "n", "resourceVersion": str(self.version)}
        return {"metadata": meta, "spec": self.spec}

    async def request(self, verb: str, path: str, *, body: Any, **_: Any) -> bytes:
        if body["metadata"]["resourceVersion"] != str(self.version):
            raise ConflictError(409, "Conflict", "the object has been modified")
        self.version += 1
        self.spec = {**self.spec, **body["spec"]}
        answer = json.dumps(self.document()).encode()
        self.written.set()
        await self.answers.wait()
        return answer

    @asynccontextmanager
    async def lines(
        self, path: str, query: Mapping[str, str], silence: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        async def told() -> AsyncIterator[bytes]:
            yield json.dumps({"type": "ADDED", "object": self.document()}).encode()
            end = {"resourceVersion": "1", "annotations": {INITIAL_END: "true"}}
            yield json.dumps({"type": "BOOKMARK", "object": {"metadata": end}}).encode()
            await asyncio.Event().wait()

        yield told()


async def end_amid_a_write(server: LeaseServer, election: Election) -> None:
    """Ends the election after the server has written and before it has answered."""
    task = asyncio.create_task(election.run())
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
        election = Election(cast(ApiClient, server), "n", "o", "me", Telemetry())
        await end_amid_a_write(server, election)
        assert not election.leads
        return str(server.spec["holderIdentity"])

    assert asyncio.run(play()) == ""


def test_a_lease_that_is_just_being_taken_is_released() -> None:
    async def play() -> str:
        server = LeaseServer()
        server.answers.clear()
        election = Election(cast(ApiClient, server), "n", "o", "me", Telemetry())
        await end_amid_a_write(server, election)
        return str(server.spec["holderIdentity"])

    assert asyncio.run(play()) == ""
