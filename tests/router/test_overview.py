"""What the page shows: models and pods as values, added up over workers, and what has changed."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from octavo_router.admin import add_page, create_app
from octavo_router.endpoints import Address
from octavo_router.metrics import Figures
from octavo_router.overview import Overview, added_up, news, overview
from octavo_router.page import Page, read_metrics
from octavo_router.registry import Registry
from octavo_router.routing import Deployment

POD = Address("10.0.0.1", 8000)


def registry(*pods: Address, **fields: Any) -> Registry:
    found = Registry(Figures())
    found.set_deployments({"ns/m": Deployment("ns/m", "m", ("gpt-4",), **fields)})
    found.set_addresses("ns/m", pods)
    return found


@pytest.mark.parametrize(
    ("known", "state"),
    [
        (registry(POD), "ready"),
        (registry(sleeps=True, idle=True), "asleep"),
        (registry(sleeps=True), "starting"),
        (registry(sleeps=True, stalled="no access"), "stalled"),
        (registry(POD, stalled="no access"), "ready"),
        (registry(), "no pod is ready"),
    ],
)
def test_a_models_state_tells_whether_pods_are_ready_or_wanted(known: Registry, state: str) -> None:
    assert overview(known.routes())["ns/m"]["state"] == state


def test_a_model_is_waking_while_one_worker_holds_a_request() -> None:
    known, holds = (registry(sleeps=True, idle=True) for _ in range(2))
    (route,) = holds.routes()
    route.figures.held = 1
    assert [shown(each)["ns/m"]["state"] for each in (known, holds)] == ["asleep", "waking"]
    for both in ((known, holds), (holds, known)):
        assert added_up(map(shown, both))["ns/m"]["state"] == "waking"


def test_requests_of_several_workers_are_added_up() -> None:
    known = registry(POD)
    (route,) = known.routes()
    route.ready[0].enter(0.0)
    route.figures.in_flight = 1
    both = added_up([overview(known.routes()), overview(known.routes())])
    assert both["ns/m"]["in_flight"] == 2
    assert both["ns/m"]["pods"] == {"10.0.0.1:8000": {"in_flight": 2, "set_aside": False}}


def shown(known: Registry) -> Overview:
    return overview(known.routes())


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, shown(registry()), ["ns/m is here: no pod is ready"]),
        (shown(registry()), shown(registry(stalled="no access")), ["ns/m: stalled, because no access"]),
        (shown(registry()), {}, ["ns/m is deleted"]),
        (shown(registry(POD)), shown(registry(POD)), []),
        (
            shown(registry()),
            shown(registry(POD)),
            ["ns/m: ready", "ns/m: pod 10.0.0.1:8000 takes requests"],
        ),
        (
            shown(registry(POD)),
            shown(registry(sleeps=True, idle=True)),
            ["ns/m: asleep", "ns/m: pod 10.0.0.1:8000 takes no more requests"],
        ),
    ],
)
def test_news_are_what_differs(before: Overview, after: Overview, told: list[str]) -> None:
    assert list(news(before, after)) == told


def test_an_engines_metrics_are_read_over_all_labels() -> None:
    text = (
        '# HELP octavo_num_requests_running x\noctavo_num_requests_running{model_name="m"} 3.0\n'
        'octavo_kv_cache_usage_ratio{model_name="m"} 0.25\noctavo_other{a="b"} 1\n'
    )
    assert read_metrics(text) == {"running": 3.0, "kv_usage": 0.25}


def test_the_fullest_of_several_caches_is_shown_and_the_rest_is_summed() -> None:
    text = "".join(
        f'octavo_num_requests_running{{x="{x}"}} 2\noctavo_kv_cache_usage_ratio{{x="{x}"}} 0.{x}\n'
        for x in (7, 5)
    )
    assert read_metrics(text) == {"running": 4.0, "kv_usage": 0.7}


@pytest.mark.parametrize("odd", ["NaN", "+Inf", "many"])
def test_figures_that_json_cannot_hold_are_refused(odd: str) -> None:
    with pytest.raises(ValueError):
        read_metrics(f'octavo_num_requests_running{{x="1"}} {odd}\n')


async def test_the_page_is_served_only_where_it_is_added_and_lets_no_foreign_script_in() -> None:
    app = create_app(Figures, lambda: None, lambda: None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin") as http:
        assert (await http.get("/")).status_code == 404
        known = registry(POD)
        add_page(app, Page(lambda: overview(known.routes())))
        page = await http.get("/")
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        told = (await http.get("/page.json")).json()
        assert told["models"]["ns/m"]["pods"] == {"10.0.0.1:8000": {"in_flight": 0, "set_aside": False}}
        assert (await http.post("/page.json")).status_code == 405
