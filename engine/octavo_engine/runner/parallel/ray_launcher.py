"""Ranks on several nodes: a Ray placement group holds a GPU (on CPUs: a node's share) for each."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from typing import Any

import msgspec

from octavo_engine.config import EngineConfig
from octavo_engine.errors import EngineError
from octavo_engine.runner.parallel.ray_loss import how_it_was_lost
from octavo_engine.runner.parallel.ray_node import RayProcess, answers, check_ray
from octavo_engine.runner.parallel.wire import WorkerSpec

_LOOK_SECONDS = 0.05
_KILL_SECONDS = 5.0
_log = logging.getLogger(__name__)


class RayLauncher:
    """Fulfils :class:`octavo_engine.runner.parallel.launcher.Launcher`.

    Joins the cluster at ``$RAY_ADDRESS``, or starts its head here, and waits until every rank has a place.
    Errors: ConfigError without Ray; EngineError when places are missing after the start's time.
    """

    device = 0

    def __init__(self, config: EngineConfig, *, gpus: bool) -> None:
        check_ray()
        import ray

        self._ray: Any = ray
        self._gpus = gpus
        self._patience = config.parallel.start_timeout
        self._head = _connect(ray, config)
        self.host: str = self._ray.util.get_node_ip_address()
        self._actors: dict[int, Any] = {}
        self._serving: dict[int, Any] = {}
        self._group = self._reserve(config.parallel.world_size)
        self._bundles, self._here = self._order(config.parallel.world_size)
        self._take_own_place()

    def here(self) -> list[int]:
        return self._here

    def device_of(self, rank: int) -> int:
        return 0  # Ray shows each rank its own GPU alone

    def start(self, specs: Iterable[WorkerSpec]) -> None:
        actor = self._ray.remote(RankActor)
        for spec in specs:
            self._actors[spec.rank] = actor.options(**self._place(spec.rank)).remote()
            serving = self._actors[spec.rank].serve.remote(msgspec.json.encode(spec))
            self._serving[spec.rank] = serving

    def ended(self) -> dict[int, str]:
        refs = list(self._serving.values())
        if not refs:
            return {}
        done, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        return {rank: self._how(rank, ref) for rank, ref in self._serving.items() if ref in done}

    def end(self, patience: float) -> None:
        refs = list(self._serving.values())
        if refs and patience:
            self._ray.wait(refs, num_returns=len(refs), timeout=patience)
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        self._ray.util.remove_placement_group(self._group)
        if self._head is not None and patience:
            self._ray.shutdown()
            self._head.end(_KILL_SECONDS)

    def _reserve(self, ranks: int) -> Any:
        """One bundle a rank; the first on this node."""
        bundle = {"GPU": 1.0} if self._gpus else {"CPU": 1.0}
        bundles = [dict(bundle) for _ in range(ranks)]
        bundles[0][f"node:{self.host}"] = 0.001
        group = self._ray.util.placement_group(bundles, strategy="PACK")
        if not group.wait(self._patience):
            self._ray.util.remove_placement_group(group)
            raise EngineError(self._too_few(ranks))
        return group

    def _too_few(self, ranks: int) -> str:
        kind = "GPU" if self._gpus else "CPU"
        alive = [node for node in self._ray.nodes() if node["Alive"]]
        places = [f"{node['NodeManagerAddress']} ({node['Resources'].get(kind, 0):g})" for node in alive]
        there = int(sum(node["Resources"].get(kind, 0) for node in alive))
        names = ", ".join(map(str, range(there, ranks))) or "some"
        return (
            f"{ranks} ranks need {ranks} places and Ray has found {there} within {self._patience:.0f} "
            f"seconds, on {', '.join(places)}: rank {names} is missing; see that every node has joined."
        )

    def _order(self, ranks: int) -> tuple[dict[int, int], list[int]]:
        """(rank -> bundle, ranks of this node): ranks of one node stand side by side."""
        table = self._ray.util.placement_group_table(self._group)["bundles_to_node_id"]
        nodes = {bundle: table[bundle] for bundle in range(ranks)}
        order = sorted(nodes, key=lambda bundle: (bundle != 0, nodes[bundle] != nodes[0], nodes[bundle]))
        bundles = dict(enumerate(order))
        return bundles, [rank for rank, bundle in bundles.items() if nodes[bundle] == nodes[0]]

    def _place(self, rank: int) -> dict[str, Any]:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        strategy = PlacementGroupSchedulingStrategy(self._group, self._bundles[rank])
        return {
            "num_gpus": 1 if self._gpus else 0,
            "num_cpus": 0 if self._gpus else 1,
            "scheduling_strategy": strategy,
        }

    def _take_own_place(self) -> None:
        """An actor holds rank 0's GPU, which this process uses."""
        keeper: Any = self._ray.remote(Keeper).options(**self._place(0)).remote()
        self._actors[0] = keeper
        ids = self._ray.get(keeper.gpus.remote(), timeout=self._patience)
        if self._gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, ids))

    def _how(self, rank: int, ref: Any) -> str:
        try:
            return f"ended by itself with exit code {self._ray.get(ref)}"
        except self._ray.exceptions.RayError as error:
            _log.warning("Ray has lost rank %d: %s", rank, error)
            return how_it_was_lost(error)


class RankActor:
    """A rank in an actor's process, which Ray ends with the engine's own."""

    def serve(self, spec: bytes) -> int:
        from octavo_engine.runner.parallel.worker import serve

        return serve(msgspec.json.decode(spec, type=WorkerSpec))


class Keeper:
    """Stands for rank 0 in its place."""

    def gpus(self) -> list[Any]:
        import ray

        return list(ray.get_gpu_ids())


def _connect(ray: Any, config: EngineConfig) -> RayProcess | None:
    """The head's process, where it is this one's."""
    address, head = os.environ.get("RAY_ADDRESS"), None
    if not address:
        port = config.parallel.ray_port
        head = RayProcess(["--head", f"--port={port}", "--include-dashboard=false"], ranks=1)
        address = _own_address(head, port, config.parallel.start_timeout)
    try:
        ray.init(address, log_to_driver=True, logging_level="warning", configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EngineError(f"Ray does not answer at {address}: {str(error).splitlines()[0]}") from error
    return head


def _own_address(head: RayProcess, port: int, patience: float) -> str:
    deadline = time.monotonic() + patience
    host = os.environ.get("OCTAVO_NODE_IP") or "127.0.0.1"
    while not answers(host, port, _LOOK_SECONDS):
        if how := head.ended():
            raise EngineError(f"{how}; see that port {port} is free.")
        if time.monotonic() > deadline:
            raise EngineError(f"Ray's head has not come up on port {port} within {patience:.0f} seconds.")
        time.sleep(_LOOK_SECONDS)
    return f"{host}:{port}"
