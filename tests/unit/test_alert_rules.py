"""Alerts fire when they should, wait as long as they say, and clear: judged by Prometheus's own tool."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support import skips
from support.alert_rules import ANNOTATIONS, RULES, faults, quiet, scenario, scenario_of

RTP = 'instance="rtp-0"'
UIC = 'instance="uic-0"'


def worker(i: int, **labels: str) -> str:
    """The series that says what worker i folds, and under which names: of `SHOP`, unless told otherwise."""
    told = ",".join(f'{label}="{value}"' for label, value in (SHOP | labels).items())
    return f'uic_bundle_info{{{told},instance="uic-{i}"}}'


def scorer(i: int, **labels: str) -> str:
    """The series that says what RTP process i serves, as `worker`."""
    told = ",".join(f'{label}="{value}"' for label, value in (SHOP | labels).items() if label != "topic")
    return f'rtp_bundle{{name="model",version="1",{told},instance="rtp-{i}"}}'


PAGE = {"severity": "page"}
TICKET = {"severity": "ticket"}
SHOP = {"prefix": "uic", "topic": "events", "state_namespace": "ab-0"}
"""The labels of an installation."""
OF_SHOP = {"prefix": "uic", "topic": "events"}
IN_SHOP = {"prefix": "uic"}
INFO = {worker(i): "1x60" for i in range(2)}
"""Two workers of one namespace."""
SCORER = {scorer(0): "1x400"}


def counted(*rates: tuple[int, int]) -> str:
    """A counter that rises by each rate as many times as told beside it, beginning at 0."""
    value, parts = 0, []
    for rate, times in rates:
        parts.append(f"{value}+{rate}x{times - 1}")
        value += rate * times
    return " ".join(parts)


def scores(good: str, bad: str) -> dict[str, str]:
    """Series of scored requests, a sample each five seconds."""
    return SCORER | {
        f'rtp_states_total{{status="warm",{RTP}}}': good,
        f'rtp_states_total{{status="unavailable",{RTP}}}': bad,
    }


def candidates(bundle: str, item: str) -> str:
    """The series of candidates that a bundle knows, or does not."""
    return f'rtp_arm_candidates_total{{arm="serving",bundle="{bundle}",item="{item}",{RTP}}}'


def release(role: str) -> str:
    """The series of a loaded release."""
    return f'rtp_release{{bundle="shop/2",state_namespace="shop-2",role="{role}",{RTP}}}'


def arm(scored: str, failed: str, error: str = "ScoringFailed", of: str = "canary") -> dict[str, str]:
    """Series of requests of the users of an arm."""
    labels = f'arm="{of}",bundle="shop/2"'
    return SCORER | {
        release(of): "1x400",
        f'rtp_arm_scored_total{{{labels},state="warm",{RTP}}}': scored,
        f'rtp_arm_scored_total{{{labels},state="cold",{RTP}}}': "0x400",
        f'rtp_arm_failed_total{{{labels},error="{error}",{RTP}}}': failed,
        f'rtp_arm_failed_total{{{labels},error="DeadlineMissed",{RTP}}}': "0x400",
    }


def shadow(scored: str, shed: str, reason: str = "ScoringFailed") -> dict[str, str]:
    """Series of requests that a shadow scores too."""
    labels = 'arm="shadow",bundle="shop/2"'
    return SCORER | {
        release("shadow:shadow"): "1x400",
        f"rtp_shadow_seconds_count{{{labels},{RTP}}}": scored,
        f'rtp_shadow_shed_total{{{labels},reason="{reason}",{RTP}}}': shed,
    }


CANARY = {"arm": "canary", "bundle": "shop/2"}
A_THIRD = counted((9, 20), (6, 60), (0, 40)), counted((0, 20), (3, 60), (0, 40))
"""Of what is scored and what fails: from the tenth minute on for half an hour a third fails."""
A_TENTH = counted((9, 80), (0, 40)), counted((0, 20), (1, 60), (0, 40))
"""The same, a tenth."""


def answers(good: str, bad: str) -> dict[str, str]:
    """Series of answered requests, a sample each five seconds."""
    return SCORER | {
        f'rtp_answers_total{{status="200",code="",{RTP}}}': good,
        f'rtp_answers_total{{status="503",code="state_unavailable",{RTP}}}': bad,
    }


OUTAGE = counted((50, 120), (0, 8), (50, 232)), counted((0, 120), (50, 8), (0, 232))
"""Of requests that are well and that are not: from the tenth minute on the store is away for 40 s."""
BAD_AGAIN_AND_AGAIN = (
    counted((50, 120), *[(0, 6), (50, 18)] * 5, (50, 120)),
    counted((0, 120), *[(50, 6), (0, 18)] * 5, (0, 120)),
)
"""From the tenth minute on it is away for the first 30 s of each of five times two minutes."""
LASTING = counted((50, 120), (0, 120), (50, 120)), counted((0, 120), (50, 120), (0, 120))
"""From the tenth minute on it is away for ten minutes."""


MANY = "0+50000x400"
"""A counter of a large installation that is well, a sample each five seconds."""


def other_scorer(series: str) -> dict[str, str]:
    """`series` of an RTP process of another installation, which is well."""
    return {scorer(1, prefix="b"): "1x400", f'{series[:-1]},instance="rtp-1"}}': MANY}


def calls(good: str, bad: str) -> dict[str, str]:
    """Series of gRPC calls, a sample each five seconds."""
    return {
        worker(0): "1x400",
        f'uic_rpcs_total{{method="PublishBehaviors",code="OK",{UIC}}}': good,
        f'uic_rpcs_total{{method="PublishBehaviors",code="RESOURCE_EXHAUSTED",{UIC}}}': bad,
    }


def loop(times: int) -> str:
    """When a process began that ends every 15 s from the tenth minute on and is seen twice each time, a sample each
    five seconds."""
    return "0x119 " + " ".join(f"{600 + 15 * i}x1 _" for i in range(times))


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
    "the Sentinels are lost, and come back": scenario(
        f"uic_sentinels_up{{{UIC}}}",
        "1 1 0x12 1x4",
        [("1m", False), ("5m30s", False), ("6m", True), ("7m", True), ("7m30s", False)],
        "SentinelsSilent",
        {"severity": "ticket", "instance": "uic-0"},
    ),
    "a deployment without Sentinels": scenario(
        f"rtp_sentinels_up{{{RTP}}}",
        "NaN " * 20,
        [("6m", False), ("9m", False)],
        "SentinelsSilent",
        {"severity": "ticket", "instance": "rtp-0"},
    ),
    "a worker loses its partitions, and has them again": scenario_of(
        {
            worker(0, state_namespace="old"): "1x20",
            worker(1, state_namespace="new"): "1x20",
            f"uic_topic_partitions{{{UIC}}}": "4x20",
            'uic_topic_partitions{instance="uic-1"}': "4x20",
            f'uic_partitions{{status="folding",{UIC}}}': "3 3 0x8 3x10",
            f'uic_partitions{{status="broken",{UIC}}}': "1 1 0x8 1x10",
            'uic_partitions{status="folding",instance="uic-1"}': "4x20",  # another namespace's, which help nobody here
        },
        [("30s", False), ("2m30s", False), ("3m", True), ("5m", True), ("5m30s", False)],
        "PartitionsUnowned",
        PAGE | SHOP | {"state_namespace": "old"},
    ),
    "the partitions of two workers are all owned": scenario_of(
        {
            worker(0, state_namespace="old"): "1x20",
            worker(1, state_namespace="old"): "1x20",
            f"uic_topic_partitions{{{UIC}}}": "4x20",
            'uic_topic_partitions{instance="uic-1"}': "4x20",
            f'uic_partitions{{status="folding",{UIC}}}': "3x20",
            'uic_partitions{status="folding",instance="uic-1"}': "1x20",
        },
        [("3m", False), ("9m", False)],
        "PartitionsUnowned",
        {},
    ),
    "a worker is cut off from the log and keeps partitions that another one has, which lacks one": scenario_of(
        {
            **INFO,
            f"uic_topic_partitions{{{UIC}}}": "4x20",
            'uic_topic_partitions{instance="uic-1"}': "4x20",
            f'uic_partitions{{status="folding",{UIC}}}': "2 2 0x18",
            f'uic_partitions{{status="ownership_lost",{UIC}}}': "0 0 2x18",
            'uic_partitions{status="folding",instance="uic-1"}': "2 2 3x8 4x10",
        },
        [("30s", False), ("2m30s", False), ("3m", True), ("5m", True), ("5m30s", False)],
        "PartitionsUnowned",
        PAGE | SHOP,
    ),
    "a worker never becomes ready, and then does": scenario_of(
        {f"uic_ready{{{UIC}}}": "_ 0x13 1x10", 'uic_ready{instance="uic-1"}': "1x24"},
        [("5m", False), ("5m30s", True), ("7m", True), ("7m30s", False)],
        "UicNotReady",
        {"severity": "ticket", "instance": "uic-0"},
    ),
    "a worker starts and joins its group": scenario_of(
        {f"uic_ready{{{UIC}}}": "0x2 1x20"},
        [("1m", False), ("2m", False), ("6m", False)],
        "UicNotReady",
        {},
    ),
    "a worker keeps partitions that another one folds, and is told so": scenario_of(
        {f"uic_ready{{{UIC}}}": "1x24", f'uic_partitions{{status="ownership_lost",{UIC}}}': "0 4x13 0x10"},
        [("5m", False), ("5m30s", True), ("7m", True), ("7m30s", False)],
        "UicNotReady",
        {"severity": "ticket", "instance": "uic-0"},
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
        {"severity": "ticket", "instance": "uic-0", "reason": "bad_key"},
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
    # The clock of these scenarios begins at 0: a week is 604,800 s.
    "a certificate is renewed in its last week": scenario(
        f'rtp_tls_certificate_expires_seconds{{listener="http",{RTP}}}',
        "604860x4 2000000x4",
        [("1m", False), ("1m30s", True), ("2m", True), ("2m30s", False)],
        "CertificateExpires",
        {"severity": "ticket", "instance": "rtp-0", "listener": "http"},
    ),
    "a certificate expires, and another listener's does not": scenario_of(
        {
            f'uic_tls_certificate_expires_seconds{{listener="grpc",{UIC}}}': "60x4 2000000x4",
            f'uic_tls_certificate_expires_seconds{{listener="admin",{UIC}}}': "2000000x8",
        },
        [("30s", False), ("1m", True), ("2m", True), ("2m30s", False)],
        "CertificateExpired",
        {"severity": "page", "instance": "uic-0", "listener": "grpc"},
    ),
    "the certificate of a client of Kafka expires, and is renewed": scenario(
        f'uic_tls_client_certificate_expires_seconds{{server="kafka",{UIC}}}',
        "60x4 2000000x4",
        [("30s", False), ("1m", True), ("2m", True), ("2m30s", False)],
        "CertificateExpired",
        {"severity": "page", "instance": "uic-0", "server": "kafka"},
    ),
    "the certificate of a client of the store is in its last week": scenario(
        f'rtp_tls_client_certificate_expires_seconds{{server="store",{RTP}}}',
        "604860x4 2000000x4",
        [("1m", False), ("1m30s", True), ("2m", True), ("2m30s", False)],
        "CertificateExpires",
        {"severity": "ticket", "instance": "rtp-0", "server": "store"},
    ),
    "log lines are dropped, for a moment": scenario(
        f"uic_log_lines_dropped_total{{{UIC}}}",
        "0 0 900x40",
        [("30s", False), ("1m", True), ("9m", True), ("12m", False)],
        "LogLinesDropped",
        {"severity": "ticket", "instance": "uic-0"},
    ),
    "a partition is behind, and catches up": scenario_of(
        INFO | {f'uic_as_of_timestamp_seconds{{partition="0",{UIC}}}': "0+0x12 390+30x10"},
        [("2m", False), ("3m", False), ("3m30s", True), ("6m", True), ("6m30s", False)],
        "PartitionsBehind",
        PAGE | SHOP,
    ),
    "a partition is behind that is fresh in another namespace": scenario_of(
        {
            worker(0): "1x20",
            worker(1, state_namespace="shop-2"): "1x20",
            f'uic_as_of_timestamp_seconds{{partition="0",{UIC}}}': "0x20",
            'uic_as_of_timestamp_seconds{partition="0",instance="uic-1"}': "0+30x20",
        },
        [("3m", False), ("3m30s", True), ("9m", True)],
        "PartitionsBehind",
        PAGE | SHOP,
    ),
    "a worker is cut off from the log and keeps partitions that another one folds, until that one stops": scenario_of(
        INFO
        | {f'uic_as_of_timestamp_seconds{{partition="{p}",{UIC}}}': "0 30 60x58" for p in range(2)}
        | {f'uic_next_offset{{partition="{p}",{UIC}}}': "7x60" for p in range(2)}
        | {
            'uic_as_of_timestamp_seconds{partition="0",instance="uic-1"}': "_ _ _ 90+30x56",
            'uic_as_of_timestamp_seconds{partition="1",instance="uic-1"}': "_ _ _ 90+30x17 600x39",
            'uic_next_offset{partition="0",instance="uic-1"}': "_ _ _ 7x57",
            'uic_next_offset{partition="1",instance="uic-1"}': "_ _ _ 7x57",
        },
        [("3m", False), ("5m", False), ("10m", False), ("13m", False), ("13m30s", True), ("20m", True)],
        "PartitionsBehind",
        PAGE | SHOP,
    ),
    "a worker gives a partition of a quiet topic to one that joins": scenario_of(
        INFO
        | {
            f'uic_next_offset{{partition="0",{UIC}}}': "7x60",
            f'uic_next_offset{{partition="1",{UIC}}}': "7x19 stale",
            'uic_next_offset{partition="1",instance="uic-1"}': "_x21 7x40",
            f'uic_as_of_timestamp_seconds{{partition="0",{UIC}}}': "0+30x60",
            f'uic_as_of_timestamp_seconds{{partition="1",{UIC}}}': "0+30x19 stale",
            'uic_as_of_timestamp_seconds{partition="1",instance="uic-1"}': "_x21 630+30x40",
        },
        [("10m", False), ("11m", False), ("11m30s", False), ("12m", False), ("12m30s", False), ("20m", False)],
        "PartitionsBehind",
        {},
    ),
    "a first build goes from worker to worker, and hangs with the second": scenario_of(
        INFO
        | {
            f'uic_next_offset{{partition="0",{UIC}}}': "0+5x19 stale",
            'uic_next_offset{partition="0",instance="uic-1"}': "_x20 0 100+5x9 145x20",
        },
        [("10m", False), ("12m", False), ("15m", False), ("17m30s", False), ("18m", True), ("20m", True)],
        "PartitionsBehind",
        PAGE | SHOP,
    ),
    "a first build goes on with another worker than the one that is cut off in it": scenario_of(
        INFO
        | {
            f'uic_next_offset{{partition="0",{UIC}}}': "0+5x10 50x30",
            'uic_next_offset{partition="0",instance="uic-1"}': "_x12 0 50+5x28",
        },
        [("8m", False), ("9m", False), ("15m", False), ("20m", False)],
        "PartitionsBehind",
        {},
    ),
    "a first build hangs, beside a partition that is caught up, and goes on": scenario_of(
        {
            **INFO,
            f'uic_as_of_timestamp_seconds{{partition="0",{UIC}}}': "0+30x30",
            f'uic_next_offset{{partition="0",{UIC}}}': "7x30",
            f'uic_next_offset{{partition="1",{UIC}}}': "0+5x4 20x10 25+5x10",
        },
        [("2m", False), ("4m", False), ("5m", True), ("7m30s", True), ("8m", False), ("12m", False)],
        "PartitionsBehind",
        PAGE | SHOP,
    ),
    "a reload is refused": scenario(
        f'rtp_bundle_reloads_total{{result="refused",{RTP}}}',
        "0 0 1x40",
        [("30s", False), ("1m30s", True), ("14m", False)],
        "ReloadRefused",
        {"severity": "ticket", "instance": "rtp-0", "result": "refused"},
    ),
    "a partition is broken, and an operator decides": scenario(
        f'uic_partitions{{status="broken",{UIC}}}',
        "0 0 1x5 0x10",
        [("30s", False), ("1m", True), ("3m30s", True), ("4m", False)],
        "PartitionBroken",
        {"severity": "page", "instance": "uic-0"},
    ),
    "the topic is compacted, as both workers say, and is not any more": scenario_of(
        {
            f"uic_topic_compacted{{{UIC}}}": "0 0 1x5 0x10",
            'uic_topic_compacted{instance="uic-1"}': "0 0 1x5 0x10",
            worker(0, state_namespace="old"): "1x20",
            worker(1, state_namespace="old"): "1x20",
        },
        [("30s", False), ("1m", True), ("3m30s", True), ("4m", False)],
        "TopicCompacted",
        PAGE | OF_SHOP,
    ),
    "UIC may not write to the topic, and may again": scenario(
        f"uic_publishing_failing{{{UIC}}}",
        "0 0 1x5 0x10",
        [("1m30s", False), ("2m", True), ("3m30s", True), ("4m", False)],
        "PublishingFails",
        {"severity": "page", "instance": "uic-0"},
    ),
    "the topic of erasures is deleted, and made again": scenario(
        f"uic_erasures_unavailable{{{UIC}}}",
        "0 0 1x5 0x10",
        [("1m30s", False), ("2m", True), ("3m30s", True), ("4m", False)],
        "ErasuresUnavailable",
        {"severity": "page", "instance": "uic-0"},
    ),
    "the catalog is another one than a bundle's, and another bundle, or installation, knows most of it": scenario_of(
        SCORER
        | {
            candidates("shop/1", "known"): counted((100, 60), (0, 60)),
            candidates("shop/1", "unknown"): counted((0, 60), (100, 60)),
            candidates("shop/2", "known"): "0x60 0+100x58",
            candidates("shop/2", "unknown"): "0x60 0+30x58",
        }
        | other_scorer('rtp_arm_candidates_total{arm="serving",bundle="shop/1",item="known"}'),
        [("29m", False), ("36m", False), ("40m", True), ("55m", True)],
        "UnknownCandidates",
        TICKET | IN_SHOP | {"bundle": "shop/1"},
    ),
    "a few unknown candidates are asked for by hand": scenario_of(
        SCORER
        | {
            candidates("shop/1", "known"): "0x60",
            candidates("shop/1", "unknown"): "0x20 0+100x6 600x30",
        },
        [("12m", False), ("15m", False), ("25m", False)],
        "UnknownCandidates",
        {},
    ),
    "a worker's clock is slow, and is set": scenario(
        f"uic_clock_skew_seconds{{{UIC}}}",
        "0 0 -3x5 0x10",
        [("1m30s", False), ("2m", True), ("3m30s", True), ("4m", False)],
        "ClockSkew",
        {"severity": "ticket", "instance": "uic-0"},
    ),
    "an RTP's clock is an hour fast, and is set": scenario_of(
        {
            f"rtp_clock_skew_seconds{{{RTP}}}": "NaN 0 3600x5 0.01x10",
            'rtp_clock_skew_seconds{instance="rtp-1"}': "NaN NaN NaN NaN NaN NaN",
            f"uic_clock_skew_seconds{{{UIC}}}": "0x20",
        },
        [("1m30s", False), ("2m", True), ("3m30s", True), ("4m", False)],
        "ClockSkew",
        {"severity": "ticket", "instance": "rtp-0"},
    ),
    "a backlog grows, and is folded": scenario_of(
        {
            **{worker(i): "1x120" for i in range(2)},
            f'uic_lag_records{{partition="0",{UIC}}}': "0+10000x60 600000-20000x30 0x20",
            'uic_lag_records{partition="1",instance="uic-1"}': "0x120",
        },
        [("10m", False), ("20m", True), ("30m", True), ("38m", False), ("50m", False)],
        "LagGrows",
        TICKET | SHOP,
    ),
    "a large backlog is folded, which takes long": scenario_of(
        {worker(0): "1x120", f'uic_lag_records{{partition="0",{UIC}}}': "9000000-10000x120"},
        [("15m", False), ("30m", False), ("59m", False)],
        "LagGrows",
        {},
    ),
    "states are lost": scenario(
        f"uic_lost_states_total{{{UIC}}}",
        "0 0 5x60",
        [("30s", False), ("1m", True), ("10m", True), ("12m", False)],
        "LostStates",
        {"severity": "page", "instance": "uic-0"},
    ),
    "the store loses writes": scenario(
        f"uic_rewinds_total{{{UIC}}}",
        "0 0 1x60",
        [("30s", False), ("1m", True), ("10m", True), ("12m", False)],
        "StoreLostWrites",
        {"severity": "ticket", "instance": "uic-0"},
    ),
    "the store is emptied under a worker that runs, and is soon as before": scenario_of(
        {
            f'uic_take_ups_total{{decision="new",{UIC}}}': "0x39 0 8x60",
            f'uic_next_offset{{partition="0",{UIC}}}': "900x39 900 0 5+9x60",
            f'uic_as_of_timestamp_seconds{{partition="0",{UIC}}}': "0+30x39 1200 stale _x5 1410+30x50",
            f"uic_topic_partitions{{{UIC}}}": "1x100",
            worker(0): "1x100",
            f"process_start_time_seconds{{{UIC}}}": "-86400x100",
        },
        [("20m", False), ("20m30s", True), ("29m", True), ("31m", False), ("45m", False)],
        "StoreEmptied",
        PAGE | SHOP,
    ),
    "the store is emptied, and the workers are restarted twice before all is folded again, and once after": scenario_of(
        {
            f'uic_take_ups_total{{decision="new",{UIC}}}': "0x39 0 2x9 stale",
            'uic_take_ups_total{decision="new",instance="uic-1"}': "_x52 0x27 stale",
            'uic_take_ups_total{decision="new",instance="uic-2"}': "_x90 0x40 stale",
            'uic_take_ups_total{decision="new",instance="uic-3"}': "_x140 0x20",
            **{f'uic_next_offset{{partition="{p}",{UIC}}}': "900x39 900 0 5+9x8 stale" for p in range(2)},
            **{f'uic_next_offset{{partition="{p}",instance="uic-1"}}': "_x52 90+9x27 stale" for p in range(2)},
            **{f'uic_next_offset{{partition="{p}",instance="uic-2"}}': "_x90 400+9x40 stale" for p in range(2)},
            **{f'uic_next_offset{{partition="{p}",instance="uic-3"}}': "_x140 0 900x19" for p in range(2)},
            **{f'uic_as_of_timestamp_seconds{{partition="{p}",{UIC}}}': "0+30x39 1200 stale" for p in range(2)},
            'uic_as_of_timestamp_seconds{partition="0",instance="uic-2"}': "_x100 3000+30x30 stale",
            'uic_as_of_timestamp_seconds{partition="1",instance="uic-2"}': "_x120 3600+30x10 stale",
            **{
                f'uic_as_of_timestamp_seconds{{partition="{p}",instance="uic-3"}}': "_x140 _ 4230+30x19"
                for p in range(2)
            },
            f"uic_topic_partitions{{{UIC}}}": "2x49 stale",
            'uic_topic_partitions{instance="uic-1"}': "_x52 2x27 stale",
            'uic_topic_partitions{instance="uic-2"}': "_x90 2x40 stale",
            'uic_topic_partitions{instance="uic-3"}': "_x140 2x20",
            worker(0): "1x49 stale",
            worker(1): "_x52 1x27 stale",
            worker(2): "_x90 1x40 stale",
            worker(3): "_x140 1x20",
            f"process_start_time_seconds{{{UIC}}}": "-86400x49 stale",
            'process_start_time_seconds{instance="uic-1"}': "_x52 1550x27 stale",
            'process_start_time_seconds{instance="uic-2"}': "_x90 2690x40 stale",
            'process_start_time_seconds{instance="uic-3"}': "_x140 4190x20",
        },
        [
            *[("20m", False), *[(f"{m}m{s}s", True) for m in range(21, 60) for s in (0, 30)]],
            *[(f"1h{m}m{s}s", False) for m in range(1, 14) for s in (0, 30)],
        ],
        "StoreEmptied",
        PAGE | SHOP,
    ),
    "the store is emptied, and the installation is given up": scenario_of(
        {
            f'uic_take_ups_total{{decision="new",{UIC}}}': "0x39 0 8x9 stale",
            f'uic_next_offset{{partition="0",{UIC}}}': "900x39 900 0 5+9x8 stale",
            f'uic_as_of_timestamp_seconds{{partition="0",{UIC}}}': "0+30x39 1200 stale",
            f"uic_topic_partitions{{{UIC}}}": "1x49 stale",
            worker(0): "1x49 stale",
            f"process_start_time_seconds{{{UIC}}}": "-86400x49 stale",
        },
        [("20m", False), ("30m", True), ("2h", True), ("6h20m", True), ("6h30m", False)],
        "StoreEmptied",
        PAGE | SHOP,
    ),
    "a migration folds another namespace, and the first deployment folds its first": scenario_of(
        {
            f'uic_take_ups_total{{decision="new",{UIC}}}': "8x100",
            f'uic_next_offset{{partition="0",{UIC}}}': "0+9x100",
            worker(0): "1x100",
            f"process_start_time_seconds{{{UIC}}}": "0x100",
            'uic_take_ups_total{decision="new",instance="uic-1"}': "_x60 8x40",
            'uic_next_offset{partition="0",instance="uic-1"}': "_x60 0+9x40",
            worker(1, state_namespace="shop-2"): "_x60 1x40",
            'process_start_time_seconds{instance="uic-1"}': "_x60 1800x40",
        },
        [("5m", False), ("16m", False), ("31m", False), ("40m", False), ("46m", False)],
        "StoreEmptied",
        {},
    ),
    "a worker folds another namespace for some minutes, and then the one before again": scenario_of(
        {
            f'uic_take_ups_total{{decision="new",{UIC}}}': "8x39 0 8x9 0x50",
            f'uic_next_offset{{partition="0",{UIC}}}': "0+9x39 0+9x10 360+9x50",
            worker(0): "1x39 stale _x10 1x50",
            worker(0, state_namespace="shop-2"): "_x40 1x9 stale",
            f"process_start_time_seconds{{{UIC}}}": "0x39 1200x10 1530x50",
        },
        [("21m", False), ("25m30s", False), ("27m", False), ("33m", False), ("37m", False)],
        "StoreEmptied",
        {},
    ),
    "a caller has a revoked key, and then a valid one": scenario_of(
        {
            f'rtp_denied_total{{reason="bad_key",{RTP}}}': "0x4 0+150x30 4500x30",
            f'rtp_denied_total{{reason="no_key",{RTP}}}': "0+15x64",
        },
        [("5m", False), ("10m", True), ("17m", True), ("24m", False)],
        "ManyDenied",
        {"severity": "ticket", "instance": "rtp-0", "reason": "bad_key"},
    ),
    "the store is away from RTP, and comes back": scenario(
        f"rtp_store_up{{{RTP}}}",
        "1 1 0x6 1x10",
        [("1m30s", False), ("2m", True), ("4m", True), ("4m30s", False)],
        "StoreUnreachable",
        {"severity": "page", "instance": "rtp-0"},
    ),
    "a tenth of the scores rest on stale states, for a while": scenario_of(
        {
            **SCORER,
            f'rtp_states_total{{status="warm",{RTP}}}': "0+900x80",
            f'rtp_states_total{{status="cold",{RTP}}}': "0+900x80",
            f'rtp_states_total{{status="stale",{RTP}}}': "0x10 0+200x20 4000x50",
            f'rtp_states_total{{status="unavailable",{RTP}}}': "0x80",
        },
        [("5m", False), ("8m", False), ("15m", True), ("21m", False)],
        "ScoresWithoutState",
        PAGE | IN_SHOP,
    ),
    "the store is away for ten minutes": scenario_of(
        scores(*LASTING),
        [("15m10s", False), ("15m15s", True), ("20m", True), ("24m55s", True), ("25m5s", False)],
        "ScoresWithoutState",
        PAGE | IN_SHOP,
        every="5s",
    ),
    "the store is away for 40 s": scenario_of(
        scores(*OUTAGE),
        [(f"{m}m{s}s", False) for m in range(10, 18) for s in (0, 15, 20, 30, 45)],
        "ScoresWithoutState",
        {},
        every="5s",
    ),
    "the store is away again and again": scenario_of(
        scores(*BAD_AGAIN_AND_AGAIN),
        [("15m10s", False), ("15m15s", True), ("16m", True), ("17m", True), ("19m30s", True), ("25m", False)],
        "ScoresWithoutState",
        PAGE | IN_SHOP,
        every="5s",
    ),
    "the one request of an hour meets a store that is away": scenario_of(
        scores("0x360", "0x120 1x240"),
        [(f"{m}m{s}s", False) for m in range(10, 17) for s in (0, 15, 30, 45, 55)],
        "ScoresWithoutState",
        {},
        every="5s",
    ),
    "nobody asks for scores": scenario_of(
        SCORER
        | {
            f'rtp_states_total{{status="{status}",{RTP}}}': "7x80"
            for status in ("warm", "cold", "stale", "unavailable")
        },
        [("5m", False), ("30m", False)],
        "ScoresWithoutState",
        {},
    ),
    "one answer in ten is a refusal, for a while": scenario_of(
        {
            **SCORER,
            f'rtp_answers_total{{status="200",code="",{RTP}}}': "0+900x80",
            f'rtp_answers_total{{status="503",code="overloaded",{RTP}}}': "0x10 0+100x20 2000x50",
        },
        [("5m", False), ("8m", False), ("12m", True), ("15m", True), ("21m", False)],
        "PredictFails",
        PAGE | IN_SHOP,
    ),
    "requests fail for ten minutes": scenario_of(
        answers(*LASTING),
        [("14m55s", False), ("15m", True), ("20m", True), ("24m55s", True), ("25m5s", False)],
        "PredictFails",
        PAGE | IN_SHOP,
        every="5s",
    ),
    "a canary of a hundredth of the users fails each request, and a larger installation's does not": scenario_of(
        arm(*(counted((good, 20), (bad, 60), (0, 40)) for good, bad in ((1, 0), (0, 1))))
        | {f'rtp_arm_scored_total{{arm="serving",bundle="shop/1",state="warm",{RTP}}}': "0+100x400"}
        | other_scorer('rtp_arm_scored_total{arm="canary",bundle="shop/2",state="warm"}'),
        [("10m", False), ("14m", False), ("16m", True), ("30m", True), ("40m", True), ("47m", False)],
        "CanaryFails",
        TICKET | IN_SHOP | CANARY,
    ),
    "a third of a canary's requests fails": scenario_of(
        arm(*A_THIRD),
        [("14m", False), ("16m", True), ("40m", True), ("47m", False)],
        "CanaryFails",
        TICKET | IN_SHOP | CANARY,
    ),
    "each of a canary's few requests fails, one in three minutes": scenario_of(
        arm("0x400", counted((0, 20), *[(1, 1), (0, 5)] * 20, (0, 60))),
        [("16m", False), ("24m", True), ("30m", True), ("50m", True), ("69m", True), ("80m", False)],
        "CanaryFails",
        TICKET | IN_SHOP | CANARY,
    ),
    "two of a canary's few requests fail": scenario_of(
        arm(counted(*[(0, 5), (1, 1)] * 30), counted((0, 20), *[(1, 1), (0, 5)] * 2, (0, 60))),
        [(f"{m}m", False) for m in range(10, 40, 2)],
        "CanaryFails",
        {},
    ),
    "a tenth of the requests of all arms is too much for the processes": scenario_of(
        arm(*A_TENTH, "Overloaded") | arm(*A_TENTH, "Overloaded", of="serving"),
        [("16m", False), ("30m", False), ("40m", False)],
        "CanaryFails",
        {},
    ),
    "a tenth of a canary's requests is too much for the processes, and a hundredth of the others": scenario_of(
        arm(*A_TENTH, "Overloaded") | arm(counted((99, 120)), counted((1, 120)), "Overloaded", of="serving"),
        [("14m", False), ("18m", True), ("40m", True), ("47m", False)],
        "CanaryFails",
        TICKET | IN_SHOP | CANARY,
    ),
    "each of a canary's requests fails, and half of the others": scenario_of(
        arm(counted((9, 20), (0, 100)), counted((0, 20), (9, 60), (0, 40)))
        | arm(counted((50, 120)), counted((50, 120)), of="serving"),
        [("40m", True), ("47m", False)],
        "CanaryFails",
        TICKET | IN_SHOP | CANARY,
    ),
    "the store is away for 40 s, for all arms": scenario_of(
        arm(*OUTAGE, "StateUnavailable") | arm(*OUTAGE, "StateUnavailable", of="serving"),
        [(f"{m}m{s}s", False) for m in range(10, 20) for s in (0, 30)],
        "CanaryFails",
        {},
        every="5s",
    ),
    "a canary's requests fail for 40 s": scenario_of(
        arm(*OUTAGE, "StateUnavailable"),
        [(f"{m}m{s}s", False) for m in range(10, 20) for s in (0, 30)],
        "CanaryFails",
        {},
        every="5s",
    ),
    "callers send a canary what is no request": scenario_of(
        arm(*A_THIRD, "InvalidRequest"),
        [("16m", False), ("30m", False), ("40m", False)],
        "CanaryFails",
        {},
    ),
    "what serves fails, which is no canary": scenario_of(
        arm(*A_THIRD, of="serving"),
        [("16m", False), ("30m", False), ("40m", False)],
        "CanaryFails",
        {},
    ),
    "a shadow fails a third of its requests": scenario_of(
        shadow(*A_THIRD),
        [("10m", False), ("14m", False), ("16m", True), ("40m", True), ("47m", False)],
        "ShadowFails",
        TICKET | IN_SHOP | CANARY | {"arm": "shadow"},
    ),
    "a canary fails each request for four minutes, until it is ended": scenario_of(
        arm(counted((9, 20), (0, 100)), counted((0, 20), (9, 8), (0, 92))) | {release("canary"): "1x28 stale"},
        [(f"{m}m{s}s", False) for m in range(10, 24) for s in (0, 30)],
        "CanaryFails",
        {},
    ),
    "a shadow fails each request for four minutes, until it is ended": scenario_of(
        shadow(counted((9, 20), (0, 100)), counted((0, 20), (9, 8), (0, 92)))
        | {release("shadow:shadow"): "1x28 stale"},
        [(f"{m}m{s}s", False) for m in range(10, 24) for s in (0, 30)],
        "ShadowFails",
        {},
    ),
    "a canary that fails is ended": scenario_of(
        arm(counted((9, 20), (0, 100)), counted((0, 20), (9, 40), (0, 60))) | {release("canary"): "1x60 stale"},
        [("16m", True), ("30m", True), ("34m", False), ("40m", False)],
        "CanaryFails",
        TICKET | IN_SHOP | CANARY,
    ),
    "a shadow has no time for most of its requests": scenario_of(
        shadow(*A_THIRD, "busy"),
        [("16m", False), ("30m", False), ("40m", False)],
        "ShadowFails",
        {},
    ),
    "requests fail for 40 s": scenario_of(
        answers(*OUTAGE),
        [(f"{m}m{s}s", False) for m in range(10, 18) for s in (0, 5, 15, 30, 45)],
        "PredictFails",
        {},
        every="5s",
    ),
    "requests fail again and again": scenario_of(
        answers(*BAD_AGAIN_AND_AGAIN),
        [("14m30s", False), ("15m", True), ("16m", True), ("17m", True), ("19m30s", True), ("25m", False)],
        "PredictFails",
        PAGE | IN_SHOP,
        every="5s",
    ),
    "callers send what is no request": scenario_of(
        {
            **SCORER,
            f'rtp_answers_total{{status="200",code="",{RTP}}}': "0+900x80",
            f'rtp_answers_total{{status="422",code="invalid_request",{RTP}}}': "0+900x80",
        },
        [("15m", False), ("30m", False)],
        "PredictFails",
        {},
    ),
    "callers send what is no request, for a while": scenario_of(
        SCORER
        | {
            f'rtp_answers_total{{status="200",code="",{RTP}}}': "0+900x20 18000+0x40 18000+900x60",
            f'rtp_answers_total{{status="422",code="invalid_request",{RTP}}}': "0x20 0+900x40 36000x60",
        },
        [("10m", False), ("20m", False), ("21m30s", True), ("30m", True), ("36m30s", False)],
        "PredictRejected",
        TICKET | IN_SHOP,
    ),
    "one caller of many sends what is no request": scenario_of(
        SCORER
        | {
            f'rtp_answers_total{{status="200",code="",{RTP}}}': "0+900x80",
            f'rtp_answers_total{{status="422",code="invalid_request",{RTP}}}': "0+50x80",
        },
        [("20m", False), ("39m", False)],
        "PredictRejected",
        {},
    ),
    "scored requests are slow, and refusals and faults do not count": scenario_of(
        {
            **SCORER,
            f'rtp_request_seconds_bucket{{status="2xx",le="0.01",{RTP}}}': "0+900x20 18000+800x40 50000+900x60",
            f'rtp_request_seconds_bucket{{status="2xx",le="0.02",{RTP}}}': "0+900x20 18000+800x40 50000+900x60",
            f'rtp_request_seconds_bucket{{status="2xx",le="0.05",{RTP}}}': "0+900x20 18000+900x40 54000+900x60",
            f'rtp_request_seconds_bucket{{status="2xx",le="+Inf",{RTP}}}': "0+900x20 18000+900x40 54000+900x60",
            f'rtp_request_seconds_bucket{{status="5xx",le="0.01",{RTP}}}': "0x120",
            f'rtp_request_seconds_bucket{{status="5xx",le="+Inf",{RTP}}}': "0+900x120",
        },
        [("9m", False), ("15m", False), ("25m", True), ("30m", True), ("36m30s", False)],
        "PredictSlow",
        TICKET | IN_SHOP,
    ),
    "a load hangs, and the process is started again": scenario(
        f"rtp_hanging_loads{{{RTP}}}",
        "0 0 1x14 0x10",
        [("5m30s", False), ("6m", True), ("8m", True), ("8m30s", False)],
        "LoadHangs",
        {"severity": "ticket", "instance": "rtp-0"},
    ),
    "the store's clock is set back, and forward again": scenario(
        f"rtp_as_of_ahead_seconds{{{RTP}}}",
        "0 0 3x5 0x10",
        [("1m30s", False), ("2m", True), ("3m30s", True), ("4m", False)],
        "ClockAhead",
        {"severity": "ticket", "instance": "rtp-0"},
    ),
    "a request meets a state that cannot be read": scenario_of(
        {
            f'rtp_unreadable_states_total{{error="CorruptState",{RTP}}}': "0 0 1x60",
            f'uic_unreadable_states_total{{error="corrupt",{UIC}}}': "0x62",
        },
        [("30s", False), ("1m", True), ("10m", True), ("12m", False)],
        "UnreadableStates",
        {"severity": "ticket", "instance": "rtp-0", "error": "CorruptState"},
    ),
    "a worker meets a state that cannot be read before any request does": scenario_of(
        {
            f'rtp_unreadable_states_total{{error="CorruptState",{RTP}}}': "0x62",
            f'uic_unreadable_states_total{{error="corrupt",{UIC}}}': "0 0 1x60",
        },
        [("30s", False), ("1m", True), ("10m", True), ("12m", False)],
        "UnreadableStates",
        {"severity": "ticket", "instance": "uic-0", "error": "corrupt"},
    ),
    "a worker's first events are of users whose states cannot be read": scenario_of(
        {
            f'uic_unreadable_states_total{{error="foreign_layout",{UIC}}}': "_x8 3x60",
            f"process_start_time_seconds{{{UIC}}}": "_x8 235x60",
        },
        [("3m30s", False), ("4m", True), ("13m", True), ("14m30s", False)],
        "UnreadableStates",
        {"severity": "ticket", "instance": "uic-0", "error": "foreign_layout"},
    ),
    "a process ends a moment after each start, and is then well": scenario_of(
        {f'process_start_time_seconds{{job="rtp",{RTP}}}': f"{loop(12)} 780x240"},
        [("10m", False), ("10m35s", False), ("11m", True), ("13m", True), ("22m", True), ("23m30s", False)],
        "RestartLoop",
        {"severity": "page", "job": "rtp", "instance": "rtp-0"},
        every="5s",
    ),
    "a process is restarted three times in ten minutes, by hand": scenario_of(
        {f'process_start_time_seconds{{job="uic",{UIC}}}': "0x20 600x4 720x4 _x2 900x40"},
        [("11m", False), ("15m", False), ("18m", False)],
        "RestartLoop",
        {},
    ),
    "another program that Prometheus scrapes ends again and again": scenario_of(
        {f'process_start_time_seconds{{job="exporter",{RTP}}}': f"{loop(12)} 780x240"},
        [("11m", False), ("15m", False)],
        "RestartLoop",
        {},
        every="5s",
    ),
    "calls to a worker are refused for ten minutes": scenario_of(
        calls(*LASTING),
        [("14m55s", False), ("15m", True), ("20m", True), ("24m55s", True), ("25m5s", False)],
        "PublishingOverloaded",
        PAGE | OF_SHOP,
        every="5s",
    ),
    "calls to a worker are refused for 40 s": scenario_of(
        calls(*OUTAGE),
        [(f"{m}m{s}s", False) for m in range(10, 18) for s in (0, 15, 30, 45)],
        "PublishingOverloaded",
        {},
        every="5s",
    ),
    # Two installations in one Prometheus.
    "a partition is behind that is fresh in another installation of the same bundle": scenario_of(
        {
            worker(0): "1x20",
            worker(1, prefix="uic-staging"): "1x20",
            f'uic_as_of_timestamp_seconds{{partition="0",{UIC}}}': "0x20",
            'uic_as_of_timestamp_seconds{partition="0",instance="uic-1"}': "0+30x20",
        },
        [("3m", False), ("3m30s", True), ("9m", True)],
        "PartitionsBehind",
        PAGE | SHOP,
    ),
    "a first build hangs that goes on in another installation of the same bundle": scenario_of(
        {
            worker(0): "1x20",
            worker(1, topic="events-2"): "1x20",
            f'uic_next_offset{{partition="0",{UIC}}}': "5x20",
            'uic_next_offset{partition="0",instance="uic-1"}': "0+50x20",
        },
        [("2m30s", False), ("3m", True), ("9m", True)],
        "PartitionsBehind",
        PAGE | SHOP,
    ),
    "the one partition of an installation has no worker, and another one has all of its own": scenario_of(
        {
            worker(0): "1x20",
            worker(1, prefix="b", topic="b"): "1x20",
            f"uic_topic_partitions{{{UIC}}}": "4x20",
            'uic_topic_partitions{instance="uic-1"}': "1x20",
            f'uic_partitions{{status="folding",{UIC}}}': "4x20",
            'uic_partitions{status="folding",instance="uic-1"}': "1 1 0x8 1x10",
        },
        [("30s", False), ("2m30s", False), ("3m", True), ("5m", True), ("5m30s", False)],
        "PartitionsUnowned",
        PAGE | SHOP | {"prefix": "b", "topic": "b"},
    ),
    # Names and addresses may be the same in two networks; what targets are given tells them apart.
    "installations that differ in the label of their targets alone": scenario_of(
        {
            **{
                f'{name[:-1]},job="uic",namespace="{one}",installation="{one}"}}': value
                for one, owned in (("production", "0x20"), ("staging", "4x20"))
                for name, value in (
                    (worker(0), "1x20"),
                    (f"uic_topic_partitions{{{UIC}}}", "4x20"),
                    (f'uic_partitions{{status="folding",{UIC}}}', owned),
                )
            },
        },
        [("1m30s", False), ("2m", True), ("9m", True)],
        "PartitionsUnowned",
        PAGE | SHOP | {"installation": "production"},
    ),
    "an installation folds for the first time, and another one of the same bundle has long been folded": scenario_of(
        {
            worker(0): "1x100",
            worker(1, prefix="b"): "_x60 1x40",
            f'uic_take_ups_total{{decision="new",{UIC}}}': "0x100",
            'uic_take_ups_total{decision="new",instance="uic-1"}': "_x60 8x40",
            f'uic_next_offset{{partition="0",{UIC}}}': "900x100",
            'uic_next_offset{partition="0",instance="uic-1"}': "_x60 0+9x40",
            f"process_start_time_seconds{{{UIC}}}": "-86400x100",
            'process_start_time_seconds{instance="uic-1"}': "_x60 1800x40",
        },
        [("30m", False), ("31m", False), ("40m", False), ("46m", False)],
        "StoreEmptied",
        {},
    ),
    "the topic of one installation is compacted": scenario_of(
        {
            worker(0): "1x20",
            worker(1, topic="b"): "1x20",
            f"uic_topic_compacted{{{UIC}}}": "0x20",
            'uic_topic_compacted{instance="uic-1"}': "0 0 1x5 0x10",
        },
        [("30s", False), ("1m", True), ("3m30s", True), ("4m", False)],
        "TopicCompacted",
        PAGE | OF_SHOP | {"topic": "b"},
    ),
    "the workers of an installation are no targets any more, and another one has its own": scenario_of(
        {worker(0): "1x19 stale _x40 1x20", worker(1, prefix="b"): "1x80"},
        [("10m", False), ("11m30s", True), ("30m", True), ("30m30s", False)],
        "UicDown",
        PAGE | OF_SHOP,
    ),
    "the RTP processes of an installation are no targets any more, and another one has its own": scenario_of(
        {scorer(0): "1x19 stale _x40 1x20", scorer(1, prefix="b"): "1x80"},
        [("10m", False), ("11m30s", True), ("30m", True), ("30m30s", False)],
        "RtpDown",
        PAGE | IN_SHOP,
    ),
    "a namespace is given up for another one of the installation": scenario_of(
        {worker(0): "1x19 stale", worker(1, state_namespace="ab-1"): "1x80"},
        [("11m30s", False), ("30m", False)],
        "UicDown",
        {},
    ),
    "a backlog grows, while another installation folds a larger one": scenario_of(
        {
            worker(0): "1x120",
            worker(1, prefix="b"): "1x120",
            f'uic_lag_records{{partition="0",{UIC}}}': "0+10000x60 600000x60",
            'uic_lag_records{partition="0",instance="uic-1"}': "9000000-70000x120",
        },
        [("10m", False), ("20m", True), ("29m", True), ("50m", False)],
        "LagGrows",
        TICKET | SHOP,
    ),
    "the store is away from an installation, and not from a larger one": scenario_of(
        scores(*LASTING) | other_scorer('rtp_states_total{status="warm"}'),
        [("15m10s", False), ("15m15s", True), ("20m", True), ("24m55s", True), ("25m5s", False)],
        "ScoresWithoutState",
        PAGE | IN_SHOP,
        every="5s",
    ),
    "requests to an installation fail, and to a larger one not": scenario_of(
        answers(*LASTING) | other_scorer('rtp_answers_total{status="200"}'),
        [("14m55s", False), ("15m", True), ("20m", True), ("24m55s", True), ("25m5s", False)],
        "PredictFails",
        PAGE | IN_SHOP,
        every="5s",
    ),
    "requests to an installation are rejected, and to a larger one not": scenario_of(
        {
            f'rtp_answers_total{{status="422",code="invalid_request",{RTP}}}': "0+50x360",
            **SCORER,
            **other_scorer('rtp_answers_total{status="200"}'),
        },
        [("10m", False), ("10m30s", True), ("20m", True)],
        "PredictRejected",
        TICKET | IN_SHOP,
        every="5s",
    ),
    "an installation scores slowly, and a larger one does not": scenario_of(
        {
            f'rtp_request_seconds_bucket{{status="2xx",le="0.02",{RTP}}}': "0x400",
            f'rtp_request_seconds_bucket{{status="2xx",le="0.05",{RTP}}}': "0+50x400",
            f'rtp_request_seconds_bucket{{status="2xx",le="+Inf",{RTP}}}': "0+50x400",
            **SCORER,
            **other_scorer('rtp_request_seconds_bucket{status="2xx",le="0.02"}'),
            **other_scorer('rtp_request_seconds_bucket{status="2xx",le="0.05"}'),
            **other_scorer('rtp_request_seconds_bucket{status="2xx",le="+Inf"}'),
        },
        [("10m", False), ("10m30s", True), ("20m", True)],
        "PredictSlow",
        TICKET | IN_SHOP,
        every="5s",
    ),
    "calls to an installation are refused, and to a larger one not": scenario_of(
        calls(*LASTING)
        | {worker(1, topic="b"): "1x400", 'uic_rpcs_total{method="PublishBehaviors",code="OK",instance="uic-1"}': MANY},
        [("14m55s", False), ("15m", True), ("20m", True), ("24m55s", True), ("25m5s", False)],
        "PublishingOverloaded",
        PAGE | OF_SHOP,
        every="5s",
    ),
    "dead letters of a second worker are an alert of their own": scenario_of(
        {
            f'uic_dead_letters_total{{reason="bad_key",{UIC}}}': "0 0 0 0 3x60",
            'uic_dead_letters_total{reason="bad_key",instance="uic-1"}': "3x60",
        },
        [("1m30s", False), ("2m", True), ("10m", True), ("13m", False)],
        "DeadLetters",
        {"severity": "ticket", "instance": "uic-0", "reason": "bad_key"},
    ),
    "a key file cannot be used by two processes of one name in two jobs, of which one can again": scenario_of(
        {
            'uic_keys_refused{job="uic",instance="host"}': "0 1x60",
            'rtp_keys_refused{job="rtp",instance="host"}': "0 0x60",
        },
        [("0s", False), ("30s", True), ("10m", True)],
        "KeysNotReread",
        {"severity": "page", "job": "uic", "instance": "host"},
    ),
    # The start of another process of the same name tells nothing about a worker.
    "a process of the name of a worker is young": scenario_of(
        {
            'uic_data_gaps_total{job="uic",instance="host"}': "1x60",
            'process_start_time_seconds{job="uic",instance="host"}': "-86400x60",
            'process_start_time_seconds{job="rtp",instance="host"}': "0x60",
        },
        [("1m", False), ("8m", False)],
        "DataGap",
        {},
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_alert_fires_in_time_and_clears(name: str, tmp_path: Path) -> None:
    assert faults(SCENARIOS[name], tmp_path) == ""


def replaced(series: str, until_then: str, then: str) -> dict[str, str]:
    """A series of a process that is replaced in the tenth minute by one of another name."""
    return {f'{series[:-1]},instance="a-0"}}': f"{until_then} stale", f'{series[:-1]},instance="a-1"}}': f"_x20 {then}"}


def test_processes_that_are_well_and_are_replaced_one_after_the_other_fire_no_alert(tmp_path: Path) -> None:
    series: dict[str, str] = {}
    of_uic = ",".join(f'{label}="{value}"' for label, value in SHOP.items())
    infos = (f"uic_bundle_info{{{of_uic}}}", 'rtp_bundle{name="model",state_namespace="ab-0",prefix="uic"}')
    for name in ('up{job="uic"}', 'up{job="rtp"}', *infos):
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
    times = [f"{m}m{s}s" for m in range(8, 25) for s in (0, 30)]
    assert faults(quiet(series, times), tmp_path) == ""


def test_the_rules_are_rules() -> None:
    ended = subprocess.run([skips.promtool(), "check", "rules", RULES], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_alert_is_seen_to_fire_and_to_clear() -> None:
    seen = [test for scenario in SCENARIOS.values() for test in scenario["alert_rule_test"]]
    fired = {test["alertname"] for test in seen if test["exp_alerts"]}
    silent = {test["alertname"] for test in seen if not test["exp_alerts"]}
    assert fired == silent == ANNOTATIONS.keys()
