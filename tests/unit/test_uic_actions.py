"""What UIC makes of an event's action: folded with a weight or a vector, left out and counted, or a dead letter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctr.event.v1.behavior_event_pb2 import Action, BehaviorEvent
from mimn.bundle import Bundle, load_bundle
from mimn.bundle.graph import open_step
from mimn.state import Progress, partition_of
from mimn.state.actions import NAMES
from support import hand_model
from support.fake_state_store import FakeStore
from support.fake_topics import FakeDeadLetters, FakeRecord, FakeTopic
from support.fold_worker import Worker
from support.hand_model import users_of
from uic.core.event import ERASE_ITEM, Reason
from uic.core.fold import Part, fold
from uic.core.ordering import Batch, Bounds, decode, take
from uic.doors.servicer import validated
from uic.errors import InvalidField
from uic.fold.bundle_model import model_of

FIXTURES = Path(__file__).parents[1] / "fixtures"
BUNDLE = load_bundle(FIXTURES / "bundle_tiny_actions/tiny-actions/1")
PLAIN = load_bundle(FIXTURES / "bundle_tiny_sketch/tiny-sketch/1")
LEDGER = load_bundle(FIXTURES / "bundle_tiny_ledger/tiny-ledger/1")
LISTS = load_bundle(FIXTURES / "bundle_tiny_actions_din/tiny-actions-din/1")
VIEW, CLICK, CART, FAVORITE, PURCHASE = range(1, 6)
USERS = users_of(0, 1, 4)
Sent = tuple[int, int, int, int]
"""User, item, category, action."""
sent_events = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 300), st.integers(0, 25), st.integers(0, 5)), max_size=40
)


def records_of(events: Sequence[Sent]) -> list[FakeRecord]:
    made = []
    for i, (user, item, category, action) in enumerate(events):
        event = BehaviorEvent(
            user_id=USERS[user],
            item_id=item,
            category_id=category,
            action=action,  # type: ignore[arg-type]  # an enum's values are numbers
            event_time=hand_model.WALL_MS + i * 3_600_000,
        )
        made.append(FakeRecord(i, USERS[user].encode(), event.SerializeToString(), hand_model.WALL_MS + i * 3_600_000))
    return made


def batch_of(events: Sequence[Sent], bundle: Bundle = BUNDLE) -> Batch:
    front = take(
        records_of(events),
        floor=0,
        partition=0,
        partitions=1,
        known=(),
        erased={},
        bounds=Bounds(256, 64, 10_000),
    )
    return decode([front], bundle.actions)[0]


def folded(events: Sequence[Sent], bundle: Bundle) -> dict[str, NDArray[np.float32]]:
    """Every user's tensors after a round."""
    batch = batch_of(events, bundle)
    progress = Progress(partitions=1, next_offset=0, lineage=1, writer=1, base=0, as_of_ms=0)
    part = Part(batch, progress, [None] * len(batch.keys))
    work = fold(model_of(bundle, open_step(bundle)), [part])
    return {user: work.tensors[work.place[row]] for user, row in zip(batch.users, part.row_of, strict=True)}


def test_the_names_are_those_of_the_wire_by_number() -> None:
    assert [f"ACTION_{name.upper()}" for name in NAMES] == list(Action.keys())[: len(NAMES)]
    assert list(Action.values()) == [*range(len(NAMES)), ERASE_ITEM], "what is no behavior comes last"


def test_without_actions_in_the_bundle_every_action_of_the_wire_is_folded_alike() -> None:
    events = [(0, 3, 2, action) for action in range(6)]
    batch = batch_of(events, PLAIN)
    assert len(batch.items) == 6
    assert not batch.rejected
    assert not batch.ignored
    alike = folded([(0, 3, 2, CLICK)] * 6, PLAIN)
    for user, tensors in folded(events, PLAIN).items():
        np.testing.assert_array_equal(tensors, alike[user])


def test_an_action_of_weight_0_is_counted_and_one_that_is_not_named_is_rejected() -> None:
    batch = batch_of([(0, 3, 2, CLICK), (1, 4, 2, VIEW), (0, 5, 2, 0), (2, 6, 2, VIEW), (0, 7, 2, PURCHASE)])
    assert batch.items.tolist() == [3, 7]
    assert batch.actions.tolist() == [CLICK, PURCHASE]
    assert batch.users == [USERS[0]], "whose events are all left out is not touched"
    assert batch.ignored == 2
    assert batch.rejected == [(2, Reason.UNKNOWN_ACTION)]


