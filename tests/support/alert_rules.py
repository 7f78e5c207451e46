"""The alerts of deploy/alerts.yml, judged by Prometheus's own tool over series that a test tells."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from support import skips

RULES = Path(__file__).parents[2] / "deploy/alerts.yml"
GROUPS: list[Any] = yaml.safe_load(RULES.read_text())["groups"]
ANNOTATIONS: dict[str, Any] = {rule["alert"]: rule["annotations"] for group in GROUPS for rule in group["rules"]}


def scenario_of(
    series: dict[str, str], fires: list[tuple[str, bool]], alert: str, labels: dict[str, str], every: str = "30s"
) -> Any:
    """Some series, a sample each half minute or `every` so often, and at which times the alert fires."""
    told = [{"exp_labels": labels, "exp_annotations": ANNOTATIONS[alert]}]
    return {
        "interval": every,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": at, "alertname": alert, "exp_alerts": told if fired else []} for at, fired in fires
        ],
    }


def quiet(series: dict[str, str], times: list[str]) -> Any:
    """Some series, a sample each half minute, over which no alert at all fires at any of the times."""
    scenarios = [scenario_of(series, [(at, False) for at in times], alert, {}) for alert in ANNOTATIONS]
    return scenarios[0] | {"alert_rule_test": [test for one in scenarios for test in one["alert_rule_test"]]}


def faults(scenario: Any, folder: Path) -> str:
    """In what the alerts differ from what a scenario says; empty if in nothing."""
    return faults_of([scenario], folder)


def faults_of(scenarios: list[Any], folder: Path) -> str:
    """As `faults`, of several scenarios in one run of the tool, with a file for each interval between evaluations."""
    rules = folder / "rules.yml"
    asked = {test["alertname"] for scenario in scenarios for test in scenario["alert_rule_test"]}
    rules.write_text(yaml.safe_dump({"groups": [_of_group(group, asked) for group in GROUPS]}))
    files = []
    for every in sorted({scenario["interval"] for scenario in scenarios}):
        tests = [scenario for scenario in scenarios if scenario["interval"] == every]
        files.append(folder / f"every-{every}.yml")
        told = {"rule_files": [str(rules)], "evaluation_interval": every, "tests": tests}
        files[-1].write_text(yaml.safe_dump(told))
    ended = subprocess.run([skips.promtool(), "test", "rules", *files], check=False, capture_output=True, text=True)
    return "" if ended.returncode == 0 else ended.stdout + ended.stderr


def _of_group(group: Any, asked: set[str]) -> Any:
    """A group with the asked alerts alone: no alert reads another, and all of them take five times as long."""
    return group | {"rules": [rule for rule in group["rules"] if rule["alert"] in asked]}
