"""Alerts speak of metrics and labels that the services really have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mimn.state import StateError
from rtp.core.fold_progress import Status
from rtp.metrics import KEPT_S
from rtp.metrics import Metrics as RtpMetrics
from uic.core.event import Reason
from uic.core.status import Phase
from uic.fold.rounds import UNREADABLE
from uic.metrics import Metrics as UicMetrics

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
TARGET = "installation, job, instance"
"""What tells a target from all others."""


def series() -> set[str]:
    """Every series name that a scrape of both services can hold."""
    names: set[str] = set()
    for registry in (UicMetrics().registry, RtpMetrics().registry):
        for metric in registry.collect():
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}.get(
                metric.type, ("",)
            )
            names |= {f"{metric.name}{suffix}" for suffix in suffixes}
    return names


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_uses_existing_series(rule: dict[str, Any]) -> None:
    used = set(re.findall(r"\b(?:uic|rtp|process)_\w+", rule["expr"]))
    assert used
    assert used <= series()
    assert rule["annotations"]["summary"]
    assert rule["labels"]["severity"] in ("page", "ticket")


def test_label_values_are_values_that_the_services_write() -> None:
    text = " ".join(rule["expr"] for rule in RULES)
    assert set(re.findall(r'uic_partitions\{status!?="(\w+)"\}', text)) <= {phase.value for phase in Phase}
    statuses = re.findall(r'rtp_states_total\{status=~"([\w|]+)"\}', text)
    assert statuses
    assert {value for group in statuses for value in group.split("|")} <= {status.value for status in Status}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_keeps_installations_apart(rule: dict[str, Any]) -> None:
    """What a rule adds up or joins is of one installation. `namespace` is a label that Kubernetes gives to targets."""
    assert "namespace" not in re.findall(r"\w+", rule["expr"])
    assert re.findall(r"\b(?:sum|max|min|avg|count)\s*\(", rule["expr"]) == [], "over all that Prometheus has"
    labels = re.findall(r"\b(?:by|on) \(([^)]*)\)", rule["expr"])
    assert all({"installation", "prefix"} <= set(one.split(", ")) or one == TARGET for one in labels)


def test_no_metric_has_a_label_that_discovery_gives_to_targets() -> None:
    names = {name for sample in samples() for name in sample.labels}
    assert names.isdisjoint({"namespace", "pod", "container", "service", "node", "endpoint", "job", "instance"})


def samples() -> list[Any]:
    """Every sample of a first scrape of both services, with a canary and a shadow assigned."""
    rtp = RtpMetrics()
    for arm in ("serving", "canary"):
        rtp.of_arm(arm, "shop/1")
    rtp.of_shadow("shadow", "shop/2")
    registries = (UicMetrics().registry, rtp.registry)
    return [sample for registry in registries for metric in registry.collect() for sample in metric.samples]


def test_what_an_alert_counts_is_there_before_it_happens() -> None:
    """`increase` does not see a counter's first sample: a label that comes with its first event hides that event."""
    counted = set(re.findall(r"increase\((\w+)(?:\{([^}]*)\})?\[", " ".join(rule["expr"] for rule in RULES)))
    assert counted
    first = samples()
    for name, selector in counted:
        there = [sample.labels for sample in first if sample.name == name]
        assert there, name
        for label, values in re.findall(r'(\w+)(?:=|!=|=~|!~)"([\w|]+)"', selector):
            assert set(values.split("|")) <= {labels[label] for labels in there}, name
    reasons = {sample.labels["reason"] for sample in samples() if sample.name == "uic_dead_letters_total"}
    assert reasons == {reason.value for reason in Reason}
    errors = {sample.labels["error"] for sample in samples() if sample.name == "rtp_unreadable_states_total"}
    assert errors == {error.__name__ for error in StateError.__subclasses__()}
    errors = {sample.labels["error"] for sample in samples() if sample.name == "uic_unreadable_states_total"}
    assert errors == set(UNREADABLE.values())


def test_the_shortest_range_of_an_alert_holds_two_scrapes() -> None:
    """With one sample `rate` and `increase` give nothing, so the alert would never fire."""
    scrape_s = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["global"]["scrape_interval"]
    ranges = re.findall(r"\[(\d+)m[\]:]", " ".join(rule["expr"] for rule in RULES))
    assert min(map(int, ranges)) * 60 >= 2 * int(scrape_s.removesuffix("s"))


def test_what_an_arm_counted_stays_for_longer_than_an_alert_looks_back() -> None:
    text = " ".join(rule["expr"] for rule in RULES)
    ranges = re.findall(r"\brtp_(?:arm|shadow)_\w+(?:\{[^}]*\})?\[(\d+)m[\]:]", text)
    assert ranges
    assert 2 * 60 * max(map(int, ranges)) <= KEPT_S


def test_the_scraped_ports_are_the_admin_ports() -> None:
    from localstack.stack import DOCUMENTED_PORTS

    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    assert targets == {
        "uic": [f"127.0.0.1:{DOCUMENTED_PORTS.uic_admin}"],
        "rtp": [f"127.0.0.1:{DOCUMENTED_PORTS.rtp_admin}"],
    }
    assert config["rule_files"] == ["alerts.yml"]
