"""Servers for tests: real ones, started once a session and only when a test asks; topics and key prefixes of its own
for every test. `REDIS_URL` and `KAFKA_BOOTSTRAP_SERVERS` make the tests use servers that already run.
"""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import resource
import shutil
import signal
import socket
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import redis
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from localstack import ports
from localstack.dev_broker import DevBroker
from localstack.signals import end_with_us
from localstack.topics import PARTITIONS, create_topics, delete_topics, topics
from localstack.valkey import Valkey
from localstack.wait import until
from support import proxies, skips
from support.for_test import MakeTopics, RedisForTest, TopicsForTest
from support.kafka_cluster import Brokers
from support.kafka_home import kafka_home
from support.secured_kafka import SecuredKafka
from support.shared_servers import HARMED, KAFKA, THREE, SharedServers, ask, leased, secured

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

# How long an example takes says how busy the machine is. `make test` draws the same examples each time, so that it is
# red for a reason; `make test-full` looks for new ones.
hypothesis.settings.register_profile("test", deadline=None, derandomize=True)
hypothesis.settings.register_profile("full", deadline=None, max_examples=500)
hypothesis.settings.load_profile("test")


SHARED = pytest.StashKey[Path]()
"""Where the run's shared servers are asked for."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", type=Path, help="write each test's outcome to this file, as JSON")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """What `suite` counts. Of a test that fails and whose tear-down fails too, both are failures."""
    if not (path := config.getoption("--outcomes")):
        return
    found = []
    for name, outcome in (("passed", "passed"), ("failed", "failed"), ("error", "failed"), ("skipped", "skipped")):
        for report in terminalreporter.stats.get(name, ()):
            reason = report.longrepr[2] if outcome == "skipped" and isinstance(report.longrepr, tuple) else ""
            tally = dict(getattr(report, "user_properties", ())).get("torture")
            found.append(
                {
                    "test": report.nodeid,
                    "outcome": outcome,
                    "reason": reason.removeprefix("Skipped: "),
                    "torture": json.loads(tally) if tally else None,
                }
            )
    path.write_text(json.dumps(found))


def pytest_configure(config: pytest.Config) -> None:
    """The process that started the run owns the shared servers; pytest-xdist's workers are given their address."""
    if worker := getattr(config, "workerinput", None):
        config.stash[SHARED] = Path(worker["shared_servers"])
        return
    folder = Path(tempfile.mkdtemp(prefix="ctr-tests-"))
    servers = SharedServers(folder)
    end_with_us(servers.close)
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    config.add_cleanup(servers.close)
    config.stash[SHARED] = servers.door


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Of pytest-xdist, before it starts a worker."""
    node.workerinput["shared_servers"] = str(node.config.stash[SHARED])


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Where the extra `train` is not installed, files of tests that need it are not imported."""
    if find_spec("torch") is not None or collection_path.suffix != ".py":
        return None
    return "\npytestmark = pytest.mark.torch\n" in collection_path.read_text("utf-8") or None


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
def shared_servers(request: pytest.FixtureRequest) -> Path:
    """Where the run's shared servers are asked for."""
    return request.config.stash[SHARED]


@pytest.fixture(scope="session")
def real_kafka(shared_servers: Path) -> str:
    """Bootstrap address of a real Apache Kafka, which nobody may harm; skips, saying what to set, without one."""
    if bootstrap := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        return bootstrap
    kafka_home()
    return str(ask(shared_servers, KAFKA)["address"])


@pytest.fixture
def own_real_kafka(shared_servers: Path) -> Iterator[Brokers]:
    """An Apache Kafka that this test may stop, kill, freeze and start again, with topics of earlier tests."""
    with leased(shared_servers, HARMED, heal) as broker:
        yield broker


@pytest.fixture
def three_real_brokers(shared_servers: Path) -> Iterator[Brokers]:
    """An Apache Kafka of three nodes, each of which this test may kill and freeze, with topics of earlier tests."""
    with leased(shared_servers, THREE, heal) as broker:
        yield broker


@pytest.fixture(scope="session")
def secured_broker(shared_servers: Path) -> SecuredKafka:
    """A broker that asks for users and rights; it may not be harmed, and rights are on topics of the test's own."""
    kafka_home()
    return secured(shared_servers)


def heal(broker: Brokers) -> None:
    """Wait until a broker that was harmed serves, and remove its topics."""

    def empty() -> bool:
        try:
            with closing(KafkaAdminClient(bootstrap_servers=broker.address.split(","))) as admin:
                topics = [name for name in admin.list_topics() if not name.startswith("__")]
                delete_topics(broker.address, topics)
        except KafkaError:
            return False
        return True

    until(empty, "the brokers serve, and have no topics", within_s=60)


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
