"""API keys are asked for when a request's head is there: nothing of a body is taken before."""

from __future__ import annotations

import time
from hashlib import sha256

import pytest
from tests.router.loopback import CHAT, answers, body_for, request_bytes, running_pods, running_router, until

from octavo_router.errors import TokenRateError
from octavo_router.keys import Keyring, KeySpec
from octavo_router.metrics import Figures
from octavo_router.routing import Deployment

KEY = "sk-ada-0123456789"
M = body_for("m")
RIGHT, WRONG = (f"Authorization: Bearer {key}\r\n" for key in (KEY, "sk-eve-0123456789"))
WAITS = "Expect: 100-continue\r\n"
MIB_30 = 30 << 20


def made_keyring(limit: int | None = None) -> Keyring:
    keyring = Keyring(Figures())
    keyring.replace({"a/s": [KeySpec("a/s/k", "a", sha256(KEY.encode()).digest(), limit)]})
    return keyring


def head(headers: str, framing: str = f"Content-Length: {MIB_30}\r\n") -> bytes:
    return f"POST {CHAT} HTTP/1.1\r\nHost: router\r\n{headers}{framing}\r\n".encode()


@pytest.mark.parametrize("key", ["", WRONG])
@pytest.mark.parametrize("piece", [b"", b"x" * 100_000])
async def test_without_a_known_key_no_body_is_waited_for_or_kept(key: str, piece: bytes) -> None:
    async with running_router(keyring=made_keyring(), body_timeout=60) as router:
        client = await router.client()
        client.send(head(key) + piece)
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (401, "close")
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
        assert await client.closed() == b""
        client.send(piece)
        assert router.figures.buffered_bytes == 0
        assert router.figures.unrouted.requests == {401: 1}


async def test_without_a_known_key_chunks_are_not_waited_for_either() -> None:
    async with running_router(keyring=made_keyring()) as router:
        client = await router.client()
        client.send(head(WRONG, "Transfer-Encoding: chunked\r\n"))
        assert (await client.response()).status == 401


async def test_without_a_known_key_no_body_is_invited() -> None:
    async with running_router(keyring=made_keyring()) as router:
        client = await router.client()
        client.send(head(WRONG + WAITS))
        assert (await client.closed()).startswith(b"HTTP/1.1 401 ")


async def test_the_connection_goes_on_after_a_refused_request_without_a_body() -> None:
    async with running_router(keyring=made_keyring()) as router:
        client = await router.client()
        for key, status in ((WRONG, 401), (RIGHT, 200)):
            client.send(request_bytes(b"", "/v1/models", key, method="GET"))
            assert (await client.response("GET")).status == status


async def test_with_its_key_a_body_is_invited_and_may_come_in_pieces_and_counts_once() -> None:
    keyring = made_keyring()
    async with running_pods(answers(b"ok")) as pods, running_router(keyring=keyring) as router:
        router.registry.set_deployments({"a/m": Deployment("a/m", "m", owner="a")})
        router.registry.set_addresses("a/m", [pods[0].address])
        client = await router.client()
        client.send(head(RIGHT + WAITS, f"Content-Length: {len(M)}\r\n"))
        client.expect()
        assert (await client.event()).status_code == 100
        client.send(M[:5])
        await until(lambda: router.figures.buffered_bytes == 5, "a piece of the body")
        client.send(M[5:])
        assert await client.reader.readuntil(b"ok")
        for _ in range(2):  # a head that is known by then, whole and in pieces
            client = await router.client()
            assert (await client.post(M, headers=RIGHT)).body == b"ok"
            whole = request_bytes(M, headers=RIGHT)
            client.send(whole[:-5])
            await until(lambda: router.figures.buffered_bytes == len(M) - 5, "a piece of the body")
            client.send(whole[-5:])
            assert (await client.response()).body == b"ok"
    assert [call.header("authorization") for call in pods[0].calls] == [None] * 5
    assert keyring.find(f"Bearer {KEY}".encode()).figures.requests == 5


async def test_a_key_that_has_used_its_tokens_is_told_before_its_body_is_sent() -> None:
    keyring = made_keyring(limit=10)
    key = keyring.find(f"Bearer {KEY}".encode())
    with pytest.raises(TokenRateError):
        while True:
            key.check_rate(time.monotonic())
            key.used(10_000, 0)
    async with running_router(keyring=keyring) as router:
        client = await router.client()
        client.send(head(RIGHT + WAITS))
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (429, "close")
        assert int(response.headers["retry-after"]) > 60
        client = await router.client()
        client.send(request_bytes(b"", "/v1/models", RIGHT, method="GET"))
        assert (await client.response("GET")).status == 200
    assert (key.figures.requests, key.figures.refused) == (2, 2)


async def test_a_key_that_is_taken_away_opens_no_body_behind_a_known_head() -> None:
    keyring = made_keyring()
    async with running_router(keyring=keyring) as router:
        client = await router.client()
        assert (await client.post(M, headers=RIGHT)).status == 404
        keyring.replace({"a/s": []})
        client.send(request_bytes(M, headers=RIGHT)[:-5])
        assert (await client.response()).status == 401
        assert router.figures.buffered_bytes == 0
