"""The alerts of deploy/alerts.yml, judged by Prometheus's own tool over series that a test tells."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from support import skips

RULES = Path(__file__).parents[2] / "deploy/alerts.yml"
ANNOTATIONS: dict[str, Any] = {
    rule["alert"]: rule["annotations"]
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
}
FILE = {"rule_files": [str(RULES)], "evaluation_interval": "30s"}


def scenario(series: str, values: str, fires: list[tuple[str, bool]], alert: str, labels: dict[str, str]) -> Any:
    """As `scenario_of`, of one series."""
    return scenario_of({series: values}, fires, alert, labels)


def scenario_of(series: dict[str, str], fires: list[tuple[str, bool]], alert: str, labels: dict[str, str]) -> Any:
    """Some series, a sample each half minute, and at which times the alert fires."""
    told = [{"exp_labels": labels, "exp_annotations": ANNOTATIONS[alert]}]
    return {
        "interval": "30s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": at, "alertname": alert, "exp_alerts": told if fired else []} for at, fired in fires
        ],
    }


def faults(scenario: Any, folder: Path) -> str:
    """In what the alerts differ from what a scenario says; empty if in nothing."""
    file = folder / "scenario.yml"
    file.write_text(yaml.safe_dump(FILE | {"tests": [scenario]}))
    ended = subprocess.run([skips.promtool(), "test", "rules", file], check=False, capture_output=True, text=True)
    return "" if ended.returncode == 0 else ended.stdout + ended.stderr
