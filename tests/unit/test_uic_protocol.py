"""What the commit protocol tells and does at faults that `test_uic_machine.py` does not draw, without servers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from concurrent.futures import Future

import pytest

from mimn.state import NO_TOPIC_ID, REMOVAL, StateHeader, UserState, encode_progress, encode_state, user_hash
from support import hand_model
from support.fake_state_store import FakeStore
from support.fake_topics import FakeDeadLetters, FakeErasures, FakeTopic
from support.fold_worker import Worker
from support.hand_model import users_of
from support.replayed import assert_exactly_once, stored_state
from uic.core.commit import Answer, Commit
from uic.core.ports import NotDescribed
from uic.core.status import Phase
from uic.errors import InvalidField, NotBroken, NotOurs
from uic.fold.partition import Resolution

USERS = users_of(0, 1, 5)


@pytest.fixture
def topic() -> FakeTopic:
    return FakeTopic()


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


def fill(topic: FakeTopic, n: int = 20, first: int = 0) -> None:
    """Events of five users, interleaved."""
    for i in range(first, first + n):
        topic.event(USERS[i % 5], item=1 + i % 11, category=i % 3)


def folded(topic: FakeTopic, store: FakeStore, n: int = 20) -> Worker:
    """A worker that has folded `n` events."""
    fill(topic, n)
    worker = Worker(topic, store)
    worker.log.assign(0)
    worker.catch_up()
    return worker


def test_the_coordinator_is_advised_of_what_is_committed_and_never_of_more(topic: FakeTopic, store: FakeStore) -> None:
    worker = folded(topic, store)
    assert worker.log.advised[-1] == {0: 20}
    committed = [c.progress for c in store.commits]
    assert len(worker.log.advised) == len(committed)


def test_a_commit_whose_answer_was_lost_is_found_to_have_arrived(topic: FakeTopic, store: FakeStore) -> None:
    worker = folded(topic, store)
    fill(topic, 5, first=20)
    store.fail_commits = ["lost answer"]
    worker.catch_up()
    worker.settle()
    assert worker.counted("uic_commits_total", outcome="unknown") == 1
    assert worker.counted("uic_commits_total", outcome="arrived_before") == 1
    assert worker.counted("uic_rewinds_total") == 0
    fill(topic, 5, first=25)
    worker.catch_up()
    assert_exactly_once(store, topic)


def test_while_the_outcome_is_unknown_nothing_is_folded_and_everything_is_kept(
    topic: FakeTopic, store: FakeStore
) -> None:
    worker = folded(topic, store)
    fill(topic, 5, first=20)
    store.fail_commits = ["lost request"]
    worker.turn()
    store.away = True
    fill(topic, 20, first=25)
    worker.settle(40)
    assert worker.phase() is Phase.UNSURE
    assert "store_unavailable" in worker.fold.status.reasons[0]
    assert worker.fold.status.serving, "an outage mends itself"
    store.away = False
    worker.catch_up()
    assert_exactly_once(store, topic)
    assert worker.fold.status.reasons == ()


def test_a_worker_without_partitions_says_that_the_store_is_away_and_that_it_is_back(
    topic: FakeTopic, store: FakeStore
) -> None:
    worker = Worker(topic, store)
    worker.log.assign()
    worker.settle()
    store.away = True
    worker.until(lambda: "store_unavailable" in "".join(worker.fold.status.reasons))
    store.away = False
    worker.until(lambda: worker.fold.status.reasons == ())


def test_states_in_memory_are_no_answer_of_a_store_that_is_away(
    topic: FakeTopic, store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="uic")
    fill(topic)
    worker = Worker(topic, store, as_of_interval_s=1.0, read_back_interval_s=60.0)
    worker.log.assign(0)
    worker.catch_up()
    commits = len(store.commits)
    worker.until(lambda: len(store.commits) > commits)  # it has said that it is caught up, so it asks for the time next
    store.away = True
    worker.until(lambda: worker.counted("uic_store_failures_total", operation="time"))
    fill(topic, 5, first=20)
    worker.settle()
    assert worker.phase() is Phase.UNSURE, "the states were in memory, and the commit had no answer"
    assert worker.counted("uic_store_failures_total", operation="load") == 0
    assert [line for line in caplog.messages if "available" in line] == ["store_unavailable"]
    store.away = False
    worker.catch_up()
    worker.until(lambda: worker.fold.status.reasons == ())
    said = [line for line in caplog.messages if "available" in line]
    assert said == ["store_unavailable", "store_unavailable is over"]
    assert_exactly_once(store, topic)


def test_a_store_that_does_not_tell_its_time_is_reported_all_the_time_until_it_does(
    topic: FakeTopic, store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="uic")
    worker = folded(topic, store)
    store.forbids = {"TIME"}
    worker.until(lambda: worker.fold.status.reasons)
    for i in range(200):
        fill(topic, 1, first=20 + i)
        worker.turn()
        assert worker.fold.status.reasons == ("clock_unavailable: NOPERM",)
    assert worker.counted("uic_store_failures_total", operation="time") > 1
    store.forbids = set()
    worker.until(lambda: worker.fold.status.reasons == ())
    assert [line for line in caplog.messages if "available" in line] == [
        "clock_unavailable",
        "clock_unavailable is over",
    ]
    assert_exactly_once(store, topic)


def test_a_store_that_refuses_the_claims_of_new_partitions_is_away_once(
    topic: FakeTopic, store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="uic")
    store.forbids = {"UNLINK"}
    topic.event(USERS[0])
    topic.delete_before(0, 1)
    fill(topic)
    worker = Worker(topic, store)
    worker.log.assign(0)
    worker.until(lambda: "store_unavailable" in "".join(worker.fold.status.reasons))
    for _ in range(100):
        worker.turn()
        assert worker.fold.status.reasons == ("store_unavailable: NOPERM",)
    store.forbids = set()
    worker.catch_up()
    worker.until(lambda: worker.fold.status.reasons == ())
    assert caplog.messages == ["assigned", "taken up", "data gap", "store_unavailable", "store_unavailable is over"]
    assert worker.counted("uic_data_gaps_total") == worker.counted("uic_take_ups_total", decision="new") == 1


def test_a_store_that_answers_reads_and_refuses_commits_is_unavailable_all_the_time(
    topic: FakeTopic, store: FakeStore
) -> None:
    worker = folded(topic, store)
    fill(topic, 5, first=20)
    store.fail_commits = ["lost request"] * 100
    worker.until(lambda: worker.phase() is Phase.UNSURE)
    said = set()
    while len(store.fail_commits) > 60:
        worker.turn()
        said.add(tuple(reason.partition(":")[0] for reason in worker.fold.status.reasons))
    assert said == {("store_unavailable",)}
    store.fail_commits.clear()
    worker.catch_up()
    worker.until(lambda: worker.fold.status.reasons == ())
    assert_exactly_once(store, topic)


def test_a_reconnect_is_reason_enough_to_read_progress_back(topic: FakeTopic, store: FakeStore) -> None:
    worker = folded(topic, store, 10)
    old = store.snapshot()
    fill(topic, 10, first=10)
    worker.catch_up()
    worker.turn()
    store.restore(old)
    store.connections += 1
    worker.turn(0.01)
    assert worker.counted("uic_rewinds_total") == 1


def test_partitions_of_an_emptied_store_have_no_as_of_time_until_all_is_folded_again_also_with_the_next_worker(
    topic: FakeTopic, store: FakeStore
) -> None:
    """The alert `StoreEmptied` lasts until then."""

    def shown(worker: Worker, name: str) -> float | None:
        return worker.metrics.registry.get_sample_value(name, {"partition": "0"})

    def goes_on(worker: Worker) -> bool:
        if 0 < (offset := shown(worker, "uic_next_offset") or 0) < 300:
            assert shown(worker, "uic_as_of_timestamp_seconds") is None, offset
            return True
        return False

    first = folded(topic, store, 300)
    first.until(lambda: shown(first, "uic_as_of_timestamp_seconds"))
    store.flush()
    first.until(lambda: first.counted("uic_rewinds_total") == 1, turns=30)
    first.until(lambda: goes_on(first))
    second = Worker(topic, store, seed=1)
    second.log.assign(0)
    second.until(lambda: goes_on(second))
    assert second.counted("uic_take_ups_total", decision="new") == 0, "it does not count what the first one began"
    second.catch_up()
    second.until(lambda: shown(second, "uic_as_of_timestamp_seconds"))
    assert shown(second, "uic_next_offset") == 300


def test_start_latest_folds_what_comes(topic: FakeTopic, store: FakeStore) -> None:
    fill(topic, 10)
    worker = Worker(topic, store, start="latest")
    worker.log.assign(0)
    worker.settle()
    fill(topic, 5, first=10)
    worker.catch_up()
    progress = worker.progress()
    assert progress is not None
    assert progress.base == 10
    assert len(store.states) == 5
    assert all(s is not None and s.header.event_count == 1 for s in (stored_state(store, u) for u in USERS))
    assert worker.counted("uic_data_gaps_total") == 0, "that was the setting"


def broken(topic: FakeTopic, store: FakeStore, reason: str) -> Worker:
    """An heir that finds the log broken, after everything it does about it: nothing."""
    before = store.snapshot()
    heir = Worker(topic, store, seed=1)
    heir.log.assign(0)
    heir.settle(60)
    assert heir.phase() is Phase.BROKEN
    assert heir.partition().reason.startswith(f"broken_log: {reason}")
    assert not heir.fold.status.serving
    assert store.snapshot() == before
    assert heir.log.reading == {}
    return heir


def resolve(worker: Worker, action: str, from_offset: int | None = None) -> Resolution:
    """What an operator's call does, without its thread."""
    assert action in ("continue", "rebuild")
    resolution = Resolution(0, "continue" if action == "continue" else "rebuild", from_offset, Future())
    worker.fold._resolutions.append(resolution)
    worker.until(resolution.outcome.done)
    return resolution


