"""The core in a process of its own: requests in, outputs out, its last words, and no orphans."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import zmq
from tests.engine.server.running_server import FAKE, ROOT, UNLOADABLE

from octavo_engine import core_client
from octavo_engine.config import EngineConfig, ParallelConfig, SchedulerConfig
from octavo_engine.core_client import Mailbox, OwnedCore
from octavo_engine.core_link import CoreProcess
from octavo_engine.core_process import CoreSpec, Heart, run_core
from octavo_engine.errors import CoreDied
from octavo_engine.fan_out import ClientAddress
from octavo_engine.messages import AddRequest, Heartbeat, SequenceOutput, Shutdown
from octavo_engine.sampling_params import SamplingParams

CONFIG = EngineConfig(scheduler=SchedulerConfig(max_num_seqs=4), step_timeout=30)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "engine"), str(ROOT)]))


@contextlib.asynccontextmanager
async def _core(runner: str = FAKE) -> AsyncIterator[OwnedCore]:
    core = OwnedCore(CoreProcess(CONFIG, runner))
    try:
        yield core
    finally:
        await core.close()


def _request(request_id: str, **params: int | bool) -> AddRequest:
    return AddRequest(request_id, [5, 6, 7], SamplingParams(ignore_eos=True, **params), time.time())  # type: ignore[arg-type]


async def _until_finished(mailbox: Mailbox, sequences: int) -> list[SequenceOutput]:
    outputs: list[SequenceOutput] = []
    while sum(output.finish_reason is not None for output in outputs) < sequences:
        outputs += await asyncio.wait_for(mailbox.get(), 20)
    return outputs


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  (nothing in this process tells of it)
            await asyncio.sleep(0.005)


async def test_requests_are_answered_aborted_and_told_apart() -> None:
    async with _core() as core:
        assert core.health.state == "loading"
        ready = await asyncio.wait_for(core.ready, 20)
        assert ready.max_model_len == 4096
        with core.submit([_request("a", max_tokens=5), _request("b", max_tokens=5, n=2)]) as mailbox:
            outputs = await _until_finished(mailbox, 3)
            tokens: dict[tuple[str, int], list[int]] = defaultdict(list)
            for output in outputs:
                tokens[output.request_id, output.index] += output.token_ids
            assert {key: len(ids) for key, ids in tokens.items()} == {("a", 0): 5, ("b", 0): 5, ("b", 1): 5}
            assert tokens["a", 0] == tokens["b", 0] != tokens["b", 1]
            core.forget("a")
            core.forget("b")
        with core.submit([_request("long", max_tokens=4000)]) as mailbox:
            await asyncio.wait_for(mailbox.get(), 20)
            assert core.stats.num_running == 1
        await _until(lambda: core.stats.num_running == 0)
        assert core.in_flight == 0
        assert core.health.state == "ok"


async def test_a_core_that_cannot_load_says_why() -> None:
    async with _core(UNLOADABLE) as core:
        error = await asyncio.wait_for(core.died, 20)
        assert str(error) == "The weights need 80 GiB and 16 are free; choose a smaller model."
        assert core.health == ("dead", str(error))
        with pytest.raises(CoreDied, match="80 GiB"), core.submit([_request("a")]):
            pass


async def test_whoever_waits_is_told_of_the_cores_death() -> None:
    async with _core() as core:
        await asyncio.wait_for(core.ready, 20)
        with core.submit([_request("a", max_tokens=4000)]) as mailbox:
            core.process.popen.kill()
            with pytest.raises(CoreDied, match="was killed"):
                await _until_finished(mailbox, 1)
        assert core.health.state == "dead"


async def test_a_core_whose_api_process_is_gone_ends_itself() -> None:
    async with _core() as core:
        await asyncio.wait_for(core.ready, 20)
        assert core.process.popen.stdin is not None
        core.process.popen.stdin.close()  # what the end of the API process does
        await asyncio.wait_for(core.died, 20)
        assert core.process.popen.returncode == 1


async def test_a_core_of_several_ranks_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_client, "_SILENT_SECONDS", 4)
    process = CoreProcess(msgspec.structs.replace(CONFIG, parallel=ParallelConfig(tensor=2)), FAKE)
    core = OwnedCore(process)
    try:
        await asyncio.wait_for(core.ready, 20)
        process.popen.send_signal(signal.SIGSTOP)
        error = await asyncio.wait_for(core.died, 30)
        assert str(error) == "The engine ended because rank 0 has not been heard of for 4 seconds."
        assert error.exit_code == 1
    finally:
        await core.close()


def test_a_core_whose_client_listens_no_longer_ends_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even what its heart has said last is waited for without end."""
    beaten, beat = threading.Event(), Heart._beat

    def noticed(heart: Heart, now: float) -> Heartbeat:
        beaten.set()
        return beat(heart, now)

    monkeypatch.setattr(Heart, "_beat", noticed)
    client = ClientAddress(f"ipc://{tmp_path}/requests", f"ipc://{tmp_path}/messages")
    core = threading.Thread(target=run_core, args=(CoreSpec(CONFIG, [client], FAKE),), daemon=True)
    with zmq.Context() as context, context.socket(zmq.PUSH) as requests:
        requests.bind(client.requests)
        core.start()
        assert beaten.wait(20)
        requests.send(msgspec.msgpack.encode(Shutdown()))
        core.join(20)
    assert not core.is_alive()
