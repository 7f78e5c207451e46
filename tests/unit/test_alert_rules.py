"""Alerts about releases fire when they should, wait as long as they say, and clear: judged by Prometheus's own tool."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import skips

RULES = Path(__file__).parents[2] / "deploy/alerts.yml"
RTP = 'instance="rtp-0"'


def scenario(series: str, values: str, fires: list[tuple[str, bool]], alert: str, labels: dict[str, str]) -> Any:
    """One series, a sample each half minute, and at which times the alert fires."""
    summary = {
        rule["alert"]: rule["annotations"]
        for group in yaml.safe_load(RULES.read_text())["groups"]
        for rule in group["rules"]
    }[alert]
    told = [{"exp_labels": labels, "exp_annotations": summary}]
    return {
        "interval": "30s",
        "input_series": [{"series": series, "values": values}],
        "alert_rule_test": [
            {"eval_time": at, "alertname": alert, "exp_alerts": told if fired else []} for at, fired in fires
        ],
    }


SCENARIOS = {
    # A series of a refused release is gone once the release is loaded, or named by the record no more.
    "a release is refused, and then loaded": scenario(
        f'rtp_release_refused{{bundle="shop/2",{RTP}}}',
        "_ _ 1x6 stale",
        [("1m", False), ("1m30s", False), ("2m", True), ("4m", True), ("5m", False)],
        "ReleaseRefused",
        {"severity": "ticket", "instance": "rtp-0", "bundle": "shop/2"},
    ),
    "a release is refused for a moment": scenario(
        f'rtp_release_refused{{bundle="shop/2",{RTP}}}',
        "_ _ 1 stale",
        [("1m", False), ("2m", False), ("5m", False)],
        "ReleaseRefused",
        {"severity": "ticket", "instance": "rtp-0", "bundle": "shop/2"},
    ),
    "the record cannot be read, and can again": scenario(
        f"rtp_rollout_up{{{RTP}}}",
        "1 1 0x6 1x4",
        [("30s", False), ("1m30s", False), ("2m", True), ("4m", True), ("5m", False)],
        "RolloutNotFollowed",
        {"severity": "ticket", "instance": "rtp-0"},
    ),
    "a reload is refused": scenario(
        f'rtp_bundle_reloads_total{{result="refused",{RTP}}}',
        "0 0 1x40",
        [("30s", False), ("1m30s", True), ("14m", False)],
        "ReloadRefused",
        {"severity": "ticket", "instance": "rtp-0", "result": "refused"},
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_alert_fires_in_time_and_clears(name: str, tmp_path: Path) -> None:
    file = tmp_path / "scenario.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": [SCENARIOS[name]]}))
    ended = subprocess.run([skips.promtool(), "test", "rules", file], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_rules_are_rules() -> None:
    ended = subprocess.run([skips.promtool(), "check", "rules", RULES], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
