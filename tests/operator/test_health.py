"""The operator's own HTTP, as Prometheus and kubelet see it."""

import time
from collections.abc import Callable

import pytest
from aiohttp.test_utils import TestClient, TestServer

from octavo_operator.api import LLMDeployment
from octavo_operator.health import MOST_SILENT, application
from octavo_operator.resource_metrics import ResourceCollector
from octavo_operator.telemetry import Telemetry


async def get(
    path: str,
    *,
    synced: bool = True,
    silent: float = 0.0,
    begun: bool = True,
    telemetry: Telemetry | None = None,
) -> tuple[int, str]:
    app = application(
        telemetry or Telemetry(), lambda: synced, lambda: time.monotonic() - silent, lambda: begun
    )
    async with TestClient(TestServer(app)) as http:
        answer = await http.get(path)
        return answer.status, await answer.text()


@pytest.mark.parametrize(
    ("path", "synced", "silent", "status"),
    [
        ("/healthz", True, 0, 200),
        ("/healthz", True, MOST_SILENT + 1, 503),
        ("/healthz", False, MOST_SILENT + 1, 200),
        ("/readyz", True, 0, 200),
        ("/readyz", False, 0, 503),
    ],
)
async def test_a_silent_watch_is_unhealthy_and_an_empty_cache_unready(
    path: str, synced: bool, silent: float, status: int
) -> None:
    assert (await get(path, synced=synced, silent=silent))[0] == status


async def test_an_operator_that_would_not_heed_a_signal_is_unready() -> None:
    assert await get("/readyz", begun=False) == (503, "the process is starting\n")
    assert (await get("/healthz", begun=False))[0] == 200


async def test_metrics_can_be_asked_for_by_name(make: Callable[..., LLMDeployment]) -> None:
    told = {"type": "Ready", "status": "True", "reason": "r", "message": "", "lastTransitionTime": ""}
    llmd = make(status={"conditions": [{**told, "observedGeneration": 1}]})
    telemetry = Telemetry()
    telemetry.registry.register(ResourceCollector(lambda: [llmd], lambda: []))
    _, all_of_them = await get("/metrics", telemetry=telemetry)
    assert "octavo_operator_condition{" in all_of_them
    assert "octavo_operator_leader " in all_of_them
    _, one = await get("/metrics?name[]=octavo_operator_leader", telemetry=telemetry)
    assert "octavo_operator_leader " in one
    assert "octavo_operator_condition" not in one
    _, condition = await get("/metrics?name[]=octavo_operator_condition", telemetry=telemetry)
    assert "octavo_operator_condition{" in condition
