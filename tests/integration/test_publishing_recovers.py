"""Publishing and erasing through UIC while Kafka is away, refuses its login, or lets it not write: what callers,
/readyz, the log and a metric say, that nothing is written by halves, and that all works again without a restart."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from localstack.dev_broker import DevBroker
from localstack.topics import Topic, create_topics
from localstack.wait import until
from localstack.web import web
from support.certificates import Certificates
from support.for_test import RedisForTest, TopicsForTest
from support.kafka_cluster import Brokers
from support.secured_kafka import PASSWORD, SecuredKafka, secured_kafka
from support.uic_running import RunningUic, click, running_uic
from uic.errors import LogRefused, LogUnavailable, NotAcknowledged, UnsuitableTopic
from uic.log.clients import open_kafka_client
from uic.log.event_log import KafkaLog
from uic.log.producer import NewRecord
from uic.log.topic_reader import read_to_end

pytestmark = pytest.mark.servers

N = 2
TIMEOUT_S = 2.0
PATIENT_S = 5.0
"""Of calls that must succeed, and of which others wait for all of it."""
AMPLE_S = 30.0
"""Of calls that are answered at once if all is well."""


def connect(log: KafkaLog, partitions: int = 1) -> None:
    """Brokers that have just started need not have answered the first call in the time of one. It appends to the first
    partition, perhaps more than once."""

    def appends() -> bool:
        try:
            log.append("events", partitions, [NewRecord(0, b"user", b"first")], PATIENT_S)
        except (LogUnavailable, NotAcknowledged):
            return False
        return True

    until(appends, "the producer is connected", within_s=60)


def connected(client: Mapping[str, Any], timeout_s: float = TIMEOUT_S) -> KafkaLog:
    """Calls of its producer wait for so long."""
    log = KafkaLog(client, timeout_s=timeout_s, max_request_bytes=1 << 20)
    connect(log)
    return log


def senders() -> int:
    """Threads of producers."""
    return sum("kafka-python-producer" in thread.name for thread in threading.enumerate())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # SystemExit, which is silent
def test_publishing_goes_on_after_a_broker_that_died(own_real_kafka: Brokers) -> None:
    kafka = own_real_kafka
    create_topics(kafka.address, [Topic("events", 1)])
    client = {"bootstrap_servers": kafka.address, "reconnect_backoff_max_ms": 200}
    before = senders()
    log = connected(client, PATIENT_S)
    acknowledged: list[bytes] = []
    unknown: list[bytes] = []
    ended = threading.Event()

    def publish(caller: int) -> None:
        count = 0
        while not ended.wait(0.01):
            count += 1
            value = b"%d %d" % (caller, count)
            try:
                log.append("events", 1, [NewRecord(0, b"user", value)], PATIENT_S)
            except NotAcknowledged:
                unknown.append(value)
            except LogUnavailable:
                continue
            else:
                acknowledged.append(value)

    def grows(values: list[bytes], within_s: float, what: str) -> None:
        seen = len(values)
        until(lambda: len(values) > seen + 4, what, within_s=within_s)

    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(publish, caller) for caller in range(4)]
        try:
            grows(acknowledged, 60, "records are appended")
            for down, up in ((kafka.freeze, kafka.thaw), (kafka.kill, kafka.start)):
                down()
                until(lambda: len(unknown) >= 4, "callers hear that the outcome is unknown", within_s=60)
                up()
                grows(acknowledged, 30, "records are appended again")
                unknown.clear()
        finally:
            ended.set()
    assert [caller.exception() for caller in callers] == [None] * 4
    log.close()
    until(lambda: senders() <= before, "the producers that failed have ended", within_s=30)
    values = Counter(record.value for record in read_to_end(client, "events"))
    assert [value for value in acknowledged if not values[value]] == [], "no acknowledged record is lost"


def is_there(log: KafkaLog) -> bool:
    """Whether nothing speaks against the topic; a broker may not know yet of one that another has just created."""
    try:
        return obstacle(log) == ""
    except UnsuitableTopic:
        return False


def obstacle(log: KafkaLog) -> str | None:
    """What speaks against the topic; None also while no broker answers in time."""
    try:
        return log.obstacle("events")
    except LogUnavailable:
        return None


def test_a_topic_that_the_brokers_do_not_have_is_what_a_producer_asks_for(real_kafka: str) -> None:
    log = KafkaLog({"bootstrap_servers": [real_kafka]}, timeout_s=TIMEOUT_S, max_request_bytes=1 << 20)

    def why() -> str:
        with pytest.raises(LogUnavailable) as raised:
            log.append("none-such", 1, [NewRecord(0, b"user", b"value")], TIMEOUT_S)
        return str(raised.value)

    until(lambda: "topic none-such does not exist" in why(), "it is said", within_s=60)
    log.close()


def test_a_record_that_the_topic_finds_too_large_is_named(own_real_kafka: DevBroker) -> None:
    client = {"bootstrap_servers": own_real_kafka.address}
    log = KafkaLog(client, timeout_s=AMPLE_S, max_request_bytes=100_000)
    with closing(open_kafka_client(KafkaAdminClient, **client)) as admin:
        admin.create_topics([NewTopic("events", 2, 1, topic_configs={"max.message.bytes": "2000"})])
    until(lambda: is_there(log), "the topic is there", within_s=60)
    with pytest.raises(LogRefused, match=r"a record is too large for topic events"):
        log.append("events", 2, [NewRecord(0, b"user", bytes(200_000))], AMPLE_S)
    with pytest.raises(NotAcknowledged, match=r"a record is too large for topic events"):
        log.append("events", 2, [NewRecord(0, b"user", bytes(10_000))], AMPLE_S)
    log.append("events", 2, [NewRecord(0, b"user", b"after")], AMPLE_S)
    log.close()
    assert [record.value for record in read_to_end(client, "events")] == [b"after"]


@pytest.mark.full
def test_replicas_that_are_not_in_sync_are_what_keeps_records_from_being_written(
    three_real_brokers: Brokers,
) -> None:
    third = three_real_brokers.address.split(",")[2]
    log = KafkaLog({"bootstrap_servers": [third]}, timeout_s=PATIENT_S, max_request_bytes=1 << 20)
    with closing(open_kafka_client(KafkaAdminClient, bootstrap_servers=third)) as admin:
        at = {0: [3, 2], 1: [3, 1]}
        topic = NewTopic("events", -1, -1, replica_assignments=at, topic_configs={"min.insync.replicas": "2"})
        admin.create_topics([topic])
    until(lambda: is_there(log), "the topic is there, and nothing speaks against it", within_s=60)
    connect(log, 2)
    three_real_brokers.kill(2)
    short = "partition 0 has fewer replicas in sync than min.insync.replicas, which is 2: bring their brokers back"
    until(lambda: obstacle(log) == short, "the brokers say so", within_s=60)
    with pytest.raises(NotAcknowledged):
        log.append("events", 2, [NewRecord(0, b"user", b"value")], PATIENT_S)
    log.check("events", 2, PATIENT_S)  # which knows nothing of that
    three_real_brokers.start(2)
    until(lambda: obstacle(log) == "", "and that it is over", within_s=60)
    log.append("events", 2, [NewRecord(0, b"user", b"value")], PATIENT_S)
    log.close()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    certificates = Certificates.issue(tmp_path_factory.mktemp("certificates"))
    folder = tmp_path_factory.mktemp("secured")
    with secured_kafka(folder, certificates) as kafka:
        yield kafka


@pytest.fixture
def topics(secured: SecuredKafka, valkey: RedisForTest) -> TopicsForTest:
    """Fresh ones, with all rights that are documented."""
    named = secured.create(f"events-{valkey.prefix}", N)
    secured.grant_documented(named, valkey.prefix)
    return replace(named, bootstrap=secured.renewing_address)


def refused(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """How a call fails: status, details and trailing metadata."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error: Any = raised.value
    return error.code(), error.details(), dict(error.trailing_metadata())


