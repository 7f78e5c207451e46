"""Who is `partial`: both what UIC stores with a user's next event, and what RTP says of a state that waits for one."""

from __future__ import annotations

from concurrent.futures import Future

from hypothesis import example, given, settings
from hypothesis import strategies as st

from rtp.core.fold_progress import fold_progress
from support.fake_state_store import FakeStore
from support.fake_topics import FakeTopic
from support.fold_worker import Worker
from support.hand_model import COMPILED_MODEL, MODEL, WALL_MS, users_of
from support.replayed import stored_state
from uic.core.status import Phase
from uic.fold.partition import Resolution

USERS = users_of(0, 1, 4)
happenings = st.one_of(
    st.tuples(st.just("events"), st.integers(0, 3), st.integers(1, 3)),
    st.tuples(st.just("events"), st.integers(0, 3), st.integers(1, 3)),
    st.tuples(st.just("retention"), st.integers(0, 3), st.integers(1, 3)),
    st.tuples(st.just("another topic"), st.integers(0, 3), st.integers(0, 8)),
    st.tuples(st.just("truncated"), st.integers(0, 3), st.integers(1, 3)),
    st.tuples(st.just("the store is emptied"), st.just(0), st.just(0)),
)


def continues(worker: Worker, from_offset: int | None) -> None:
    """An operator accepts the log as it is."""
    worker.until(lambda: worker.phase() is Phase.BROKEN)
    decided = Resolution(0, "continue", from_offset, Future())
    worker.fold._resolutions.append(decided)
    worker.until(decided.outcome.done)
    decided.outcome.result()


def said_by_rtp(store: FakeStore, user: str) -> bool:
    known, _ = fold_progress([store.progress[0]], "t", None, WALL_MS, 5_000)
    return known.report(stored_state(store, user), 0, WALL_MS, 60_000).partial


@example([("events", 0, 3), ("events", 0, 3), ("events", 0, 3), ("another topic", 1, 5), ("events", 0, 1)], False)
@settings(max_examples=100, deadline=None)
@given(st.lists(happenings, min_size=1, max_size=8), st.booleans())
def test_a_user_is_partial_if_and_only_if_events_may_be_missing_in_any_era(
    happened: list[tuple[str, int, int]], compiled: bool
) -> None:
    topic, store = FakeTopic(), FakeStore()
    worker = Worker(topic, store, model=COMPILED_MODEL if compiled else MODEL)
    worker.log.assign(0)
    worker.until(lambda: store.progress)
    lost = False
    for what, who, n in happened:
        log, user = topic.partitions[0], USERS[who]
        match what:
            case "events":
                for _ in range(n):
                    topic.event(user)
            case "retention":
                for _ in range(n):
                    topic.event(user)
                topic.delete_before(0, log.end)
                lost = True
            case "another topic":
                topic.make_anew()
                for _ in range(n + 1):
                    topic.event(user)
                continues(worker, n)
                lost |= n > 0
            case "the store is emptied":
                store.flush()
                worker.until(lambda: store.progress)
                lost = log.start > 0
            case "truncated" if log.end - n >= log.start:
                topic.truncate(0, log.end - n)
                lost |= 0 < log.start == log.end  # what retention took since is not known
                continues(worker, log.end)
        worker.catch_up()
        assert {one: said_by_rtp(store, one) for one in USERS} == dict.fromkeys(USERS, lost)
        if what in ("events", "another topic"):
            state = stored_state(store, user)
            assert state is not None
            assert state.header.partial == lost
