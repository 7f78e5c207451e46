"""Records made to stop UIC's reading, through a broker that takes them: all are read, and those behind them folded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from conftest import MakeTopics, RedisForTest
from mimn.state import partition_of
from support.uic_running import click, running_uic
from uic.log.topic_reader import read_to_end
from uic.tools.dead_letters import describe, read_letter

pytestmark = pytest.mark.servers

N = 4
USER = "ann"


class NoText(str):
    """A header's name that goes over the wire as bytes that are no text. Brokers do not look at names."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:  # whatever the encoding
        return b"\xff\xfe"


def test_headers_whose_names_are_no_text_stop_nobody(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, N)
    odd = [(NoText("x"), b"v")]
    with running_uic(tmp_path / "uic", valkey, topics) as uic:
        producer = KafkaProducer(bootstrap_servers=kafka, acks="all")
        where = partition_of(USER.encode(), N)
        for value in (click(USER).SerializeToString(), b"\xff\xff", click(USER).SerializeToString()):
            producer.send(topics.events, key=USER.encode(), value=value, headers=odd, partition=where).get(timeout=10)
        producer.close()
        uic.wait_folded(uic.publish(click(USER)))
        state = uic.state(USER)
        assert state is not None
        assert state.event_count == 3
        assert uic.admin("/partitions")["serving"]
    [record] = read_to_end({"bootstrap_servers": kafka}, topics.dlq)
    letter = read_letter(record)
    assert (letter.reason, letter.offset, letter.key, letter.value) == ("malformed_protobuf", 1, b"ann", b"\xff\xff")
    assert letter.headers == (("\N{REPLACEMENT CHARACTER}" * 2, b"v"),)
    assert any("\N{REPLACEMENT CHARACTER}" in line for line in describe(letter))
