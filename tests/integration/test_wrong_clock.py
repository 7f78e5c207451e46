"""A worker whose clock is wrong: callers are told that it is this and not their events, /readyz and a metric say so,
and all goes on by itself once the clock is right."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from kafka import KafkaProducer

from localstack.wait import until
from localstack.web import web
from support.for_test import MakeTopics, RedisForTest
from support.uic_running import RunningUic, click, running_uic
from support.wrong_clock import WrongClock

pytestmark = pytest.mark.servers

HOURS_2, DAYS_2 = 2 * 3600, 2 * 86_400


def refused(call: Any) -> tuple[grpc.StatusCode, str, str]:
    """Code, detail, and whether a program may repeat the call."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error: Any = raised.value
    return error.code(), error.details(), dict(error.trailing_metadata())["retriable"]


def degraded(uic: RunningUic) -> str:
    return "; ".join(uic.admin("/readyz")["degraded"])


def publishing_failing(uic: RunningUic) -> bool:
    return 'uic_trouble{cause="publishing_fails"} 1.0' in web().get(f"{uic.worker.admin_url}/metrics", timeout=60).text


def test_a_clock_that_is_hours_fast_is_named_to_callers_and_operators_and_nothing_is_lost_for_good(
    real_kafka: str, make_topics: MakeTopics, valkey: RedisForTest, tmp_path: Path
) -> None:
    topics, clock = make_topics(real_kafka, partitions=1), WrongClock(tmp_path / "clock")
    with running_uic(tmp_path / "uic", valkey, topics, **clock.variables) as uic:
        uic.publish(click("user"))
        clock.ahead(HOURS_2)
        until(lambda: "clock_skew: this worker's clock is 7200 s ahead" in degraded(uic), "it is told", within_s=60)
        for call in (
            lambda: uic.publish(click("user")),
            lambda: uic.publish(*[click("user")] * 3),
            lambda: uic.erase("user"),
            lambda: uic.erase_item("user", 3),
        ):
            code, detail, retriable = refused(call)
            assert (code, retriable) == (grpc.StatusCode.UNAVAILABLE, "true"), detail
            assert f"topic {topics.events} refuses the time of records from this machine" in detail
            assert "clocks.md" in detail
        until(lambda: publishing_failing(uic) and "publishing_fails: " in degraded(uic), "an alert fires", within_s=60)

        with KafkaProducer(bootstrap_servers=real_kafka) as producer:
            producer.send(topics.events, key=b"user", value=b"\xff no event").get(timeout=60)
        letter = f"dead_letter_topic_unavailable: topic {topics.dlq} refuses the time of records from this machine"
        until(lambda: letter in degraded(uic), "the partition says why it waits", within_s=60)

        clock.ahead(0)
        until(lambda: "dead_letter" not in degraded(uic), "the partition goes on", within_s=60)
        positions = uic.publish(click("user"))
        uic.wait_folded(positions)
        until(lambda: not degraded(uic) and not publishing_failing(uic), "all is well again", within_s=60)


def told_behind(text: str) -> bool:
    """Whether the clock is said to be two days slow. It is asked over a connection, and what delays the answer by some
    seconds moves the difference by half of them."""
    seconds = re.search(r"(\d+) s behind the store's", text)
    return seconds is not None and abs(int(seconds[1]) - DAYS_2) < 60


@pytest.mark.full
def test_a_clock_that_is_days_slow_is_not_taken_for_the_callers_mistake(
    kafka: str, make_topics: MakeTopics, valkey: RedisForTest, tmp_path: Path
) -> None:
    topics, clock = make_topics(kafka, partitions=1), WrongClock(tmp_path / "clock")
    with running_uic(tmp_path / "uic", valkey, topics, **clock.variables) as uic:
        uic.publish(click("user"))
        clock.ahead(-DAYS_2)
        until(lambda: told_behind(degraded(uic)), "it is told", within_s=60)
        code, detail, retriable = refused(lambda: uic.publish(click("user")))
        assert (code, retriable) == (grpc.StatusCode.UNAVAILABLE, "true"), detail
        assert told_behind(detail), detail
        in_a_week = click("user")
        in_a_week.event_time = int(time.time() * 1000) + 7 * 86_400_000
        code, _, retriable = refused(lambda: uic.publish(in_a_week))
        assert (code, retriable) == (grpc.StatusCode.INVALID_ARGUMENT, "false"), "wrong by any clock"
        clock.ahead(0)
        until(lambda: not degraded(uic), "the clock is right again", within_s=60)
        uic.wait_folded(uic.publish(click("user")))


def test_a_store_whose_clock_is_an_hour_fast_for_a_worker_makes_no_state_look_old(
    kafka: str, make_topics: MakeTopics, valkey: RedisForTest, tmp_path: Path
) -> None:
    topics, clock = make_topics(kafka, partitions=2), WrongClock(tmp_path / "clock")
    with running_uic(tmp_path / "uic", valkey, topics, **clock.variables) as uic:

        def oldest_s() -> float:
            """By the store's clock."""
            return max(one["as_of_age_s"] or math.inf for one in uic.admin("/partitions")["partitions"])

        uic.wait_folded(uic.publish(click("user")))
        clock.ahead(-3600)
        until(lambda: "3600 s behind the store's" in degraded(uic), "it is told", within_s=60)
        uic.wait_folded(uic.publish(click("user")))
        until(lambda: oldest_s() < 30, "as-of times are the store's", within_s=60)
        clock.ahead(0)
        until(lambda: not degraded(uic) and oldest_s() < 30, "the clock is right again", within_s=60)
