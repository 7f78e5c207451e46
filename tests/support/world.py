"""One topic, one store, any number of workers, and the expected states: the setting of UIC's process tests.

The expected states come from the log, replayed by the verifier, never from UIC. Worlds with different topics and
prefixes, and so with different consumer groups, can share a broker and a store, even at the same time.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import redis
from google.protobuf import json_format
from kafka import KafkaProducer

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from judge import Dead, Differs, Findings, Judge, Log, LogReader, Stored
from localstack.uic_and_rtp import Surroundings, UicWorker
from localstack.wait import NotReady, until
from mimn.bundle import Bundle, load_bundle
from mimn.bundle.graph import open_step
from mimn.state import (
    CorruptProgress,
    Keys,
    Progress,
    UserState,
    decode_progress,
    decode_state,
    namespace,
    partition_of,
    user_hash,
)
from support.for_test import TopicsForTest
from uic.core.topics import group_name

BUNDLE = Path(__file__).parents[1] / "fixtures" / "bundle_tiny" / "tiny" / "1"


class World:
    """Produces events, starts workers, and compares the store with the log."""

    def __init__(
        self,
        folder: Path,
        topics: TopicsForTest,
        url: str,
        prefix: str,
        told: Mapping[str, str],
        *,
        seed: int = 7,
        client: Any = None,
        bundle: Path = BUNDLE,
    ) -> None:
        """Nothing runs yet. `told`: environment variables for every worker; `client` reads the store if `url` is not
        enough."""
        self.folder = folder
        self.topics = topics
        self.bundle: Bundle = load_bundle(bundle)
        self.random = random.Random(seed)
        self.keys = Keys(namespace(self.bundle.manifest.fingerprint), prefix)
        self.surroundings = Surroundings(
            topics.bootstrap,
            url,
            bundle,
            topic=topics.events,
            partitions=topics.partitions,
            prefix=prefix,
            uic=told,
        )
        if client is None:
            kind = redis.RedisCluster if told.get("UIC_REDIS__MODE") == "cluster" else redis.Redis
            client = kind.from_url(url, protocol=2, socket_timeout=20)
        self.client: Any = client
        self.workers: list[UicWorker] = []
        self.dead: set[tuple[int, int]] = set()
        """(partition, offset) of records that the replay leaves out."""
        self.judge = Judge(self.bundle, open_step(self.bundle), topics.partitions)
        self._producer: KafkaProducer | None = None
        self._reader: LogReader | None = None

    # Workers

    @property
    def group(self) -> str:
        """The workers' consumer group, once the first worker has claimed the namespace."""
        claimed = json.loads(self.client.get(self.keys.meta) or b"{}")
        return group_name(self.keys.prefix, self.topics.events, self.keys.namespace, claimed.get("store", ""))

    def new_worker(self, **told: str) -> UicWorker:
        """One more worker, not started; `told`: environment variables only for it."""
        name = f"uic-{len(self.workers)}"
        surroundings = replace(self.surroundings, uic={**self.surroundings.uic, **told})
        worker = UicWorker(name, self.folder / name, surroundings)
        worker.ready_s = 120  # several may start at once on a busy machine
        self.workers.append(worker)
        return worker

    def worker(self, **told: str) -> UicWorker:
        """One more worker, started."""
        worker = self.new_worker(**told)
        worker.start()
        return worker

    def environment(self, **more: str) -> dict[str, str]:
        """What a command of UIC is started with: a new worker's environment, and `more`."""
        return dict(self.new_worker().environment()) | more

    # The log

    @property
    def producer(self) -> KafkaProducer:
        """The world's producer: idempotent, with acks=all."""
        if self._producer is None:
            self._producer = KafkaProducer(
                bootstrap_servers=self.topics.bootstrap,
                acks="all",
                enable_idempotence=True,
                linger_ms=2,
                reconnect_backoff_max_ms=1000,
            )
        return self._producer

    def event(self, user: str) -> BehaviorEvent:
        """A random event."""
        return BehaviorEvent(
            user_id=user,
            item_id=self.random.randint(1, 80),
            category_id=self.random.randint(0, 9),
            event_time=time.time_ns() // 1_000_000,
        )

    def send(self, user: str) -> Any:
        """Send a random event of `user`, protobuf or JSON; returns the future of its position."""
        event = self.event(user)
        as_json = self.random.random() < 0.2
        value = json_format.MessageToJson(event).encode() if as_json else event.SerializeToString()
        headers = [("content-type", b"application/json")] if as_json else []
        return self.producer.send(self.topics.events, key=user.encode(), value=value, headers=headers)

    def produce(self, n: int, users: int | Sequence[str] = 40) -> None:
        """Send `n` events of random users and wait for acknowledgment; `users` is their number or their ids."""
        some = [f"user-{i}" for i in range(users)] if isinstance(users, int) else users
        sent = [self.send(self.random.choice(some)) for _ in range(n)]
        self.producer.flush(timeout=60)
        for future in sent:
            future.get(timeout=10)

    def erase(self, user: str) -> None:
        """Send the user's null record and wait until it is written."""
        self.producer.send(self.topics.events, key=user.encode(), value=None)
        self.producer.flush(timeout=30)

    def log(self) -> Log:
        """All records ever seen in the topic, and its current end."""
        if self._reader is None:
            self._reader = LogReader(self.topics.bootstrap, self.topics.events, self.topics.partitions)
        return self._reader.read()

    def forget_log(self) -> None:
        """The topic was created again: forget what was read from the old one."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._producer is not None:
            self._producer.close(timeout=5)
            self._producer = None

    # The store

    def stored(self) -> Stored:
        """Everything in the store under this namespace."""
        front = f"{self.keys.prefix}:{{{self.keys.namespace}."
        names = list(self.client.scan_iter(match=f"{front}*}}:s:*", count=1000))
        get_many = self.client.mget_nonatomic if isinstance(self.client, redis.RedisCluster) else self.client.mget
        values = get_many(names) if names else []
        states = {}
        for name, value in zip(names, values, strict=True):
            partition, _, user = name.decode().removeprefix(front).partition("}:s:")
            if value is not None:
                states[int(partition), user] = value
        return Stored(self.progress_records(), states)

    def empty_store(self) -> None:
        """What FLUSHALL does, for this prefix."""
        keys = list(self.client.scan_iter(match=f"{self.keys.prefix}:*", count=1000))
        if keys:
            self.client.delete(*keys)

    def progress_records(self) -> dict[int, bytes]:
        """Raw progress records of the partitions that have one."""
        found = {p: self.client.get(self.keys.progress(p)) for p in range(self.topics.partitions)}
        return {p: value for p, value in found.items() if value is not None}

    def positions(self) -> dict[int, int]:
        """By partition, the offset at which its fold goes on; of those that have a progress record."""
        return {p: decode_progress(record).next_offset for p, record in self.progress_records().items()}

    def progress(self, partition: int) -> Progress | None:
        """One partition's progress."""
        record = self.client.get(self.keys.progress(partition))
        return None if record is None else decode_progress(record)

    def state(self, user: str) -> UserState | None:
        """One user's stored state."""
        value = self.client.get(self.keys.state(partition_of(user.encode(), self.topics.partitions), user))
        if value is None:
            return None
        return decode_state(value, self.bundle.fingerprint, self.bundle.layout, user_hash(user))

    # The verdict

    def compare(self, *, snapshot: bool = False, **more: Any) -> Findings:
        """How the store differs from the log; see `Judge.compare`."""
        dead: Dead = self.dead
        return self.judge.compare(self.log(), self.stored(), snapshot=snapshot, dead=dead, **more)

    def covered(self, log: Log) -> bool:
        """Whether progress says that every partition is folded to the end of the log."""
        try:
            return self.positions() == log.ends
        except CorruptProgress:
            return False

    def wait_folded(self, within_s: float = 60, **more: Any) -> float:
        """Wait until the store matches the log; returns the seconds that it took.

        Raises:
            Differs: the store does not match at the deadline.
        """
        began = time.monotonic()
        log = self.log()

        def right() -> bool:
            try:
                return self.covered(log) and not self.judge.compare(log, self.stored(), dead=self.dead, **more)
            except redis.RedisError:
                return False

        try:
            until(right, "every event is folded once and in order", within_s=within_s, every_s=0.1)
        except NotReady as late:
            raise Differs(late, self.compare(**more)) from None
        return time.monotonic() - began

    def close(self) -> None:
        """Stop the workers and close the connections."""
        for worker in self.workers:
            worker.thaw()
            if worker.alive():
                worker.stop()
        self.forget_log()
        self.client.close()
