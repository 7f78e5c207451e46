"""The proof of a migration: two folds of one log never accuse each other, and whatever is wrong with one is found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mimn.release import (
    Announcement,
    Comparison,
    Gate,
    Loaded,
    behind,
    compare,
    decode_announcement,
    foreign,
    lags,
    not_built,
    not_loaded,
    out_of_memory,
    read_headers,
)
from mimn.release.announcement import STANDBY
from mimn.state import (
    AHEAD_WITHIN_MS,
    EMPTY_DIGEST,
    Block,
    Progress,
    StateHeader,
    StateLayout,
    UserState,
    encode_state,
    extend_digest,
    user_hash,
)
from support.releases import release

USERS = ["ann", "bob", "cy", "dee"]
ERASURE = b""
"""Stands for a record without a value."""
OLD, NEW = bytes(range(32)), bytes(range(1, 33))


@dataclass(frozen=True)
class Folded:
    """What a namespace has of a partition's log up to an offset."""

    headers: dict[str, StateHeader]
    next_offset: int


def folded(log: list[tuple[str, bytes]], until: int) -> Folded:
    headers: dict[str, StateHeader] = {}
    for offset, (user, value) in enumerate(log[:until]):
        if value == ERASURE:
            headers.pop(user, None)
            continue
        before = headers.get(user)
        headers[user] = StateHeader(
            user=user_hash(user),
            lineage=1,
            era=0,
            last_offset=offset,
            event_count=1 if before is None else before.event_count + 1,
            last_event_time=0,
            digest=extend_digest(EMPTY_DIGEST if before is None else before.digest, offset, value),
        )
    return Folded(headers, until)


def values(headers: dict[str, StateHeader], fingerprint: bytes, floats: int) -> list[bytes | None]:
    layout = StateLayout((Block("a", (floats,)),))
    tensors = np.zeros(floats, np.float32)
    return [
        encode_state(UserState(headers[user], tensors), fingerprint, layout)[:80] if user in headers else None
        for user in USERS
    ]


def compared(old: Folded, new: Folded, old_said: int, new_said: int) -> Comparison:
    ours = read_headers(values(old.headers, OLD, 3), OLD)
    theirs = read_headers(values(new.headers, NEW, 7), NEW)
    return compare(ours, theirs, old_said, new_said)


LOGS = st.lists(st.tuples(st.sampled_from(USERS), st.sampled_from([ERASURE, b"x", b"y"])), max_size=40)


@given(LOGS, st.integers(0, 40), st.integers(0, 40), st.integers(0, 5), st.integers(0, 5))
def test_two_folds_of_one_log_are_equal_or_one_is_not_there_yet(
    log: list[tuple[str, bytes]], a: int, b: int, old_late: int, new_late: int
) -> None:
    erased = {user for user, value in log if value == ERASURE} if old_late or new_late else set()
    old, new = folded(log, min(a, len(log))), folded(log, min(b, len(log)))
    # Offsets are read before states, so they may be too low, and never too high.
    seen = compared(old, new, max(0, old.next_offset - old_late), max(0, new.next_offset - new_late))
    assert not seen.different.any()
    assert (seen.equal | seen.pending | seen.missing | seen.unerased).all()
    for i, user in enumerate(USERS):
        if seen.missing[i] or seen.unerased[i]:
            assert user in erased  # folded between the two reads: the next look shows it
    if old.next_offset == new.next_offset:
        assert seen.equal.all()


@given(LOGS, st.integers(0, 3), st.sampled_from(["lost", "digest", "count", "event", "extra", "foreign"]))
def test_whatever_is_wrong_with_one_user_is_found_once_both_have_caught_up(
    log: list[tuple[str, bytes]], which: int, how: str
) -> None:
    user = USERS[which]
    fold = folded(log, len(log))
    broken = dict(fold.headers)
    if how == "extra":
        if user in broken:
            return
        broken[user] = replace(folded([(user, b"x")], 1).headers[user], last_offset=-1)
    elif user not in broken:
        return
    elif how == "lost":
        del broken[user]
    elif how == "digest":
        broken[user] = replace(broken[user], digest=b"another!")
    elif how == "count":
        broken[user] = replace(broken[user], event_count=broken[user].event_count + 1)
    elif how == "event":
        broken[user] = replace(broken[user], last_offset=broken[user].last_offset - 1)
    fingerprint = OLD if how == "foreign" else NEW
    theirs = read_headers(values(broken, fingerprint, 7), NEW)
    seen = compare(read_headers(values(fold.headers, OLD, 3), OLD), theirs, len(log), len(log))
    expected = {"lost": seen.missing, "extra": seen.unerased}.get(how, seen.different)
    assert expected[which]
    assert not seen.pending.any()
    others = np.arange(len(USERS)) != which
    if how != "foreign":
        assert seen.equal[others].all()


