"""The rollout record's bytes, and its state machine: every sequence of commands keeps what the record promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from struct import pack
from types import SimpleNamespace
from typing import cast
from zlib import crc32

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from mimn.release import BUCKETS as BUCKET_COUNT
from mimn.release import (
    Arm,
    Checked,
    Conflict,
    CorruptRecord,
    Entry,
    Finding,
    Gate,
    GateClosed,
    NotAllowed,
    Record,
    Refused,
    Release,
    Rollout,
    State,
    Unstorable,
    abort,
    begin,
    canary,
    closed_gates,
    collect,
    decode_record,
    encode_record,
    looked,
    observe,
    promote,
    retire,
    rollback,
    shadow,
    shrink,
    size,
    table,
    to_roll_back,
)
from mimn.release.record import MAX_ENTRIES, MAX_RECORD_BYTES, OPEN
from mimn.release.rollout import free_generation, kept_generation, left_behind, spoiled
from mimn.state import Keys
from support.releases import NOW_MS, SALT, begun, release
from uic.bulk.errors import BulkRefused
from uic.bulk.namespaces import refuse_aborted
from uic.store import RedisStore

GOLDEN = Path(__file__).parents[1] / "golden/rollout.bin"
OLD, NEW = release("shop", "1"), release("bazaar", "1")
LAGS = Finding(Gate.LAG, "partition 3 was last caught up 90 s ago", passes=True)
DIFFERS = Finding(Gate.DIGEST, "2 users differ")


def open_gates(record: Record, *findings: Finding, **more: object) -> Checked:
    return Checked(record.revision, findings, **more)  # type: ignore[arg-type]


def ready(record: Record | None = None) -> Record:
    record = begun(NEW, OLD) if record is None else record
    assert record.open is not None
    return observe(record, record.open.id, open_gates(record), now_ms=NOW_MS)[0]


def golden() -> Record:
    record = canary(ready(), "r1", open_gates(ready()), percent=5, now_ms=NOW_MS + 1, by="ann@host")
    shadowed = shadow(record, "r1", percent=0.5, now_ms=NOW_MS + 2)
    return replace(shadowed, shadows=(Arm("shadow", NEW, ((0, 50),)),))


# The bytes


def test_the_bytes_are_the_golden_ones() -> None:
    assert encode_record(golden()) == GOLDEN.read_bytes()
    assert decode_record(GOLDEN.read_bytes()) == golden()


def sealed(document: bytes, version: int = 1) -> bytes:
    return pack("<4sHHII", b"UIRO", version, 0, len(document), crc32(document)) + document


def held(record: Record) -> bytes:
    """The bytes of a record that may be none that is stored."""
    return sealed(msgspec.json.encode(record))


def changed(**fields: object) -> bytes:
    document = json.loads(encode_record(golden())[16:])
    return sealed(json.dumps({**document, **fields}).encode())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"", "not a rollout record"),
        (encode_record(golden())[:-1], "length or checksum"),
        (encode_record(golden()).replace(b"bazaar", b"bizarr"), "length or checksum"),
        (sealed(b"{}", version=2), "version 2"),
        (sealed(b"[" * 100_000), "document"),
        (changed(salt="x"), "salt"),
        (changed(more=1), "unknown field"),
        (changed(revision=0), "revision"),
        (b"UIRO" + bytes(MAX_RECORD_BYTES), "not a rollout record"),
        (held(replace(golden(), arms=golden().arms * 2)), "the same name"),
        (held(replace(golden(), rollouts=golden().rollouts * 2)), "on their way at once"),
        (held(replace(golden(), arms=(replace(golden().arms[0], buckets=((0, 5), (4, 9))),))), "overlap"),
        (held(replace(golden(), arms=(replace(golden().arms[0], buckets=((5, 5),)),))), "empty"),
        (held(replace(golden(), serving=replace(OLD, name="my shop"))), "regex"),
    ],
)
def test_anything_else_is_refused_by_name(value: bytes, words: str) -> None:
    with pytest.raises(CorruptRecord, match=words):
        decode_record(value)


TEXTS = st.text(max_size=500) | st.text("shop-1. /", max_size=9)
NUMBERS = st.integers(-1, 2**54)
RELEASES = st.builds(
    replace, st.just(NEW), name=TEXTS, version=TEXTS, manifest=st.just("0" * 64) | TEXTS, generation=NUMBERS
)
BUCKETS = st.lists(st.tuples(st.integers(-1, 10_001), st.integers(-1, 10_001)), max_size=3).map(tuple)
ARMS = st.lists(st.builds(Arm, TEXTS, RELEASES, BUCKETS), max_size=2).map(tuple)
ROLLOUTS = st.lists(
    st.builds(
        replace,
        st.just(golden().rollouts[0]),
        id=TEXTS,
        release=RELEASES,
        origin=st.just("log") | TEXTS,
        state=st.sampled_from(State),
        reason=TEXTS,
        begun_ms=NUMBERS,
    ),
    max_size=3,
).map(tuple)
ENTRIES = st.lists(st.builds(Entry, NUMBERS, NUMBERS, TEXTS, st.sampled_from(State), TEXTS, TEXTS), max_size=3).map(
    tuple
)
RECORDS = st.builds(
    replace,
    st.just(golden()),
    revision=NUMBERS,
    salt=st.just(SALT) | TEXTS,
    serving=st.just(OLD) | RELEASES,
    arms=st.just(golden().arms) | ARMS,
    rollouts=st.just(golden().rollouts) | ROLLOUTS,
    log=st.just(golden().log) | ENTRIES,
)


@given(RECORDS)
def test_whatever_is_encoded_can_be_decoded_again(record: Record) -> None:
    try:
        value = encode_record(record)
    except Unstorable:
        return
    assert decode_record(value) == record


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (replace(golden(), serving=replace(OLD, name="my shop")), r"serving\.name"),
        (replace(golden(), log=(replace(golden().log[0], by="\udcff"),)), "written"),
        (replace(golden(), log=(replace(golden().log[0], reason="\U0001f6d2" * 400),) * 200), "rollout gc"),
    ],
)
def test_a_record_that_could_not_be_read_again_is_never_encoded(record: Record, words: str) -> None:
    with pytest.raises(Unstorable, match=words):
        encode_record(record)


# The life of a rollout


def test_a_rollout_goes_through_its_stages_and_each_says_why() -> None:
    record = begun(NEW, OLD)
    seen = [record.rollouts[0].state]
    for findings in (
        [Finding(Gate.BUILT, "4 of 8 partitions", passes=True)],
        [LAGS],
        [Finding(Gate.DIGEST, "3 users changed while they were compared", passes=True)],
        [],
    ):
        record, _ = observe(record, "r1", open_gates(record, *findings), now_ms=NOW_MS)
        seen.append(record.rollouts[0].state)
    record = canary(record, "r1", open_gates(record), percent=5, now_ms=NOW_MS)
    record = promote(record, "r1", open_gates(record), keep_ms=1000, now_ms=NOW_MS)
    assert (record.serving, record.arms) == (NEW, ())
    assert retire(record, now_ms=NOW_MS + 999) is record
    record = retire(record, now_ms=NOW_MS + 1000)
    assert left_behind(record, record.rollouts[0]) == OLD.namespace
    record = collect(record, "r1", now_ms=NOW_MS)
    stages = ["planned", "building", "catching_up", "verifying", "ready", "canary", "serving", "retired", "collected"]
    assert [*seen, *(entry.state for entry in record.log[-4:])] == [State(name) for name in stages]
    assert all(entry.reason for entry in record.log)
    assert [entry.revision for entry in record.log] == list(range(1, len(record.log) + 1))


@pytest.mark.parametrize("observed", [True, False], ids=["by wait", "by promote"])
@pytest.mark.parametrize("tried", [True, False], ids=["canary", "ready"])
def test_a_lag_that_any_look_found_begins_the_wait_again(tried: bool, observed: bool) -> None:
    record = ready()
    if tried:
        record = canary(record, "r1", open_gates(record), percent=5, now_ms=NOW_MS)
    later = NOW_MS + 600_000
    assert closed_gates(record, "r1", open_gates(record, steady_ms=300_000), now_ms=later) == ()
    record = looked(record, "r1", open_gates(record, LAGS, steady_ms=300_000), now_ms=later)
    assert looked(record, "r1", open_gates(record, LAGS, steady_ms=300_000), now_ms=later) is record
    if observed:
        record, closed = observe(record, "r1", open_gates(record, steady_ms=300_000), now_ms=later + 1000)
        assert [one.gate for one in closed] == [Gate.STEADY]
    else:
        record = looked(record, "r1", open_gates(record, steady_ms=300_000), now_ms=later + 1000)
    with pytest.raises(GateClosed):
        promote(record, "r1", open_gates(record, steady_ms=300_000), keep_ms=0, now_ms=later + 200_000)
    if observed:
        record, closed = observe(record, "r1", open_gates(record, steady_ms=300_000), now_ms=later + 301_000)
        assert (closed, record.rollouts[0].state) == ((), State.CANARY if tried else State.READY)
    promote(record, "r1", open_gates(record, steady_ms=300_000), keep_ms=0, now_ms=later + 301_000)


def test_a_canary_may_get_smaller_while_a_gate_is_closed_and_not_larger() -> None:
    record = canary(ready(), "r1", open_gates(ready()), percent=50, now_ms=NOW_MS)
    with pytest.raises(GateClosed):
        canary(record, "r1", open_gates(record, LAGS), percent=60, now_ms=NOW_MS)
    fewer = shrink(record, "r1", percent=5, now_ms=NOW_MS)
    assert (size(fewer.arms[0].buckets), fewer.rollouts[0].state) == (500, State.CANARY)
    for other, percent in ((record, 50), (record, 60), (record, 0), (ready(), 5)):
        with pytest.raises(NotAllowed):
            shrink(other, "r1", percent=percent, now_ms=NOW_MS)


def test_a_look_at_all_gates_shows_those_that_the_record_closes() -> None:
    record = begun(release("other"), OLD, record=promote(ready(), "r1", open_gates(ready()), keep_ms=0, now_ms=NOW_MS))
    record = rollback(record, "r1", reason="worse", now_ms=NOW_MS)
    closed = closed_gates(record, "r2", open_gates(record, steady_ms=300_000), now_ms=NOW_MS)
    assert [one.gate for one in closed] == [Gate.CONFLICT, Gate.STEADY]


def test_the_same_command_again_changes_nothing() -> None:
    record = begun(NEW, OLD)
    assert begun(NEW, record=record) is record
    record = ready(record)
    served = promote(record, "r1", open_gates(record), keep_ms=0, now_ms=NOW_MS)
    assert promote(served, "r1", open_gates(record), keep_ms=0, now_ms=NOW_MS) is served
    back = rollback(served, "r1", reason="worse", now_ms=NOW_MS)
    assert rollback(back, "r1", reason="worse", now_ms=NOW_MS) is back
    given_up = abort(record, "r1", reason="no", now_ms=NOW_MS)
    assert abort(given_up, "r1", reason="no", now_ms=NOW_MS) is given_up


def promoted(new: Release, record: Record | None = None) -> Record:
    """A record whose latest rollout, of `new`, serves."""
    record = ready(begun(new, OLD, record=record))
    assert record.open is not None
    return promote(record, record.open.id, open_gates(record), keep_ms=0, now_ms=NOW_MS)


def taken_back(new: Release, record: Record | None = None) -> Record:
    """A record whose latest rollout, of `new`, has served and was rolled back."""
    record = promoted(new, record)
    return rollback(record, to_roll_back(record), reason="worse", now_ms=NOW_MS)


def test_a_rollback_without_an_id_is_about_what_serves() -> None:
    record = promoted(release("third"), promoted(NEW))
    assert to_roll_back(record) == "r2"
    record = begun(release("fourth"), record=record)  # it fails of a conflict, whatever is seen of it later
    record = rollback(record, "r2", reason="worse", now_ms=NOW_MS)
    assert to_roll_back(record) == "r2"
    record, _ = observe(record, "r3", open_gates(record, DIFFERS), now_ms=NOW_MS)
    assert to_roll_back(record) == "r2"
    record = collect(record, "r2", now_ms=NOW_MS)
    with pytest.raises(NotAllowed, match="`rollout abort r3`"):
        to_roll_back(record)


def test_a_rollback_without_an_id_is_never_about_long_ago() -> None:
    record = retire(promoted(NEW, taken_back(NEW)), now_ms=NOW_MS)
    with pytest.raises(NotAllowed, match="bazaar/1"):
        to_roll_back(record)
    record = ready(begun(release("third"), record=taken_back(NEW)))
    record = canary(record, "r2", open_gates(record), percent=50, now_ms=NOW_MS)
    with pytest.raises(NotAllowed, match="rollout abort r2"):
        to_roll_back(record)
    with pytest.raises(NotAllowed, match="rollout start"):
        to_roll_back(abort(record, "r2", reason="worse", now_ms=NOW_MS))


def test_a_rollout_that_has_ended_takes_no_command() -> None:
    served = promote(ready(), "r1", open_gates(ready()), keep_ms=0, now_ms=NOW_MS)
    aborted = abort(ready(), "r1", reason="slower", now_ms=NOW_MS)
    for record, said in (
        (served, "`rollout rollback r1`"),
        (retire(served, now_ms=NOW_MS), "`rollout start BUNDLE`"),
        (rollback(served, "r1", reason="worse", now_ms=NOW_MS), "`rollout start BUNDLE`"),
        (aborted, "`rollout start BUNDLE`"),
        (collect(aborted, "r1", now_ms=NOW_MS), "`rollout start BUNDLE`"),
    ):
        state = record.rollouts[0].state
        checked = open_gates(record)
        moves: list[Callable[[], object]] = [
            partial(canary, record, "r1", checked, percent=5, now_ms=NOW_MS),
            partial(shadow, record, "r1", percent=5, now_ms=NOW_MS),
            partial(shadow, record, "r1", percent=0, now_ms=NOW_MS),
        ]
        if state is not State.SERVING:
            moves.append(partial(promote, record, "r1", checked, keep_ms=0, now_ms=NOW_MS))
        if state is not State.ABORTED:
            moves.append(partial(abort, record, "r1", reason="no", now_ms=NOW_MS))
        if state not in (State.SERVING, State.ROLLED_BACK):
            moves.append(partial(rollback, record, "r1", reason="worse", now_ms=NOW_MS))
        for move in moves:
            with pytest.raises(NotAllowed) as refused:
                move()
            assert said in str(refused.value)


def test_what_serves_already_or_is_one_of_two_is_refused() -> None:
    with pytest.raises(NotAllowed, match="serves already"):
        begun(OLD, OLD)
    with pytest.raises(NotAllowed, match="abort"):
        begun(release("third"), record=begun(NEW, OLD))


def test_another_bundle_does_not_take_the_name_of_one_that_rtps_hold() -> None:
    """RTPs look for both in one folder, so each that restarts could load only one of them."""
    other = {name: replace(of, manifest="f" * 64) for name, of in (("old", OLD), ("new", NEW))}
    with pytest.raises(NotAllowed, match=r"shop/1 .*another bundle"):
        begun(other["old"], OLD)
    served = promote(ready(), "r1", open_gates(ready()), keep_ms=0, now_ms=NOW_MS)
    for name in ("old", "new"):  # one serves, the other is the way back
        with pytest.raises(NotAllowed, match="another bundle"):
            begun(other[name], record=served)
    back = rollback(served, "r1", reason="worse", now_ms=NOW_MS)
    assert begun(other["new"], record=back).open is not None, "no process holds the other one any more"


def test_a_head_only_rollout_needs_no_steady_lag_and_leaves_no_namespace_behind() -> None:
    new = release("shop", "2")
    record = begun(new, OLD)
    rollout = record.rollouts[0]
    assert (rollout.head_only, rollout.origin) == (True, "none")
    record, findings = observe(record, "r1", open_gates(record, steady_ms=300_000), now_ms=NOW_MS)
    assert (record.rollouts[0].state, findings) == (State.READY, ())
    given_up = abort(record, "r1", reason="no", now_ms=NOW_MS)
    assert not spoiled(given_up)
    assert left_behind(given_up, given_up.rollouts[0]) is None
    assert begun(release("shop", "3"), record=given_up).open is not None


def test_the_lag_must_have_been_within_its_allowance_for_long_enough() -> None:
    record = begun(NEW, OLD)
    for at_s, expected in ((0, State.CATCHING_UP), (299, State.CATCHING_UP), (300, State.READY)):
        now_ms = NOW_MS + at_s * 1000
        record, _ = observe(record, "r1", open_gates(record, steady_ms=300_000), now_ms=now_ms)
        assert record.rollouts[0].state is expected
    with pytest.raises(GateClosed, match="lag"):
        promote(record, "r1", open_gates(record, LAGS, steady_ms=300_000), keep_ms=0, now_ms=now_ms)


def test_the_wait_starts_again_when_the_stores_clock_is_set_back() -> None:
    record, _ = observe(begun(NEW, OLD), "r1", open_gates(begun(NEW, OLD), steady_ms=10_000), now_ms=NOW_MS)
    back_ms = NOW_MS - 3_600_000
    record, findings = observe(record, "r1", open_gates(record, steady_ms=10_000), now_ms=back_ms)
    assert [one.gate for one in findings] == [Gate.STEADY]
    record, findings = observe(record, "r1", open_gates(record, steady_ms=10_000), now_ms=back_ms + 10_000)
    assert (findings, record.rollouts[0].state) == ((), State.READY)


@pytest.mark.parametrize("what", ["lag", "another lineage"])
def test_the_wait_begins_again_when_a_partition_lags_or_began_anew(what: str) -> None:
    record = begun(NEW, OLD)
    record, _ = observe(record, "r1", open_gates(record, steady_ms=10_000), now_ms=NOW_MS)
    broken = (LAGS,) if what == "lag" else ()
    lineages = "0" * 16 if what == "lag" else "1" * 16
    look = open_gates(record, *broken, steady_ms=10_000, lineages=lineages)
    record, _ = observe(record, "r1", look, now_ms=NOW_MS + 9_000)
    look = open_gates(record, steady_ms=10_000, lineages=lineages)
    record, findings = observe(record, "r1", look, now_ms=NOW_MS + 12_000)
    assert [one.gate for one in findings] == [Gate.STEADY]


# The mistakes that other controllers have made


def test_readiness_of_an_older_revision_does_not_count() -> None:
    record = ready()
    look = open_gates(record)
    moved = shadow(record, "r1", percent=1, now_ms=NOW_MS)
    for command in (
        lambda: promote(moved, "r1", look, keep_ms=0, now_ms=NOW_MS),
        lambda: canary(moved, "r1", look, percent=5, now_ms=NOW_MS),
        lambda: observe(moved, "r1", look, now_ms=NOW_MS),
    ):
        with pytest.raises(Conflict, match="look again"):
            command()


def test_readiness_of_an_aborted_rollout_does_not_count_for_the_next_one() -> None:
    record = abort(ready(), "r1", reason="no", now_ms=NOW_MS)
    again = begun(release("bazaar", "1", generation=1), record=record)
    with pytest.raises(NotAllowed, match="not ready"):
        promote(again, "r2", open_gates(again), keep_ms=0, now_ms=NOW_MS)


def test_the_release_before_is_kept_after_an_earlier_abort() -> None:
    record = abort(ready(), "r1", reason="no", now_ms=NOW_MS)
    record = ready(begun(release("bazaar", "1", generation=1), record=record))
    later = NOW_MS + 86_400_000
    record = promote(record, "r2", open_gates(record), keep_ms=86_400_000, now_ms=later)
    assert retire(record, now_ms=later + 1) is record


def test_an_aborted_namespace_is_never_resumed() -> None:
    record = abort(ready(), "r1", reason="its states are poisoned", now_ms=NOW_MS)
    with pytest.raises(NotAllowed, match="generation 1"):
        begun(NEW, record=record)
    assert free_generation(record, NEW.fingerprint) == 1
    assert free_generation(record, NEW.fingerprint, [f"{NEW.fingerprint[:16]}-1"]) == 2
    assert left_behind(record, record.rollouts[0]) == NEW.namespace
    record = collect(record, "r1", now_ms=NOW_MS)  # a worker that was paused builds it again when it goes on
    with pytest.raises(NotAllowed, match="generation 1"):
        begun(NEW, record=record)
    assert free_generation(record, NEW.fingerprint) == 1


def test_a_held_namespace_may_be_loaded_after_an_abort() -> None:
    """A runbook loads the states of a namespace again before a rollback to it."""
    keys = Keys(OLD.namespace, "p")
    record = promote(ready(), "r1", open_gates(ready()), keep_ms=1000, now_ms=NOW_MS)
    record = abort(begun(OLD, record=record), "r2", reason="later", now_ms=NOW_MS)
    assert OLD.namespace in spoiled(record)

    def refuse(record: Record) -> None:
        store = SimpleNamespace(client=SimpleNamespace(get=lambda _: encode_record(record)))
        refuse_aborted(cast(RedisStore, store), keys)

    refuse(record)
    with pytest.raises(BulkRefused, match="r2"):
        refuse(retire(record, now_ms=NOW_MS + 2000))


def test_a_rolled_back_namespace_is_used_again_after_it_was_collected() -> None:
    record = promote(ready(), "r1", open_gates(ready()), keep_ms=0, now_ms=NOW_MS)
    record = collect(rollback(record, "r1", reason="aborted; no, worse", now_ms=NOW_MS), "r1", now_ms=NOW_MS)
    assert begun(NEW, record=record).open is not None


def test_a_rollout_goes_on_in_the_latest_namespace_left() -> None:
    first, second = NEW, replace(NEW, generation=1)
    assert kept_generation(None, NEW.fingerprint, [first.namespace]) is None
    record = begun(first, OLD)
    for identity in ("r1", "r2"):
        record = ready(record if identity == "r1" else begun(second, record=record))
        record = promote(record, identity, open_gates(record), keep_ms=1000, now_ms=NOW_MS)
        record = rollback(record, identity, reason="worse", now_ms=NOW_MS)
    there = [OLD.namespace, first.namespace, second.namespace]
    assert kept_generation(record, NEW.fingerprint, there) == 1
    assert kept_generation(record, NEW.fingerprint, there[:2]) == 0, "the store does not have the latest any more"
    assert kept_generation(record, NEW.fingerprint, there[:1]) is None
    collected = collect(record, "r2", now_ms=NOW_MS)
    assert kept_generation(collected, NEW.fingerprint, there) == 0, "a worker that was paused has begun it again"
    record = abort(begun(second, record=record), "r3", reason="slower", now_ms=NOW_MS)
    assert kept_generation(record, NEW.fingerprint, there) == 0
    before = replace(OLD, generation=3)
    tried = ready(begun(first, before))
    served = promote(tried, "r1", open_gates(tried), keep_ms=0, now_ms=NOW_MS)
    for record in (served, retire(served, now_ms=NOW_MS)):
        assert kept_generation(record, OLD.fingerprint, [OLD.namespace, before.namespace]) == 3


def test_heads_are_rolled_out_although_a_way_back_was_aborted() -> None:
    record = promote(ready(), "r1", open_gates(ready()), keep_ms=1000, now_ms=NOW_MS)
    record = abort(begun(OLD, record=record), "r2", reason="rollback is faster", now_ms=NOW_MS)
    record = rollback(record, "r1", reason="worse", now_ms=NOW_MS)
    assert begun(release("shop", "2"), record=record).open is not None


def test_a_rollback_under_a_canary_stops_the_canary_and_closes_its_gate() -> None:
    record = promote(ready(), "r1", open_gates(ready()), keep_ms=1000, now_ms=NOW_MS)
    record = ready(begun(release("third"), record=record))
    record = canary(record, "r2", open_gates(record), percent=5, now_ms=NOW_MS)
    record = rollback(record, "r1", reason="worse", now_ms=NOW_MS)
    assert (record.serving, record.arms) == (OLD, ())
    with pytest.raises(GateClosed, match="conflict"):
        promote(record, "r2", open_gates(record), keep_ms=0, now_ms=NOW_MS)


class Life(RuleBasedStateMachine):
    """Any commands in any order, also with looks that are out of date."""

    def __init__(self) -> None:
        super().__init__()
        self.record: Record | None = None
        self.now_ms = NOW_MS
        self.looked: Checked | None = None
        self.aborted: set[str] = set()

    def held(self) -> Record:
        assert self.record is not None
        return self.record

    def change(self, after: Record) -> None:
        before = self.record
        if before is not None and after is not before:
            assert after.revision == before.revision + 1
        self.record = after

    def any_id(self, number: int) -> str:
        return f"r{1 + number % max(1, self.held().begun + 1)}"

    @rule(seconds=st.integers(1, 400))
    def wait(self, seconds: int) -> None:
        self.now_ms += seconds * 1000

    @rule(which=st.sampled_from(["shop", "bazaar", "third"]), version=st.sampled_from("12"), fresh=st.booleans())
    def begin(self, which: str, version: str, fresh: bool) -> None:
        fingerprint = release(which).fingerprint
        new = release(which, version, generation=free_generation(self.record, fingerprint) if fresh else 0)
        try:
            after = begin(self.record, new, serving=OLD, origin="log", salt=SALT, now_ms=self.now_ms)
        except NotAllowed:
            return
        assert new.namespace not in spoiled(after)
        assert new.namespace not in self.aborted - {after.serving.namespace}
        self.change(after)

    @precondition(lambda self: self.record is not None)
    @rule(
        findings=st.lists(st.sampled_from([LAGS, DIFFERS]), max_size=1), lineages=st.sampled_from(["0" * 16, "1" * 16])
    )
    def look(self, findings: list[Finding], lineages: str) -> None:
        self.looked = Checked(self.held().revision, tuple(findings), lineages, steady_ms=300_000)

    @precondition(lambda self: self.looked is not None)
    @rule(number=st.integers(0, 9), how=st.sampled_from(["observe", "canary", "promote"]), percent=st.floats(0.01, 100))
    def act(self, number: int, how: str, percent: float) -> None:
        record, identity, looked = self.held(), self.any_id(number), self.looked
        assert looked is not None
        try:
            if how == "observe":
                after, _ = observe(record, identity, looked, now_ms=self.now_ms)
            elif how == "canary":
                after = canary(record, identity, looked, percent=percent, now_ms=self.now_ms)
            else:
                after = promote(record, identity, looked, keep_ms=60_000, now_ms=self.now_ms)
        except Refused:
            return
        if after is not record:
            assert looked.revision == record.revision
            if how != "observe":
                assert not looked.findings
        self.change(after)

    @precondition(lambda self: self.record is not None)
    @rule(number=st.integers(0, 9), how=st.sampled_from([abort, rollback]))
    def end(self, number: int, how: object) -> None:
        assert callable(how)
        rollout = self.held().find(self.any_id(number))
        try:
            self.change(how(self.held(), self.any_id(number), reason="because", now_ms=self.now_ms))
        except Refused:
            return
        if how is abort and rollout is not None and not rollout.head_only:
            self.aborted.add(rollout.release.namespace)

    @precondition(lambda self: self.record is not None)
    @rule(percent=st.floats(0, 100), number=st.integers(0, 9))
    def shadow(self, percent: float, number: int) -> None:
        try:
            self.change(shadow(self.held(), self.any_id(number), percent=percent, now_ms=self.now_ms))
        except Refused:
            return

    @precondition(lambda self: self.record is not None)
    @rule(number=st.integers(0, 9))
    def tidy(self, number: int) -> None:
        self.change(retire(self.held(), now_ms=self.now_ms))
        rollout = self.held().find(self.any_id(number))
        if rollout is not None and left_behind(self.held(), rollout) is not None:
            self.change(collect(self.held(), rollout.id, now_ms=self.now_ms))

    @precondition(lambda self: self.record is not None)
    @invariant()
    def promises(self) -> None:
        record = self.held()
        assert decode_record(encode_record(record)) == record
        assert len(record.log) <= MAX_ENTRIES
        on_the_way = [one for one in record.rollouts if one.state in OPEN]
        assert len(on_the_way) <= 1
        assert sum(one.state is State.SERVING for one in record.rollouts) <= 1
        for one in record.rollouts:
            self.of_rollout(record, one)
        canaries = {arm.release for arm in record.arms}
        assert canaries <= {one.release for one in on_the_way if one.state is State.CANARY}
        assert bool(canaries) == any(one.state is State.CANARY for one in on_the_way)
        answered, scored = (sum(size(arm.buckets) for arm in arms) for arms in (record.arms, record.shadows))
        shared = shared_buckets(record)
        assert shared == max(0, answered + scored - BUCKET_COUNT), "a shadow scores what its own release has answered"

    def of_rollout(self, record: Record, one: Rollout) -> None:
        assert one.reason
        if one.state is State.SERVING:
            assert record.serving == one.release
            assert one.replaces in record.held
        elif one.state not in OPEN:
            assert (one.hold, one.keep_until_ms) == (None, 0)
        name = left_behind(record, one)
        assert name is None or name not in {held.namespace for held in record.held}


def shared_buckets(record: Record) -> int:
    """How many buckets have both an arm and a shadow."""
    arms, shadows = (table(arm.buckets for arm in arms) for arms in (record.arms, record.shadows))
    return sum(bool(arm and shadow) for arm, shadow in zip(arms, shadows, strict=True))


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
