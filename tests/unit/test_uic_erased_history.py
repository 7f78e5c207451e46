"""History that is not newer than an erasure in the topic is left out, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ctr.event.v1.behavior_event_pb2 import ACTION_ERASE_ITEM, ACTION_UNSPECIFIED, Action, BehaviorEvent
from uic.bulk.erased_history import ErasedHistory
from uic.bulk.history import HistoryRecord, Place
from uic.core.records import BatchRecord
from uic.log.erasures import Noted

T = 1_700_000_000_000
JSON = (("content-type", b"application/json"),)


def event(user: str = "ann", item: int = 7, time: int = T, action: Action = ACTION_UNSPECIFIED) -> bytes:
    return BehaviorEvent(user_id=user, item_id=item, event_time=time, action=action).SerializeToString()


def archived(value: bytes | None, timestamp: int, key: bytes = b"ann") -> HistoryRecord:
    return HistoryRecord(Place(0, 0), key, value, (), timestamp)


def described(time: int, key: bytes = b"ann", item: int = 7) -> HistoryRecord:
    return HistoryRecord(Place(0, 0), key, event(key.decode(), item, time), (), None)


@given(st.lists(st.integers(-3, 3), max_size=4), st.lists(st.integers(-3, 3), max_size=2), st.integers(-4, 4))
def test_a_users_history_is_covered_up_to_the_latest_erasure(records: list[int], noted: list[int], at: int) -> None:
    erased = ErasedHistory()
    for n, when in enumerate(records):
        erased.see(BatchRecord(n, T + when, b"ann", None, ()))
    for n, when in enumerate(noted):
        erased.note({n: {b"ann": Noted(5, T + when)}}, ())
    covered = at <= max([*records, *noted], default=-9)
    assert erased.covers(archived(event(time=T - 99), T + at)) is covered, "by the record's time, where it has one"
    assert erased.covers(archived(None, T + at)) is covered, "an older erasure would take newer events away"
    assert erased.covers(archived(b"\xff", T + at)) is covered
    assert erased.covers(described(T + at)) is covered
    assert not erased.covers(described(T + at, b"bob"))


def test_an_items_history_is_covered_and_the_users_other_items_are_not() -> None:
    erased = ErasedHistory()
    erased.see(BatchRecord(0, T, b"ann", event(action=ACTION_ERASE_ITEM), ()))
    erased.see(BatchRecord(1, T + 9, b"ann", event(item=8), ()))
    erased.see(BatchRecord(2, T + 9, b"ann", b"\xff", ()))
    erased.see(BatchRecord(3, T + 9, None, event(), ()))
    assert [erased.covers(described(T + at)) for at in (-1, 0, 1)] == [True, True, False]
    assert not erased.covers(described(T, item=8))
    assert not erased.covers(archived(b"\xff", T)), "of no item"
    assert not erased.covers(archived(None, T)), "it erases more than the item"


def test_an_item_that_was_erased_by_json_is_covered() -> None:
    erased = ErasedHistory()
    value = b'{"user_id": "ann", "item_id": "7", "event_time": "%d", "action": "ACTION_ERASE_ITEM"}' % T
    erased.see(BatchRecord(0, T, b"ann", value, JSON))
    assert erased.covers(described(T))


def test_erasures_that_an_import_of_the_same_history_brought_cover_nothing() -> None:
    erased = ErasedHistory()
    erased.note({3: {b"ann": Noted(5, T)}, 4: {b"bob": Noted(5, T)}}, {(3, 5)})
    assert not erased.covers(described(T))
    assert erased.covers(described(T, b"bob"))