@given(sent_events)
def test_a_round_is_the_rule_applied_to_one_event_after_the_other(events: list[Sent]) -> None:
    actions, counting = BUNDLE.actions, BUNDLE.sketch
    assert actions is not None
    assert counting is not None
    step, sketch = open_step(BUNDLE), counting.sketch
    want: dict[str, NDArray[np.float32]] = {}
    for i, (user, item, category, action) in enumerate(events):
        if action in (0, VIEW):
            continue
        state = want.setdefault(USERS[user], BUNDLE.initial_state.copy()[np.newaxis])
        ids = np.array([item], np.uint64), np.array([category], np.uint64)
        vector = actions.weight[action] * BUNDLE.vectors(*ids)
        if actions.vector is not None:
            vector = vector + actions.vector[action]
        state[:, sketch.rest] = step(vector, np.ascontiguousarray(state[:, sketch.rest]))
        moment = sketch.moments(np.array([hand_model.WALL_MS + i * 3_600_000]), actions.weight[[action]])
        sketch.add(state, counting.addresses(*ids), moment)
    got = folded(events, BUNDLE)
    assert got.keys() == want.keys()
    for name, tensors in got.items():
        np.testing.assert_allclose(tensors, want[name][0], rtol=1e-5, atol=1e-5)


def test_a_worker_counts_what_it_leaves_out_and_sends_the_rest_to_the_dead_letters() -> None:
    topic, letters = FakeTopic(1), FakeDeadLetters()
    for record in records_of([(0, 3, 2, CLICK), (1, 4, 2, VIEW), (0, 5, 2, 0), (3, 6, 2, PURCHASE)]):
        topic.append(0, record.key, record.value, timestamp=record.timestamp)
    model = model_of(BUNDLE, open_step(BUNDLE))
    worker = Worker(topic, FakeStore(), dead_letters=letters, model=model)
    worker.log.assign(0)
    worker.catch_up()
    assert worker.counted("uic_records_total", outcome="folded") == 2
    assert worker.counted("uic_records_total", outcome="ignored") == 1
    assert worker.counted("uic_records_total", outcome="dead_letter") == 1
    assert [letter.reason for letter in letters.arrived] == [Reason.UNKNOWN_ACTION]


def test_the_door_refuses_an_action_that_the_bundle_does_not_name() -> None:
    event = BehaviorEvent(user_id=USERS[0], item_id=3, event_time=hand_model.WALL_MS)
    assert validated([event], hand_model.WALL_MS, PLAIN)
    with pytest.raises(InvalidField, match=r"events\[0\].action: is not one that the bundle names"):
        validated([event], hand_model.WALL_MS, BUNDLE)
    event.action = Action.ACTION_VIEW
    assert validated([event], hand_model.WALL_MS, BUNDLE), "of weight 0, but named"
    assert partition_of(USERS[0].encode(), 1) == 0


@pytest.mark.parametrize("bundle", [BUNDLE, PLAIN, LEDGER, LISTS], ids=lambda bundle: bundle.name)
@given(events=sent_events, erased=st.lists(st.tuples(st.integers(0, 39), st.integers(1, 300)), max_size=4))
def test_an_erased_item_is_taken_out_where_its_record_lies_and_nothing_else_happens_there(
    bundle: Bundle, events: list[Sent], erased: list[tuple[int, int]]
) -> None:
    for at, item in erased:
        if at < len(events):
            user, known, *_ = events[at]
            events = [*events[: at + 1], (user, known if item % 2 else item, 0, ERASE_ITEM), *events[at + 1 :]]
    batch = batch_of(events, bundle)
    foreign = [a for *_, a in events if a != ERASE_ITEM and bundle.actions is not None and not bundle.actions.named[a]]
    assert len(batch.rejected) == len(foreign)
    assert len(batch.items) + batch.ignored + len(batch.rejected) == len(events)
    assert (batch.actions == ERASE_ITEM).sum() == sum(action == ERASE_ITEM for *_, action in events), "all obey it"
    got = folded(events, bundle)
    want: dict[str, NDArray[np.float32]] = {}
    for i, (user, item, category, action) in enumerate(events):
        if action == ERASE_ITEM:
            bundle.forget(want.setdefault(USERS[user], bundle.initial_state.copy()), item)
            continue
        if bundle.actions is not None and not bundle.actions.folded[action]:
            continue
        state = want.setdefault(USERS[user], bundle.initial_state.copy())[np.newaxis]
        model = model_of(bundle, STEPS[bundle.name])
        ids = np.array([item], np.uint64), np.array([category], np.uint64)
        numbers, times = np.array([action], np.uint8), np.array([hand_model.WALL_MS + i * 3_600_000])
        rest = model.rest
        state[:, rest] = model.step(model.vectors(*ids, numbers), np.ascontiguousarray(state[:, rest]))
        if model.counting is not None:
            plain = state if model.ledger is None else state[:, : -model.ledger.words]
            model.counting.sketch.add(plain, model.counting.addresses(*ids), model.counting.moments(times, numbers))
        if model.ledger is not None:
            model.ledger.add(state, model.ledger.keys(ids[0]), times)
    assert got.keys() == want.keys()
    for name, tensors in got.items():
        np.testing.assert_array_equal(tensors, want[name])


STEPS = {bundle.name: open_step(bundle) for bundle in (BUNDLE, PLAIN, LEDGER, LISTS)}
