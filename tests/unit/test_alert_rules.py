"""Alerts fire when they should, wait as long as they say, and clear: judged by Prometheus's own tool."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import skips

RULES = Path(__file__).parents[2] / "deploy/alerts.yml"
RTP = 'instance="rtp-0"'
UIC = 'instance="uic-0"'
FILE = {"rule_files": [str(RULES)], "evaluation_interval": "30s"}


def scenario(series: str, values: str, fires: list[tuple[str, bool]], alert: str, labels: dict[str, str]) -> Any:
    """As `scenario_of`, of one series."""
    return scenario_of({series: values}, fires, alert, labels)


def scenario_of(series: dict[str, str], fires: list[tuple[str, bool]], alert: str, labels: dict[str, str]) -> Any:
    """Some series, a sample each half minute, and at which times the alert fires."""
    summary = {
        rule["alert"]: rule["annotations"]
        for group in yaml.safe_load(RULES.read_text())["groups"]
        for rule in group["rules"]
    }[alert]
    told = [{"exp_labels": labels, "exp_annotations": summary}]
    return {
        "interval": "30s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
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
    "a worker loses its partitions, and has them again": scenario_of(
        {
            f'uic_bundle_info{{namespace="old",{UIC}}}': "1x20",
            'uic_bundle_info{namespace="new",instance="uic-1"}': "1x20",
            f"uic_topic_partitions{{{UIC}}}": "4x20",
            'uic_topic_partitions{instance="uic-1"}': "4x20",
            f'uic_partitions{{status="folding",{UIC}}}': "3 3 0x8 3x10",
            f'uic_partitions{{status="broken",{UIC}}}': "1 1 0x8 1x10",
            'uic_partitions{status="folding",instance="uic-1"}': "4x20",  # another namespace's, which help nobody here
        },
        [("30s", False), ("2m30s", False), ("3m", True), ("5m", True), ("5m30s", False)],
        "PartitionsUnowned",
        {"severity": "page", "namespace": "old"},
    ),
    "the partitions of two workers are all owned": scenario_of(
        {
            f'uic_bundle_info{{namespace="old",{UIC}}}': "1x20",
            'uic_bundle_info{namespace="old",instance="uic-1"}': "1x20",
            f"uic_topic_partitions{{{UIC}}}": "4x20",
            'uic_topic_partitions{instance="uic-1"}': "4x20",
            f'uic_partitions{{status="folding",{UIC}}}': "3x20",
            'uic_partitions{status="folding",instance="uic-1"}': "1x20",
        },
        [("3m", False), ("9m", False)],
        "PartitionsUnowned",
        {},
    ),
    "a worker is gone, and answers again": scenario_of(
        {f'up{{job="uic",{UIC}}}': "1 1 0x5 1x10", "uic_bundle_info": "1x20"},
        [("30s", False), ("1m30s", False), ("2m", True), ("3m30s", True), ("4m", False)],
        "UicDown",
        {"severity": "page", "job": "uic", "instance": "uic-0"},
    ),
    "there is no worker at all": scenario(
        "uic_bundle_info",
        "1 1 stale",
        [("1m", False), ("2m", True)],
        "UicDown",
        {"severity": "page"},
    ),
    "an RTP process is gone, and answers again": scenario_of(
        {f'up{{job="rtp",{RTP}}}': "1 1 0x5 1x10", "rtp_bundle": "1x20"},
        [("30s", False), ("1m30s", False), ("2m", True), ("3m30s", True), ("4m", False)],
        "RtpDown",
        {"severity": "page", "job": "rtp", "instance": "rtp-0"},
    ),
    "there is no RTP at all": scenario(
        "rtp_bundle",
        "1 1 stale",
        [("1m", False), ("2m", True)],
        "RtpDown",
        {"severity": "page"},
    ),
    "no open file is left for connections, for a moment": scenario(
        f"rtp_out_of_files_total{{{RTP}}}",
        "0 0 3x20",
        [("30s", False), ("1m", True), ("5m", True), ("6m30s", False)],
        "OutOfFiles",
        {"severity": "page", "instance": "rtp-0"},
    ),
    "a worker's connections take most of its files, and close": scenario_of(
        {
            f'process_open_fds{{job="uic",{UIC}}}': "100 100 800x5 100x10",
            f'process_max_fds{{job="uic",{UIC}}}': "1024x20",
            f'process_open_fds{{job="rtp",{RTP}}}': "800x20",
            f'process_max_fds{{job="rtp",{RTP}}}': "1024x20",
        },
        [("30s", False), ("1m", True), ("3m", True), ("4m", False)],
        "OutOfFiles",
        {"severity": "page", "job": "uic", "instance": "uic-0"},
    ),
    "a worker finds at its start what retention removed while none ran": scenario_of(
        {
            f"uic_data_gaps_total{{{UIC}}}": "_x8 1x60",
            f"process_start_time_seconds{{{UIC}}}": "_x8 235x60",
        },
        [("3m30s", False), ("4m", True), ("13m", True), ("14m30s", False)],
        "DataGap",
        {"severity": "page", "instance": "uic-0"},
    ),
    "what a worker found long ago is scraped for the first time": scenario_of(
        {f"uic_data_gaps_total{{{UIC}}}": "_x8 1x60", f"process_start_time_seconds{{{UIC}}}": "_x8 -86400x60"},
        [("4m", False), ("13m", False)],
        "DataGap",
        {},
    ),
    "a worker's first records cannot be folded": scenario_of(
        {
            f'uic_dead_letters_total{{reason="bad_key",{UIC}}}': "_x8 3x60",
            f'uic_dead_letters_total{{reason="misrouted",{UIC}}}': "_x8 0x60",
            f"process_start_time_seconds{{{UIC}}}": "_x8 235x60",
        },
        [("3m30s", False), ("4m", True), ("13m", True), ("14m30s", False)],
        "DeadLetters",
        {"severity": "ticket", "reason": "bad_key"},
    ),
    "a key file cannot be used for an hour, and can again": scenario(
        f"rtp_keys_refused{{{RTP}}}",
        "0 0 1x119 0x20",
        [("30s", False), ("1m", True), ("30m", True), ("1h30s", True), ("1h1m", False)],
        "KeysNotReread",
        {"severity": "page", "instance": "rtp-0"},
    ),
    "a worker cannot use its key file, and another can": scenario_of(
        {f"uic_keys_refused{{{UIC}}}": "0 1x60", 'uic_keys_refused{instance="uic-1"}': "0x60"},
        [("0s", False), ("30s", True), ("30m", True)],
        "KeysNotReread",
        {"severity": "page", "instance": "uic-0"},
    ),
    "log lines are dropped, for a moment": scenario(
        f"uic_log_lines_dropped_total{{{UIC}}}",
        "0 0 900x40",
        [("30s", False), ("1m", True), ("9m", True), ("12m", False)],
        "LogLinesDropped",
        {"severity": "ticket", "instance": "uic-0"},
    ),
    "a partition is behind, and catches up": scenario_of(
        {f'uic_as_of_timestamp_seconds{{partition="0",{UIC}}}': "0+0x12 390+30x10"},
        [("2m", False), ("3m", False), ("3m30s", True), ("6m", True), ("6m30s", False)],
        "PartitionsBehind",
        {"severity": "page", "instance": "uic-0"},
    ),
    "a first build hangs, beside a partition that is caught up, and goes on": scenario_of(
        {
            f'uic_as_of_timestamp_seconds{{partition="0",{UIC}}}': "0+30x30",
            f'uic_next_offset{{partition="0",{UIC}}}': "7x30",
            f'uic_next_offset{{partition="1",{UIC}}}': "0+5x4 20x10 25+5x10",
        },
        [("2m", False), ("4m", False), ("5m", True), ("7m30s", True), ("8m", False), ("12m", False)],
        "PartitionsBehind",
        {"severity": "page", "instance": "uic-0"},
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
    file.write_text(yaml.safe_dump(FILE | {"tests": [SCENARIOS[name]]}))
    ended = subprocess.run([skips.promtool(), "test", "rules", file], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_rules_are_rules() -> None:
    ended = subprocess.run([skips.promtool(), "check", "rules", RULES], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
