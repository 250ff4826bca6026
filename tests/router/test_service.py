"""The command `octavo-router` as a process: start, readiness, SIGTERM, and its exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import typer
from aiohttp import web
from tests.router.loopback import STREAM_HEAD, Call, answers, body_for, running_pods
from tests.router.test_discovery import FakeApiServer, deployment
from typer.testing import CliRunner

from octavo_router.__main__ import serve

ROOT = Path(__file__).parents[2]


async def started(*arguments: str, **environ: str) -> Process:
    path = os.pathsep.join([str(ROOT / "router"), os.environ.get("PYTHONPATH", "")])
    defaults = {"OCTAVO_HOST": "127.0.0.1", "OCTAVO_PORT": "0", "OCTAVO_ADMIN_PORT": "0", "PYTHONPATH": path}
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OCTAVO_", "KUBE"))}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "octavo_router", *arguments, stderr=PIPE, env=clean | defaults | environ
    )


async def ports(process: Process) -> tuple[int, int]:
    """The admin port and the API's port, from the log."""
    assert process.stderr is not None
    found: list[int] = []
    while len(found) < 2:
        line = (await asyncio.wait_for(process.stderr.readline(), 20)).decode()
        assert line, "the router ended"
        if match := re.search(r"port (\d+)|serving on \S+:(\d+)", line):
            found.append(int(match[1] or match[2]))
    return found[0], found[1]


async def test_sigterm_withdraws_readiness_finishes_streams_and_exits_with_0(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def behave(call: Call) -> None:
        await call.send(STREAM_HEAD)
        await call.event(b"data: 1\n\n")
        await go.wait()
        await call.event(b"data: [DONE]\n\n")
        await call.send(b"0\r\n\r\n")

    async with running_pods(behave) as (pod,):
        (tmp_path / "models.yaml").write_text(f"models: {{m: {{urls: ['http://127.0.0.1:{pod.port}']}}}}")
        process = await started("--static", str(tmp_path / "models.yaml"), OCTAVO_LAME_DUCK="1")
        try:
            admin, port = await ports(process)
            async with httpx.AsyncClient() as http:
                assert (await http.get(f"http://127.0.0.1:{admin}/readyz")).status_code == 200
                url = f"http://127.0.0.1:{port}/v1/completions"
                async with http.stream("POST", url, content=body_for("m")) as stream:
                    pieces = stream.aiter_raw()
                    assert await anext(pieces) == b"data: 1\n\n"
                    process.send_signal(signal.SIGTERM)
                    unready = await http.get(f"http://127.0.0.1:{admin}/readyz")
                    while unready.status_code == 200:
                        unready = await http.get(f"http://127.0.0.1:{admin}/readyz")
                    assert unready.json()["message"] == "The router is leaving."
                    models = await http.get(f"http://127.0.0.1:{port}/v1/models")
                    assert models.status_code == 200, "still accepting in the lame-duck time"
                    go.set()
                    assert b"".join([piece async for piece in pieces]) == b"data: [DONE]\n\n"
            assert await asyncio.wait_for(process.wait(), 20) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text("models: {m: {urls: ['http://127.0.0.1:1']}}")
    process = await started("--static", str(tmp_path / "models.yaml"), OCTAVO_LAME_DUCK="3600")
    try:
        admin, _ = await ports(process)
        process.send_signal(signal.SIGINT)
        async with httpx.AsyncClient() as http:
            while (await http.get(f"http://127.0.0.1:{admin}/readyz")).status_code == 200:
                assert process.returncode is None
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def health_port(process: Process) -> int:
    """The admin port alone, from the log."""
    assert process.stderr is not None
    while line := (await asyncio.wait_for(process.stderr.readline(), 20)).decode():
        if match := re.search(r"health and metrics on port (\d+)", line):
            return int(match[1])
    raise AssertionError("the router ended")


@contextlib.asynccontextmanager
async def started_before_the_models_are_known(
    folder: Path, **environ: str
) -> AsyncIterator[tuple[Process, int, asyncio.Event]]:
    """A router, its admin port, and what lets the API server list the one model that it has."""
    server, listed = FakeApiServer(), asyncio.Event()
    server.put("llmdeployments", deployment("m"))
    handle = server._handle

    async def late(request: web.Request) -> web.StreamResponse:
        await listed.wait()
        return await handle(request)

    server._handle = late  # type: ignore[method-assign]
    await server.start()
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.port}"}}
    user, context = {"name": "u", "user": {}}, {"name": "x", "context": {"cluster": "c", "user": "u"}}
    kubeconfig = {"clusters": [cluster], "users": [user], "contexts": [context], "current-context": "x"}
    (folder / "kubeconfig").write_text(json.dumps(kubeconfig))
    process = await started(KUBECONFIG=str(folder / "kubeconfig"), **environ)
    try:
        yield process, await health_port(process), listed
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await server.stop()


async def test_nothing_is_answered_before_the_models_are_known(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1/models/m"
    async with (
        started_before_the_models_are_known(tmp_path, OCTAVO_PORT=str(port)) as (process, admin, listed),
        httpx.AsyncClient() as http,
    ):
        unready = await http.get(f"http://127.0.0.1:{admin}/readyz")
        assert unready.json()["message"] == "The first list of models is not complete yet."
        assert (await http.get(f"http://127.0.0.1:{admin}/healthz")).status_code == 200
        with pytest.raises(httpx.ConnectError):
            await http.get(url)
        listed.set()
        assert process.stderr is not None
        while b"serving on" not in (line := await asyncio.wait_for(process.stderr.readline(), 20)):
            assert line, "the router ended"
        assert (await http.get(url)).status_code == 200
        assert (await http.get(f"http://127.0.0.1:{admin}/readyz")).status_code == 200


async def test_sigterm_ends_a_router_that_knows_no_models_yet(tmp_path: Path) -> None:
    async with started_before_the_models_are_known(tmp_path, OCTAVO_LAME_DUCK="3600") as (process, *_):
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0


WRONG: dict[str, tuple[list[str], dict[str, str], str]] = {
    "a setting": ([], {"OCTAVO_PORT": "x"}, "OCTAVO_PORT is 'x'"),
    "the static file": (["--static", "missing.yaml"], {}, "missing.yaml cannot be read"),
    "the kubeconfig": ([], {"KUBECONFIG": "missing"}, "missing cannot be used"),
}


@pytest.mark.parametrize(("arguments", "environ", "words"), WRONG.values(), ids=WRONG)
def test_the_exit_code_is_2_and_the_last_line_a_sentence_when_wrong_is(
    arguments: list[str], environ: dict[str, str], words: str
) -> None:
    app = typer.Typer()
    app.command()(serve)
    result = CliRunner().invoke(app, arguments, env=environ)
    assert result.exit_code == 2
    assert words in result.output.strip().splitlines()[-1]
    assert "Traceback" not in result.output


async def test_a_port_that_is_taken_is_told_in_one_sentence(tmp_path: Path) -> None:
    async with running_pods(answers()) as (pod,):
        (tmp_path / "models.yaml").write_text("models: {m: {urls: ['http://127.0.0.1:1']}}")
        process = await started("--static", str(tmp_path / "models.yaml"), OCTAVO_PORT=str(pod.port))
        _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    last = errors.decode().strip().splitlines()[-1]
    assert last.startswith("The router cannot start: ")
    assert str(pod.port) in last
    assert b"Traceback" not in errors
