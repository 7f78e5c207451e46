"""What `/predict` takes: every fault is named with its field, and the fast decoder never disagrees with the models."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mimn.bundle.fields import MAX_FIELDS_BYTES
from rtp.core.fold_progress import StateReport, Status
from rtp.core.request import MAX_CANDIDATES, MAX_ID, ScoreRequest
from rtp.doors.answer_body import encode_answer, encode_problem
from rtp.doors.body_faults import NAMED_WITHIN_BYTES
from rtp.doors.request_body import decode_request
from rtp.doors.schemas import ID, PredictRequest, PredictResponse, Problem
from rtp.errors import MAX_FAULTS, FieldFault, InvalidRequest, MalformedBody

ONE = {"item_id": 1, "category_id": 2}


def body(**fields: Any) -> bytes:
    return json.dumps({"user_id": "u", "candidates": [ONE], **fields}).encode()


def faults(data: bytes) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as refused:
        decode_request(data)
    return {fault.field: fault.message for fault in refused.value.faults}


def test_the_usual_request() -> None:
    request = decode_request(
        body(
            candidates=[{"item_id": MAX_ID, "category_id": 0}, ONE],
            request_id="r",
            context={"hour": 3},
            require_state=True,
        )
    )
    assert request.user_id == "u"
    assert request.item_ids.tolist() == [MAX_ID, 1]
    assert request.item_ids.dtype == request.category_ids.dtype == np.uint64
    assert request.category_ids.tolist() == [0, 2]
    assert (request.request_id, request.context, request.require_state) == ("r", {"hour": 3.0}, True)


def test_ids_may_be_decimal_strings_mixed_with_numbers() -> None:
    candidates = [{"item_id": str(MAX_ID), "category_id": "0"}, {"item_id": 7, "category_id": "2"}]
    request = decode_request(body(candidates=candidates))
    assert request.item_ids.tolist() == [MAX_ID, 7]
    assert request.category_ids.tolist() == [0, 2]


@pytest.mark.parametrize(
    "value",
    [0, -1, MAX_ID + 1, 10**30, 0.0, -1.0, 1.5, 1e30, True, None, "", "0", "01", "+1", " 1", "1_0", "-1", "１", "0x1",
     str(MAX_ID + 1), "9" * 40, [], {}],
)  # fmt: skip
def test_what_is_not_an_item_id(value: Any) -> None:
    assert list(faults(body(candidates=[ONE, {"item_id": value, "category_id": 0}]))) == ["candidates[1].item_id"]


@pytest.mark.parametrize(
    ("written", "value"),
    [("1.9113E+4", 19113), ("9007199254740993.0", 2**53 + 1), ("1.8446744073709551615e19", MAX_ID), ("10e-1", 1)],
)
@pytest.mark.parametrize("others", [0, 400], ids=["a short body", "a long body"])
def test_an_id_may_be_any_whole_json_number(written: str, value: int, others: int) -> None:
    """JSON Schema's `integer` is any number without a fraction, so the document promises it."""
    candidates = ",".join(['{"item_id":1,"category_id":"2"}'] * others + [f'{{"item_id":{written},"category_id":0.0}}'])
    request = decode_request(f'{{"user_id":"u","candidates":[{candidates}],"context":{{"hour":3.0}}}}'.encode())
    assert request.item_ids.tolist() == [1] * others + [value]
    assert request.category_ids.tolist() == [2] * others + [0]
    assert request.context == {"hour": 3.0}


@pytest.mark.parametrize(
    "written",
    ["18446744073709551616.0", "1e308", "1e100000000", "1e-99999999999999999999", "0.0", "-1.0", "9007199254740993.5"],
)
@pytest.mark.parametrize("others", [0, 400], ids=["a short body", "a long body"])
def test_a_number_that_is_no_whole_id_is_refused(written: str, others: int) -> None:
    candidates = ",".join(['{"item_id":1,"category_id":2}'] * others + [f'{{"item_id":{written},"category_id":0}}'])
    assert list(faults(f'{{"user_id":"u","candidates":[{candidates}]}}'.encode())) == [f"candidates[{others}].item_id"]


