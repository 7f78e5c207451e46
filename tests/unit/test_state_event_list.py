"""A user's list of events: the last T of the log, whatever the batches, and nothing of another user."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mimn.state import Block, EventList, LayoutError, StateLayout
from mimn.state.event_list import MAX_ROWS

Events = list[tuple[int, int]]
EVENTS = st.lists(st.tuples(st.integers(0, MAX_ROWS - 1), st.integers(0, 500)), max_size=30)


def blank(rule: EventList, users: int = 1) -> NDArray[np.float32]:
    return np.zeros((users, rule.layout.floats), np.float32)


def appended(rule: EventList, events: Events, states: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    states = blank(rule) if states is None else states
    for event in events:
        states = rule.append(np.array([event], np.float32), states)
    return states


@given(EVENTS, st.integers(1, 12))
def test_a_list_is_the_last_events_of_the_log(events: Events, capacity: int) -> None:
    rule = EventList(capacity)
    assert [tuple(row) for row in rule.read(appended(rule, events)[0]).tolist()] == events[-capacity:]


@given(EVENTS, st.integers(1, 12), st.data())
def test_any_split_gives_the_same_bytes(events: Events, capacity: int, data: st.DataObject) -> None:
    rule, at = EventList(capacity), data.draw(st.integers(0, len(events)))
    stored = appended(rule, events[:at]).tobytes()
    resumed = np.frombuffer(stored, np.float32).reshape(1, -1)
    assert appended(rule, events[at:], resumed).tobytes() == appended(rule, events).tobytes()


@given(st.lists(EVENTS, min_size=1, max_size=5), st.integers(1, 12))
def test_users_of_a_wave_do_not_see_each_other(users: list[Events], capacity: int) -> None:
    rule = EventList(capacity)
    users = sorted(users, key=len, reverse=True)
    states = blank(rule, len(users))
    for wave in range(len(users[0])):
        width = sum(len(events) > wave for events in users)
        states[:width] = rule.append(np.array([events[wave] for events in users[:width]], np.float32), states[:width])
    for events, state in zip(users, states, strict=True):
        assert state.tobytes() == appended(rule, events)[0].tobytes()


@given(EVENTS, st.integers(1, 12), st.integers(0, 3))
def test_a_forgotten_item_leaves_the_list_as_if_its_kept_events_had_never_come(
    events: Events, capacity: int, row: int
) -> None:
    rule = EventList(capacity)
    events = [(item % 4, category) for item, category in events]
    state = appended(rule, events)[0]
    rule.forget(state, row)
    kept = [event for event in events[-capacity:] if row == 0 or event[0] != row]
    assert state.tobytes() == appended(rule, kept)[0].tobytes(), "row 0 is every unknown item: it stays"


def test_appending_changes_no_argument() -> None:
    rule = EventList(3)
    states = appended(rule, [(1, 2), (3, 4)])
    events, kept = np.array([[5, 6]], np.float32), states.copy()
    states.flags.writeable = events.flags.writeable = False
    rule.append(events, states)
    np.testing.assert_array_equal(states, kept)


def test_the_longest_list_is_one_that_events_make() -> None:
    rule = EventList(5)
    np.testing.assert_array_equal(rule.longest(), appended(rule, [(0, 0)] * 9)[0])


def test_the_layout_says_the_rule_and_another_layout_none() -> None:
    assert EventList.of(EventList(7).layout) == EventList(7)
    for blocks in (
        (Block("length", (1,)),),
        (Block("length", (1,)), Block("events", (7, 3))),
        (Block("count", (1,)), Block("events", (7, 2))),
        (Block("length", (2,), "float16"), Block("events", (7, 2))),
    ):
        with pytest.raises(LayoutError, match="a sequence has the blocks"):
            EventList.of(StateLayout(blocks))


@pytest.mark.parametrize("length", [-1.0, 4.0, np.nan, np.inf])
def test_a_length_that_no_list_has_is_refused(length: float) -> None:
    state = EventList(3).longest()
    state[0] = length
    with pytest.raises(LayoutError):
        EventList(3).read(state)
    with pytest.raises(LayoutError):
        EventList(4).read(EventList(3).longest())
