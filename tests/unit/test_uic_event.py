"""Which records are valid events, and the reason for each invalid one: docs/formats/event.md, rule by rule."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from ctr.event.v1.behavior_event_pb2 import Action, BehaviorEvent
from mimn.bundle.fields import MAX_ID_BYTES, code_of
from mimn.rows.live import compiled_events
from uic.core.event import (
    ACTIONS,
    EARLIEST_MS,
    MAX_VALUE_BYTES,
    Reason,
    check_key,
    decode,
    explain,
)
from uic.core.event_columns import Decoded, decode_all
from uic.core.event_json import SHOWN_NAME
from uic.core.record_headers import Headers
from uic.core.records import BatchRecord, Records

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000
AS_JSON = [("content-type", b"application/json")]


def event(**changes: object) -> BehaviorEvent:
    fields: dict[str, object] = {
        "event_id": "e1",
        "user_id": "ann",
        "item_id": 2**64 - 1,
        "category_id": 7,
        "action": Action.ACTION_CLICK,
        "event_time": NOW_MS,
    }
    return BehaviorEvent(**{**fields, **changes})  # type: ignore[arg-type]  # the stub wants each by its own type


def read(
    value: bytes, headers: Sequence[tuple[str, bytes]] = (), key: str = "ann", timestamp_ms: int = NOW_MS
) -> tuple[int, int, int, int] | Reason:
    return decode(value, headers, key, timestamp_ms)


Sent = tuple[bytes, Headers, bytes, int]


def all_of(sent: Sequence[Sent], *, text_ids: bool = False) -> Decoded:
    """Value, headers, key and time of each, decoded together: the same from a list and from columns."""
    records = [
        BatchRecord(i, timestamp, key, value, headers) for i, (value, headers, key, timestamp) in enumerate(sent)
    ]
    sound = np.ones(len(records), np.bool_)
    found = decode_all(records, sound, text_ids=text_ids)
    if (compiled := compiled_events()) is not None:
        for some in (records, Records.of(records)):
            other = decode_all(some, sound, compiled, text_ids=text_ids)
            for got, want in zip(other, found, strict=True):
                np.testing.assert_equal(got, want)
    return found


@pytest.mark.parametrize(
    "content_type", [b"application/json", b"Application/JSON; charset=utf-8", b" application/json "]
)
def test_a_json_event(content_type: bytes) -> None:
    value = json_format.MessageToJson(event()).encode()
    assert read(value, [("Content-Type", content_type)]) == (2**64 - 1, 7, NOW_MS, Action.ACTION_CLICK)


def test_json_takes_numbers_strings_and_both_spellings_of_a_field() -> None:
    value = {"user_id": "ann", "itemId": 5, "category_id": "7", "action": "ACTION_VIEW", "eventTime": str(NOW_MS)}
    assert read(json.dumps(value).encode(), AS_JSON) == (5, 7, NOW_MS, Action.ACTION_VIEW)


@pytest.mark.parametrize("few", [1, 100])
def test_protobuf_fields_of_a_later_version_are_ignored_and_counted(few: int) -> None:
    known, later = event().SerializeToString(), event().SerializeToString() + b"\xfa\x01\x03new"
    values = [known, later, b"\xff", later] * few
    items, *_, reasons, extended = all_of([(value, (), b"ann", NOW_MS) for value in values])
    assert extended == [i for i in range(len(values)) if i % 2]
    assert set(items.tolist()) == {2**64 - 1, 0}
    assert len(reasons) == few


def test_a_json_field_that_is_not_one_is_named_and_the_event_is_not_folded() -> None:
    value = json.dumps({"userId": "ann", "itemId": 5, "eventTime": str(NOW_MS), "categoriId": 7}).encode()
    assert read(value, AS_JSON) is Reason.MALFORMED_JSON
    assert explain(Reason.MALFORMED_JSON, value).startswith("categoriId: is not a field; the fields are eventId")


def in_both_forms(made: BehaviorEvent) -> list[tuple[bytes, list[tuple[str, bytes]]]]:
    return [(made.SerializeToString(), []), (json_format.MessageToJson(made).encode(), AS_JSON)]


@pytest.mark.parametrize("text", ["sku-1", "42", "日本語の本", " a ", "t" * MAX_ID_BYTES])
@pytest.mark.parametrize("few", [1, 100])
def test_a_text_is_the_number_that_training_gives_it(text: str, few: int) -> None:
    made = event(item_id=0, item_text=text, category_id=0, category_text=text)
    sent = [(value, headers, b"ann", NOW_MS) for value, headers in in_both_forms(made)] * few
    items, categories, *_, reasons, extended = all_of(sent, text_ids=True)
    assert set(items.tolist()) == set(categories.tolist()) == {code_of(text)}
    assert (reasons, extended) == ({}, [])


@pytest.mark.parametrize(
    ("changes", "text_ids", "detail"),
    [
        ({"item_id": 0, "item_text": "secret"}, False, "item_text: is a text, and the bundle was trained on numbers"),
        ({"item_text": "secret"}, True, "item_text: stands beside the number"),
        ({"category_text": "secret"}, True, "category_text: stands beside the number"),
        ({"item_id": 0, "item_text": "é" * 65}, True, "item_text: is too long: at most 128 bytes"),
        ({"category_id": 0, "category_text": "t" * 129}, True, "category_text: is too long: at most 128 bytes"),
    ],
)
def test_a_text_that_no_id_is_made_of(changes: dict[str, object], text_ids: bool, detail: str) -> None:
    for value, headers in in_both_forms(event(**changes)):
        assert decode(value, headers, "ann", NOW_MS, text_ids=text_ids) is Reason.TEXT_ID
        said = explain(Reason.TEXT_ID, value, headers)
        assert said.startswith(detail)
        assert "secret" not in said


def test_a_text_in_place_of_a_number_names_the_right_field() -> None:
    value = json.dumps({"userId": "ann", "itemId": "sku-1", "eventTime": NOW_MS}).encode()
    assert decode(value, AS_JSON, "ann", NOW_MS, text_ids=True) is Reason.MALFORMED_JSON
    assert "a text goes in itemText" in explain(Reason.MALFORMED_JSON, value)


def test_an_event_without_a_number_and_a_text_names_no_item() -> None:
    for value, headers in in_both_forms(event(item_id=0, item_text="")):
        assert decode(value, headers, "ann", NOW_MS, text_ids=True) is Reason.ITEM_ZERO


def test_actions_are_the_numbers_from_zero_that_the_enum_names() -> None:
    assert sorted(ACTIONS) == list(range(len(Action.keys())))


@pytest.mark.parametrize("action", [7, 99, -1, 2**31 - 1])
@pytest.mark.usefixtures("however_few")
def test_an_action_that_the_enum_does_not_name_is_a_dead_letter_in_both_forms(action: int) -> None:
    value = event(action=action, item_id=5).SerializeToString()  # an item whose number is read together with others
    assert read(value) is Reason.UNKNOWN_ACTION
    *_, reasons, _ = all_of([(value, (), b"ann", NOW_MS)] * 4)
    assert set(reasons.values()) == {Reason.UNKNOWN_ACTION}
    fields = {"userId": "ann", "itemId": 5, "eventTime": str(NOW_MS)}
    for name in (action, "ACTION_IMPRESSION", "ACTION_VIEWW"):
        assert read(json.dumps(fields | {"action": name}).encode(), AS_JSON) is Reason.UNKNOWN_ACTION


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"{", "value: is not JSON"),
        ('{"itemId": 5}'.encode("utf-16"), "value: is not JSON in UTF-8"),
        ('{"itemId": 5}'.encode("utf-8-sig"), "value: is not JSON in UTF-8"),
        (b'{"itemId": "my secret"}', "itemId: is not an integer"),
        (b'{"userId": "my secret", "userId": "b"}', "userId: is there twice"),
        (b'{"my\\u001bname": 1}', "'my\\x1bname': is not a field"),
        (b'{"' + b"x" * 5000 + b'": 1}', "x" * SHOWN_NAME + ": is not a field"),
    ],
)
def test_a_detail_names_field_and_rule_and_no_value(value: bytes, says: str) -> None:
    assert read(value, AS_JSON) is Reason.MALFORMED_JSON
    detail = explain(Reason.MALFORMED_JSON, value)
    assert detail.startswith(says)
    assert "secret" not in detail
    assert detail.isprintable()


@given(st.sampled_from(Reason), st.none() | st.binary(max_size=100) | st.text(max_size=60).map(str.encode))
def test_every_reason_has_a_detail_for_any_record(reason: Reason, value: bytes | None) -> None:
    assert explain(reason, value).isprintable()


@pytest.mark.parametrize("as_json", [False, True])
def test_the_time_that_an_event_exceeds_is_named(as_json: bool) -> None:
    headers = AS_JSON if as_json else []
    for at, says in (
        (NOW_MS + DAY_MS + 1, "event_time: is more than a day after the record's own timestamp (header uic-timestamp)"),
        (EARLIEST_MS - 1, "event_time: is before 2000-01-01: send milliseconds since 1970"),
    ):
        late = event(event_time=at)
        value = json_format.MessageToJson(late).encode() if as_json else late.SerializeToString()
        assert read(value, headers) is Reason.BAD_TIME
        assert explain(Reason.BAD_TIME, value, headers).startswith(says)


@pytest.mark.parametrize("headers", [[], AS_JSON])
def test_the_frame_of_a_schema_registry_is_named(headers: list[tuple[str, bytes]]) -> None:
    value = b"\x00\x00\x00\x00\x07\x00" + event().SerializeToString()
    reason = read(value, headers)
    assert reason in (Reason.MALFORMED_PROTOBUF, Reason.MALFORMED_JSON)
    assert "value: begins with a byte 0, as serializers for a Schema Registry" in explain(reason, value, headers)


def test_the_last_content_type_counts_and_others_mean_protobuf() -> None:
    headers = [("content-type", b"application/json"), ("content-type", b"application/x-protobuf")]
    assert read(event().SerializeToString(), headers) == (2**64 - 1, 7, NOW_MS, Action.ACTION_CLICK)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"\xff\xff\xff", Reason.MALFORMED_PROTOBUF),
        (b"\x12\x02\xff\xfe", Reason.MALFORMED_PROTOBUF),  # a user id that is not UTF-8
        (b"x" * (MAX_VALUE_BYTES + 1), Reason.TOO_LARGE),
        (b"x" * (2 << 20), Reason.TOO_LARGE),
        (b"", Reason.MISSING_USER),
        (event(user_id="").SerializeToString(), Reason.MISSING_USER),
        (event(user_id="bob").SerializeToString(), Reason.KEY_MISMATCH),
        (event(item_id=0).SerializeToString(), Reason.ITEM_ZERO),
        (event(event_id="i" * 65).SerializeToString(), Reason.BAD_EVENT_ID),
        (event(event_id="é" * 33).SerializeToString(), Reason.BAD_EVENT_ID),
        (event(event_time=EARLIEST_MS - 1).SerializeToString(), Reason.BAD_TIME),
        (event(event_time=-(2**63)).SerializeToString(), Reason.BAD_TIME),
        (event(event_time=NOW_MS + DAY_MS + 1).SerializeToString(), Reason.BAD_TIME),
        (event(event_time=2**63 - 1).SerializeToString(), Reason.BAD_TIME),
    ],
)
def test_a_record_that_breaks_a_rule(value: bytes, reason: Reason) -> None:
    assert read(value) is reason


@pytest.mark.parametrize(
    "value",
    [
        event(event_id="i" * 64).SerializeToString(),
        event(event_id="é" * 32).SerializeToString(),
        event(event_time=EARLIEST_MS).SerializeToString(),
        event(event_time=NOW_MS + DAY_MS).SerializeToString(),
        event(category_id=0).SerializeToString(),
        event(action=Action.ACTION_PURCHASE).SerializeToString(),
    ],
)
def test_the_bounds_themselves_are_within(value: bytes) -> None:
    assert isinstance(read(value), tuple)


def test_a_record_without_a_time_bounds_event_time_from_below_only() -> None:
    assert isinstance(read(event(event_time=2**62).SerializeToString(), timestamp_ms=-1), tuple)
    assert read(event(event_time=0).SerializeToString(), timestamp_ms=-1) is Reason.BAD_TIME


@pytest.mark.parametrize(
    "value",
    [
        b"{",
        b"[1]",
        b'"userId"',
        b"null",
        b"\xff\xfe",
        b'{"itemId": -1}',
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"action": "ACTION_NOT_A_THING", "itemId": 1.5}',
        b'{"action": 1e400}',
        b'{"action": "\\ud800"}',
        b'{"userId": "\\ud800"}',
        b'{"\\ud800": 1}',
        b"",
    ],
)
def test_json_that_is_none(value: bytes) -> None:
    assert read(value, AS_JSON) is Reason.MALFORMED_JSON
    assert explain(Reason.MALFORMED_JSON, value).isprintable(), "so that its dead letter can be written"


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (None, Reason.MISSING_KEY),
        (b"", Reason.MISSING_KEY),
        (b"k" * 129, Reason.BAD_KEY),
        (b"\xff", Reason.BAD_KEY),
        (b"k" * 128, None),
        ("é".encode(), None),
    ],
)
def test_keys(key: bytes | None, reason: Reason | None) -> None:
    assert check_key(key) is reason


@given(st.binary(max_size=200), st.sampled_from([[], AS_JSON]), st.integers(-1, 2**62))
def test_no_bytes_raise(value: bytes, headers: list[tuple[str, bytes]], timestamp_ms: int) -> None:
    found = decode(value, headers, "ann", timestamp_ms)
    assert isinstance(found, Reason | tuple)


@given(
    st.text(max_size=16),
    st.integers(1, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(EARLIEST_MS, NOW_MS),
    st.text(min_size=1, max_size=20),
    st.sampled_from(Action.values()),
)
def test_both_forms_of_an_event_mean_the_same(
    event_id: str, item: int, category: int, event_time: int, user: str, action: Action
) -> None:
    made = BehaviorEvent(
        event_id=event_id, user_id=user, item_id=item, category_id=category, event_time=event_time, action=action
    )
    in_json = json_format.MessageToJson(made).encode()
    assert decode(made.SerializeToString(), [], user, NOW_MS) == (item, category, event_time, action)
    assert decode(in_json, AS_JSON, user, NOW_MS) == (item, category, event_time, action)


KEYS = ("ann", "a" * 128, "zo\u00eb", "b")
fields = st.fixed_dictionaries(
    {},
    optional={
        "event_id": st.text(max_size=70) | st.sampled_from(["e" * 64, "e" * 65, "\u00e9" * 32]),
        "user_id": st.sampled_from([*KEYS, ""]),
        "item_id": st.integers(0, 2**64 - 1) | st.integers(0, 300),
        "category_id": st.integers(0, 2**64 - 1) | st.integers(0, 300),
        "item_text": st.sampled_from(["sku-1", "é" * 65, "t" * MAX_ID_BYTES]),
        "category_text": st.sampled_from(["shoes", "t" * (MAX_ID_BYTES + 1)]),
        "action": st.integers(-3, 300),
        "event_time": st.integers(-(2**63), 2**63 - 1) | st.integers(EARLIEST_MS - 2, NOW_MS + DAY_MS + 2),
    },
)


ODD = (',"item_id":6', ',"action":true', ',"action":"05"', ',"category_id":"1_0"', ',"category_id":1e300', ',"x":1')
"""More fields of JSON that are not allowed, and of some events twice."""


@st.composite
def sent_records(draw: st.DrawFn) -> tuple[bytes, Sequence[tuple[str, bytes]], bytes, int]:
    """A record as producers send it, sometimes as JSON, sometimes with a byte changed, cut off, or put behind."""
    key = draw(st.sampled_from(KEYS))
    made = event(**{"user_id": key, **draw(fields)})
    timestamp_ms = draw(st.sampled_from([NOW_MS, -1, 0, 2**62]))
    kind = draw(st.sampled_from(["as it is"] * 5 + ["JSON", "odd JSON", "changed", "cut", "longer", "twice"]))
    if kind in ("JSON", "odd JSON"):
        more = draw(st.sampled_from(ODD)) if kind == "odd JSON" else ""
        return (
            json_format.MessageToJson(made).encode().removesuffix(b"}") + f"{more}}}".encode(),
            draw(st.sampled_from([AS_JSON, ()])),
            key.encode(),
            timestamp_ms,
        )
    value = bytearray(made.SerializeToString())
    at = draw(st.integers(0, max(len(value) - 1, 0)))
    if kind == "changed" and value:
        value[at] ^= draw(st.integers(1, 255))
    elif kind == "cut":
        del value[at:]
    elif kind == "longer":
        value += draw(st.binary(min_size=1, max_size=12))
    elif kind == "twice":
        value *= 2
    return bytes(value), draw(st.sampled_from([(), [("trace", b"x")], AS_JSON])), key.encode(), timestamp_ms


@pytest.fixture(scope="module")
def however_few() -> Iterator[None]:
    """Records are read together even where one by one would be sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uic.core.event_columns.FEW", 0)
        yield