@pytest.mark.parametrize("written", ["1e-400", "0.1e-9999999999999999999", "-1e-400"])
def test_a_fraction_that_a_float_shows_as_zero_is_no_category(written: str) -> None:
    sent = f'{{"user_id":"u","candidates":[{{"item_id":1,"category_id":{written}}}]}}'.encode()
    assert list(faults(sent)) == ["candidates[0].category_id"]


@pytest.mark.parametrize("written", ["0.000", "-0.0", "0e-400", "0E5", "0e99999999999999999999"])
def test_zero_may_be_written_as_any_json_number(written: str) -> None:
    sent = f'{{"user_id":"u","candidates":[{{"item_id":1,"category_id":{written}}}]}}'.encode()
    assert decode_request(sent).category_ids.tolist() == [0]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"user_id": ""}, "user_id"),
        ({"user_id": "ü" * 65}, "user_id"),
        ({"user_id": 5}, "user_id"),
        ({"candidates": []}, "candidates"),
        ({"candidates": [ONE] * (MAX_CANDIDATES + 1)}, "candidates"),
        ({"candidates": ONE}, "candidates"),
        ({"candidates": [5]}, "candidates[0]"),
        ({"candidates": [{"item_id": 1}]}, "candidates[0].category_id"),
        ({"candidates": [{**ONE, "price": 3}]}, "candidates[0].price"),
        ({"user": "u"}, "user"),
        ({"request_id": ""}, "request_id"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"context": []}, "context"),
        ({"context": {"hour": {}}}, "context.hour"),
        ({"context": {"hour": [None]}}, "context.hour"),
        ({"context": {"hour": ["x"] * 65 + [""]}}, "context.hour"),
        ({"context": {"hour": "x" * (MAX_FIELDS_BYTES - len('{"hour": ""}') + 1)}}, "context"),
        ({"context": {f"f{i}": 0 for i in range(257)}}, "context"),
        ({"context": {"x" * MAX_FIELDS_BYTES: 0}}, "context"),
        ({"user": []}, "user"),
        ({"user": {"age": {}}}, "user.age"),
        ({"require_state": 1}, "require_state"),
    ],
)
def test_a_fault_is_named_with_its_field(change: dict[str, Any], field: str) -> None:
    assert list(faults(body(**change))) == [field]


def test_the_limits_themselves_are_accepted() -> None:
    request = decode_request(body(user_id="ü" * 64, candidates=[ONE] * MAX_CANDIDATES, request_id="x" * 128))
    assert len(request.item_ids) == MAX_CANDIDATES


WITH_NAME = len('{"ref": ""}')


@pytest.mark.parametrize("read", [bytes, bytearray], ids=["compiled code", "the decoder"])
@pytest.mark.parametrize(
    "value",
    [
        "x" * (MAX_FIELDS_BYTES - WITH_NAME),
        "ü" * ((MAX_FIELDS_BYTES - WITH_NAME) // 2),
        [*map(str, range(64)), ""],
        [""] * 1000,
    ],
    ids=["longest", "longest in two bytes", "64 and an empty one", "all empty"],
)
def test_texts_may_be_long_and_empty_ones_are_no_values(value: object, read: Callable[[bytes], Any]) -> None:
    sent = {"user_id": "u", "candidates": [ONE], "context": {"ref": value}}
    assert decode_request(read(json.dumps(sent, ensure_ascii=False).encode())).context == {"ref": value}
    jsonschema.Draft202012Validator(PredictRequest.model_json_schema()).validate(sent)


def test_all_faults_are_named_at_once() -> None:
    data = b'{"user_id": "", "candidates": [{"item_id": 0, "category_id": 0, "x": 1}, {"item_id": 1}], "foo": 1}'
    assert set(faults(data)) == {
        "user_id",
        "candidates[0].item_id",
        "candidates[0].x",
        "candidates[1].category_id",
        "foo",
    }


def test_an_answer_names_at_most_so_many_faults() -> None:
    assert len(faults(body(candidates=[{"item_id": 0, "category_id": 0}] * 30))) == MAX_FAULTS


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"null,", b"NaN", b"\xff", b'{"user_id": "\\ud800"}', b"[" * 50_000, b'{"a" 1}', b"\xef\xbb\xbf{}"],
)  # fmt: skip
def test_what_is_not_json(data: bytes) -> None:
    with pytest.raises(MalformedBody):
        decode_request(data)


