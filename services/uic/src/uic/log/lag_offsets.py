"""Commits offsets to a consumer group without members: for monitoring tools that show lag, never the position that
reading starts from.

A thread of its own does it, because it waits for the group's coordinator. Newer offsets of a partition replace those
that were not sent yet.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Final

from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import AuthorizationError, GroupAuthorizationFailedError, KafkaError, NoError
from kafka.structs import OffsetAndMetadata

from uic.core.ports import Advised
from uic.log.kafka_repairs.clients import explained, open_kafka_client
from uic.log.unreachable import described

INTERVAL_S: Final = 1.0
"""Between commits."""
AGAIN_S: Final = 5.0
"""After one that failed."""


class LagOffsets(threading.Thread):
    """Begin with `begin`, end with `leave`."""

    def __init__(self, client: Mapping[str, Any], topic: str) -> None:
        """Nothing is connected yet. `client`: options of a Kafka client."""
        super().__init__(name="lag offsets", daemon=True)
        self._client = dict(client)
        self._topic = topic
        self._group = ""
        self._lock = threading.Lock()
        self._advice: dict[int, int] = {}
        self._answers: queue.SimpleQueue[Advised] = queue.SimpleQueue()
        self._leaving = threading.Event()

    def begin(self, group: str) -> None:
        """Commit to this group from now on."""
        self._group = group
        self.start()

    def advise(self, offsets: Mapping[int, int]) -> None:
        """Commit these offsets (partition → next offset) when possible."""
        with self._lock:
            self._advice |= offsets

    def messages(self) -> list[Advised]:
        """What became of them since the last call."""
        found = []
        while not self._answers.empty():
            found.append(self._answers.get())
        return found

    def leave(self, timeout_s: float) -> None:
        """Commit the last advice and end the thread."""
        self._leaving.set()
        if self.ident is not None:
            self.join(timeout_s)

    def run(self) -> None:
        """Commit until told to leave, with a new client after every failure."""
        while not self._leaving.is_set():
            try:
                with closing(open_kafka_client(KafkaAdminClient, **self._client)) as admin, explained(admin):
                    while not self._leaving.wait(INTERVAL_S):
                        self._commit(admin)
                    self._commit(admin)
            except KafkaError as error:
                offsets = self._take()
                self._tell(offsets, error)
                self._leaving.wait(AGAIN_S)

    def _commit(self, admin: KafkaAdminClient) -> None:
        if not (offsets := self._take()):
            return
        wanted = {TopicPartition(self._topic, p): OffsetAndMetadata(offset, "", -1) for p, offset in offsets.items()}
        try:
            found = admin.alter_group_offsets(self._group, wanted)
        except GroupAuthorizationFailedError:  # the library adds words of its own
            raise GroupAuthorizationFailedError(self._group) from None
        except KafkaError:
            self.advise(offsets | self._take())
            raise
        failed = next((error for error in found.values() if error is not NoError), None)
        if failed is not None:
            raise failed(self._group)
        self._tell(offsets, None)

    def _take(self) -> dict[int, int]:
        with self._lock:
            offsets, self._advice = self._advice, {}
        return offsets

    def _tell(self, offsets: Mapping[int, int], error: KafkaError | None) -> None:
        why = None if error is None else described(error, self._client, self._topic)
        self._answers.put(Advised(tuple(offsets), why, refused=isinstance(error, AuthorizationError)))
