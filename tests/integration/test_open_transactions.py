"""While a producer holds a transaction open, the log goes on behind it: commands take neither its end nor what is in it
from where reading committed records ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from localstack.wait import until
from localstack.web import web
from mimn.state import partition_of
from support.bulk_running import cut_log, done
from support.for_test import MakeTopics, RedisForTest, TopicsForTest
from support.open_transaction import open_transaction
from support.uic_running import click, running_uic
from uic.errors import LogUnavailable
from uic.log.erasures import Erasure, KafkaErasures, encode_erasure
from uic.log.partition_reader import PartitionReader
from uic.log.topic_reader import read_to_end

pytestmark = pytest.mark.servers

N = 2
USERS = [f"u{i}" for i in range(10)]
USER = next(user for user in USERS if partition_of(user.encode(), N) == 0)


def environment(topics: TopicsForTest) -> dict[str, str]:
    return {
        "UIC_KAFKA__BOOTSTRAP_SERVERS": topics.bootstrap,
        "UIC_KAFKA__TOPIC": topics.events,
        "UIC_KAFKA__PARTITIONS": str(topics.partitions),
    }


def produce(topics: TopicsForTest, *users: str, topic: str = "") -> None:
    """A click of each, in one batch a partition."""
    producer = KafkaProducer(bootstrap_servers=topics.bootstrap, acks="all", linger_ms=60_000)
    for user in users:
        partition = partition_of(user.encode(), topics.partitions)
        value = click(user).SerializeToString()
        producer.send(topic or topics.events, key=user.encode(), value=value, partition=partition)
    producer.flush(timeout=60)
    producer.close()


# Reading


def test_what_an_open_transaction_holds_back_is_an_error(real_kafka: str, make_topics: MakeTopics) -> None:
    """Else a replay or an import that is run again would append everything twice."""
    topics = make_topics(real_kafka, N)
    client = {"bootstrap_servers": [real_kafka]}

    def read(last: int | None = None) -> list[bytes | None]:
        return [record.key for record in read_to_end(client, topics.events, [0], idle_s=5, last=last)]

    def read_in_bulk() -> list[bytes | None]:
        with PartitionReader(client, topics.events, idle_s=5) as reader:
            bounds = reader.bounds()
            return [record.key for some, _ in reader.read(0, 0, bounds.log_ends[0]) for record in some]

    produce(topics, USER)
    with open_transaction(topics, [0], b"first") as first:
        produce(topics, USER)
        for reading in (read, read_in_bulk):
            with pytest.raises(LogUnavailable) as error:
                reading()
            assert "partition 0: a transaction is open from offset 1" in error.value.detail
        assert read(last=10) == [USER.encode()], "a sample needs no more"
        with PartitionReader(client, topics.events) as reader:
            bounds = reader.bounds()
            assert (bounds.partitions[0].end, bounds.partitions[1].end, bounds.log_ends[1]) == (1, 0, 0)
            assert bounds.log_ends[0] >= 3
        first.end(commit=True)
    until(lambda: read() == read_in_bulk() == [USER.encode(), b"first", USER.encode()], "all is read", within_s=60)


def test_erasures_wait_for_an_open_transaction(real_kafka: str, make_topics: MakeTopics) -> None:
    """Else a rebuild would bring the user back whose erasure lies behind it."""
    topics = make_topics(real_kafka, N)
    notes = TopicsForTest(real_kafka, topics.erased, N)
    erasures = KafkaErasures({"bootstrap_servers": [real_kafka]}, topics.events, N, timeout_s=5)
    producer = KafkaProducer(bootstrap_servers=real_kafka, acks="all")
    with open_transaction(notes, [0]) as held:
        note = encode_erasure(Erasure(0, 7, bytes(16)))
        producer.send(topics.erased, key=USER.encode(), value=note, partition=0).get(timeout=60)
        with pytest.raises(LogUnavailable):
            erasures.read([0, 1], bytes(16))
        held.end(commit=False)
    assert erasures.read([0, 1], bytes(16)) == {0: {USER.encode(): 7}, 1: {}}
    producer.close()


# Commands


@pytest.mark.full
def test_an_archive_says_which_partitions_wait_behind_an_open_transaction(
    tmp_path: Path, real_kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(real_kafka, N)
    produce(topics, *[USER] * 5)
    command = (environment(topics), "archive", "--to", str(tmp_path))
    with open_transaction(topics, [0]):
        produce(topics, *[USER] * 4)
        said = done(*command)
        assert said.startswith("partition 0 is archived up to 5 of 10: a transaction is open, see docs/runbooks/")
        assert "\n5 records more" in said
        told = json.loads(done(*command, "--json"))
        assert told["open_transactions"] == [{"partition": 0, "archived_to": 5, "log_end": 10}]
        assert json.loads(done(*command, "--json", "--partition", "1"))["open_transactions"] == []
    until(lambda: json.loads(done(*command, "--json"))["records"] == 4, "what waited is archived", within_s=60)
    assert done(*command).startswith("0 records more")


# Workers


@pytest.mark.full
def test_a_log_that_is_cut_behind_an_open_transaction_is_a_gap_and_no_truncated_one(
    tmp_path: Path, valkey: RedisForTest, real_kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(real_kafka, N)
    with running_uic(tmp_path, valkey, topics, UIC_FOLD__AS_OF_INTERVAL_S="0.2") as uic:

        def view() -> dict[str, Any]:
            found: dict[str, Any] = next(p for p in uic.admin("/partitions")["partitions"] if p["partition"] == 0)
            return found

        uic.wait_folded(uic.publish(*[click(USER) for _ in range(3)]))
        with open_transaction(topics, [0]):
            produce(topics, *[USER] * 10)  # one batch, from 4 on
            # Kafka then takes the beginning of that batch for the last stable offset, below the log's beginning.
            cut_log(real_kafka, topics.events, {0: 8})
            until(lambda: view()["next_offset"] == 8, "the gap is accepted", within_s=60)
            until(lambda: view()["lag"] == 6 and "open transaction" in view()["reason"], "it waits", within_s=60)
            listed = json.loads(
                done(
                    environment(topics) | {"UIC_REDIS__URL": valkey.url, "UIC_REDIS__PREFIX": valkey.prefix},
                    "namespaces",
                    "list",
                    "--json",
                )
            )
            assert [row["lag"] for row in listed] == [6], "the lag is that of the workers"
            ready = web().get(f"{uic.worker.admin_url}/readyz", timeout=60).text
            assert "open_transaction" in ready
            assert "broken_log" not in ready

        def folded() -> bool:
            state = uic.state(USER)
            return state is not None and state.event_count == 3 + 6 and state.partial

        until(folded, "what is left is folded", within_s=60)