def test_a_value_that_is_no_state_is_there_and_not_readable() -> None:
    headers = read_headers([None, b"", b"short", bytes(80)], OLD)
    assert headers["there"].tolist() == [False, False, True, True]
    assert not headers["readable"].any()


def progress(as_of_ms: int, topic_id: bytes = bytes(16)) -> Progress:
    return Progress(partitions=2, next_offset=1, lineage=1, writer=1, base=0, as_of_ms=as_of_ms, topic_id=topic_id)


@given(st.integers(-(10**9), 10**9), st.integers(0, 10**6))
def test_a_time_that_is_not_believed_is_a_lag_and_any_other_only_by_its_age(ahead_ms: int, allowed_ms: int) -> None:
    now_ms = 10**12
    late = behind([progress(now_ms), progress(now_ms + ahead_ms)], now_ms, allowed_ms)
    assert (late is not None) == (ahead_ms > AHEAD_WITHIN_MS or ahead_ms < -allowed_ms)
    assert late is None or late.passes


def test_a_partition_that_lags_or_is_missing_is_named() -> None:
    assert behind([progress(100), progress(90)], 110, 20) is None
    late = behind([progress(100), progress(40_000), None], 100_000, 30_000)
    assert late is not None
    assert (late.gate, late.passes) == (Gate.LAG, True)
    assert "2 of 3 partitions lag; partition 0" in late.reason
    unbuilt = not_built([progress(1), None])
    assert unbuilt is not None
    assert "1 of 2" in unbuilt.reason
    assert not_built([progress(1)]) is None


@pytest.mark.parametrize(
    ("old", "new", "ids"),
    [((8, "events"), (8, "other"), ([], [])), ((8, "events"), (9, "events"), ([], []))],
)
def test_another_log_is_named(old: tuple[int, str], new: tuple[int, str], ids: tuple[list[bytes], list[bytes]]) -> None:
    finding = foreign(old, new, *ids)
    assert finding is not None
    assert (finding.gate, finding.passes) == (Gate.LOG, False)


def test_a_topic_that_was_created_again_is_another_log() -> None:
    one, other, none = b"1" * 16, b"2" * 16, bytes(16)
    assert foreign((8, "events"), (8, "events"), [one, one], [one, none]) is None
    assert foreign((8, "events"), (8, "events"), [none], [other]) is None  # a broker without topic ids
    finding = foreign((8, "events"), (8, "events"), [one], [other])
    assert finding is not None
    assert "created again" in finding.reason


def test_a_newer_record_is_judged_by_what_is_loaded() -> None:
    """As after the store came back with older data. Time brings such a process nothing; a command does."""
    new, other = release("shop", "2"), release("shop", "3")
    told = Announcement(
        instance="web:1", revision=6, loaded=(Loaded(new.bundle, new.manifest, new.namespace, STANDBY),)
    )
    assert not_loaded(told, new, 5) is None
    lacking = not_loaded(told, other, 5)
    assert lacking is not None
    assert (lacking.passes, "revision 6" in lacking.reason) == (False, True)
    for behind_it in (7, 100):
        late = not_loaded(told, new, behind_it)
        assert late is not None
        assert late.passes


def test_a_process_without_the_record_does_not_follow_it() -> None:
    new = release("shop", "2")
    loaded = (Loaded(new.bundle, new.manifest, new.namespace, STANDBY),)
    for revision in (5, 6, None):
        told = Announcement(instance="web:1", revision=revision, unread="the store refuses", loaded=loaded)
        late = not_loaded(told, new, 5)
        assert late is not None
        assert (late.passes, "the store refuses" in late.reason) == (True, True)
    of_before = b'{"instance": "web:1", "revision": 5, "loaded": [], "refused": [{"bundle": "a/1", "reason": "no"}]}'
    told = decode_announcement(of_before)
    assert (lags(told, 5), told.unread, told.refused[0].passes) == (None, None, False)


def test_memory_is_for_both_and_a_fork() -> None:
    assert out_of_memory(60, 10, 100) is None
    assert out_of_memory(60, 10, 0) is None
    full = out_of_memory(60 << 20, 11 << 20, 100 << 20)
    assert full is not None
    assert "71%" in full.reason
