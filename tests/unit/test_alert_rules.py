"""Alerts fire when they should, wait as long as they say, and clear: judged by Prometheus's own tool.

A series is of process 0 of its service; `@1` after its name means process 1. A time is when Prometheus looks.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support import skips
from support.alert_rules import ANNOTATIONS, RULES, faults, faults_of, quiet, scenario_of

PAGE = {"severity": "page"}
TICKET = {"severity": "ticket"}
SHOP = {"prefix": "uic", "topic": "events", "state_namespace": "ab-0"}
"""The labels of an installation."""
OF_SHOP = {"prefix": "uic", "topic": "events"}
IN_SHOP = {"prefix": "uic"}

# Alerts that have the labels of one series: the series, its values each 30 s, and when the alert is silent and fires.
# A week is 604,800 s.
PLAIN = """
PartitionBroken     | page   | uic_partitions{status="broken"}       | 0 0 1x5 0x10       | 30s 4m        | 1m 3m30s
PublishingFails     | page   | uic_trouble{cause="publishing_fails"} | 0 0 1x5 0x10       | 1m30s 4m      | 2m 3m30s
ErasuresUnavailable | page   | uic_trouble{cause="erasures_unavailable"} | 0 0 1x5 0x10       | 1m30s 4m      | 2m 3m30s
UicNotReady         | ticket | uic_ready                             | _ 0x13 1x10        | 5m 7m30s      | 5m30s 7m
UicNotReady         | ticket | uic_partitions{status="ownership_lost"} | 0 4x13 0x10      | 5m 7m30s      | 5m30s 7m
ClockSkew           | ticket | uic_clock_skew_seconds                | 0 0 -3x5 0x10      | 1m30s 4m      | 2m 3m30s
ClockSkew           | ticket | rtp_clock_skew_seconds                | NaN 0 3600x5 0.1x9 | 1m30s 4m      | 2m 3m30s
LostStates          | page   | uic_lost_states_total                 | 0 0 5x60           | 30s 12m       | 1m 10m
StoreLostWrites     | ticket | uic_rewinds_total                     | 0 0 1x60           | 30s 12m       | 1m 10m
DeadLetters         | ticket | uic_dead_letters_total{reason="bad_key"} | 0 0 0 0 3x60    | 1m30s 13m     | 2m 10m
KeysNotReread       | page   | rtp_keys_refused                      | 0 0 1x119 0x20     | 30s 1h1m      | 1m 1h30s
ManyDenied          | ticket | rtp_denied_total{reason="bad_key"}    | 0x4 0+150x30 4500x30 | 5m 24m      | 10m 17m
ManyDenied          | ticket | rtp_denied_total{reason="no_key"}     | 0+15x64            | 10m 17m       |
CertificateExpires  | ticket | rtp_tls_certificate_expires_seconds{listener="http"} | 604860x4 2e6x4 | 1m 2m30s | 1m30s
CertificateExpires  | ticket | rtp_tls_client_certificate_expires_seconds{server="store"} | 604860x4 2e6x4 | 1m | 1m30s
CertificateExpired  | page   | uic_tls_certificate_expires_seconds{listener="grpc"} | 60x4 2e6x4 | 30s 2m30s | 1m 2m
CertificateExpired  | page   | uic_tls_client_certificate_expires_seconds{server="kafka"} | 60x4 2e6x4 | 30s    | 1m
LogLinesDropped     | ticket | uic_log_lines_dropped_total           | 0 0 900x40         | 30s 12m       | 1m 9m
OutOfFiles          | page   | rtp_out_of_files_total                | 0 0 3x20           | 30s 6m30s     | 1m 5m
StoreUnreachable    | page   | rtp_store_up                          | 1 1 0x6 1x10       | 1m30s 4m30s   | 2m 4m
StoreEvicts         | page   | uic_trouble{cause="store_evicts"}     | 0 0 1x6 0x10       | 1m30s 4m30s   | 2m 4m
SentinelsSilent     | ticket | uic_sentinels_up                      | 1 1 0x12 1x4       | 5m30s 7m30s   | 6m 7m
SentinelsSilent     | ticket | rtp_sentinels_up                      | NaN NaN NaN NaN    | 6m 9m         |
ReloadRefused       | ticket | rtp_bundle_reloads_total{result="refused"} | 0 0 1x40      | 30s 14m       | 1m30s
ReleaseRefused      | ticket | rtp_release_refused{bundle="shop/2"}  | _ _ 1x6 stale      | 1m 1m30s 5m   | 2m 4m
ReleaseRefused      | ticket | rtp_release_refused{bundle="shop/2"}  | _ _ 1 stale        | 1m 2m 5m      |
RolloutNotFollowed  | ticket | rtp_rollout_up                        | 1 1 0x6 1x4        | 1m30s 5m      | 2m 4m
LoadHangs           | ticket | rtp_hanging_loads                     | 0 0 1x14 0x10      | 5m30s 8m30s   | 6m 8m
ClockAhead          | ticket | rtp_as_of_ahead_seconds               | 0 0 3x5 0x10       | 1m30s 4m      | 2m 3m30s
UnreadableStates    | ticket | rtp_unreadable_states_total{error="CorruptState"} | 0 0 1x60 | 30s 12m    | 1m 10m
UnreadableStates    | ticket | uic_unreadable_states_total{error="corrupt"} | 0 0 1x60    | 30s 12m       | 1m 10m
"""


def named(series: str) -> str:
    """The series with the name of its process, unless it has one."""
    name, _, number = series.partition("@")
    if "instance=" in name:
        return name
    service = "rtp" if name.startswith("rtp") or '{job="rtp"' in name else "uic"
    start = f"{name[:-1]}," if name.endswith("}") else f"{name}{{"
    return f'{start}instance="{service}-{number or 0}"}}'


def worker(i: int, **labels: str) -> str:
    """The series that says what worker i folds, and under which names: of `SHOP`, unless told otherwise."""
    told = ",".join(f'{label}="{value}"' for label, value in (SHOP | labels).items())
    return f"uic_bundle_info{{{told}}}@{i}"


def scorer(i: int, **labels: str) -> str:
    """The series that says what RTP process i serves, as `worker`."""
    told = ",".join(f'{label}="{value}"' for label, value in (SHOP | labels).items() if label != "topic")
    return f'rtp_bundle{{name="model",version="1",{told}}}@{i}'


def case(
    alert: str, labels: dict[str, str], silent: str, fires: str, series: dict[str, str], every: str = "30s"
) -> tuple[str, Any]:
    """An alert, and a scenario of it: the labels that it has, when it is silent, when it fires, and the series."""
    times = [(at, False) for at in silent.split()] + [(at, True) for at in fires.split()]
    return alert, scenario_of({named(name): values for name, values in series.items()}, times, alert, labels, every)


def plain(row: str) -> tuple[str, Any]:
    alert, severity, series, values, silent, fires = (cell.strip() for cell in row.split("|"))
    labels = dict(re.findall(r'(\w+)="([^"]*)"', named(series)))
    labels.pop("status", None)
    return case(alert, {"severity": severity} | labels, silent, fires, {series: values})


def minutes(first: int, last: int) -> str:
    """Each half minute."""
    return " ".join(f"{m}m{s}s" for m in range(first, last) for s in (0, 30))


def counted(*rates: tuple[int, int]) -> str:
    """A counter that rises by each rate as many times as told beside it, beginning at 0."""
    value, parts = 0, []
    for rate, times in rates:
        parts.append(f"{value}+{rate}x{times - 1}")
        value += rate * times
    return " ".join(parts)


INFO = {worker(i): "1x60" for i in range(2)}
"""Two workers of one namespace."""
SCORER = {scorer(0): "1x400"}
MANY = "0+50000x400"
"""A counter of a large installation that is well."""


def other_scorer(*series: str) -> dict[str, str]:
    """The series of an RTP process of another installation, which is large and well."""
    return {scorer(1, prefix="b"): "1x400", **{f"{one}@1": MANY for one in series}}


def scores(good: str, bad: str) -> dict[str, str]:
    return SCORER | {'rtp_states_total{status="warm"}': good, 'rtp_states_total{status="unavailable"}': bad}


def answers(good: str, bad: str) -> dict[str, str]:
    return SCORER | {'rtp_answers_total{status="200"}': good, 'rtp_answers_total{status="503"}': bad}


def calls(good: str, bad: str) -> dict[str, str]:
    refused = 'uic_rpcs_total{method="PublishBehaviors",code="RESOURCE_EXHAUSTED"}'
    return {worker(0): "1x400", 'uic_rpcs_total{method="PublishBehaviors",code="OK"}': good, refused: bad}


OTHER_WORKER = {worker(1, topic="b"): "1x400", 'uic_rpcs_total{method="PublishBehaviors",code="OK"}@1': MANY}
RATIOS: list[tuple[str, Any, dict[str, str], dict[str, str], str, str]] = [
    ("ScoresWithoutState", scores, PAGE | IN_SHOP, other_scorer('rtp_states_total{status="warm"}'), "15m10s", "15m15s"),
    ("PredictFails", answers, PAGE | IN_SHOP, other_scorer('rtp_answers_total{status="200"}'), "14m30s", "15m"),
    ("PublishingOverloaded", calls, PAGE | OF_SHOP, OTHER_WORKER, "14m30s", "15m"),
]
"""An alert on a share of bad ones, its series, its labels, another installation that is well, and when it begins."""
OUTAGE = counted((50, 120), (0, 8), (50, 232)), counted((0, 120), (50, 8), (0, 232))
"""What is well and what is not: from the tenth minute on the store is away for 40 s. A sample each 5 s, as below."""
AGAIN = (
    counted((50, 120), *[(0, 6), (50, 18)] * 5, (50, 120)),
    counted((0, 120), *[(50, 6), (0, 18)] * 5, (0, 120)),
)
"""From the tenth minute on it is away for the first 30 s of each of five times two minutes."""
LASTING = counted((50, 120), (0, 120), (50, 120)), counted((0, 120), (50, 120), (0, 120))
"""From the tenth minute on it is away for ten minutes."""


def arm(scored: str, failed: str, error: str = "ScoringFailed", of: str = "canary") -> dict[str, str]:
    """Series of requests of the users of an arm."""
    labels = f'arm="{of}",bundle="shop/2"'
    return SCORER | {
        release(of): "1x400",
        f'rtp_arm_scored_total{{{labels},state="warm"}}': scored,
        f'rtp_arm_scored_total{{{labels},state="cold"}}': "0x400",
        f'rtp_arm_failed_total{{{labels},error="{error}"}}': failed,
        f'rtp_arm_failed_total{{{labels},error="DeadlineMissed"}}': "0x400",
    }


def release(role: str) -> str:
    return f'rtp_release{{bundle="shop/2",state_namespace="shop-2",role="{role}"}}'


def shadow(scored: str, shed: str, reason: str = "ScoringFailed") -> dict[str, str]:
    """Series of requests that a shadow scores too."""
    labels = 'arm="shadow",bundle="shop/2"'
    return SCORER | {
        release("shadow:shadow"): "1x400",
        f"rtp_shadow_seconds_count{{{labels}}}": scored,
        f'rtp_shadow_shed_total{{{labels},reason="{reason}"}}': shed,
    }


def candidates(bundle: str, item: str) -> str:
    return f'rtp_arm_candidates_total{{arm="serving",bundle="{bundle}",item="{item}"}}'


CANARY = TICKET | IN_SHOP | {"arm": "canary", "bundle": "shop/2"}
A_THIRD = counted((9, 20), (6, 60), (0, 40)), counted((0, 20), (3, 60), (0, 40))
"""Of what is scored and what fails: from the tenth minute on for half an hour a third fails."""
A_TENTH = counted((9, 80), (0, 40)), counted((0, 20), (1, 60), (0, 40))
LOOP = "0x119 " + " ".join(f"{600 + 15 * i}x1 _" for i in range(12)) + " 780x240"
"""When a process began that ends every 15 s from the tenth minute on and is seen twice each time, a sample each 5 s."""
YOUNG, OLD = "_x8 235x60", "_x8 -86400x60"
"""When a process began that is scraped for the first time at 4m."""


def offsets(i: int, values: str) -> dict[str, str]:
    return {f'uic_next_offset{{partition="{p}"}}@{i}': values for p in range(2)}


def as_of(partition: int, i: int = 0) -> str:
    return f'uic_as_of_timestamp_seconds{{partition="{partition}"}}@{i}'


NEW = 'uic_take_ups_total{decision="new"}'
OFFSET_0, OFFSET_1 = 'uic_next_offset{partition="0"}', 'uic_next_offset{partition="1"}'
FOLDING, LOST = 'uic_partitions{status="folding"}', 'uic_partitions{status="ownership_lost"}'
STARTED, TOPIC = "process_start_time_seconds", "uic_topic_partitions"

CASES = [
    # Both workers of a topic say that it is compacted, and that of another installation is not.
    case(
        "TopicCompacted", PAGE | OF_SHOP | {"topic": "b"}, "30s 4m", "1m 3m30s",
        {worker(0, topic="b"): "1x20", worker(1, topic="b"): "1x20", worker(2): "1x20"}
        | {f'uic_trouble{{cause="log_compacted"}}@{i}': "0 0 1x5 0x10" for i in range(2)}
        | {'uic_trouble{cause="log_compacted"}@2': "0x20"},
    ),
    # A partition is behind, and catches up.
    case(
        "PartitionsBehind", PAGE | SHOP, "2m 3m 6m30s", "3m30s 6m", INFO | {as_of(0): "0+0x12 390+30x10"},
    ),
    # It is behind, and fresh in another namespace and another installation.
    case(
        "PartitionsBehind", PAGE | SHOP, "3m", "3m30s 9m",
        {
            worker(0): "1x20", worker(1, state_namespace="shop-2"): "1x20", worker(2, prefix="uic-staging"): "1x20",
            as_of(0): "0x20", as_of(0, 1): "0+30x20", as_of(0, 2): "0+30x20",
        },
    ),
    # A worker is cut off from the log and keeps partitions that another one folds, until that one stops.
    case(
        "PartitionsBehind", PAGE | SHOP, "3m 5m 10m 13m", "13m30s 20m",
        INFO
        | {as_of(p): "0 30 60x58" for p in range(2)}
        | {as_of(0, 1): "_ _ _ 90+30x56", as_of(1, 1): "_ _ _ 90+30x17 600x39"}
        | offsets(0, "7x60")
        | offsets(1, "_ _ _ 7x57"),
    ),
    # A worker gives a partition of a quiet topic to one that joins.
    case(
        "PartitionsBehind", {}, minutes(10, 13) + " 20m", "",
        INFO
        | {OFFSET_0: "7x60", OFFSET_1: "7x19 stale", f"{OFFSET_1}@1": "_x21 7x40"}
        | {as_of(0): "0+30x60", as_of(1): "0+30x19 stale", as_of(1, 1): "_x21 630+30x40"},
    ),
    # A first build goes from worker to worker, and hangs with the second.
    case(
        "PartitionsBehind", PAGE | SHOP, "10m 12m 15m 17m30s", "18m 20m",
        INFO | {OFFSET_0: "0+5x19 stale", f"{OFFSET_0}@1": "_x20 0 100+5x9 145x20"},
    ),
    # It goes on with another worker than the one that is cut off in it.
    case(
        "PartitionsBehind", {}, "8m 9m 15m 20m", "",
        INFO | {OFFSET_0: "0+5x10 50x30", f"{OFFSET_0}@1": "_x12 0 50+5x28"},
    ),
    # It hangs, beside a partition that is caught up, and goes on.
    case(
        "PartitionsBehind", PAGE | SHOP, "2m 4m 8m 12m", "5m 7m30s",
        INFO | {as_of(0): "0+30x30", OFFSET_0: "7x30", OFFSET_1: "0+5x4 20x10 25+5x10"},
    ),
    # It hangs, and goes on in another installation of the same bundle.
    case(
        "PartitionsBehind", PAGE | SHOP, "2m30s", "3m 9m",
        {worker(0): "1x20", worker(1, topic="events-2"): "1x20", OFFSET_0: "5x20", f"{OFFSET_0}@1": "0+50x20"},
    ),
    # A worker loses partitions, and has them again; a worker of another namespace has all.
    case(
        "PartitionsUnowned", PAGE | SHOP | {"state_namespace": "old"}, "30s 2m30s 5m30s", "3m 5m",
        {
            worker(0, state_namespace="old"): "1x20", worker(1, state_namespace="new"): "1x20",
            TOPIC: "4x20", f"{TOPIC}@1": "4x20", f"{FOLDING}@1": "4x20",
            FOLDING: "3 3 0x8 3x10", 'uic_partitions{status="broken"}': "1 1 0x8 1x10",
        },
    ),
    # A worker is cut off from the log and keeps partitions that another one has, which lacks one.
    case(
        "PartitionsUnowned", PAGE | SHOP, "30s 2m30s 5m30s", "3m 5m",
        INFO
        | {TOPIC: "4x20", f"{TOPIC}@1": "4x20", FOLDING: "2 2 0x18", LOST: "0 0 2x18"}
        | {f"{FOLDING}@1": "2 2 3x8 4x10"},
    ),
    # The one partition of an installation has no worker, and another one has all of its own.
    case(
        "PartitionsUnowned", PAGE | SHOP | {"prefix": "b", "topic": "b"}, "30s 2m30s 5m30s", "3m 5m",
        {worker(0): "1x20", worker(1, prefix="b", topic="b"): "1x20"}
        | {TOPIC: "4x20", f"{TOPIC}@1": "1x20", FOLDING: "4x20", f"{FOLDING}@1": "1 1 0x8 1x10"},
    ),
    # Names and addresses may be the same in two networks; a label of the targets tells them apart.
    case(
        "PartitionsUnowned", PAGE | SHOP | {"installation": "production"}, "1m30s", "2m 9m",
        {
            f'{named(name)[:-1]},job="uic",namespace="{one}",installation="{one}"}}': value
            for one, owned in (("production", "0x20"), ("staging", "4x20"))
            for name, value in ((worker(0), "1x20"), (TOPIC, "4x20"), (FOLDING, owned))
        },
    ),
    # A worker is gone, and answers again; there is none at all; one installation has none.
    case(
        "UicDown", PAGE | {"job": "uic", "instance": "uic-0"}, "30s 1m30s 4m", "2m 3m30s",
        {'up{job="uic"}': "1 1 0x5 1x10", "uic_bundle_info": "1x20"},
    ),
    case("UicDown", PAGE, "1m", "2m", {"uic_bundle_info": "1 1 stale"}),
    case(
        "UicDown", PAGE | OF_SHOP, "10m 30m30s", "11m30s 30m",
        {worker(0): "1x19 stale _x40 1x20", worker(1, prefix="b"): "1x80"},
    ),
    # A namespace is given up for another one of the installation.
    case("UicDown", {}, "11m30s 30m", "", {worker(0): "1x19 stale", worker(1, state_namespace="ab-1"): "1x80"}),
    case(
        "RtpDown", PAGE | {"job": "rtp", "instance": "rtp-0"}, "30s 1m30s 4m", "2m 3m30s",
        {'up{job="rtp"}': "1 1 0x5 1x10", "rtp_bundle": "1x20"},
    ),
    case("RtpDown", PAGE, "1m", "2m", {"rtp_bundle": "1 1 stale"}),
    case(
        "RtpDown", PAGE | IN_SHOP, "10m 30m30s", "11m30s 30m",
        {scorer(0): "1x19 stale _x40 1x20", scorer(1, prefix="b"): "1x80"},
    ),
    # A backlog grows and is folded, beside a larger one that is folded.
    case(
        "LagGrows", TICKET | SHOP, "10m 38m 50m", "20m 29m",
        {
            worker(0): "1x120", worker(1, prefix="b"): "1x120",
            'uic_lag_records{partition="0"}': "0+10000x60 600000-20000x30 0x20",
            'uic_lag_records{partition="0"}@1': "9000000-70000x120",
        },
    ),
    # A worker finds at its start what retention removed while none ran; what was found long ago is no news, not even
    # when another process of the same name is young.
    case(
        "DataGap", PAGE | {"instance": "uic-0"}, "3m30s 14m30s", "4m 13m",
        {"uic_data_gaps_total": "_x8 1x60", STARTED: YOUNG},
    ),
    case("DataGap", {}, "4m 13m", "", {"uic_data_gaps_total": "_x8 1x60", STARTED: OLD}),
    case(
        "DataGap", {}, "1m 8m", "",
        {
            'uic_data_gaps_total{job="uic",instance="host"}': "1x60",
            f'{STARTED}{{job="uic",instance="host"}}': "-86400x60",
            f'{STARTED}{{job="rtp",instance="host"}}': "0x60",
        },
    ),
    # A worker's first records cannot be folded, or are of users whose states cannot be read.
    case(
        "DeadLetters", TICKET | {"instance": "uic-0", "reason": "bad_key"}, "3m30s 14m30s", "4m 13m",
        {
            'uic_dead_letters_total{reason="bad_key"}': "_x8 3x60",
            'uic_dead_letters_total{reason="misrouted"}': "_x8 0x60",
            STARTED: YOUNG,
        },
    ),
    case(
        "UnreadableStates", TICKET | {"instance": "uic-0", "error": "foreign_layout"}, "3m30s 14m30s", "4m 13m",
        {'uic_unreadable_states_total{error="foreign_layout"}': "_x8 3x60", STARTED: YOUNG},
    ),
    # The store is emptied under a worker that runs, and is soon as before.
    case(
        "StoreEmptied", PAGE | SHOP, "20m 31m 45m", "20m30s 29m",
        {
            NEW: "0x39 0 8x60", OFFSET_0: "900x39 900 0 5+9x60", as_of(0): "0+30x39 1200 stale _x5 1410+30x50",
            TOPIC: "1x100", worker(0): "1x100", STARTED: "-86400x100",
        },
    ),
    # It is emptied, and the workers are restarted twice before all is folded again, and once after.
    case(
        "StoreEmptied", PAGE | SHOP, "20m " + minutes(61, 74), minutes(21, 60),
        {
            NEW: "0x39 0 2x9 stale", f"{NEW}@1": "_x52 0x27 stale",
            f"{NEW}@2": "_x90 0x40 stale", f"{NEW}@3": "_x140 0x20",
            **offsets(0, "900x39 900 0 5+9x8 stale"), **offsets(1, "_x52 90+9x27 stale"),
            **offsets(2, "_x90 400+9x40 stale"), **offsets(3, "_x140 0 900x19"),
            as_of(0): "0+30x39 1200 stale", as_of(1): "0+30x39 1200 stale",
            as_of(0, 2): "_x100 3000+30x30 stale", as_of(1, 2): "_x120 3600+30x10 stale",
            as_of(0, 3): "_x140 _ 4230+30x19", as_of(1, 3): "_x140 _ 4230+30x19",
            TOPIC: "2x49 stale", f"{TOPIC}@1": "_x52 2x27 stale",
            f"{TOPIC}@2": "_x90 2x40 stale", f"{TOPIC}@3": "_x140 2x20",
            worker(0): "1x49 stale", worker(1): "_x52 1x27 stale",
            worker(2): "_x90 1x40 stale", worker(3): "_x140 1x20",
            STARTED: "-86400x49 stale", f"{STARTED}@1": "_x52 1550x27 stale",
            f"{STARTED}@2": "_x90 2690x40 stale", f"{STARTED}@3": "_x140 4190x20",
        },
    ),
    # It is emptied, and the installation is given up.
    case(
        "StoreEmptied", PAGE | SHOP, "20m 6h30m", "30m 2h 6h20m",
        {
            NEW: "0x39 0 8x9 stale", OFFSET_0: "900x39 900 0 5+9x8 stale", as_of(0): "0+30x39 1200 stale",
            TOPIC: "1x49 stale", worker(0): "1x49 stale", STARTED: "-86400x49 stale",
        },
    ),
    # The first deployment folds its first namespace, a migration another one, another installation its own.
    case(
        "StoreEmptied", {}, "5m 16m 30m 31m 40m 46m", "",
        {
            NEW: "8x100", OFFSET_0: "0+9x100", worker(0): "1x100", STARTED: "0x100",
            worker(1, state_namespace="shop-2"): "_x60 1x40", worker(2, prefix="b"): "_x60 1x40",
            **{f"{NEW}@{i}": "_x60 8x40" for i in (1, 2)}, **{f"{OFFSET_0}@{i}": "_x60 0+9x40" for i in (1, 2)},
            **{f"{STARTED}@{i}": "_x60 1800x40" for i in (1, 2)},
        },
    ),
    # A worker folds another namespace for some minutes, and then the one before again.
    case(
        "StoreEmptied", {}, "21m 25m30s 27m 33m 37m", "",
        {
            NEW: "8x39 0 8x9 0x50", OFFSET_0: "0+9x39 0+9x10 360+9x50", STARTED: "0x39 1200x10 1530x50",
            worker(0): "1x39 stale _x10 1x50", worker(0, state_namespace="shop-2"): "_x40 1x9 stale",
        },
    ),
    # Two processes have one name in two jobs, and one of them can use its key file again.
    case(
        "KeysNotReread", PAGE | {"job": "uic", "instance": "host"}, "0s", "30s 10m",
        {
            'uic_keys_refused{job="uic",instance="host"}': "0 1x60",
            'rtp_keys_refused{job="rtp",instance="host"}': "0x60",
        },
    ),
    # A process ends a moment after each start; one is restarted three times by hand; another program ends.
    case(
        "RestartLoop", PAGE | {"job": "rtp", "instance": "rtp-0"}, "10m 10m35s 23m30s", "11m 13m 22m",
        {f'{STARTED}{{job="rtp"}}': LOOP}, every="5s",
    ),
    case("RestartLoop", {}, "11m 15m 18m", "", {f'{STARTED}{{job="uic"}}': "0x20 600x4 720x4 _x2 900x40"}),
    case("RestartLoop", {}, "11m 15m", "", {f'{STARTED}{{job="exporter"}}': LOOP}, every="5s"),
    # A worker's connections take most of its files.
    case(
        "OutOfFiles", PAGE | {"job": "uic", "instance": "uic-0"}, "30s 4m", "1m 3m",
        {
            'process_open_fds{job="uic"}': "100 100 800x5 100x10", 'process_max_fds{job="uic"}': "1024x20",
            'process_open_fds{job="rtp"}': "800x20", 'process_max_fds{job="rtp"}': "1024x20",
        },
    ),
    # A share of bad ones: for ten minutes, beside a larger installation that is well; for 40 s; again and again.
    *[case(alert, labels, f"{silent} 25m5s", f"{begins} 20m 24m55s", of(*LASTING) | other, every="5s")
      for alert, of, labels, other, silent, begins in RATIOS],
    *[case(alert, {}, minutes(10, 18), "", of(*OUTAGE), every="5s") for alert, of, *_ in RATIOS],
    *[case(alert, labels, f"{silent} 25m", f"{begins} 16m 17m 19m30s", of(*AGAIN), every="5s")
      for alert, of, labels, _, silent, begins in RATIOS],
    # A tenth of the scores rest on stale states; the one request of an hour meets a store that is away.
    case(
        "ScoresWithoutState", PAGE | IN_SHOP, "5m 8m 21m", "15m",
        SCORER
        | {'rtp_states_total{status="warm"}': "0+900x80", 'rtp_states_total{status="cold"}': "0+900x80"}
        | {'rtp_states_total{status="stale"}': "0x10 0+200x20 4000x50"},
    ),
    case("ScoresWithoutState", {}, minutes(10, 17), "", scores("0x360", "0x120 1x240"), every="5s"),
    # Callers send what is no request.
    case(
        "PredictFails", {}, "15m 30m", "",
        SCORER | {'rtp_answers_total{status="200"}': "0+900x80", 'rtp_answers_total{status="422"}': "0+900x80"},
    ),
    case(
        "PredictRejected", TICKET | IN_SHOP, "10m 20m 36m30s", "21m30s 30m",
        SCORER
        | {'rtp_answers_total{status="200"}': "0+900x20 18000+0x40 18000+900x60"}
        | {'rtp_answers_total{status="422"}': "0x20 0+900x40 36000x60"}
        | other_scorer('rtp_answers_total{status="200"}'),
    ),
    case(
        "PredictRejected", {}, "20m 39m", "",
        SCORER | {'rtp_answers_total{status="200"}': "0+900x80", 'rtp_answers_total{status="422"}': "0+50x80"},
    ),
    # Scored requests are slow, those of a larger installation are not, and refusals and faults do not count.
    case(
        "PredictSlow", TICKET | IN_SHOP, "9m 15m 36m30s", "25m 30m",
        SCORER
        | {f'rtp_request_seconds_bucket{{status="2xx",le="{le}"}}': "0+900x20 18000+800x40 50000+900x60"
           for le in ("0.01", "0.02")}
        | {f'rtp_request_seconds_bucket{{status="2xx",le="{le}"}}': "0+900x20 18000+900x40 54000+900x60"
           for le in ("0.05", "+Inf")}
        | {'rtp_request_seconds_bucket{status="5xx",le="0.01"}': "0x120"}
        | {'rtp_request_seconds_bucket{status="5xx",le="+Inf"}': "0+900x120"}
        | other_scorer(*(f'rtp_request_seconds_bucket{{status="2xx",le="{le}"}}' for le in ("0.02", "0.05", "+Inf"))),
    ),
    # A canary of a hundredth of the users fails each request, and a larger installation's does not.
    case(
        "CanaryFails", CANARY, "10m 14m 47m", "16m 30m 40m",
        arm(*(counted((good, 20), (bad, 60), (0, 40)) for good, bad in ((1, 0), (0, 1))))
        | {'rtp_arm_scored_total{arm="serving",bundle="shop/1",state="warm"}': "0+100x400"}
        | other_scorer('rtp_arm_scored_total{arm="canary",bundle="shop/2",state="warm"}'),
    ),
    # It has a request in three minutes, and each fails; two fail.
    case(
        "CanaryFails", CANARY, "16m 80m", "24m 30m 50m 69m",
        arm("0x400", counted((0, 20), *[(1, 1), (0, 5)] * 20, (0, 60))),
    ),
    case(
        "CanaryFails", {}, minutes(10, 40), "",
        arm(counted(*[(0, 5), (1, 1)] * 30), counted((0, 20), *[(1, 1), (0, 5)] * 2, (0, 60))),
    ),
    # As many fail of what serves; a tenth as many; half of the others.
    case("CanaryFails", {}, "16m 30m 40m", "", arm(*A_TENTH, "Overloaded") | arm(*A_TENTH, "Overloaded", "serving")),
    case(
        "CanaryFails", CANARY, "14m 47m", "18m 40m",
        arm(*A_TENTH, "Overloaded") | arm(counted((99, 120)), counted((1, 120)), "Overloaded", "serving"),
    ),
    case(
        "CanaryFails", CANARY, "47m", "40m",
        arm(counted((9, 20), (0, 100)), counted((0, 20), (9, 60), (0, 40)))
        | arm(counted((50, 120)), counted((50, 120)), of="serving"),
    ),
    # Its requests fail for 40 s; callers send what is no request; what serves fails.
    case("CanaryFails", {}, minutes(10, 20), "", arm(*OUTAGE, "StateUnavailable"), every="5s"),
    case("CanaryFails", {}, "16m 30m 40m", "", arm(*A_THIRD, "InvalidRequest")),
    case("CanaryFails", {}, "16m 30m 40m", "", arm(*A_THIRD, of="serving")),
    # It fails and is ended, after four minutes and later.
    case(
        "CanaryFails", {}, minutes(10, 24), "",
        arm(counted((9, 20), (0, 100)), counted((0, 20), (9, 8), (0, 92))) | {release("canary"): "1x28 stale"},
    ),
    case(
        "CanaryFails", CANARY, "34m 40m", "16m 30m",
        arm(counted((9, 20), (0, 100)), counted((0, 20), (9, 40), (0, 60))) | {release("canary"): "1x60 stale"},
    ),
    # A shadow fails a third of its requests, or has no time for them.
    case("ShadowFails", CANARY | {"arm": "shadow"}, "10m 14m 47m", "16m 40m", shadow(*A_THIRD)),
    case("ShadowFails", {}, "16m 30m 40m", "", shadow(*A_THIRD, "busy")),
    # The catalog is another one than a bundle's, and another bundle, or installation, knows most of it.
    case(
        "UnknownCandidates", TICKET | IN_SHOP | {"bundle": "shop/1"}, "29m 36m", "40m 55m",
        SCORER
        | {candidates("shop/1", "known"): counted((100, 60), (0, 60))}
        | {candidates("shop/1", "unknown"): counted((0, 60), (100, 60))}
        | {candidates("shop/2", "known"): "0x60 0+100x58", candidates("shop/2", "unknown"): "0x60 0+30x58"}
        | other_scorer(candidates("shop/1", "known")),
    ),
    # A few unknown candidates are asked for by hand.
    case(
        "UnknownCandidates", {}, "12m 15m 25m", "",
        SCORER | {candidates("shop/1", "known"): "0x60", candidates("shop/1", "unknown"): "0x20 0+100x6 600x30"},
    ),
]  # fmt: skip
SCENARIOS: dict[str, list[Any]] = {alert: [] for alert in ANNOTATIONS}
for an_alert, a_scenario in [*(plain(row) for row in PLAIN.strip().splitlines()), *CASES]:
    SCENARIOS[an_alert].append(a_scenario)


@pytest.mark.parametrize("alert", SCENARIOS)
def test_an_alert_fires_in_time_and_clears(alert: str, tmp_path: Path) -> None:
    seen = [test for scenario in SCENARIOS[alert] for test in scenario["alert_rule_test"]]
    assert {bool(test["exp_alerts"]) for test in seen} == {True, False}, "the table lacks a scenario of it"
    assert faults_of(SCENARIOS[alert], tmp_path) == ""


def replaced(series: str, until_then: str, then: str) -> dict[str, str]:
    """A series of a process that is replaced in the tenth minute by one of another name."""
    return {f'{series[:-1]},instance="a-0"}}': f"{until_then} stale", f'{series[:-1]},instance="a-1"}}': f"_x20 {then}"}


def test_processes_replaced_in_turn_fire_no_alert(tmp_path: Path) -> None:
    series: dict[str, str] = {}
    for name in ('up{job="uic"}', 'up{job="rtp"}', worker(0)[:-2], scorer(0)[:-2]):
        series |= replaced(name, "1x19", "1x60")
    for name in ('uic_ready{job="uic"}', 'rtp_store_up{job="rtp"}', 'rtp_rollout_up{job="rtp"}'):
        series |= replaced(name, "1x19", "1x60")
    for name in ('uic_topic_partitions{job="uic"}', 'uic_partitions{status="folding"}'):
        series |= replaced(name, "2x19", "2x60")
    for p in range(2):
        series |= replaced(f'uic_next_offset{{partition="{p}"}}', "700x19", "700x60")
        series |= replaced(f'uic_lag_records{{partition="{p}"}}', "0x19", "0x60")
        series |= replaced(f'uic_as_of_timestamp_seconds{{partition="{p}"}}', "0+30x19", "600+30x60")
    for job in ("uic", "rtp"):
        series |= replaced(f'process_start_time_seconds{{job="{job}"}}', "-86400x19", "590x60")
        series |= replaced(f'process_open_fds{{job="{job}"}}', "99x19", "99x60")
        series |= replaced(f'process_max_fds{{job="{job}"}}', "1024x19", "1024x60")
        series |= replaced(f'{job}_clock_skew_seconds{{job="{job}"}}', "0.1x19", "0.1x60")
        series |= replaced(f'{job}_denied_total{{reason="bad_key"}}', "70x19", "0x60")
        series |= replaced(f'{job}_log_lines_dropped_total{{job="{job}"}}', "70x19", "0x60")
    for counter in ('data_gaps_total{job="uic"}', 'lost_states_total{job="uic"}', 'rewinds_total{job="uic"}'):
        series |= replaced(f"uic_{counter}", "7x19", "0x60")
    series |= replaced('uic_dead_letters_total{reason="bad_key"}', "7x19", "0x60")
    series |= replaced('uic_take_ups_total{decision="new"}', "2x19", "0x60")
    for status, rises in (("warm", "0+900"), ("cold", "0+900"), ("stale", "7+0"), ("unavailable", "7+0")):
        series |= replaced(f'rtp_states_total{{status="{status}"}}', f"{rises}x19", f"{rises}x60")
    for status, rises in (("200", "0+900"), ("503", "7+0")):
        series |= replaced(f'rtp_answers_total{{status="{status}"}}', f"{rises}x19", f"{rises}x60")
    for code, rises in (("OK", "0+900"), ("RESOURCE_EXHAUSTED", "7+0")):
        series |= replaced(f'uic_rpcs_total{{code="{code}"}}', f"{rises}x19", f"{rises}x60")
    for bound in ("0.005", "0.02", "+Inf"):
        series |= replaced(f'rtp_request_seconds_bucket{{status="2xx",le="{bound}"}}', "0+900x19", "0+900x60")
    assert faults(quiet(series, minutes(8, 25).split()), tmp_path) == ""


def test_the_rules_are_rules() -> None:
    ended = subprocess.run([skips.promtool(), "check", "rules", RULES], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
