"""Records in columns are taken, decoded and planned as the same records in a list are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimn.rows.live import CompiledEvents, compiled_events
from mimn.state import Progress
from support import hand_model, skips
from support.hand_model import event_value, users_of
from uic.core.event import Record
from uic.core.fold import Part, Round
from uic.core.ordering import Batch, Bounds, Front, OutOfOrder, Waiting, decode, take, take_together
from uic.core.records import BatchRecord, Pending, Records, joined

N = 2
HERE, ELSEWHERE = users_of(0, N, 4), users_of(1, N, 1)
KEYS = st.sampled_from([user.encode() for user in HERE])
ODD_KEYS = st.sampled_from([None, b"", b"\xff", "\u00e9".encode(), b"k" * 129, ELSEWHERE[0].encode()])
HEADERS = st.sampled_from([(), (), [("trace", b"x")], [("Content-Type", b"application/json")], [("a", None)]])


@st.composite
def records(draw: st.DrawFn) -> list[BatchRecord]:
    """A partition's, most of them plain; in some logs all."""
    keys = KEYS if draw(st.booleans()) else KEYS | ODD_KEYS
    made, offset = [], draw(st.integers(0, 3))
    for _ in range(draw(st.integers(0, 25))):
        key = draw(keys)
        name = (key or b"").decode(errors="replace")
        value = draw(st.sampled_from([event_value(name, item=5)] * 6 + [event_value(name, item=9), None, b"\xff", b""]))
        made.append(BatchRecord(offset, draw(st.sampled_from([hand_model.WALL_MS, -1])), key, value, draw(HEADERS)))
        offset += draw(st.integers(1, 3))
    return made


@pytest.fixture(scope="module")
def compiled() -> CompiledEvents:
    found = compiled_events()
    if found is None:
        pytest.skip(skips.NO_COMPILED_STEP)
    return found


ERASED = {HERE[1].encode(): 9}


def alone(some: Sequence[Record], bounds: Bounds, floor: int = 0) -> Front:
    return take(some, floor=floor, partition=0, partitions=N, known=(), erased=ERASED, bounds=bounds)


def same(one: Front | Batch, other: Front | Batch) -> None:
    assert list(one.records) == list(other.records)
    for name, ours, theirs in zip(one._fields, one, other, strict=True):
        if name != "records":
            np.testing.assert_equal(ours, theirs, err_msg=name)


@given(
    logs=st.lists(records(), min_size=1, max_size=3),
    states=st.integers(1, 4),
    waves=st.integers(1, 4),
    most=st.integers(1, 30),
)
def test_batches_are_the_same_and_so_is_what_they_fold_to(
    compiled: CompiledEvents, logs: list[list[BatchRecord]], states: int, waves: int, most: int
) -> None:
    bounds = Bounds(states, waves, most)
    listed = [alone(some, bounds) for some in logs]
    waiting = [Waiting(0, Records.of(some)[:most], 0, ERASED) for some in logs]
    columned = []
    for found, each, theirs in zip(take_together(waiting, N, bounds, compiled), waiting, listed, strict=True):
        ours = found or alone(each.pending, bounds)
        same(ours, theirs)
        columned.append(ours)
    of_list, of_columns = decode(listed), decode(columned, compiled=compiled)
    for one, other in zip(of_columns, of_list, strict=True):
        same(one, other)
    assert headers_of(of_columns, compiled) == headers_of(of_list, None)


def headers_of(batches: list[Batch], compiled: CompiledEvents | None) -> bytes:
    progress = Progress(partitions=N, next_offset=0, lineage=1, writer=1, base=0, as_of_ms=0)
    parts = [Part(batch, progress, [None] * len(batch.keys)) for batch in batches]
    work = Round(replace(hand_model.MODEL, compiled=compiled))
    work.plan(parts)
    return work.headers.tobytes()


@given(records())
def test_plain_records_in_columns_are_taken_by_compiled_code(compiled: CompiledEvents, some: list[BatchRecord]) -> None:
    plain = [record for record in some if record.key is not None and record.key.decode(errors="replace") in HERE]
    bounds = Bounds(9, 99, 99)
    [found] = take_together([Waiting(0, Records.of(plain), 0, ERASED)], N, bounds, compiled)
    assert found is not None
    same(found, alone(plain, bounds))
    assert take_together([Waiting(0, plain, 0, ERASED)], N, bounds, compiled) == [None]
    assert take_together([Waiting(0, Records.of(plain), 0, ERASED)], N, bounds, None) == [None]


@pytest.mark.parametrize("offsets", [[5, 6], [7, 8, 8], [7, 9, 8]])
def test_offsets_that_do_not_rise_are_refused(compiled: CompiledEvents, offsets: list[int]) -> None:
    key, bounds = HERE[0].encode(), Bounds(9, 9, 9)
    some = Records.of([BatchRecord(offset, hand_model.WALL_MS, key, event_value(HERE[0]), ()) for offset in offsets])
    assert take_together([Waiting(0, some, 7, {})], N, bounds, compiled) == [None]
    with pytest.raises(OutOfOrder):
        alone(some, bounds, floor=7)


@given(records())
def test_each_record_is_read_back_and_a_slice_has_its_own(some: list[BatchRecord]) -> None:
    found = Records.of(some)
    assert list(found) == some
    assert [found[i] for i in range(len(found))] == some
    assert list(found[3:7]) == some[3:7]


@given(st.lists(st.tuples(records(), st.booleans(), st.integers(0, 30)), max_size=8))
def test_a_queue_gives_its_records_in_order(steps: list[tuple[list[BatchRecord], bool, int]]) -> None:
    queue, expected = Pending(), list[BatchRecord]()
    for some, columns, most in steps:
        queue.append(Records.of(some) if columns else some)
        expected += some
        assert list(queue.front(most)) == expected[:most]
        count = min(most, len(expected))
        queue.drop(count)
        del expected[:count]
        assert len(queue) == len(expected)
    assert list(queue.front(1000)) == expected


@given(records(), records())
def test_joined_records_are_in_columns_where_most_are(one: list[BatchRecord], other: list[BatchRecord]) -> None:
    assert isinstance(joined([Records.of(one), Records.of(other)]), Records)
    assert list(joined([Records.of(one), Records.of(other)])) == one + other
    for several in ([Records.of(one), other], [one, Records.of(other)]):
        assert list(joined(several)) == one + other
