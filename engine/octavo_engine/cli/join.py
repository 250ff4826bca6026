"""``octavo-engine join LEADER``: give this node's GPUs to an engine whose ranks stand on several nodes."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
import time
from collections.abc import Callable

from octavo_engine.config import ParallelConfig
from octavo_engine.errors import EngineError
from octavo_engine.runner.parallel.ray_node import RayProcess, answers

_LOOK_SECONDS = 1.0
_JOIN_SECONDS = 60.0  # Ray that ends sooner had found no head that was ready
_LOST_SECONDS = 10.0  # without an answer from the leader
_log = logging.getLogger(__name__)


def add_join_flags(parser: argparse.ArgumentParser) -> None:
    parallel = ParallelConfig()
    parser.add_argument("leader", metavar="LEADER", help="host of the engine's `serve`")
    parser.add_argument("--ray-port", type=int, default=parallel.ray_port)
    parser.add_argument(
        "--group-start-timeout",
        type=float,
        default=parallel.start_timeout,
        help="seconds that the leader has to come up",
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")


def run_join(arguments: argparse.Namespace) -> None:
    """Until the leader is gone. Errors: EngineError, unless this process was told to end before."""
    logging.basicConfig(level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    Node(arguments.leader, arguments.ray_port, arguments.group_start_timeout).run()


class RayEnded(EngineError):
    pass


class Node:
    """SIGTERM lets the leader drain first: the node stays until it is gone. A second one ends at once."""

    def __init__(
        self, leader: str, port: int, patience: float, admits: Callable[[], bool] = lambda: True
    ) -> None:
        self._leader, self._port, self._patience, self._admits = leader, port, patience, admits
        self._ending = threading.Event()
        self._at_once = threading.Event()

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: (self._at_once if self._ending.is_set() else self._ending).set())
        if not self._wait_for_leader():
            return
        _log.info("Joining the engine at %s:%d.", self._leader, self._port)
        where = [f"--address={self._leader}:{self._port}"]
        if own := os.environ.get("OCTAVO_NODE_IP"):
            where.append(f"--node-ip-address={own}")
        deadline = time.monotonic() + self._patience
        while not self._joined(where, deadline):
            _log.info("Ray's head is not ready yet; trying again.")

    def _joined(self, where: list[str], deadline: float) -> bool:
        """Stay in the cluster until the leader is gone; False when it was too early to join."""
        ray, began = RayProcess(where, ranks=1), time.monotonic()
        try:
            self._stay(ray)
        except RayEnded:
            early = time.monotonic() - began < _JOIN_SECONDS and time.monotonic() < deadline
            if not early or self._ending.is_set():
                raise
            return False
        finally:
            ray.end()
        return True

    def _wait_for_leader(self) -> bool:
        """False when told to end meanwhile."""
        deadline = time.monotonic() + self._patience
        while not (self._admits() and answers(self._leader, self._port)):
            if self._ending.wait(_LOOK_SECONDS):
                return False
            if time.monotonic() > deadline:
                raise EngineError(
                    f"The leader {self._leader} has not come up on port {self._port} within "
                    f"{self._patience:.0f} seconds."
                )
        return True

    def _stay(self, ray: RayProcess) -> None:
        seen = time.monotonic()
        while not self._at_once.wait(_LOOK_SECONDS):
            if answers(self._leader, self._port):
                seen = time.monotonic()
            gone, how = time.monotonic() - seen > _LOST_SECONDS, ray.ended()
            if not gone and how is None:
                continue
            if self._ending.is_set():
                return
            if gone:
                raise EngineError(f"The leader {self._leader} is gone.")
            raise RayEnded(f"{how}")
