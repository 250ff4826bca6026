"""Refusals of what cannot be read: each has an id, a line in the access log, and counts."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.router.loopback import CHAT, Client, Router, body_for, request_bytes, running_router

from octavo_router.access_log import AccessLog

M = body_for("m")
TRACE = "0af7651916cd43dd8448eb211c80319c"
SENT = f"X-Request-Id: mine\r\ntraceparent: 00-{TRACE}-b7ad6b7169203331-01\r\n"
POST = f"POST {CHAT}?key=SECRET HTTP/1.1\r\nHost: router\r\n{SENT}"
KNOWN = {"id": "mine", "path": CHAT, "trace": TRACE}
LIMITS = {"max_body_bytes": 2000, "max_buffered_bytes": 2000, "max_head_bytes": 1024}


@pytest.fixture
def log(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    yield descriptor, path
    os.close(descriptor)


async def lines(router: Router, path: Path) -> list[dict[str, Any]]:
    assert router.gateway.access_log is not None
    await router.gateway.access_log.close()
    text = await asyncio.to_thread(path.read_text)
    assert "SECRET" not in text
    return [json.loads(line) for line in text.splitlines()]


# What is sent, the limits, the status, and what is known of the request.
REFUSED: dict[str, tuple[str, dict[str, Any], int, dict[str, str]]] = {
    "a body announced too large": (f"{POST}Content-Length: 2001\r\n\r\n", {}, 413, KNOWN),
    "chunks too large": (f"{POST}Transfer-Encoding: chunked\r\n\r\n7D1\r\n{'a' * 2001}", {}, 413, KNOWN),
    "a chunk size that is none": (f"{POST}Transfer-Encoding: chunked\r\n\r\nx\r\n", {}, 400, KNOWN),
    "a body that does not come": (f"{POST}Content-Length: 9\r\n\r\n", {"body_timeout": 0.05}, 408, KNOWN),
    "two Hosts": (f"{POST}Host: b\r\n\r\n", {}, 400, KNOWN),
    "another expectation": (f"{POST}Expect: a-miracle\r\n\r\n", {}, 417, KNOWN),
    "a head too large": (f"{POST}A: {'b' * 2000}\r\n\r\n", {}, 431, KNOWN),
    "a head that does not end": (f"{POST}A: b\r\nC", {"header_timeout": 0.05}, 408, KNOWN),
    "a target that does not end": ("POST /v1/chat", {"header_timeout": 0.05}, 408, {}),
    "what is not HTTP": ("?\r\n\r\n", {}, 400, {}),
}


@pytest.mark.parametrize(("data", "limits", "status", "known"), REFUSED.values(), ids=REFUSED)
async def test_told_and_logged_is(
    data: str, limits: dict[str, Any], status: int, known: dict[str, str], log: tuple[int, Path]
) -> None:
    async with running_router(access_log=1, **LIMITS, **limits) as router:
        router.gateway.access_log = AccessLog(1, log[0])
        client = await router.client()
        client.send(data.encode())
        response = await client.response()
        (line,) = await lines(router, log[1])
    assert (response.status, response.headers["connection"]) == (status, "close")
    assert response.headers["x-request-id"] == line["id"]
    took, _ = line.pop("duration_ms"), line.pop("time")
    assert took >= (50 if status == 408 else 0)
    assert line == {"id": line["id"], "status": status} | known
    assert router.figures.unrouted.requests == {status: 1}


async def answered(client: Client, data: bytes) -> int:
    client.send(data)
    return (await client.response()).status


@pytest.mark.parametrize("whole", [True, False])
async def test_a_refusal_behind_a_known_head_is_as_full(whole: bool, log: tuple[int, Path]) -> None:
    async with running_router(access_log=1, **LIMITS) as router:
        router.gateway.access_log = AccessLog(1, log[0])
        client, other = await router.client(), await router.client()
        for each in (client, other):
            assert await answered(each, request_bytes(M, headers=SENT)) == 404
        large = request_bytes(b"x" * 2001, headers=SENT)
        assert await answered(client, large if whole else large[:-1]) == 413
        router.figures.buffered_bytes = 1950
        full = request_bytes(b"x" * 100, headers=SENT)
        assert await answered(other, full if whole else full[:-1]) == 503
        router.figures.buffered_bytes -= 1950
        assert router.figures.buffered_bytes == 0
        told = await lines(router, log[1])
    assert [(line["status"], {k: line[k] for k in KNOWN}) for line in told] == [
        (status, KNOWN) for status in (404, 404, 413, 503)
    ]


async def test_refusals_have_an_id_of_their_own_without_an_access_log() -> None:
    async with running_router() as router:
        ids = set()
        for data in (b"?\r\n\r\n", request_bytes(b"")[:-2] + b"Host: b\r\n\r\n"):
            client = await router.client()
            client.send(data)
            response = await client.response()
            assert response.status == 400
            ids.add(response.headers["x-request-id"])
    assert len(ids) == 2


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m"])
async def test_the_list_of_models_has_an_id(path: str) -> None:
    async with running_router() as router:
        router.serve("m")
        client = await router.client()
        for headers in (SENT, ""):
            client.send(request_bytes(b"", path, headers, method="GET"))
            response = await client.response("GET")
            assert response.status == 200
            assert (response.headers["x-request-id"] == "mine") is bool(headers)
