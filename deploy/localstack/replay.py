"""Events of real users through Kafka, and the proof that each was folded once and in order.

The producer learns the offset of each record; from that it computes the digest that every stored state must carry
(docs/formats/state.md). So the check compares the store with the log, and takes nothing from UIC on trust.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import httpx
import numpy as np
import redis
from kafka import KafkaProducer

from ctr.event.v1.behavior_event_pb2 import ACTION_PURCHASE, BehaviorEvent
from localstack.shoppers import Shopper
from localstack.topics import PARTITIONS
from localstack.wait import NotReady, until
from localstack.web import open_client
from mimn.bundle import load_bundle
from mimn.data.events import Events
from mimn.state import EMPTY_DIGEST, Keys, UserState, decode_state, extend_digest, namespace, partition_of, user_hash


@dataclass(frozen=True)
class Folded:
    """How much of one user's log a state has absorbed."""

    events: int = 0
    digest: bytes = EMPTY_DIGEST


class States:
    """The stored states of a running stack, read from Redis as RTP reads them."""

    def __init__(self, redis_url: str, bundle: Path, *, prefix: str = "uic", partitions: int = PARTITIONS) -> None:
        self.bundle = load_bundle(bundle)
        self._partitions = partitions
        self._keys = Keys(namespace(self.bundle.fingerprint.hex()), prefix)
        self._client = redis.Redis.from_url(redis_url, protocol=2, socket_timeout=10)

    def read(self, user_id: str) -> UserState | None:
        """The user's state; None when there is none."""
        value = self._client.get(self._key(user_id))
        if not isinstance(value, bytes):
            return None
        return decode_state(value, self.bundle.fingerprint, self.bundle.layout, user_hash(user_id))

    def folded(self, user_id: str) -> Folded:
        """How much of the user's log is in the state; nothing when there is no state."""
        state = self.read(user_id)
        return Folded(state.header.event_count, state.header.digest) if state else Folded()

    def mean_bytes(self, users: Sequence[str]) -> float:
        """Of the users' stored values."""
        pipeline = self._client.pipeline(transaction=False)
        for user_id in users:
            pipeline.strlen(self._key(user_id))
        return fmean(pipeline.execute())

    def _key(self, user_id: str) -> str:
        return self._keys.state(partition_of(user_id.encode(), self._partitions), user_id)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


Records = list[tuple[int, bytes]]
"""Offset and value of one user's records, in log order."""


RECENT_S = 60
"""How long before now the newest replayed event lies: clocks of producer and RTP need not agree to the second."""


def moved_to_now(events: Events, shoppers: Iterable[Shopper], *, now_s: float) -> Events:
    """`events`, all moved by the same time, so that the newest event of the shoppers was a minute before `now_s`.

    A sketch's counters halve with time and are read at RTP's clock, so histories that end years ago would leave nothing
    in them. Order and gaps stay. `now_s` is in seconds since 1970-01-01.
    """
    newest = max(int(events.timestamp[shopper.rows[-1]]) for shopper in shoppers)
    now = 1000 * (int(now_s) - RECENT_S) // events.unit_ms
    return replace(events, timestamp=events.timestamp + (now - newest))


def replay(bootstrap: str, topic: str, events: Events, shoppers: Iterable[Shopper]) -> dict[str, Records]:
    """Produce the histories in the order of time, and return where each user's records landed."""
    owner = {row: shopper.user_id for shopper in shoppers for row in shopper.rows}
    rows = np.fromiter(owner, np.int64, len(owner))
    rows = rows[np.lexsort((rows, events.timestamp[rows]))]
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=5)
    try:
        sent = []
        for row in rows.tolist():
            event = BehaviorEvent(
                event_id=f"demo-{row}",
                user_id=owner[row],
                item_id=int(events.item_id[row]),
                category_id=int(events.category_id[row]),
                action=ACTION_PURCHASE,
                event_time=int(events.timestamp[row]) * events.unit_ms,
            )
            value = event.SerializeToString()
            sent.append((event.user_id, value, producer.send(topic, key=event.user_id.encode(), value=value)))
        producer.flush(timeout=60)
        records: dict[str, Records] = {}
        for user_id, value, landed in sent:
            records.setdefault(user_id, []).append((landed.get(timeout=10).offset, value))
    finally:
        producer.close()
    return records


def expect(records: Records) -> Folded:
    """What a new user's state must say once `records` are folded."""
    digest = EMPTY_DIGEST
    for offset, value in records:
        digest = extend_digest(digest, offset, value)
    return Folded(len(records), digest)


class PartitionsBroken(RuntimeError):
    """UIC waits for an operator's decision about partitions, so events would never be folded; says which and why."""


def wait_folded(
    states: States, expected: dict[str, Folded], uic_admin: Iterable[str] = (), *, within_s: float
) -> float:
    """Wait until each user's state has absorbed what is expected, and return the seconds that took.

    Args:
        states: of the stack.
        expected: by user.
        uic_admin: URLs of admin ports of UIC workers, which are asked whether partitions are broken.
        within_s: deadline in seconds.

    Raises:
        PartitionsBroken: a worker says so.
        NotReady: some have not, at the deadline; the message counts them.
    """
    open_users = list(expected)
    began = time.monotonic()

    def all_folded() -> bool:
        open_users[:] = [user for user in open_users if states.folded(user) != expected[user]]
        return not open_users

    try:
        with open_client(timeout_s=1) as client:
            until(
                all_folded,
                "every event is folded",
                within_s=within_s,
                every_s=0.05,
                alive=lambda: _refuse_broken(client, uic_admin),
            )
    except NotReady:
        first = states.folded(open_users[0])
        raise NotReady(
            f"after {within_s:g} s {len(open_users)} of {len(expected)} users' states differ from the log; the first "
            f"one has {first.events} of {expected[open_users[0]].events} events folded (see the log of UIC)"
        ) from None
    return time.monotonic() - began


def _refuse_broken(client: httpx.Client, uic_admin: Iterable[str]) -> None:
    for url in uic_admin:
        try:
            partitions = client.get(f"{url}/partitions").json()["partitions"]
        except httpx.TransportError:  # it may be starting again
            continue
        if broken := [partition for partition in partitions if partition["phase"] == "broken"]:
            first = broken[0]
            raise PartitionsBroken(
                f"UIC folds nothing of {len(broken)} partitions, partition {first['partition']} because of "
                f"{first['reason']}: docs/runbooks/broken-log.md says what to do"
            )
