"""Browsers of other web pages: let in when their origin is allowed, and not told anything otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.server.running_server import RunningServer

PAGE = "https://chat.example.com"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


@pytest.fixture(scope="module")
def open_server(tiny_model: Path) -> Iterator[RunningServer]:
    running = RunningServer(tiny_model, "--allowed-origins", f'["{PAGE}"]', "--api-key", "secret")
    try:
        yield running.until_ready()
    finally:
        running.close()


def test_a_page_that_is_allowed_may_ask_with_its_key(open_server: RunningServer) -> None:
    before = open_server.client.options("/v1/models", headers={"Origin": PAGE, **PREFLIGHT})
    assert before.status_code == 200
    assert before.headers["access-control-allow-origin"] == PAGE
    assert before.headers["access-control-allow-headers"] == "authorization"
    answer = open_server.client.get("/v1/models", headers={"Origin": PAGE, "Authorization": "Bearer secret"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE


def test_another_page_is_not(open_server: RunningServer) -> None:
    before = open_server.client.options("/v1/models", headers={"Origin": "https://evil.example", **PREFLIGHT})
    assert before.status_code == 400
    assert "access-control-allow-origin" not in before.headers


def test_without_the_flag_no_page_is(server: RunningServer) -> None:
    answer = server.client.get("/v1/models", headers={"Origin": PAGE})
    assert "access-control-allow-origin" not in answer.headers
