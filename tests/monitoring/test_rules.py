"""The alerts, judged by Prometheus' own promtool."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.servers.prometheus import prometheus_program
from manifests.render import MONITORING, ROOT

TESTS = Path(__file__).with_name("alerts.yaml")


def groups() -> dict[str, Any]:
    (rule,) = yaml.safe_load_all((MONITORING / "rules.yaml").read_text())
    found: dict[str, Any] = rule["spec"]
    return found


def alerts() -> list[dict[str, Any]]:
    return [alert for group in groups()["groups"] for alert in group["rules"]]


def promtool(*words: str, folder: Path) -> str:
    command = [prometheus_program("promtool"), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(groups()))
    shutil.copy(TESTS, tmp_path)
    return tmp_path


def test_promtool_finds_no_fault_in_the_rules(folder: Path) -> None:
    assert f"{len(alerts())} rules found" in promtool("check", "rules", "rules.yaml", folder=folder)


def test_every_alert_fires_above_its_threshold_and_not_below(folder: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts.yaml", folder=folder)


def test_every_alert_has_a_test() -> None:
    tested = {
        case["alertname"]
        for test in yaml.safe_load(TESTS.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert tested == {alert["alert"] for alert in alerts()}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: str(alert["alert"]))
def test_every_alert_links_to_a_runbook_that_speaks_of_it(alert: dict[str, Any]) -> None:
    page = ROOT / "docs" / "runbooks" / Path(alert["annotations"]["runbook_url"]).name
    assert alert["alert"] in page.read_text().splitlines()[0]
    assert alert["annotations"]["summary"]
    assert alert["labels"]["severity"] in ("warning", "critical")
