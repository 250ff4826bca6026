"""`octavo-engine fetch`, and the engine's own commands with a model from afar."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from e2e.servers.hub import Hub, Repository
from tests.engine.server.running_server import ROOT, free_port, until
from tests.engine.sources.conftest import MODEL, TAKEN, names

from octavo_engine.cli.flags import Parser
from octavo_engine.cli.serve import add_serve_flags, server_options

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def begin(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "octavo_engine", "fetch", *arguments, f"--cache={tmp_path}"]
        known = {**os.environ, "PYTHONPATH": str(ROOT / "engine"), **environment}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=known)

    return begin


def test_it_prints_the_models_folder(hub: Hub, start: Start, tmp_path: Path) -> None:
    process = start("hf://org/model", f"--endpoint={hub.url}", "--link=mine")
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert Path(out.strip()) == tmp_path / "links" / "mine"
    assert names(tmp_path / "links" / "mine") == TAKEN


def test_a_refusal_is_the_last_line_and_exit_code_2(hub: Hub, start: Start) -> None:
    process = start("hf://org/none", f"--endpoint={hub.url}", HF_TOKEN="hf_secret")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert error.splitlines()[-1].startswith("hf://org/none does not exist at ")
    assert "hf_secret" not in error


def test_it_tells_its_progress_and_ends_at_once_when_told_to(hub: Hub, start: Start, tmp_path: Path) -> None:
    hub.faults.bytes_per_second = 200_000
    url = f"http://127.0.0.1:{(port := free_port())}/health"
    process = start("hf://org/model", f"--endpoint={hub.url}", f"--port={port}", "--host=127.0.0.1")

    def told() -> httpx.Response | None:
        try:
            answer = httpx.get(url)
        except httpx.TransportError:
            return None
        return answer if answer.json()["download"]["downloadedBytes"] > 100_000 else None

    answer = until(told, seconds=60)
    assert answer is not None
    assert (answer.status_code, answer.json()["status"]) == (503, "downloading")
    assert "% of 3.0 MB" in answer.json()["message"]
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 10
    assert list(tmp_path.rglob("model.safetensors.part"))


def test_the_engine_downloads_what_it_is_given(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["org/model"] = Repository(MODEL)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("OCTAVO_MODEL_CACHE", str(tmp_path))
    parser = Parser()
    add_serve_flags(parser)
    options = server_options(parser.parse_args(["hf://org/model"]))
    assert names(Path(options.engine.model.source)) == TAKEN
    assert options.model_names == ("hf://org/model",)
