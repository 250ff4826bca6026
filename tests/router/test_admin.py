"""Health, readiness and the metrics' names."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from octavo_router.admin import create_app
from octavo_router.metrics import Figures


class Admin:
    def __init__(self) -> None:
        self.figures = Figures()
        self.unready: str | None = None
        self.broken: str | None = None
        app = create_app(lambda: self.figures, lambda: self.unready, lambda: self.broken)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin")


async def test_readiness_and_health_say_why_not() -> None:
    admin = Admin()
    assert (await admin.http.get("/readyz")).status_code == 200
    admin.unready = "The router is leaving."
    response = await admin.http.get("/readyz")
    assert (response.status_code, response.json()["message"]) == (503, "The router is leaving.")
    assert (await admin.http.get("/healthz")).status_code == 200
    admin.broken = "Discovery has ended."
    assert (await admin.http.get("/healthz")).status_code == 503


async def test_metrics_show_what_was_counted() -> None:
    admin = Admin()
    model = admin.figures.of("ns/m")
    model.answered(200)
    model.answered(200)
    model.answered(503)
    model.in_flight = 3
    model.first_byte(0.003)
    model.first_byte(100.0)
    admin.figures.retries = 4
    text = (await admin.http.get("/metrics")).text
    samples = {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }
    assert samples["octavo_router_requests_total", (("code", "200"), ("model", "ns/m"))] == 2
    assert samples["octavo_router_requests_total", (("code", "503"), ("model", "ns/m"))] == 1
    assert samples["octavo_router_requests_in_flight", (("model", "ns/m"),)] == 3
    assert samples["octavo_router_retries_total", ()] == 4
    ttft = "octavo_router_time_to_first_byte_seconds"
    assert samples[f"{ttft}_bucket", (("le", "0.0025"), ("model", "ns/m"))] == 0
    assert samples[f"{ttft}_bucket", (("le", "0.005"), ("model", "ns/m"))] == 1
    assert samples[f"{ttft}_count", (("model", "ns/m"),)] == 2
    assert samples[f"{ttft}_sum", (("model", "ns/m"),)] == 100.003
