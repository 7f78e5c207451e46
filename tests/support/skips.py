"""Which skips CI accepts: only skips for things that the CI machine cannot have. Any other skipped test fails in CI.

A test that is skipped on a developer's machine says what to install or set. CI has all of that, so a skip in CI means
that a test silently stopped running.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping

import pytest

NO_KAFKA = (
    "needs a real Apache Kafka: set KAFKA_HOME to a distribution (with Java), "
    "or KAFKA_BOOTSTRAP_SERVERS to a broker that runs, which serves the tests that harm none"
)
NO_REFERENCE_DATA = (
    "needs the reference data files: set CTR_SHARED_DATA to a folder with complete_journey/events.parquet and "
    "items.parquet as first prepared; without it their committed hashes stand for them"
)
NO_COUPON_MAIL = "needs the coupon log: set CTR_SHARED_DATA to a folder with coupon_mail and complete_journey"
NO_COMPOSE = "needs the compose command line: install Debian's package docker-compose, or Docker's compose plugin"
NO_TLS_REDIS = "needs a redis-server or valkey-server that was built with TLS: set CTR_TLS_REDIS to its path"
NO_SPARK = "needs PySpark and Java: pip install -e 'services/uic[spark]', and install Java 17 or newer"
NO_CLUSTER_TOOL = "needs valkey-cli, which moves slots: install Debian's package valkey-tools"
NO_PROMTOOL = "needs promtool, which tests alerts: install Debian's package promtool"
NO_COMPILED_STEP = (
    "needs the C extension, and an x86-64 processor with AVX2 and FMA: install gcc, then pip install -e models"
)
NO_AVX512 = "needs a processor with AVX-512"
NO_HAPROXY = "needs HAProxy: install Debian's package haproxy"
NO_SMALL_DISK = (
    "needs unshare, and the right to mount a file system: run it as root, or where users may have namespaces"
)
NO_WRK = "needs wrk, another load generator: install Debian's package wrk"

_ALLOWED: Mapping[str, str] = {
    NO_KAFKA: "CTR_KAFKA_HOME",
    NO_COMPOSE: "CTR_COMPOSE",
    NO_TLS_REDIS: "CTR_TLS_REDIS",
    NO_REFERENCE_DATA: "CTR_SHARED_DATA",
    NO_COUPON_MAIL: "CTR_SHARED_DATA",
    NO_WRK: "CTR_WRK",
    NO_HAPROXY: "CTR_HAPROXY",
    NO_PROMTOOL: "CTR_PROMTOOL",
    NO_SPARK: "CTR_SPARK",
    NO_CLUSTER_TOOL: "CTR_CLUSTER_TOOL",
    NO_COMPILED_STEP: "CTR_COMPILED_STEP",
    NO_AVX512: "CTR_AVX512",
    NO_SMALL_DISK: "CTR_SMALL_DISK",
}
"""Reason of a skip → the variable that, when set, says that the thing exists, so the skip is an error."""


def tls_redis() -> str:
    """The program in `CTR_TLS_REDIS`; without it the test is skipped."""
    program = os.environ.get("CTR_TLS_REDIS")
    if not program:
        pytest.skip(NO_TLS_REDIS)
    return program


def promtool() -> str:
    """Prometheus's tool for rules; without it the test is skipped."""
    program = os.environ.get("CTR_PROMTOOL") or shutil.which("promtool")
    if not program:
        pytest.skip(NO_PROMTOOL)
    return program


def haproxy() -> str:
    """The balancer's program; without it the test is skipped."""
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if not program:
        pytest.skip(NO_HAPROXY)
    return program


def spark() -> None:
    """Skips the test if there is no Spark."""
    if importlib.util.find_spec("pyspark") is None or shutil.which("java") is None:
        pytest.skip(NO_SPARK)


def cluster_tool() -> None:
    """Skips the test if there is no valkey-cli."""
    if shutil.which("valkey-cli") is None:
        pytest.skip(NO_CLUSTER_TOOL)


def accepted_in_ci(reason: str, env: Mapping[str, str] = os.environ) -> bool:
    """Whether CI lets a test be skipped for `reason`, given its environment."""
    return any(allowed in reason and not env.get(variable) for allowed, variable in _ALLOWED.items())


def in_ci(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this run is CI's."""
    return env.get("CI", "").lower() in ("true", "1", "yes")