@pytest.mark.parametrize("marker", [False, True])
def test_something_else_at_the_last_offset_breaks_the_log(topic: FakeTopic, store: FakeStore, marker: bool) -> None:
    """A marker there is another log, too, and no compaction."""
    folded(topic, store)
    topic.truncate(0, 19)
    if marker:
        topic.marker(0)
    fill(topic, 3, first=40)
    broken(topic, store, "witness")


@pytest.mark.parametrize(
    ("action", "counts"),
    [
        ("continue", [5] * 5),  # 4 that were folded, and the last of 6 in the log
        ("rebuild", [1] * 5),  # what compaction left
    ],
)
def test_a_log_that_was_compacted_where_it_was_folded_is_named_and_what_was_decided_leaves_all_its_users_partial(
    action: str, counts: list[int], topic: FakeTopic, store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    folded(topic, store)
    fill(topic, 10, first=20)
    topic.compact(0)
    heir = broken(topic, store, "removed")
    resolve(heir, action)
    heir.catch_up()
    states = [stored_state(store, user) for user in USERS]
    assert [s.header.event_count for s in states if s is not None] == counts
    assert [s.header.partial for s in states if s is not None] == [True] * 5
    progress = heir.progress()
    assert progress is not None
    assert (progress.gaps, progress.complete_from) == (1, 30)
    assert heir.counted("uic_data_gaps_total") == 1
    assert gaps_said(caplog) == [(20 if action == "continue" else 0, 30)]
    again = Worker(topic, store, seed=2)
    again.log.assign(0)
    again.catch_up()
    again.settle()
    assert again.phase() is Phase.FOLDING, "what was accepted is not found again"


def test_a_compacted_log_that_ends_where_it_was_folded_is_named_without_a_record_to_read(
    topic: FakeTopic, store: FakeStore
) -> None:
    folded(topic, store)
    topic.partitions[0].records.pop()
    broken(topic, store, "removed")


@pytest.mark.parametrize("kept_from", [0, 3])
@pytest.mark.parametrize("records", [8, 48])
def test_all_that_another_log_has_is_lag(records: int, kept_from: int, topic: FakeTopic, store: FakeStore) -> None:
    folded(topic, store)
    topic.make_anew()
    fill(topic, records, first=0)
    topic.delete_before(0, kept_from)
    heir = broken(topic, store, "topic_id")
    shown = heir.partition()
    assert (shown.next_offset, shown.end_offset, shown.lag) == (20, records, records - kept_from)
    assert heir.counted("uic_lag_records", partition="0") == records - kept_from
    resolve(heir, "continue")
    heir.catch_up()
    heir.settle(40)
    assert heir.partition().lag == 0


@pytest.mark.parametrize(
    ("since", "reason", "kept"),
    [(5, "truncated", True), (20, "witness", True), (5, "truncated", False), (20, "witness", False)],
)
def test_what_is_written_behind_a_lost_tail_is_folded_once(
    since: int, reason: str, kept: bool, topic: FakeTopic, store: FakeStore
) -> None:
    """Below where the states end and beyond; `kept`: by the worker that saw the loss, not by another one later."""
    worker = folded(topic, store)
    topic.truncate(0, 12)
    if kept:
        worker.until(lambda: worker.phase() is Phase.BROKEN)
        reason = "truncated"
    fill(topic, since, first=0)
    heir = worker if kept else broken(topic, store, reason)
    assert heir.partition().reason.startswith(f"broken_log: {reason}")
    assert heir.partition().lag is None, "from where on nothing is folded is not known"
    with pytest.raises(InvalidField, match="rebuild, or give the offset"):
        resolve(heir, "continue").outcome.result()
    heir.until(lambda: heir.phase() is Phase.BROKEN)
    assert counts(store) == [4] * 5
    assert resolve(heir, "continue", 12).outcome.result().next_offset == 12
    fill(topic, 5, first=0)
    heir.catch_up()
    assert counts(store) == [4 + (since + 5) // 5] * 5
    assert (heir.counted("uic_data_gaps_total"), heir.partition().lag) == (0, 0)
    states = [stored_state(store, user) for user in USERS]
    assert not any(state.header.partial for state in states if state is not None)


def test_where_retention_cut_a_log_without_its_tail_is_a_gap(
    topic: FakeTopic, store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    folded(topic, store)
    topic.truncate(0, 12)
    heir = broken(topic, store, "truncated")
    fill(topic, 30)
    topic.delete_before(0, 15)
    assert resolve(heir, "continue", 15).outcome.result().next_offset == 15
    heir.catch_up()
    assert heir.counted("uic_data_gaps_total") == 1
    assert gaps_said(caplog) == [(0, 15)]
    progress = heir.progress()
    assert progress is not None
    assert (progress.gaps, progress.gap_end) == (1, 15)
    states = [stored_state(store, user) for user in USERS]
    assert all(state is not None and state.header.partial for state in states)


def test_erasures_in_a_lost_tail_hide_none_of_the_events_that_took_their_place_before_an_operator_spoke(
    topic: FakeTopic, store: FakeStore
) -> None:
    heir = erased_in_a_lost_tail(topic, store)
    fill(topic, 10)  # the first of the user whose erasure is lost, and up to beyond the place of that
    heir.erasures.notes[0][USERS[1].encode()] = topic.erase(USERS[1])
    fill(topic, 5)
    resolve(heir, "continue", 12)
    heir.catch_up()
    assert counts(store) == [3, 1, 6, 6, 6]
    assert heir.counted("uic_records_total", outcome="erased_later") == 0


def erased_in_a_lost_tail(topic: FakeTopic, store: FakeStore) -> Worker:
    """The heir of a worker that folded three events of each user and the erasure of the first one. The log has lost
    that, and the last events."""
    erasures = FakeErasures()
    worker = Worker(topic, store, erasures=erasures)
    worker.log.assign(0)
    fill(topic, 15)
    erasures.notes[0] = {USERS[0].encode(): topic.erase(USERS[0])}
    worker.catch_up()
    topic.truncate(0, 12)
    heir = Worker(topic, store, erasures=erasures, seed=1)
    heir.log.assign(0)
    heir.settle(60)
    assert heir.partition().reason.startswith("broken_log: truncated")
    return heir


def test_continue_from_an_offset_that_the_operator_gives(topic: FakeTopic, store: FakeStore) -> None:
    folded(topic, store)
    topic.make_anew()
    fill(topic, 30)
    heir = broken(topic, store, "topic_id")
    refused = resolve(heir, "continue", 31)
    with pytest.raises(InvalidField, match="0 to 30"):
        refused.outcome.result()
    heir.settle()
    assert heir.phase() is Phase.BROKEN
    resolve(heir, "continue", 25)
    heir.catch_up()
    progress = heir.progress()
    assert progress is not None
    assert (progress.gap_end, progress.gaps) == (25, 1)
    state = stored_state(store, USERS[0])
    assert state is not None
    assert state.header.event_count == 5
    assert state.header.partial


def test_only_a_broken_partition_of_ours_can_be_resolved(topic: FakeTopic, store: FakeStore) -> None:
    worker = folded(topic, store)
    with pytest.raises(NotBroken):
        resolve(worker, "rebuild").outcome.result()
    worker.log.revoke(0)
    worker.settle()
    with pytest.raises(NotOurs):
        resolve(worker, "rebuild").outcome.result()
    with pytest.raises(InvalidField, match="from_offset"):
        worker.fold.resolve(0, "rebuild", 3)
    with pytest.raises(TimeoutError):
        worker.fold.resolve(0, "rebuild", timeout_s=0.01)
    assert worker.fold._resolutions[0].outcome.cancelled(), "what is no longer waited for is not done later"


def test_a_decision_while_another_one_waits_for_the_log_is_told_what_that_waits_for(
    topic: FakeTopic, store: FakeStore
) -> None:
    folded(topic, store)
    topic.make_anew()
    worker = broken(topic, store, "topic_id")
    worker.log.away = True
    first, second = (Resolution(0, "continue", None, Future()) for _ in range(2))
    worker.fold._resolutions.append(first)
    worker.until(lambda: worker.fold.status.partitions[0].reason == "the log does not answer: away")
    worker.fold._resolutions.append(second)
    worker.until(second.outcome.done)
    with pytest.raises(NotBroken, match=r"taking_up.*continue.*away"):
        second.outcome.result()
    worker.log.away = False
    worker.until(first.outcome.done)
    assert first.outcome.result().era == 1


def test_an_unreadable_progress_record_stops_the_partition_until_it_is_rebuilt(
    topic: FakeTopic, store: FakeStore
) -> None:
    folded(topic, store)
    store.progress[0] = b"\0" + store.progress[0][1:]
    heir = broken(topic, store, "unreadable_progress")
    with pytest.raises(InvalidField, match="rebuild"):
        resolve(heir, "continue").outcome.result()
    resolve(heir, "rebuild")
    heir.catch_up()
    assert [heir.counted("uic_take_ups_total", decision=one) for one in ("new", "rebuilt")] == [0, 1]
    assert_exactly_once(store, topic)


def test_a_progress_record_that_is_damaged_while_we_fold_stops_the_partition(
    topic: FakeTopic, store: FakeStore
) -> None:
    worker = folded(topic, store)
    store.progress[0] = b"\0" + store.progress[0][1:]
    worker.settle(60)
    assert worker.partition().reason == "broken_log: unreadable_progress"


def gaps_said(caplog: pytest.LogCaptureFixture) -> list[tuple[int, int]]:
    """Which ranges of offsets log lines call gaps."""
    said = [vars(line)["uic_fields"] for line in caplog.records if line.message == "data gap"]
    return [(fields["lost_from"], fields["complete_from"]) for fields in said]


def test_without_topic_ids_the_witness_decides_and_its_loss_stops_the_partition(
    topic: FakeTopic, store: FakeStore
) -> None:
    topic.topic_id = NO_TOPIC_ID
    folded(topic, store)
    heir = Worker(topic, store, seed=1)
    heir.log.assign(0)
    fill(topic, 5, first=20)
    heir.catch_up()
    assert_exactly_once(store, topic)
    topic.delete_before(0, 25)
    fill(topic, 5, first=25)
    stopped = Worker(topic, store, seed=2)
    stopped.log.assign(0)
    stopped.settle()
    assert stopped.partition().reason == "broken_log: unverifiable"


def test_records_fetched_for_an_earlier_assignment_are_not_folded(topic: FakeTopic, store: FakeStore) -> None:
    worker = folded(topic, store, 10)
    fill(topic, 10, first=10)
    late = worker.log.messages(0)
    assert late
    worker.log.revoke(0)
    worker.log.assign(0)
    worker.log.queued += late  # they lay in the queue behind the change
    worker.catch_up()
    assert_exactly_once(store, topic)


def test_partitions_whose_server_answers_are_folded_while_another_is_away(store: FakeStore) -> None:
    topic = FakeTopic(3)
    users = [users_of(p, 3, 4) for p in range(3)]
    worker = Worker(topic, store)
    worker.log.assign(0, 1, 2)

    def fill_all(first: int) -> None:
        for some in users:
            for user in some[first : first + 2]:
                topic.event(user)

    fill_all(0)
    worker.catch_up()
    store.silent = {1}
    fill_all(2)
    worker.until(lambda: [one.lag for one in worker.fold.status.partitions] == [0, 2, 0], turns=200)
    worker.settle()
    [reason] = worker.fold.status.reasons
    assert reason.startswith("store_unavailable: ")
    newcomer = Worker(topic, store, seed=1)
    newcomer.log.assign(0, 1, 2)
    newcomer.settle()
    assert [one.phase for one in newcomer.fold.status.partitions] == [Phase.FOLDING, Phase.TAKING_UP, Phase.FOLDING]
    store.silent = set()
    worker.catch_up()
    worker.settle()
    assert not worker.fold.status.reasons
    assert_exactly_once(store, topic)


def test_a_log_that_does_not_answer_is_asked_again(topic: FakeTopic, store: FakeStore) -> None:
    fill(topic)
    worker = Worker(topic, store)
    worker.log.away = True
    worker.log.assign(0)
    worker.settle()
    assert worker.phase() is Phase.TAKING_UP
    assert "log" in worker.partition().reason
    worker.log.away = False
    worker.catch_up()
    assert_exactly_once(store, topic)


def test_events_that_wait_for_the_erasures_or_for_an_operator_are_lag(topic: FakeTopic, store: FakeStore) -> None:
    erasures = FakeErasures()
    erasures.away = True
    waiting = Worker(topic, store, erasures=erasures)
    waiting.log.assign(0)
    waiting.settle()
    fill(topic, 50)
    waiting.until(lambda: waiting.partition().lag == 50, turns=400)
    erasures.away = False
    waiting.catch_up()
    assert waiting.partition().lag == 0
    store.progress[0] = b"no record"
    stopped = Worker(topic, store, seed=1)
    stopped.log.assign(0)
    stopped.settle()
    assert stopped.phase() is Phase.BROKEN
    before = topic.partitions[0].end
    fill(topic, 30, first=50)
    stopped.until(lambda: stopped.partition().end_offset == before + 30, turns=400)


def test_a_log_that_did_not_answer_is_forgotten_with_the_last_partition(topic: FakeTopic, store: FakeStore) -> None:
    worker = folded(topic, store)
    partition = worker.fold._partitions[0]
    worker.fold.turn([NotDescribed((partition.tag,), "timed out")], worker.now, 0)
    worker.turn()
    assert list(worker.fold.status.reasons) == ["log_unavailable: timed out"]
    worker.log.revoke(0)
    worker.settle()
    assert not worker.fold.status.reasons


def test_a_namespace_of_another_topic_stops_consumption(topic: FakeTopic, store: FakeStore) -> None:
    worker = folded(topic, store)
    store.meta = (2, "other")
    worker.log.revoke(0)
    worker.log.assign(0)
    worker.settle()
    assert not worker.fold.status.serving
    assert worker.fold.status.reasons[0].startswith("namespace")


def test_an_idle_partition_that_is_caught_up_says_so_in_the_store(topic: FakeTopic, store: FakeStore) -> None:
    worker = folded(topic, store)
    worker.settle()
    first = worker.progress()
    worker.settle(60)
    later = worker.progress()
    assert first is not None
    assert later is not None
    assert first.as_of_ms < later.as_of_ms
    assert worker.log.wall_ms - later.as_of_ms < 6000
    assert first.next_offset == later.next_offset


HOUR_MS = 3_600_000


@pytest.mark.parametrize("ahead_ms", [HOUR_MS, -HOUR_MS], ids=["fast", "slow"])
def test_a_worker_whose_clock_is_wrong_writes_the_stores_time(
    ahead_ms: int, topic: FakeTopic, store: FakeStore
) -> None:
    worker = Worker(topic, store)
    worker.ahead_ms = ahead_ms
    worker.log.assign(0)
    fill(topic)
    worker.catch_up()
    worker.settle(60)
    progress = worker.progress()
    assert progress is not None
    assert 0 <= store.clock_ms - progress.as_of_ms < 6000
    assert worker.counted("uic_clock_skew_seconds") == ahead_ms / 1000
    as_of_s = worker.counted("uic_as_of_timestamp_seconds", partition="0")
    assert as_of_s == (progress.as_of_ms + min(0, ahead_ms)) / 1000, "the slower of the two, for Prometheus"
    assert worker.fold.status.ahead_ms == ahead_ms
    [reason] = worker.fold.status.reasons
    assert reason.startswith("clock_skew: ")
    assert "3600 s" in reason
    worker.fold.drain()
    assert worker.fold.status.ahead_ms == ahead_ms, "also while it drains"


def test_a_difference_near_the_limit_is_told_once_until_the_clocks_clearly_agree(
    topic: FakeTopic, store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="uic")
    worker = folded(topic, store)

    def said_at(*differences_ms: int) -> list[str]:
        for ahead_ms in differences_ms:
            worker.ahead_ms = ahead_ms
            worker.until(lambda: worker.fold.status.ahead_ms == worker.ahead_ms)
        return [line for line in caplog.messages if line.startswith("clock_skew")]

    assert said_at(1999, 1501) == []
    assert said_at(2001, 1999, 2001, 1501, -1999) == ["clock_skew"]
    assert said_at(1500, 1999) == ["clock_skew", "clock_skew is over"]


def test_a_future_as_of_time_is_corrected_by_the_next_writer(topic: FakeTopic, store: FakeStore) -> None:
    fast = folded(topic, store)
    fast.settle()
    progress = fast.progress()
    assert progress is not None
    future_ms = store.clock_ms + HOUR_MS
    store.progress[0] = encode_progress(progress._replace(as_of_ms=future_ms))
    fast.log.revoke(0)
    fast.log.assign(0)  # it takes its own record for what is stored, as a version that believed its clock did
    fast.turn()
    fast.turn()
    assert fast.partition().as_of_ms == future_ms
    fast.log.leases_away = True

    honest = Worker(topic, store, seed=1)
    honest.now = fast.now
    honest.log.assign(0)
    honest.settle(30)
    corrected = honest.progress()
    assert corrected is not None
    assert 0 <= store.clock_ms - corrected.as_of_ms < 6000
    fast.now = honest.now + 6
    fast.settle(3)
    assert fast.phase() is Phase.OWNERSHIP_LOST, "a lower as-of time of another writer is no lost write"
    assert fast.counted("uic_rewinds_total") == 0


def test_a_partition_behind_does_not_claim_to_be_caught_up(topic: FakeTopic, store: FakeStore) -> None:
    dead_letters = FakeDeadLetters()
    worker = Worker(topic, store, dead_letters=dead_letters)
    worker.log.assign(0)
    worker.settle()
    before = worker.progress()
    dead_letters.away = True
    topic.append(0, USERS[0].encode(), b"junk")
    worker.settle(60)
    after = worker.progress()
    assert before is not None
    assert after is not None
    assert after.as_of_ms == before.as_of_ms


def test_a_rebuild_does_not_bring_an_erased_user_back(topic: FakeTopic, store: FakeStore) -> None:
    user, other = USERS[:2]
    erasures = FakeErasures()
    worker = Worker(topic, store, erasures=erasures)
    worker.log.assign(0)
    topic.event(user, 3)
    topic.event(other, 4)
    worker.catch_up()
    erasures.notes[0] = {user.encode(): topic.erase(user)}
    topic.event(user, 9)
    worker.catch_up()
    seen: list[int] = []
    store.flush()
    worker.until(lambda: worker.counted("uic_rewinds_total") == 1, turns=30)
    erasures.away = True
    worker.settle()
    assert store.progress == {}, "without the erasures a rebuild does not begin"
    reasons = worker.fold.status.reasons
    assert any(one.startswith("erasures_unavailable: ") for one in reasons), "and /readyz says why"
    erasures.away = False
    while not worker.drained():
        worker.turn()
        state = stored_state(store, user)
        seen += [] if state is None else [state.header.event_count]
    assert_exactly_once(store, topic)
    assert set(seen) == {1}, "never more than the event after the erasure"
    assert worker.fold.status.reasons == ()
    assert worker.counted("uic_records_total", outcome="erased_later") == 1


def folded_and_erased(topic: FakeTopic, store: FakeStore) -> FakeErasures:
    """Five users are folded, of whom the second was erased and has come back. Then the first is erased."""
    erasures = FakeErasures()
    worker = Worker(topic, store, erasures=erasures)
    worker.log.assign(0)
    fill(topic, 10)
    erasures.notes[0] = {USERS[1].encode(): topic.erase(USERS[1])}
    topic.event(USERS[1])
    worker.catch_up()
    erasures.notes[0][USERS[0].encode()] = topic.erase(USERS[0])
    return erasures


def counts(store: FakeStore) -> list[int | None]:
    """Of each user the events in the stored state, None without one."""
    return [None if (s := stored_state(store, user)) is None else s.header.event_count for user in USERS]


def test_a_state_goes_with_the_gap_that_takes_its_erasure(topic: FakeTopic, store: FakeStore) -> None:
    erasures = folded_and_erased(topic, store)
    erased_at = erasures.notes[0][USERS[0].encode()]
    store.bad[0] = [b"unreadable"]
    fill(topic, 3, first=2)
    topic.delete_before(0, erased_at + 2)
    heir = Worker(topic, store, erasures=erasures, seed=1)
    heir.log.assign(0)
    erasures.away = True
    heir.settle()
    before = heir.progress()
    assert before is not None
    assert before.next_offset == erased_at, "without the erasures nothing is left out"
    erasures.away = False
    store.fail_commits = ["lost request", "lost answer"]
    while not heir.drained():
        heir.turn()
        progress = heir.progress()
        assert progress is not None
        assert (stored_state(store, USERS[0]) is None) == (progress.next_offset > erased_at)
    assert (0, USERS[0]) not in store.users
    assert not store.bad.get(0), "it may hold what was erased"
    topic.event(USERS[0])
    heir.catch_up()
    assert counts(store)[:2] == [1, 1], "the one since; and an erasure that was folded changes nothing"


@pytest.mark.parametrize("action", ["continue", "rebuild"])
def test_a_state_goes_with_the_decision_that_leaves_its_erasure_behind_in_another_log(
    action: str, topic: FakeTopic, store: FakeStore
) -> None:
    erasures = folded_and_erased(topic, store)
    erasures.of_logs_before[topic.topic_id] = erasures.notes
    topic.make_anew()
    fill(topic, 1, first=4)
    erasures.notes = {0: {USERS[2].encode(): topic.erase(USERS[2])}}
    topic.partitions[0].records.pop()  # compaction took it: only the note tells
    heir = Worker(topic, store, erasures=erasures, seed=1)
    heir.log.assign(0)
    heir.settle()
    resolve(heir, action)
    heir.catch_up()
    assert counts(store) == [None, None, None, 2, 3 if action == "continue" else 1]
    assert {user for _, user in store.users} == ({*USERS[3:]} if action == "continue" else {USERS[4]})


def test_a_rebuild_takes_away_what_is_left_of_erased_users(topic: FakeTopic, store: FakeStore) -> None:
    erasures = folded_and_erased(topic, store)
    topic.delete_before(0, topic.partitions[0].end)
    store.progress[0] = b"\0" + store.progress[0][1:]
    heir = Worker(topic, store, erasures=erasures, seed=1)
    heir.log.assign(0)
    heir.settle()
    assert counts(store)[0] == 2
    resolve(heir, "rebuild")
    assert counts(store)[:2] == [None, None]


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (lambda value: value[:-1] + bytes([value[-1] ^ 1]), "corrupt"),
        (lambda value: b"x" * 7, "corrupt"),
        (lambda value: fakes_foreign_fingerprint(), "foreign_fingerprint"),
    ],
)
def test_an_unreadable_state_is_set_aside_and_the_user_begins_anew(
    topic: FakeTopic, store: FakeStore, damage: object, name: str
) -> None:
    folded(topic, store)
    assert callable(damage)
    bad = damage(store.states[0, USERS[0]])
    store.states[0, USERS[0]] = bad
    heir = Worker(topic, store, seed=1)
    heir.log.assign(0)
    fill(topic, 5, first=20)
    heir.catch_up()
    state = stored_state(store, USERS[0])
    assert state is not None
    assert (state.header.event_count, state.header.partial) == (1, True)
    assert store.bad == {0: [bad]}
    assert heir.counted("uic_unreadable_states_total", error=name) == 1
    neighbor = stored_state(store, USERS[1])
    assert neighbor is not None
    assert (neighbor.header.event_count, neighbor.header.partial) == (5, False)


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in two"])
def test_what_was_set_aside_of_an_erased_user_goes_also_if_the_user_acts_again(
    topic: FakeTopic, store: FakeStore, together: bool
) -> None:
    folded(topic, store)
    store.states[0, USERS[0]] = b"x" * 7
    heir = Worker(topic, store, seed=1, chunk=100)
    heir.log.assign(0)
    topic.erase(USERS[0])
    if not together:
        heir.catch_up()
    topic.event(USERS[0], 5)
    heir.catch_up()
    assert heir.counted("uic_unreadable_states_total", error="corrupt") == 1
    state = stored_state(store, USERS[0])
    assert state is not None
    assert state.header.event_count == 1
    assert not store.bad.get(0), "it may hold what was erased"


def test_a_state_that_is_gone_alone_is_noticed_counted_and_its_user_marked(topic: FakeTopic, store: FakeStore) -> None:
    folded(topic, store)
    del store.states[0, USERS[0]]
    heir = Worker(topic, store, seed=1)
    heir.log.assign(0)
    fill(topic, 5, first=20)
    fresh = users_of(0, 1, 6)[-1]
    topic.event(fresh)
    heir.catch_up()
    expected = {USERS[0]: (1, True), USERS[1]: (5, False), fresh: (1, False)}
    for user, want in expected.items():
        state = stored_state(store, user)
        assert state is not None
        assert (state.header.event_count, state.header.partial) == want
    assert heir.counted("uic_lost_states_total") == 1
    topic.erase(USERS[0])
    topic.event(USERS[0])
    heir.catch_up()
    heir.log.revoke(0)
    heir.log.assign(0)
    topic.erase(USERS[1])
    heir.catch_up()
    topic.event(USERS[1])
    heir.catch_up()
    for user in USERS[:2]:
        state = stored_state(store, user)
        assert state is not None
        assert (state.header.event_count, state.header.partial) == (1, False), "an erased state is not a lost one"
    assert heir.counted("uic_lost_states_total") == 1


@pytest.mark.parametrize("failure", ["a lost state beside it", "a lost request", "a lost answer"])
def test_an_unreadable_state_counts_once_though_its_batch_is_loaded_again(
    topic: FakeTopic, store: FakeStore, caplog: pytest.LogCaptureFixture, failure: str
) -> None:
    folded(topic, store)
    store.states[0, USERS[0]] = b"x" * 7
    if failure == "a lost state beside it":
        del store.states[0, USERS[1]]
    heir = Worker(topic, store, seed=1, chunk=100)
    heir.log.assign(0)
    fill(topic, 5, first=20)
    if failure == "a lost request":
        store.fail_commits = ["lost request"]
    if failure == "a lost answer":
        store.fail_commits = ["lost answer"]
    heir.catch_up()
    heir.settle()
    assert heir.counted("uic_unreadable_states_total", error="corrupt") == 1
    assert caplog.messages.count("unreadable state") == 1
    assert store.bad == {0: [b"x" * 7]}, "and is set aside once"


def test_another_users_state_is_not_taken_for_ours(topic: FakeTopic, store: FakeStore) -> None:
    folded(topic, store)
    store.states[0, USERS[0]] = store.states[0, USERS[1]]
    heir = Worker(topic, store, seed=1)
    heir.log.assign(0)
    fill(topic, 5, first=20)
    heir.catch_up()
    assert heir.counted("uic_unreadable_states_total", error="wrong_user") == 1
    state = stored_state(store, USERS[0])
    assert state is not None
    assert state.header.event_count == 1


def fakes_foreign_fingerprint() -> bytes:
    """A sound state of another bundle."""
    header = StateHeader(user_hash(USERS[0]), 1, 0, 3, 1, hand_model.WALL_MS, bytes(8))
    return encode_state(UserState(header, hand_model.INITIAL), b"z" * 32, hand_model.LAYOUT)


def test_the_status_says_that_the_store_is_away_before_the_rest_of_the_turn_waits_for_it(topic: FakeTopic) -> None:
    class Hanging(FakeStore):
        """Notes what the status says whenever it is asked in vain."""

        said: list[tuple[str, ...]]

        def _ask(self, partitions: Collection[int] = ()) -> None:
            if self.away:
                self.said.append(worker.fold.status.reasons)
            super()._ask(partitions)

    store = Hanging()
    worker = folded(topic, store)
    worker.turn(seconds=10.0)  # everything is due in the next one
    store.away, store.said = True, []
    worker.turn()
    assert store.said == [(), ("store_unavailable: away",)], "progress is asked for, and then the time"


@pytest.mark.parametrize("comes", ["back from a pause", "after a restart"])
def test_a_worker_waits_while_its_namespace_is_removed_and_then_begins_anew(
    topic: FakeTopic, store: FakeStore, comes: str
) -> None:
    worker = folded(topic, store)
    store.progress[0] = REMOVAL + b"1"
    if comes == "after a restart":
        worker = Worker(topic, store, seed=1)
        worker.log.assign(0)
    fill(topic, 10, first=20)
    worker.settle(60)
    assert (store.progress, worker.phase()) == ({0: REMOVAL + b"1"}, Phase.TAKING_UP)
    assert any(reason.startswith("namespace_removed: ") for reason in worker.fold.status.reasons)
    assert "ctr namespaces drop" in worker.partition().reason
    store.flush()
    worker.catch_up()
    worker.settle()
    assert_exactly_once(store, topic)
    assert store.meta is not None
    assert (worker.fold.status.reasons, worker.partition().reason) == ((), "")


def test_a_lineage_begun_after_a_removal_has_the_namespaces_meta(topic: FakeTopic) -> None:
    """The worker looks for the namespace and its progress, stands still while it is removed, and goes on."""

    class Removed(FakeStore):
        def commit(self, commits: Sequence[Commit]) -> list[Answer]:
            if any(commit.begins_lineage for commit in commits):
                self.meta = None
            answers = super().commit(commits)
            self.away = away
            return answers

    away = True

    store = Removed()
    fill(topic, 20)
    worker = Worker(topic, store)
    worker.log.assign(0)
    worker.settle()
    assert any("store_unavailable" in reason for reason in worker.fold.status.reasons)
    assert worker.phase() is Phase.CLAIMING
    away = store.away = False
    worker.catch_up()
    assert store.meta is not None
    assert_exactly_once(store, topic)
    worker.settle()
    assert worker.fold.status.reasons == ()
