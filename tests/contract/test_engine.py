"""What the operator and the router ask of the engine is there."""

import re

from prometheus_client.parser import text_string_to_metric_families

from octavo_engine.messages import EngineStats
from octavo_engine.server.metrics import Metrics
from octavo_operator.names import KV_CACHE_USAGE, REQUESTS_WAITING


def scraped() -> dict[str, float]:
    """What one scrape of a loaded engine says, by sample name."""
    stats = EngineStats(num_running=3, num_waiting=5, kv_cache_usage=0.25)
    text = Metrics("model", lambda: stats).render().decode()
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_every_metric_of_the_contract_is_served_with_its_meaning(contract: str) -> None:
    section = contract.partition("## The engine's metrics\n")[2].partition("\n## ")[0]
    wanted = {
        "octavo_num_requests_running": 3,
        "octavo_num_requests_waiting": 5,
        "octavo_kv_cache_usage_ratio": 0.25,
    }
    assert set(re.findall(r"`(octavo_[a-z_]+)`", section)) == set(wanted)
    assert wanted.items() <= scraped().items()


def test_the_metrics_that_the_operator_reads_are_served() -> None:
    assert {KV_CACHE_USAGE, REQUESTS_WAITING} <= scraped().keys()
