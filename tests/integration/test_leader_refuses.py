"""A leader that refuses a worker, or is silent to it, while other brokers answer: on a real Kafka of two nodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from localstack.ports import LOOPBACK
from localstack.wait import until
from mimn.state import partition_of
from support.cut_off import Cut
from support.for_test import RedisForTest, TopicsForTest
from support.hand_model import users_of
from support.two_brokers import TwoBrokers, two_brokers
from support.uic_running import RunningUic, click, running_uic
from torture.watching import samples

pytestmark = pytest.mark.servers

LED = {0: 1, 1: 2, 2: 1, 3: 2}
AS_OF = "uic_as_of_timestamp_seconds"
SETTLES_S = 20


@pytest.fixture(scope="module")
def cut() -> Iterator[Cut]:
    made = Cut()
    yield made
    made.close()


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory, cut: Cut) -> Iterator[TwoBrokers]:
    with two_brokers(tmp_path_factory.mktemp("brokers"), cut) as running:
        yield running


def append(producer: KafkaProducer, named: TopicsForTest, *partitions: int) -> None:
    """An event of a user of each partition."""
    for p in partitions:
        [user] = users_of(p, named.partitions, 1)
        key = user.encode()
        assert partition_of(key, named.partitions) == p
        producer.send(named.events, key=key, value=click(user).SerializeToString(), partition=p).get(timeout=20)


def counts(uic: RunningUic) -> list[int]:
    """The events in the state of a user of each partition."""
    states = [uic.state(user) for p in range(4) for user in users_of(p, 4, 1)]
    return [state.event_count if state else 0 for state in states]


def seen(uic: RunningUic) -> dict[int, dict[str, Any]]:
    return {p["partition"]: p for p in uic.admin("/partitions")["partitions"]}


def degraded(uic: RunningUic) -> list[str]:
    return [reason for reason in uic.admin("/readyz").get("degraded", []) if reason.startswith("log_unavailable")]


@pytest.mark.parametrize("trouble", [pytest.param("refuse", marks=pytest.mark.full), "hang"])
def test_a_leader_that_refuses_or_hangs_keeps_no_other_waiting(
    trouble: str, brokers: TwoBrokers, cut: Cut, valkey: RedisForTest, tmp_path: Path
) -> None:
    named = brokers.create(f"events-{trouble}", LED)
    named = TopicsForTest(brokers.first.address, named.events, named.partitions)
    address = f"{LOOPBACK}:{cut.port}"

    def said(uic: RunningUic) -> bool:
        match degraded(uic):
            case [reason]:
                return reason.startswith("log_unavailable: partitions 1,3: ") and address in reason
        return False

    def stands(uic: RunningUic, phase: str) -> bool:
        """Whether what is healthy is folded and caught up, and the rest has a reason and no lag."""
        now = seen(uic)
        healthy = all((now[p]["phase"], now[p]["lag"], now[p]["reason"]) == ("folding", 0, "") for p in (0, 2))
        rest = all((now[p]["phase"], now[p]["lag"]) == (phase, None) and address in now[p]["reason"] for p in (1, 3))
        lags = {f'uic_lag_records{{partition="{p}"}}' for p in (0, 2)}
        return healthy and rest and set(samples(uic.worker, "uic_lag_records")) == lags

    def as_of(uic: RunningUic) -> dict[int, float]:
        found = samples(uic.worker, AS_OF)
        return {p: found[f'{AS_OF}{{partition="{p}"}}'] for p in LED}

    with (
        closing(KafkaProducer(bootstrap_servers=named.bootstrap, enable_idempotence=False)) as producer,
        running_uic(tmp_path / "one", valkey, named, UIC_FOLD__AS_OF_INTERVAL_S="1") as uic,
    ):
        append(producer, named, 0, 1, 2, 3)
        until(lambda: counts(uic) == [1, 1, 1, 1], "events are folded", within_s=60)
        try:
            getattr(cut, trouble)()
            until(lambda: said(uic), "/readyz names partitions and broker", within_s=SETTLES_S)
            append(producer, named, 0, 2)
            until(lambda: counts(uic) == [2, 1, 2, 1], "the others are folded", within_s=SETTLES_S)
            until(lambda: stands(uic, "folding"), "each partition says where it stands", within_s=SETTLES_S)
            at = as_of(uic)
            until(lambda: all(as_of(uic)[p] > at[p] + 2 for p in (0, 2)), "as-of times go on", within_s=SETTLES_S)
            assert all(as_of(uic)[p] < at[p] + 1 for p in (1, 3)), "but for what the clocks differ by"
            uic.worker.stop()
            with running_uic(tmp_path / "two", valkey, named, UIC_FOLD__AS_OF_INTERVAL_S="1") as late:
                append(producer, named, 0, 2)
                until(lambda: counts(late) == [3, 1, 3, 1], "the others are taken up", within_s=SETTLES_S)
                until(lambda: said(late), "/readyz names partitions and broker", within_s=SETTLES_S)
                until(lambda: stands(late, "taking_up"), "each partition says where it stands", within_s=SETTLES_S)
                cut.restore()
                until(lambda: degraded(late) == [], "it goes on by itself", within_s=2 * SETTLES_S)
                append(producer, named, 1, 3)
                until(lambda: counts(late) == [3, 2, 3, 2], "each event is folded once", within_s=2 * SETTLES_S)
        finally:
            cut.restore()
