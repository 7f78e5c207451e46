"""An erasure from end to end: UIC and RTP of two generations at once on one log and one store, then a full replay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ctr.uic.v1.uic_service_pb2 import LogPosition
from localstack.uic_and_rtp import RtpProcess, Surroundings, UicWorker
from localstack.wait import until
from localstack.web import web
from mimn.bundle import load_bundle
from mimn.state import Keys, namespace, partition_of
from support.for_test import MakeTopics, RedisForTest, TopicsForTest
from support.uic_running import BUNDLE, RunningUic, click
from uic.log.topic_reader import read_to_end

pytestmark = pytest.mark.servers

N = 8
GENERATIONS = (0, 1)
PATIENT = {"x-request-deadline-ms": "30000"}
"""For requests whose own time is not what is tested."""
FINGERPRINT = load_bundle(BUNDLE).manifest.fingerprint


@dataclass
class Generation:
    """The two services that live in one namespace."""

    number: int
    uic: RunningUic
    rtp: RtpProcess

    def state_of(self, user: str) -> dict[str, Any]:
        """What `/predict` says of the user's state."""
        asked = {"user_id": user, "candidates": [{"item_id": 3, "category_id": 2}]}
        answer = web().post(f"{self.rtp.address}/predict", json=asked, headers=PATIENT, timeout=60)
        state: dict[str, Any] = answer.json()["state"]
        return state

    def wait(self, user: str, status: str, events: int) -> None:
        """Until `/predict` says so."""
        until(
            lambda: (self.state_of(user)["status"], self.state_of(user)["events"]) == (status, events),
            f"generation {self.number} says {status} of {user}, with {events} events",
            within_s=60,
        )


@contextmanager
def generations(folder: Path, valkey: RedisForTest, topics: TopicsForTest) -> Iterator[list[Generation]]:
    """Both generations, each with a UIC and an RTP of its own, on one log and one store."""
    with ExitStack() as ending:
        running = []
        for number in GENERATIONS:
            around = Surroundings(
                topics.bootstrap, valkey.url, BUNDLE, topics.events, N, valkey.prefix, number,
                rtp={"RTP_STATE__REFRESH_EVERY_S": "0.1", "RTP_DEADLINE__MAX_MS": "30000"},
            )  # fmt: skip
            worker = ending.enter_context(UicWorker(f"uic-{number}", folder / f"uic-{number}", around))
            rtp = ending.enter_context(RtpProcess(f"rtp-{number}", folder / f"rtp-{number}", around))
            uic = RunningUic(worker)
            ending.callback(uic.channel.close)
            running.append(Generation(number, uic, rtp))
        yield running


def keys_of(valkey: RedisForTest, user: str) -> list[bytes]:
    return [key for key in valkey.client.scan_iter(match=f"{valkey.prefix}:*", count=1000) if user.encode() in key]


def nulls(topics: TopicsForTest) -> list[tuple[int, int, bytes | None]]:
    records = read_to_end({"bootstrap_servers": topics.bootstrap}, topics.events)
    return [(record.partition, record.offset, record.key) for record in records if record.value is None]


def test_an_erased_user_stays_erased_in_every_namespace_after_a_full_replay(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, N)
    expected = {
        Keys(namespace(FINGERPRINT, n), valkey.prefix).state(partition_of(b"gone", N), "gone").encode()
        for n in GENERATIONS
    }
    with generations(tmp_path / "first", valkey, topics) as both:
        both[0].uic.publish(*[click("gone") for _ in range(5)], *[click("stays") for _ in range(3)])
        for generation in both:
            generation.wait("gone", "warm", 5)
            generation.wait("stays", "warm", 3)
        assert set(keys_of(valkey, "gone")) == expected, "a value in each namespace"
        at: LogPosition = both[1].uic.erase("gone")
        for generation in both:
            generation.wait("gone", "cold", 0)
            assert generation.uic.state("gone") is None
            assert generation.state_of("stays")["events"] == 3
        assert keys_of(valkey, "gone") == []
        assert nulls(topics) == [(at.partition, at.offset, b"gone")], "the answer names where the erasure lies"
        assert at.partition == partition_of(b"gone", N)
        assert at.offset == 5 + 3 * (partition_of(b"stays", N) == at.partition)
    for key in list(valkey.client.scan_iter(match=f"{valkey.prefix}:*", count=1000)):
        valkey.client.delete(key)
    with generations(tmp_path / "second", valkey, topics) as both:
        for generation in both:
            generation.wait("stays", "warm", 3)
            generation.uic.wait_folded([at])
            assert generation.state_of("gone") | {"age_ms": None} == {
                "status": "cold", "events": 0, "age_ms": None, "partial": False
            }  # fmt: skip
        assert keys_of(valkey, "gone") == []
        both[0].uic.publish(click("gone"))
        for generation in both:
            generation.wait("gone", "warm", 1)


def test_a_user_whose_stored_value_is_unreadable_is_erased_with_the_copies_that_were_set_aside(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, N)
    around = Surroundings(kafka, valkey.url, BUNDLE, topics.events, N, valkey.prefix)
    partition = partition_of(b"gone", N)
    keys = Keys(namespace(FINGERPRINT, 0), valkey.prefix)
    with UicWorker("uic", tmp_path / "uic", around) as worker:
        uic = RunningUic(worker)
        uic.wait_folded(uic.publish(click("gone"), click("gone")))
    key = keys.state(partition, "gone")
    value = valkey.client.get(key)
    assert isinstance(value, bytes)
    valkey.client.set(key, value[:-1] + bytes([value[-1] ^ 1]))
    with UicWorker("uic", tmp_path / "again", around) as worker:
        uic = RunningUic(worker)
        uic.wait_folded(uic.publish(click("gone")))
        assert valkey.client.llen(keys.bad(partition)) == 1
        uic.wait_folded([uic.erase("gone")])
        assert uic.state("gone") is None
        assert valkey.client.llen(keys.bad(partition)) == 0
        uic.channel.close()
