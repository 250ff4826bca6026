"""A core process and the sockets to it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import zmq

from octavo_engine.config import EngineConfig
from octavo_engine.core_process import MODEL_RUNNER, CoreSpec
from octavo_engine.fan_out import ClientAddress
from octavo_engine.messages import id_prefix


class CoreLink:
    """One API process's ends of the sockets to the core. Making it needs no event loop.

    The API process binds and the core connects: not even the core's first words can be lost, and an API
    process that is started again, as the next ``incarnation`` of ``client``, finds the core still calling.
    """

    def __init__(
        self, config: EngineConfig, address: ClientAddress, client: int = 0, incarnation: int = 0
    ) -> None:
        self.config = config
        self.id_prefix = id_prefix(client, incarnation)
        self._context = zmq.Context()
        self.requests = self._bound(zmq.PUSH, address.requests)
        self.messages = self._bound(zmq.PULL, address.messages)

    def close(self) -> None:
        self._context.destroy(linger=0)

    def _bound(self, kind: int, address: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.set_hwm(0)
        socket.bind(address)
        return socket


class CoreProcess:
    """A running core process, and the link to it of the process that started it."""

    def __init__(self, config: EngineConfig, runner: str = MODEL_RUNNER, workers: int = 0) -> None:
        """``workers``: further API processes that will link to it; ``addresses[i]`` is theirs from 1 on."""
        self.folder = Path(tempfile.mkdtemp(prefix="octavo-"))  # mode 0700: the sockets are ours alone
        self.addresses = [
            ClientAddress(f"ipc://{self.folder}/requests-{i}", f"ipc://{self.folder}/messages-{i}")
            for i in range(1 + workers)
        ]
        self.link = CoreLink(config, self.addresses[0])
        command = [sys.executable, "-m", "octavo_engine.core_process"]
        self.popen = subprocess.Popen(command, stdin=subprocess.PIPE)
        assert self.popen.stdin is not None
        self.popen.stdin.write(msgspec.json.encode(CoreSpec(config, self.addresses, runner)) + b"\n")
        self.popen.stdin.flush()

    def end(self, patience: float) -> None:
        """Wait ``patience`` seconds for the process to end by itself, then kill it; remove its traces."""
        try:
            self.popen.wait(patience)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        if self.popen.stdin is not None:
            self.popen.stdin.close()
        self.link.close()
        shutil.rmtree(self.folder, ignore_errors=True)
