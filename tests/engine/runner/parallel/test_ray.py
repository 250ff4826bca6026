"""An engine over two Ray nodes of this machine: `serve` leads, `join` brings the second rank."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.engine.server.running_server import ROOT, RunningServer, free_port, until

from octavo_engine.config import CacheConfig, EngineConfig, ModelConfig, ParallelConfig
from octavo_engine.core_process import MODEL_RUNNER
from octavo_engine.errors import ConfigError
from octavo_engine.runner.parallel import ray_node
from octavo_engine.runner.start import runner_for


@pytest.fixture
def ray_port() -> int:
    return free_port()


@pytest.fixture
def joined(ray_port: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "octavo_engine", "join", "127.0.0.1", "--ray-port", str(ray_port)]
    paths = os.pathsep.join([str(ROOT / "engine"), str(ROOT)])
    # An address of its own: rank 0's place is the one at the leader's.
    environment = {**os.environ, "PYTHONPATH": paths, "OCTAVO_NODE_IP": "127.0.0.2"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    yield process
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.communicate()
    for child in family:
        if child.is_running():
            child.kill()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("shape", "befalls", "words"),
    [
        ("-tp", signal.SIGKILL, "ended without a word: it was killed, or memory ran out."),
        ("-pp", signal.SIGSTOP, "has not been heard of for "),
    ],
)
def test_a_group_of_two_nodes_answers_and_ends_as_one(
    served_folder: Path,
    ray_port: int,
    joined: subprocess.Popen[str],
    shape: str,
    befalls: signal.Signals,
    words: str,
) -> None:
    flags = [shape, "2", "--distributed-executor", "ray", "--ray-port", str(ray_port)]
    flags += ["--collective-timeout", "5"]
    flags += ["--device", "cpu", "--dtype", "float32", "--num-gpu-blocks-override", "64"]
    server = RunningServer(served_folder, *flags, runner=MODEL_RUNNER)
    try:
        until(lambda: server.health() == (200, "ok") or server.process.poll() is not None, seconds=200)
        answer = server.client.post("/v1/completions", json={"prompt": "hello", "max_tokens": 4})
        assert answer.json()["usage"]["completion_tokens"] == 4
        other = psutil.Process(joined.pid).children(recursive=True)
        (rank,) = (each for each in other if any("RankActor" in word for word in each.cmdline()))
        family = [*psutil.Process(server.process.pid).children(recursive=True), *other]
        os.kill(rank.pid, befalls)
        server.process.wait(30)
        assert server.process.returncode == 1
        assert server.process.stderr is not None
        last = server.process.stderr.read().splitlines()[-1]
        assert last.startswith("The engine ended because rank 1 ")
        assert f" on {platform.node()} {words}" in last
        assert joined.wait(40) == 1
        assert joined.stderr is not None
        assert joined.stderr.read().splitlines()[-1] == "The leader 127.0.0.1 is gone."
        _, alive = psutil.wait_procs(family, timeout=40)
        assert not alive
    finally:
        server.close()


def test_a_leader_that_does_not_come_up_is_named(ray_port: int) -> None:
    command = [sys.executable, "-m", "octavo_engine", "join", "127.0.0.1", "--ray-port", str(ray_port)]
    done = subprocess.run(
        [*command, "--group-start-timeout", "1"], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    sentence = f"The leader 127.0.0.1 has not come up on port {ray_port} within 1 seconds."
    assert done.stderr.splitlines()[-1] == sentence


def configuration(device: str, parallel: ParallelConfig) -> EngineConfig:
    return EngineConfig(
        model=ModelConfig(device=device),  # type: ignore[arg-type]
        cache=CacheConfig(num_blocks=64),
        parallel=parallel,
    )


def test_more_ranks_than_gpus_ask_for_the_extra_that_brings_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_node, "find_spec", lambda name: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ConfigError, match=r"install octavo\[engine,ray\]"):
        runner_for(configuration("cuda", ParallelConfig(tensor=2)))


def test_local_ranks_without_a_gpu_each_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ConfigError, match="4 ranks need 4 GPUs and this node has 2; lower"):
        runner_for(configuration("cuda", ParallelConfig(tensor=2, pipeline=2, executor="local")))