@pytest.mark.parametrize("pad", [b"", b" " * NAMED_WITHIN_BYTES], ids=["short", "long"])
@pytest.mark.parametrize("text", [b'{"user_id": "\\ud800"}', b'{"candidates": [], "user": {"a": "\\udbff"}}'])
def test_half_of_a_surrogate_pair_is_told_as_that(text: bytes, pad: bytes) -> None:
    with pytest.raises(MalformedBody, match=r"surrogate pair|hex escape") as refused:
        decode_request(text + pad)
    assert "truncated" not in str(refused.value)
    at = int(re.search(r"\(byte (\d+)\)", str(refused.value))[1])  # type: ignore[index]
    assert text.index(b"\\u") < at < len(text)


@pytest.mark.parametrize("pad", [b"", b" " * NAMED_WITHIN_BYTES], ids=["short", "long"])
@pytest.mark.parametrize(("members", "field"), [(b'"": 1', '""'), (b'"user": {"": 1, "": 2}', 'user.""')])
def test_a_member_without_a_name_is_not_the_body(members: bytes, field: str, pad: bytes) -> None:
    sent = b'{"user_id": "u", "candidates": [{"item_id": 1, "category_id": 2%s}]'
    assert list(faults(sent % b"" + b", " + members + b"}" + pad)) == [field]
    assert list(faults(sent % b', "": 3' + b"}" + pad)) == ['candidates[0].""']


@pytest.mark.parametrize("number", ["1e999", "9" * 5000])
def test_a_number_that_no_field_could_take_is_invalid_and_not_malformed(number: str) -> None:
    assert faults(b'{"user_id": "u", "candidates": [{"item_id": %s, "category_id": 0}]}' % number.encode())


def padded(data: bytes) -> bytes:
    return data + b" " * NAMED_WITHIN_BYTES


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b'{"user_id": 5, "foo": 1}', "user_id"),
        (b'{"Foo`": 1, "user_id": 5}', "Foo`"),
        (b"[]", "(body)"),
        (b'{"candidates": [{"item_id": 1, "category_id": 2}, 5]}', "candidates[1]"),
        (b'{"candidates": [{"item_id": 1}]}', "candidates[0].category_id"),
        (b'{"user_id": "u", "candidates": [{"item_id": 1.5, "category_id": 1}]}', "candidates[0].item_id"),
    ],
)
def test_of_a_long_body_the_first_fault_is_named(data: bytes, field: str) -> None:
    assert list(faults(padded(data))) == [field]


@pytest.mark.parametrize("pad", [b"", b" " * NAMED_WITHIN_BYTES], ids=["short", "long"])
@pytest.mark.parametrize("text", [b'{"user_id": "caf\xe9"', b'{"user_id": "u", "context": {"city": "K\xf6ln"}'])
def test_a_text_that_is_not_utf_8_is_found_in_the_body(text: bytes, pad: bytes) -> None:
    at = next(i for i, byte in enumerate(text) if byte > 127)
    with pytest.raises(MalformedBody, match=rf"a text is not UTF-8 \(byte {at}\)$"):
        decode_request(text + b', "candidates": [{"item_id": 1, "category_id": 2}]}' + pad)