@pytest.mark.usefixtures("however_few")
@given(st.lists(sent_records(), max_size=30), st.booleans())
def test_records_decoded_together_are_those_decoded_alone(
    records: list[tuple[bytes, Sequence[tuple[str, bytes]], bytes, int]], text_ids: bool
) -> None:
    *columns, reasons, _ = all_of(records, text_ids=text_ids)
    got = [reasons.get(i) or told for i, told in enumerate(zip(*columns, strict=True))]
    assert got == [decode(value, told, key.decode(), at, text_ids=text_ids) for value, told, key, at in records]


@pytest.mark.usefixtures("however_few")
def test_what_serializers_write_is_decoded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [
        event(item_id=5, event_id="").SerializeToString(),
        event(item_id=6, category_id=0, action=0).SerializeToString(),
        event(item_id=1, event_id="i" * 64).SerializeToString(),
        event(item_id=2**63 - 1).SerializeToString(),
    ]
    monkeypatch.delattr("uic.core.event_columns.parse")
    headers: list[Headers] = [(), [("trace", b"x")], (), ()]
    items, categories, times, actions, reasons, extended = all_of(
        [(value, some, b"ann", NOW_MS) for value, some in zip(values, headers, strict=True)]
    )
    assert items.tolist() == [5, 6, 1, 2**63 - 1]
    assert categories.tolist() == [7, 0, 7, 7]
    assert times.tolist() == [NOW_MS] * 4
    assert actions.tolist() == [event().action, 0, event().action, event().action]
    assert not reasons
    assert not extended
