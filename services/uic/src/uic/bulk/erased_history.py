"""Which history a topic no longer wants, because its user or item was erased there: what is not newer than the erasure.

By the clock, because history has no offset in the topic: the time of an erasure is that of its record, the time of
history is that of the archived record, or of the event where it never was a record. So the new history of a user who
was erased and came back is wanted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from uic.bulk.history import HistoryRecord
from uic.core.event import ERASE_ITEM, Reason, Record, check_key, parse
from uic.log.erasures import Noted


class ErasedHistory:
    """The erasures of one topic, of users and of items."""

    def __init__(self) -> None:
        """None yet."""
        self._users: dict[bytes, int] = {}
        """Key → when, ms."""
        self._items: dict[bytes, dict[int, int]] = {}
        """Key → item → when, ms."""

    def see(self, record: Record) -> None:
        """Take in a record of the topic, which may be an erasure."""
        key = record.key
        if key is None or check_key(key) is not None:
            return
        if record.value is None:
            self._erase_user(key, record.timestamp)
        elif (event := _event(key, record.value, record.headers)) is not None and event.action == ERASE_ITEM:
            items = self._items.setdefault(key, {})
            items[event.item_id] = max(record.timestamp, items.get(event.item_id, record.timestamp))

    def note(self, noted: Mapping[int, Mapping[bytes, Noted]], imported: Collection[tuple[int, int]]) -> None:
        """Take in the topic's notes, which outlive the records.

        Args:
            noted: partition → key → note.
            imported: partition and offset of the erasures that an import of the same history has brought: it has left
                out what they erase, and what comes behind them in the history is wanted.
        """
        for partition, users in noted.items():
            for key, one in users.items():
                if (partition, one.offset) not in imported:
                    self._erase_user(key, one.time_ms)

    def covers(self, record: HistoryRecord) -> bool:
        """Whether the user or the item of `record` was erased after it, or at the same time."""
        key, value = record.key, record.value
        user, items = self._users.get(key), self._items.get(key, {})
        if user is None and not items:
            return False
        event = None if value is None else _event(key, value, record.headers)
        time_ms = record.timestamp
        if time_ms is None:
            if event is None:
                return False
            time_ms = event.event_time
        if user is not None and time_ms <= user:
            return True
        erased = None if event is None else items.get(event.item_id)
        return erased is not None and time_ms <= erased

    def _erase_user(self, key: bytes, time_ms: int) -> None:
        self._users[key] = max(time_ms, self._users.get(key, time_ms))


def _event(key: bytes, value: bytes, headers: Collection[tuple[str, bytes | None]]) -> BehaviorEvent | None:
    """The event that a record holds; None if it holds none that can be folded."""
    parsed = parse(value, tuple(headers), key.decode(), -1, text_ids=True)
    return None if isinstance(parsed, Reason) else parsed
