"""The Grafana board: what a person needs on every panel, and what Grafana needs to draw it."""

import itertools
import re
from typing import Any

import pytest
import yaml
from e2e.servers.board import board
from manifests.render import MONITORING

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
TYPES = {"stat", "table", "timeseries"}  # of Grafana since 9, as schemaVersion 39 has them
UNITS = {"bytes", "ops", "percentunit", "reqps", "s", "short"}  # ids of Grafana's value formats
PANELS = [panel for panel in board()["panels"] if panel["type"] != "row"]
Panel = dict[str, Any]


def expressions() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: Panel) -> None:
    assert panel["type"] in TYPES
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))
def test_a_panel_asks_the_chosen_prometheus(panel: Panel) -> None:
    assert panel["datasource"] == DATASOURCE
    assert [target["datasource"] for target in panel["targets"]] == [DATASOURCE] * len(panel["targets"])
    names = [target["refId"] for target in panel["targets"]]
    assert names == sorted(set(names))
    if len(names) > 1:
        assert len({target["legendFormat"] for target in panel["targets"]}) == len(names)


def test_the_variables_are_those_that_queries_use() -> None:
    variables = {each["name"]: each for each in board()["templating"]["list"]}
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["model"]["datasource"] == DATASOURCE
    used = set(re.findall(r"\$\{?(\w+)", str([PANELS, board()["annotations"]])))
    assert used == {*variables, "__rate_interval"}


def test_counters_are_read_as_rates() -> None:
    for expression in expressions():
        counters = re.findall(r"(\w*\(?)octavo_\w+_(?:total|bucket)\b", expression)
        assert set(counters) <= {"rate(", "increase("}, expression


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    found = board()["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in found)
        for x, y in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


def test_the_alerts_thresholds_are_drawn() -> None:
    drawn = {
        step["value"]
        for panel in PANELS
        for step in panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", ())
    }
    (rule,) = yaml.safe_load_all((MONITORING / "rules.yaml").read_text())
    alerts = [alert for group in rule["spec"]["groups"] for alert in group["rules"]]
    limits = {float(found[1]) for a in alerts if (found := re.search(r">=? ([\d.]+)$", a["expr"]))}
    assert limits
    assert limits <= drawn
