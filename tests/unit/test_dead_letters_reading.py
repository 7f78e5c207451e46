"""What the writer of dead letters writes, the reader reads; what is chosen, skipped and replayed."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimn.state import partition_of
from uic.core.event import DAY_MS, Reason, explain, is_json
from uic.core.letters import DETAIL, OURS, Letter, to_wire
from uic.core.records import BatchRecord
from uic.log.producer import NewRecord
from uic.log.topic_reader import LogRecord
from uic.log.transactions import Overtaken
from uic.tools.letter_display import describe, summary
from uic.tools.letter_reading import DeadLetter, NotALetter, read_letter
from uic.tools.letter_replay import (
    BATCH,
    REPLAY_OF,
    not_replayable,
    replay,
    replayed,
    replayed_before,
    replays_begin,
)

N = 8
TOPIC = "behavior-events"
HEADERS = st.lists(
    st.tuples(st.text(min_size=1, max_size=12).filter(lambda name: name not in OURS), st.binary(max_size=40)),
    max_size=4,
).map(tuple)
LETTERS = st.builds(
    Letter,
    reason=st.sampled_from(Reason),
    topic=st.just(TOPIC),
    partition=st.integers(0, N - 1),
    offset=st.integers(0, 2**62),
    timestamp_ms=st.integers(-1, 2**62),
    key=st.none() | st.binary(max_size=140),
    value=st.none() | st.binary(max_size=3000),
    headers=HEADERS,
)


def delivered(letter: Letter, max_bytes: int = 1 << 20, at: int = 0) -> LogRecord:
    key, value, headers = to_wire(letter, max_bytes)
    return LogRecord(f"{TOPIC}.dlq", 0, at, 0, key, value, tuple(headers))


DEAD = DeadLetter("item_zero", TOPIC, 1, 5, 1_700_000_000_000, b"u1", b"v", (("trace", b"x"),))


@given(LETTERS)
def test_a_letter_that_fits_comes_back_whole(letter: Letter) -> None:
    read = read_letter(delivered(letter))
    assert read == DeadLetter(
        letter.reason.value,
        letter.topic,
        letter.partition,
        letter.offset,
        letter.timestamp_ms,
        letter.key,
        letter.value,
        letter.headers,
        detail=explain(letter.reason, letter.value, letter.headers),
    )


def test_the_last_content_type_of_a_letter_is_that_of_its_record_though_it_is_null() -> None:
    headers = (("content-type", b"application/json"), ("content-type", None), ("trace", None))
    record = BatchRecord(5, 3, b"u1", b'{"itemId": 5}', headers)
    read = read_letter(delivered(Letter.of(record, Reason.MALFORMED_PROTOBUF, TOPIC, 1)))
    assert [name for name, _ in read.headers] == [name for name, _ in headers]
    assert is_json(read.headers) is is_json(headers) is False


@given(LETTERS, st.integers(1200, 3000))
def test_a_letter_that_does_not_fit_says_so_and_keeps_its_place(letter: Letter, max_bytes: int) -> None:
    read = read_letter(delivered(letter, max_bytes))
    assert read.id == (letter.topic, letter.partition, letter.offset, letter.timestamp_ms)
    if read.cut_from is None:
        assert read.value == letter.value
    else:
        assert letter.value is not None
        assert read.value is not None
        assert letter.value.startswith(read.value)
        assert read.cut_from == read.value_bytes == len(letter.value)
        assert read.sha256 == sha256(letter.value).hexdigest()
        assert not_replayable(read, TOPIC)


def test_a_letter_of_which_headers_alone_do_not_fit_is_not_called_cut_and_says_what_is_missing() -> None:
    headers = (("trace", b"x"), ("large", b"x" * 5000), ("later", b"x"))
    read = read_letter(delivered(Letter(Reason.MISROUTED, TOPIC, 1, 2, 3, b"u", b"v" * 900, headers), 4096))
    assert (read.value, read.cut_from, read.headers_left_out) == (b"v" * 900, None, 2)
    assert summary(read)["cut"] is False
    assert "           2 headers did not fit and were left out" in list(describe(read))
    assert not_replayable(read, TOPIC) == "headers were left out"
    assert not to_wire(Letter(Reason.MISROUTED, TOPIC, 1, 2, 3, b"u", b"v" * 900, headers), 4096).whole


@given(LETTERS)
def test_any_letter_can_be_shown_and_its_summary_holds_neither_key_nor_value(letter: Letter) -> None:
    read = read_letter(delivered(letter))
    assert all("\n" not in line for line in describe(read))
    assert set(summary(read)) == {"reason", "topic", "partition", "offset", "time", "bytes", "cut"}


def test_the_detail_is_shown_and_letters_of_older_versions_have_none() -> None:
    value = b'{"categoriId": 3}'
    headers = (("content-type", b"application/json"),)
    record = delivered(Letter(Reason.MALFORMED_JSON, TOPIC, 1, 2, 3, b"u", value, headers))
    assert any(line.startswith("detail     categoriId: is not a field") for line in describe(read_letter(record)))
    older = replace(record, headers=tuple(header for header in record.headers if header[0] != DETAIL))
    assert not any(line.startswith("detail") for line in describe(read_letter(older)))


@pytest.mark.parametrize("missing", ["uic-reason", "uic-topic", "uic-partition", "uic-offset", "uic-timestamp"])
def test_a_record_without_our_headers_is_no_letter(missing: str) -> None:
    record = delivered(Letter(Reason.BAD_TIME, TOPIC, 1, 2, 3, b"u", b"v", ()))
    read_letter(record)
    without = tuple(header for header in record.headers if header[0] != missing)
    with pytest.raises(NotALetter):
        read_letter(replace(record, headers=without))
    with pytest.raises(NotALetter):
        read_letter(replace(record, headers=(*without, ("uic-offset", b"x"))))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, None),
        ({"value": None}, None),
        ({"topic": "another"}, "of another topic"),
        ({"cut_from": 9}, "value was cut"),
        ({"key": None}, "no key"),
        ({"key": b""}, "no key"),
    ],
)
def test_what_cannot_be_replayed_says_why(change: dict[str, object], why: str | None) -> None:
    assert not_replayable(replace(DEAD, **change), TOPIC) == why  # type: ignore[arg-type]  # one of its fields each


@given(LETTERS.filter(lambda letter: bool(letter.key)))
def test_a_replayed_record_is_the_original_in_its_keys_partition(letter: Letter) -> None:
    record = replayed(read_letter(delivered(letter)), N)
    assert (record.key, record.value) == (letter.key, letter.value)
    assert record.partition == partition_of(record.key, N)
    *kept, origin = record.headers
    assert origin == (REPLAY_OF, f"{TOPIC}/{letter.partition}/{letter.offset}".encode())
    assert kept == [header for header in letter.headers if header[0] != REPLAY_OF]


def test_a_replay_stops_at_the_first_transaction_that_fails() -> None:
    chosen = [replace(DEAD, offset=i) for i in range(BATCH + 5)]
    appended: list[list[NewRecord]] = []

    def append(topic: str, records: list[NewRecord]) -> None:
        if len(records) < BATCH:
            raise Overtaken("another run has begun since")
        appended.append(records)

    result = replay(chosen, SimpleNamespace(append=append), {}, TOPIC, N)  # type: ignore[arg-type]
    assert (result.done, "another run has begun since" in result.why) == (BATCH, True)
    assert appended == [[replayed(letter, N) for letter in chosen[:BATCH]]]


def in_the_log(letter: DeadLetter) -> LogRecord:
    record = replayed(letter, N)
    return LogRecord(TOPIC, record.partition, 9, 0, record.key, record.value, record.headers)


@given(st.lists(LETTERS, max_size=6), st.lists(LETTERS, max_size=6))
def test_a_replay_in_the_log_is_known_as_that_of_its_letter_and_of_no_other(
    done: list[Letter], others: list[Letter]
) -> None:
    read = [read_letter(delivered(one)) for one in (*done, *others)]
    letters = [one for one in read if not_replayable(one, TOPIC) is None]
    log = [in_the_log(one) for one in letters[: len(done)]]
    said = {(one.partition, one.offset, one.key, one.value) for one in letters[: len(done)]}
    expected = {one.id for one in letters if (one.partition, one.offset, one.key, one.value) in said}
    assert replayed_before(letters, log) == expected


def test_a_letter_of_a_topic_that_was_made_again_is_not_taken_for_replayed() -> None:
    assert replayed_before([DEAD], [in_the_log(replace(DEAD, value=b"another event"))]) == set()
    assert replayed_before([DEAD], [in_the_log(replace(DEAD, key=b"u2"))]) == set()
    assert replayed_before([DEAD], [in_the_log(DEAD)]) == {DEAD.id}


@pytest.mark.parametrize(
    ("written_ms", "begin_ms"),
    [(5 * DAY_MS, 4 * DAY_MS), (DAY_MS // 2, 0), (-1, 0), (10 * DAY_MS + 1, 9 * DAY_MS + 1), (12 * DAY_MS, 0)],
    ids=["a day before", "never below 0", "no time", "a clock that is a little ahead", "a time of the future"],
)
def test_replays_are_looked_for_from_a_day_before_the_original_on(written_ms: int, begin_ms: int) -> None:
    later = replace(DEAD, timestamp_ms=9 * DAY_MS)
    p = partition_of(b"u1", N)
    one = replace(DEAD, timestamp_ms=written_ms)
    assert replays_begin([one], N, 10 * DAY_MS) == {p: begin_ms}
    assert replays_begin([later, one], N, 10 * DAY_MS) == {p: min(begin_ms, 8 * DAY_MS)}