def metric(uic: RunningUic) -> float:
    lines = web().get(f"{uic.worker.admin_url}/metrics", timeout=60).text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith('uic_trouble{cause="publishing_fails"} ')))


def fails(uic: RunningUic) -> str:
    """What /readyz says of publishing. A worker that no broker answers gives its lease up, and is not ready."""
    return "; ".join(
        why
        for why in uic.admin("/readyz").get("degraded", ["publishing_fails: not ready"])
        if why.startswith("publishing_fails: ")
    )


def written(secured: SecuredKafka, topic: str) -> int:
    return sum(1 for _ in read_to_end({"bootstrap_servers": secured.address}, topic))


@pytest.mark.full
def test_a_right_that_is_missing_is_named_nothing_is_written_and_it_works_once_it_is_granted(
    secured: SecuredKafka, topics: TopicsForTest, valkey: RedisForTest, tmp_path: Path
) -> None:
    secured.revoke("WRITE", "topic", topics.erased)
    variables: dict[str, Any] = {**secured.variables(), "UIC_GRPC__TIMEOUT_S": str(AMPLE_S)}
    with running_uic(tmp_path, valkey, topics, **variables) as uic:
        uic.publish(click("user"), timeout_s=60)
        assert (fails(uic), metric(uic)) == ("", 0)
        for _ in range(3):
            code, details, told = refused(lambda: uic.erase("user"))
            assert (code, told["retriable"]) == (grpc.StatusCode.FAILED_PRECONDITION, "false")
            assert details.startswith("nothing was erased: ")
            assert f"write to topic {topics.erased}: grant it WRITE" in details
        assert (written(secured, topics.events), written(secured, topics.erased)) == (1, 0)
        until(lambda: topics.erased in fails(uic) and metric(uic) == 1, "the missing right is told", within_s=10)

        secured.revoke("WRITE", "topic", topics.events)
        code, details, told = refused(lambda: uic.publish(click("user"), timeout_s=60))
        assert (code, told["retriable"]) == (grpc.StatusCode.FAILED_PRECONDITION, "false")
        assert "unacknowledged" not in told
        assert details.startswith("nothing was written: ")
        assert f"write to topic {topics.events}: grant it WRITE" in details
        assert written(secured, topics.events) == 1
        until(lambda: f"{topics.events}: grant" in fails(uic), "that right is told as well", within_s=10)

        for topic in (topics.events, topics.erased):
            secured.grant("WRITE", "topic", topic)
        uic.erase("user")
        uic.publish(click("user"), click("another"), timeout_s=60)
        until(lambda: not fails(uic) and metric(uic) == 0, "publishing works again", within_s=60)
        assert (written(secured, topics.events), written(secured, topics.erased)) == (4, 1)