def test_a_long_body_that_is_broken_behind_its_first_fault_is_malformed() -> None:
    with pytest.raises(MalformedBody):
        decode_request(padded(b'{"user_id": 5, "candidates": [') + b"}")


LIST = b'[{"item_id": %s, "category_id": 2}]'


@pytest.mark.parametrize("item", [b"7", b'"7"', b"7.0"], ids=["plain", "a string", "a float"])
@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        (b"user", b'{"city": "ulm"}', b"{}"),
        (b"context", b"{}", b'{"hour": 3, "context": ":\\":"}'),
        (b"user_id", b'"v"', b'"u"'),
        (b"candidates", LIST % b"8", LIST % b"9"),
        (b"use\\u0072", b"{}", b"{}"),
    ],
)
def test_a_name_that_is_repeated_is_named_whatever_its_values(
    name: bytes, first: bytes, last: bytes, item: bytes
) -> None:
    shown = json.loads(b'"%s"' % name)
    others = {"user_id": b'"u"', "candidates": LIST % item, "user": b'{"user": ":"}'}
    others.pop(shown, None)
    members = b", ".join(b'"%s": %s' % (other.encode(), value) for other, value in others.items())
    once = b'{"%s": %s, %s}' % (name, last, members)
    assert decode_request(once).user_id == "u"
    twice = b'{"%s":%s,%s' % (shown.encode(), first, once[1:])
    assert faults(twice) == {shown: "given more than once: keep one"}
    assert faults(twice[:-1] + b" " * NAMED_WITHIN_BYTES + b"}") == {shown: "given more than once: keep one"}


def test_every_repeated_name_is_named() -> None:
    twice = body(context={"a": 9}, user={})[:-1] + b", " + body(request_id="r", user={})[1:]
    assert list(faults(twice)) == ["user_id", "candidates", "user"]


REPEATED = "given more than once: keep one"
PLAIN = b'"candidates": [{"item_id": 1, "category_id": 2}]'


@pytest.mark.parametrize(
    ("members", "named"),
    [
        (b'"candidates": [{"item_id": 1, "item_id": 2, "category_id": 3}]', "candidates[0].item_id"),
        (b'"candidates": [{"item_id": 1, "category_id": 3}, {"item_id": 1, "category_id": 3, "category_id": 4}]',
         "candidates[1].category_id"),
        (PLAIN + b', "user": {"age": "a", "plan": 1, "age": "b"}', "user.age"),
        (PLAIN + b', "context": {"a:b": 1, "a:b": 1}', "context.a:b"),
        (PLAIN + b', "context": {"hour": 3, "hou\\u0072": 3}', "context.hour"),
    ],
)  # fmt: skip
def test_a_name_that_a_candidate_or_the_fields_repeat_is_named(members: bytes, named: str) -> None:
    assert faults(b'{"user_id": "u", %s}' % members) == {named: REPEATED}
    assert faults(b'{"user_id": "u", %s%s}' % (b" " * NAMED_WITHIN_BYTES, members)) == {named: REPEATED}


def test_a_colon_in_a_name_or_a_text_is_no_repetition() -> None:
    read = decode_request(
        b'{"user_id": "u:v", "context": {"a:b": 1, "at": "12:30:00", "of": ["x:", ":y"]}, %s}' % PLAIN
    )
    assert read.context == {"a:b": 1, "at": "12:30:00", "of": ["x:", ":y"]}
    assert faults(b'{"user_id": "u", "candidates": [{"item_id": "1:2", "category_id": 2}]}').keys() == {
        "candidates[0].item_id"
    }


