"""Servers for tests: real ones, started once a session and only when a test asks; topics and key prefixes of its own
for every test. `REDIS_URL` and `KAFKA_BOOTSTRAP_SERVERS` make the tests use servers that already run.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import resource
import shutil
import signal
import socket
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import redis

from localstack import ports
from localstack.dev_broker import DevBroker
from localstack.topics import PARTITIONS, create_topics, delete_topics, topics
from localstack.valkey import Valkey
from support import proxies, skips
from support.scripted_broker import ScriptedBroker

pytest_plugins = ["pytester"]

# What a shell started in the background ignores interrupts, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests hold hundreds of connections, both ends of each, and most shells give a process 1024 open files. As many as
# deploy/README.md asks for: some servers take a time that grows with the limit.
_FILES, _MOST_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(_FILES, min(65_536, _MOST_FILES)), _MOST_FILES))

# Files of keys that every user can write to are refused, and umask 000 makes all files of tests so.
os.umask(0o022)

proxies.none_named()

# Prepared data sets of a test run, workers included, are in one folder that goes with it.
if "CTR_CACHE" not in os.environ:
    os.environ["CTR_CACHE"] = tempfile.mkdtemp(prefix="ctr-cache-")
    atexit.register(shutil.rmtree, os.environ["CTR_CACHE"], ignore_errors=True)

# How long an example takes says how busy the machine is. CI draws the same examples each time, so that it is red for a
# reason; developers' runs look for new ones.
hypothesis.settings.register_profile("developer", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if skips.in_ci() else "developer")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest goes first, so that no process is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_scenarios.py")


def pytest_collection_finish() -> None:
    """Leave what is imported by now out of every collection of garbage, and collect less often: torch's own modules
    are large, and an export makes so many objects that they were looked through again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """A service that a test runs in this process sends all log lines to the standard error of that test, which is
    closed afterwards; the next tests in the process have logging as it was. Around pytest's own handlers."""
    loggers = [logging.getLogger(name) for name in (None, "kafka", "uvicorn")]
    handlers, levels = logging.root.handlers[:], [logger.level for logger in loggers]
    try:
        return (yield)
    finally:
        logging.root.handlers[:] = handlers
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@dataclass(frozen=True)
class RedisForTest:
    """A running Redis or Valkey, and a key prefix that no other test has."""

    url: str
    prefix: str
    client: redis.Redis
    """Returns bytes."""


@dataclass(frozen=True)
class TopicsForTest:
    """Names of a fresh event topic and of its two companions."""

    bootstrap: str
    events: str
    partitions: int

    @property
    def dlq(self) -> str:
        return f"{self.events}.dlq"

    @property
    def erased(self) -> str:
        return f"{self.events}.erased"


MakeTopics = Callable[..., TopicsForTest]


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address that refuses connections, and that nothing else can take."""
    with socket.socket() as taken:
        taken.bind((ports.LOOPBACK, 0))
        yield f"{ports.LOOPBACK}:{taken.getsockname()[1]}"


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that returns a free loopback port at each call."""
    return ports.free_port


# --- Redis ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for the session; `REDIS_URL` if set."""
    if url := os.environ.get("REDIS_URL"):
        yield url
        return
    with Valkey(tmp_path_factory.mktemp("valkey"), appendfsync="off") as server:
        yield server.address


@pytest.fixture
def valkey(valkey_url: str) -> Iterator[RedisForTest]:
    """The session's server: emptied before the test if it is ours, else only the test's prefix is removed after it."""
    client = redis.Redis.from_url(valkey_url, protocol=2, socket_timeout=10)
    if "REDIS_URL" not in os.environ:
        client.flushall()
    prefix = f"t{uuid.uuid4().hex[:10]}"
    yield RedisForTest(valkey_url, prefix, client)
    if "REDIS_URL" in os.environ:
        for key in client.scan_iter(match=f"{prefix}:*", count=1000):
            client.delete(key)
    client.close()


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A started server that this test may stop, kill, freeze and start again; every write is synced to its file."""
    server = Valkey(tmp_path / "own-valkey", appendfsync="always")
    try:
        server.start()
        yield server
    finally:
        server.stop()


# --- Kafka ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_brokers() -> Iterator[ExitStack]:
    """What ends the test's own brokers, after everything that still talks to them."""
    with ExitStack() as ending:
        yield ending


@pytest.fixture
def kafka(tmp_path_factory: pytest.TempPathFactory, small_brokers: ExitStack) -> str:
    """Bootstrap address: `KAFKA_BOOTSTRAP_SERVERS` if set, else a small broker of Kafka's protocol from a wheel.

    A fresh one for every test, which takes 0.1 s: it never gives up a member that went without leaving, and such a
    member would keep the next worker of its group from its partitions.
    """
    if bootstrap := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        return bootstrap
    return small_brokers.enter_context(DevBroker(tmp_path_factory.mktemp("broker"))).address


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[DevBroker]:
    """A started small broker that this test may stop, kill, freeze and start again."""
    broker = DevBroker(tmp_path / "own-broker")
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


@pytest.fixture(scope="session")
def real_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap address of a real Apache Kafka; skips, saying what to set, when there is none."""
    if bootstrap := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield bootstrap
        return
    broker = ScriptedBroker(broker_script(), tmp_path_factory.mktemp("kafka") / "cluster")
    try:
        yield broker.start(
            "--set", "group.min.session.timeout.ms=1000"
        )  # so that tests of killed members need not wait
    finally:
        broker.stop()


@pytest.fixture
def own_real_kafka(tmp_path: Path) -> Iterator[ScriptedBroker]:
    """A started Apache Kafka that this test may stop, kill, freeze and start again (about 5 s)."""
    broker = ScriptedBroker(broker_script(), tmp_path / "own-kafka")
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


@pytest.fixture
def three_real_brokers(tmp_path: Path) -> Iterator[ScriptedBroker]:
    """An Apache Kafka of three nodes (about 15 s), each of which this test may kill and freeze."""
    broker = ScriptedBroker(broker_script(), tmp_path / "three-brokers")
    try:
        broker.start("--nodes", "3")
        yield broker
    finally:
        broker.kill()  # stopped together, the last one can wait minutes for the others to elect a controller


def broker_script() -> Path:
    """The script that starts a real Kafka; without it the test is skipped, and says so."""
    script = os.environ.get("CTR_KAFKA_BROKER")
    if not script:
        pytest.skip(skips.NO_REAL_KAFKA)
    return Path(script)


@pytest.fixture
def make_topics(small_brokers: ExitStack) -> Iterator[MakeTopics]:
    """`make_topics(bootstrap, partitions=64)`: the three topics under a name of the test's own, deleted after it."""
    made: list[TopicsForTest] = []

    def make(bootstrap: str, partitions: int = PARTITIONS) -> TopicsForTest:
        fresh = TopicsForTest(bootstrap, f"events-{uuid.uuid4().hex[:10]}", partitions)
        create_topics(bootstrap, topics(fresh.events, partitions))
        made.append(fresh)
        return fresh

    yield make
    for names in made:
        delete_topics(names.bootstrap, [names.events, names.dlq, names.erased])


# --- A skip in CI is a failure -------------------------------------------------------------------------------------


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail") or not skips.in_ci():
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not skips.accepted_in_ci(reason):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped in CI, where it can run: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip that CI does not accept into a failure."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself while it is collected."""
    report = yield
    _refuse_skip(report)
    return report
