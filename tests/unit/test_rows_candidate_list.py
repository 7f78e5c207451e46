"""Candidates of a request that compiled code reads: only plain bodies, and each with the general decoder's result."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimn.rows.candidate_list import CandidateList, candidate_list
from rtp.doors.request_body import decode_request
from rtp.errors import InvalidRequest, MalformedBody
from support import skips

ONE = '{"item_id":1,"category_id":2}'
MOST = 4


def reader() -> CandidateList:
    read = candidate_list(MOST)
    if read is None:
        pytest.skip(skips.NO_COMPILED_STEP)
    return read


@pytest.mark.parametrize(
    ("text", "ids", "rest"),
    [
        (f'{{"user_id":"u","candidates":[{ONE}]}}', [(1, 2)], '{"user_id":"u","candidates":null}'),
        (
            ' {"candidates" :\n[ { "category_id" : 0 ,\t"item_id" : 9999999999999999999\r} , ' + ONE + " ] , more",
            [(9999999999999999999, 0), (1, 2)],
            ' {"candidates" :\nnull , more',
        ),
        (
            '{"candidates":[{"item_id" : "18446744073709551615" , "category_id":"0"},{"item_id":"1","category_id":2}]}',
            [(18446744073709551615, 0), (1, 2)],
            '{"candidates":null}',
        ),
        (f'{{"candidates":[{",".join([ONE] * MOST)}],"context":{{"a":[1]}}', [(1, 2)] * MOST, None),
    ],
)
def test_plain_candidates_are_read_and_the_rest_is_left(
    text: str, ids: list[tuple[int, int]], rest: str | None
) -> None:
    plain = reader().read(text.encode())
    assert plain is not None
    assert plain.item_ids.dtype == plain.category_ids.dtype == np.uint64
    assert list(zip(plain.item_ids.tolist(), plain.category_ids.tolist(), strict=True)) == ids
    if rest is not None:
        assert plain.rest == rest.encode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" + ONE + "]",
        '{"candidates":[]}',
        '{"candidates":' + ONE + "}",
        '{"candidates":[' + ",".join([ONE] * (MOST + 1)) + "]}",
        '{"candidates":[' + ONE,
        '{"candidates":[{"item_id":01,"category_id":2}]}',
        '{"candidates":[{"item_id":"01","category_id":2}]}',
        '{"candidates":[{"item_id":18446744073709551616,"category_id":2}]}',
        '{"candidates":[{"item_id":1,"item_id":1}]}',
        '{"candidates":[{"item_id":1,"category_id":2,"category_id":2}]}',
        '{"candidates":[{"item_id":1,"category_id":2,"more":2}]}',
        '{"candidates":[' + ONE + '],"candidates":[]}',
        '{"user":{"candidates":[' + ONE + "]}}",
        '[{"candidates":[' + ONE + "]}]",
        '{"user_id":"\\"","candidates":[' + ONE + "]}",
        '{"candid\\u0061tes":[],"candidates":[' + ONE + "]}",
    ],
)
def test_other_candidates_are_left_to_the_general_decoder(text: str) -> None:
    assert reader().read(text.encode()) is None


@pytest.mark.parametrize("length", range(60))
def test_a_text_that_ends_early_is_not_read_beyond_its_end(length: int) -> None:
    text = ('{"user_id":"u","candidates":[' + ONE + "]").encode()
    assert reader().read(text[: min(length, len(text) - 1)]) is None


_FRAGMENTS = [
    '"candidates"', '"candidates":', '"item_id":', '"category_id":', '"item_id"', '"user_id":"u"', "{", "}", "[", "]",
    ",", ":", '"', "\\", "\\u0061", "0", "7", "-", ".", "e1", "null", "[]", "true", ONE, "," + ONE, " ", "\n", "\x00",
    '"candid\\u0061tes":[],', '"user":{},', '"context":{"a":1},', '"require_state":true,', '"request_id":"r",', "ü",
    "18446744073709551615", "18446744073709551616", '"candidates":null,', '"candidates":[],', '"x":1,',
]  # fmt: skip
_IDS = st.one_of(
    st.integers(0, 9), st.integers(0, 2**64), st.integers(0, 2**64).map(str), st.sampled_from(["01", "", " 1", 1.0])
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Requests, most of them right and plain, some with pieces cut out and put in."""
    of_ids = draw(st.sampled_from([st.integers(1, 2**63), _IDS]))
    value = {
        "user_id": draw(st.sampled_from(["u", "ü", '"', "candidates", "{[", "", "u" * 129])),
        "candidates": [
            dict(draw(st.permutations([("item_id", draw(of_ids)), ("category_id", draw(of_ids))])))
            for _ in range(draw(st.integers(0, 3)))
        ],
    } | draw(
        st.dictionaries(
            st.sampled_from(["user", "context", "request_id", "require_state", "other"]),
            st.sampled_from([{}, {"candidates": 3}, {"candidates": [json.loads(ONE)]}, "r", True, None, {"a": "[{"}]),
            max_size=2,
        )
    )
    members = dict(draw(st.permutations(list(value.items()))))
    spaces = draw(st.sampled_from([None, (",", ":"), (" ,\n", "\t: ")]))
    text = json.dumps(members, separators=spaces, ensure_ascii=draw(st.booleans()))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 4]))):
        at = draw(st.integers(0, len(text)))
        gone = draw(st.sampled_from([0, 0, 1, 2, 9, 30]))
        text = text[:at] + draw(st.sampled_from([*_FRAGMENTS, ""])) + text[at + gone :]
    return text.encode()


def outcome(body: bytes | bytearray) -> tuple[Any, ...]:
    """What a body is decoded to, or why it is refused."""
    try:
        request = decode_request(body)
    except MalformedBody as error:
        return "malformed", str(error)
    except InvalidRequest as error:
        return "invalid", error.faults
    of_ids = (request.item_ids.tolist(), request.category_ids.tolist())
    return request.user_id, of_ids, request.request_id, request.user, request.context, request.require_state


@given(bodies())
def test_an_accepted_body_names_each_member_once(body: bytes) -> None:
    if outcome(body)[0] not in ("malformed", "invalid"):
        names = [name for name, _ in json.loads(body, object_pairs_hook=list)]
        assert len(names) == len(set(names))


@given(bodies())
def test_a_body_has_one_result_however_it_is_read(body: bytes) -> None:
    # Of a bytearray no candidates are read by compiled code.
    assert outcome(body) == outcome(bytearray(body))


def test_a_usual_body_is_plain() -> None:
    """So that the test above compares two ways."""
    candidates = [json.loads(ONE), {"item_id": "1", "category_id": "2"}] * (MOST // 2)
    value = {"user_id": "u", "candidates": candidates, "context": {"hour": 3}, "request_id": "r"}
    for spaces in (None, (",", ":")):
        assert reader().read(json.dumps(value, separators=spaces).encode()) is not None
