"""What the operator and the router ask of the engine is there."""

import re
from typing import cast, get_args
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from octavo_engine.core_client import CoreState
from octavo_engine.errors import ConfigError, CoreDied
from octavo_engine.messages import EngineStats
from octavo_engine.server.app import create_app
from octavo_engine.server.metrics import Metrics
from octavo_engine.server.serving import Serving
from octavo_operator.causes import WRONG_SETTING
from octavo_operator.desired.probes import probes
from octavo_operator.names import KV_CACHE_USAGE, PROMPT_TOKENS, REQUESTS_IN_FLIGHT, REQUESTS_WAITING


def scraped() -> dict[str, float]:
    """What one scrape of a loaded engine says, by sample name."""
    stats = EngineStats(num_running=3, num_waiting=5, kv_cache_usage=0.25, prompt_tokens=9)
    text = Metrics("model", lambda: stats).render().decode()
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples}


@pytest.fixture(scope="module")
def paths() -> set[str]:
    """The paths that the engine's HTTP server knows; its state is not touched until a request comes."""
    return set(create_app(cast(Serving, None)).openapi()["paths"])


def section(contract: str, title: str) -> str:
    return contract.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_every_metric_of_the_contract_is_served_with_its_meaning(contract: str) -> None:
    wanted = {
        "octavo_num_requests_in_flight": 8,
        "octavo_num_requests_waiting": 5,
        "octavo_kv_cache_usage_ratio": 0.25,
        "octavo_prompt_tokens_total": 9,
    }
    assert set(re.findall(r"`(octavo_[a-z_]+)`", section(contract, "The engine's metrics"))) == set(wanted)
    assert wanted.items() <= scraped().items()


def test_the_metrics_that_the_operator_reads_are_served() -> None:
    assert {KV_CACHE_USAGE, PROMPT_TOKENS, REQUESTS_IN_FLIGHT, REQUESTS_WAITING} <= scraped().keys()


def test_every_path_of_the_contract_is_served(contract: str, paths: set[str]) -> None:
    first = section(contract, "The engine's HTTP").split("\n")[0]
    listed = set(re.findall(r"`(/[a-z0-9/]+)`", first))
    assert len(listed) >= 8
    assert listed - paths == set()


@pytest.mark.parametrize("probe", probes(60).values(), ids=probes(60))
def test_the_kubelet_asks_a_path_that_is_served(probe: dict[str, dict[str, str]], paths: set[str]) -> None:
    assert urlsplit(probe["httpGet"]["path"]).path in paths


def test_every_state_of_health_is_one_of_the_contract(contract: str) -> None:
    (listed,) = re.findall(r'"status": "([a-z|]+)"', contract)
    assert {*get_args(CoreState), "draining"} == set(listed.split("|"))


def test_only_a_wrong_setting_ends_with_the_code_that_the_operator_takes_as_final() -> None:
    assert ConfigError.exit_code == WRONG_SETTING
    assert CoreDied.exit_code == 1