@pytest.mark.full
def test_after_a_login_that_failed_publishing_and_erasing_work_again_without_a_restart(
    secured: SecuredKafka, topics: TopicsForTest, valkey: RedisForTest, tmp_path: Path
) -> None:
    ended = threading.Event()
    outcomes: list[bool] = []
    variables: dict[str, Any] = {**secured.variables(), "UIC_GRPC__TIMEOUT_S": str(PATIENT_S)}
    with running_uic(tmp_path, valkey, topics, **variables) as uic:

        def publish() -> None:
            while not ended.wait(0.1):
                try:
                    uic.publish(click("user"), timeout_s=4 * PATIENT_S)
                    outcomes.append(True)
                except grpc.RpcError:
                    outcomes.append(False)

        def works() -> bool:
            return len(outcomes) > 3 and all(outcomes[-3:])

        caller = threading.Thread(target=publish)
        caller.start()
        try:
            until(works, "events are published", within_s=60)
            secured.set_password("another one")
            secured.restart()
            until(lambda: fails(uic) != "" and metric(uic) == 1, "/readyz and the metric say so", within_s=60)
            seen = len(outcomes)
            until(lambda: len(outcomes) > seen + 2, "calls fail for longer than a delivery takes", within_s=60)
            assert not any(outcomes[seen:])
            secured.set_password(PASSWORD)
            outcomes.append(False)
            until(works, "events are published again", within_s=15)
            uic.erase("user")
            until(lambda: not fails(uic) and metric(uic) == 0, "/readyz and the metric say that it works", within_s=60)
        finally:
            secured.set_password(PASSWORD)
            ended.set()
            caller.join(60)