ids = st.one_of(
    st.integers(-2, 3), st.integers(0, MAX_ID), st.sampled_from([MAX_ID, MAX_ID + 1, "5", "0", "x", 1.0, True])
)
candidates = st.lists(
    st.fixed_dictionaries({"item_id": ids, "category_id": ids}, optional={"x": st.none()}), min_size=0, max_size=4
)
scalars = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(), st.booleans(), st.text(max_size=3), st.none()
)
values = st.one_of(scalars, st.lists(scalars, max_size=3), st.lists(st.just(1), min_size=64, max_size=65))
requests = st.fixed_dictionaries(
    {"user_id": st.one_of(st.text(max_size=5), st.text("ü", min_size=63, max_size=65)), "candidates": candidates},
    optional={
        "request_id": st.one_of(st.none(), st.text(max_size=3), st.integers()),
        "user": st.dictionaries(st.text(max_size=2), values, max_size=2),
        "context": st.dictionaries(st.text(max_size=2), values, max_size=2),
        "require_state": st.one_of(st.booleans(), st.integers(0, 1)),
        "foo": st.none(),
    },
)  # fmt: skip


@given(requests)
def test_the_fast_decoder_never_disagrees_with_the_models(value: dict[str, Any]) -> None:
    data = json.dumps(value).encode()
    try:
        expected = PredictRequest.model_validate(value)
    except ValidationError:
        named = faults(data)
        assert len(faults(padded(data))) == 1
        assert faults(padded(data)).keys() <= named.keys()
        return
    got = decode_request(data)
    assert repr(got) == repr(decode_request(padded(data)))
    assert got.item_ids.tolist() == [candidate.item_id for candidate in expected.candidates]
    assert got.category_ids.tolist() == [candidate.category_id for candidate in expected.candidates]
    assert (got.user_id, got.request_id, got.require_state) == (
        expected.user_id,
        expected.request_id,
        expected.require_state,
    )
    assert (got.user, got.context) == (expected.user, expected.context)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(
        st.sampled_from(["user_id", "candidates", "item_id", "category_id", "context", "request_id", "x"]), inner,
        max_size=5,
    )),
    max_leaves=12,
)  # fmt: skip


@given(st.one_of(json_values.map(lambda value: json.dumps(value).encode()), st.binary(max_size=40)))
def test_any_bytes_are_a_request_or_a_named_mistake_of_the_caller(data: bytes) -> None:
    mistakes: list[FieldFault] = []
    try:
        assert isinstance(decode_request(data), ScoreRequest)
    except MalformedBody as error:
        mistakes = [FieldFault("body", error.detail)]
    except InvalidRequest as error:
        mistakes = error.faults
        assert mistakes
    assert all(fault.field and fault.message for fault in mistakes)


@given(st.integers(0, MAX_ID + 1000), st.integers(1, 40))
def test_the_pattern_of_decimal_ids_is_exact(value: int, zeros: int) -> None:
    assert bool(ID.fullmatch(str(value))) == (value <= MAX_ID)
    assert not ID.fullmatch("0" * zeros + str(value))


def test_an_answer_is_what_its_schema_says() -> None:
    scores = np.array([0.25, 0.1], np.float32)
    report = StateReport(Status.STALE, 4, None, partial=True)
    encoded = encode_answer("r", "tiny", "1", scores, report, arm="serving", calibrated=True)
    answer = PredictResponse.model_validate_json(encoded)
    assert np.array_equal(np.array(answer.scores, np.float32), scores)
    assert json.loads(encoded)["state"] == {"status": "stale", "events": 4, "age_ms": None, "partial": True}
    assert (answer.model.name, answer.model.version) == ("tiny", "1")


def test_a_problem_is_what_its_schema_says() -> None:
    encoded = encode_problem(422, "Unprocessable Content", "invalid_request", "no", [FieldFault("a[0]", "bad")])
    problem = Problem.model_validate_json(encoded)
    assert problem.errors is not None
    assert problem.errors[0].field == "a[0]"
    assert Problem.model_validate_json(encode_problem(503, "t", "overloaded", "d")).errors is None
