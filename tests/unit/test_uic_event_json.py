"""Which JSON is an event: what proto3 JSON allows, and nothing that would have to be guessed."""

from __future__ import annotations

import json
import re
from fractions import Fraction

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from ctr.event.v1.behavior_event_pb2 import Action, BehaviorEvent
from uic.core.event import Reason, decode, explain

NOW_MS = 1_700_000_000_000
AS_JSON = [("content-type", b"application/json")]


def value(**tokens: str) -> bytes:
    """An event, each field as the text of JSON."""
    usual = {"userId": '"ann"', "itemId": "5", "eventTime": str(NOW_MS)}
    return ("{" + ",".join(f'"{name}":{token}' for name, token in (usual | tokens).items()) + "}").encode()


def read(content: bytes) -> tuple[int, int, int, int] | Reason:
    return decode(content, AS_JSON, "ann", NOW_MS)


@pytest.mark.parametrize(
    ("tokens", "field"),
    [
        ({"item_id": "6"}, "item_id: is there twice"),
        ({"user_id": '"ann"'}, "user_id: is there twice"),
        ({"action": "true"}, "action"),
        ({"action": "6.9"}, "action"),
        ({"action": '"05"'}, "action"),
        ({"action": '"\u0662"'}, "action"),
        ({"itemId": '"1_000"'}, "itemId"),
        ({"itemId": r'"\t12\n"'}, "itemId"),
        ({"itemId": "9007199254740993.0"}, "itemId: has a fraction or an exponent"),
        ({"itemId": "1.5154266338359e19"}, "itemId: has a fraction or an exponent"),
        ({"itemId": "5.00000000000000000000001"}, "itemId: is not an integer"),
        ({"itemId": "1e999999999"}, "itemId"),
        ({"itemId": "1e-999999999"}, "itemId"),
        ({"itemId": "1e9999999999999999999999"}, "itemId"),
        ({"itemId": '"' + "1" * 5000 + '"'}, "itemId"),
        ({"itemId": "1" * 5000}, "value"),
        ({"itemId": "[" * 20_000 + "]" * 20_000}, "value"),
        ({"userId": "5.0"}, "userId"),
        ({"eventTime": "1e19"}, "eventTime"),
    ],
)
def test_what_would_have_to_be_guessed_is_no_event(tokens: dict[str, str], field: str) -> None:
    assert read(value(**tokens)) is Reason.MALFORMED_JSON
    assert explain(Reason.MALFORMED_JSON, value(**tokens)).startswith(field)


@pytest.mark.parametrize(
    ("tokens", "item", "action"),
    [
        ({"itemId": "1e3", "action": "1.0"}, 1000, 1),
        ({"itemId": '"1e3"', "action": "2"}, 1000, 2),
        ({"itemId": "5.0", "action": "0"}, 5, 0),
        ({"itemId": '"0012"', "action": "null"}, 12, 0),
        ({"itemId": "1200e-2", "action": '"ACTION_CLICK"'}, 12, Action.ACTION_CLICK),
        ({"itemId": "9007199254740991.0"}, 2**53 - 1, 0),
        ({"itemId": "9007199254740993"}, 2**53 + 1, 0),
        ({"itemId": '"18446744073709551615"'}, 2**64 - 1, 0),
        ({"itemId": r'"\u0035"'}, 5, 0),
    ],
)
def test_the_forms_that_proto3_json_allows_are_read(tokens: dict[str, str], item: int, action: int) -> None:
    assert read(value(**tokens)) == (item, 0, NOW_MS, action)


def test_a_name_that_the_enum_does_not_have_is_an_unknown_action_only_if_all_else_is_sound() -> None:
    assert read(value(action='"ACTION_LATER"')) is Reason.UNKNOWN_ACTION
    assert read(value(action='"click"')) is Reason.UNKNOWN_ACTION
    assert read(value(action='"ACTION_LATER"', item_id="6")) is Reason.MALFORMED_JSON
    assert read(value(action='"ACTION_LATER"', categoryId="1.5")) is Reason.MALFORMED_JSON


def test_a_detail_repeats_no_value() -> None:
    for name in ("eventId", "itemId", "action"):
        for secret in ('"secret_1"', '["secret"]', '"77_77"', "77.77"):
            content = value(**{name: secret})
            if read(content) is Reason.MALFORMED_JSON:
                assert not re.search("secret|77", explain(Reason.MALFORMED_JSON, content))


def meant(token: str) -> int | None:
    """The integer that the text of JSON is by proto3 JSON's rules and ours, by fractions; None: none."""
    quoted = token.startswith('"')
    whole = r"-?[0-9]+" if quoted else r"-?(0|[1-9][0-9]*)"
    text = token.strip('"')
    if not re.fullmatch(whole + r"(\.[0-9]+)?([eE][+-]?[0-9]+)?", text):
        return None
    number = Fraction(text)
    if number.denominator != 1 or not 0 <= number < 2**64:
        return None
    return int(number) if abs(number) < 2**53 or text.isdigit() else None


@st.composite
def number_tokens(draw: st.DrawFn) -> str:
    """Numbers as producers may write them, near the bounds too, now and then with a character that does not belong."""
    near = st.sampled_from([0, 1, 5, 2**53, 2**63, 2**64]).flatmap(lambda n: st.integers(max(n - 2, 0), n + 2))
    text = draw(st.sampled_from(["", "", "", "-", "+", "0"])) + str(draw(near))
    text += draw(st.sampled_from(["", "", "", ".0", ".5", ".", ".000000000000000000001"]))
    text += draw(st.sampled_from(["", "", "", "e0", "E3", "e-1", "e+1", "e", "e400"]))
    quoted = draw(st.booleans())
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(text)))
        odd = [*" _xe.,-", "0", "\u0661", "\uff11", *([r"\t", r"\n", r"\u0031"] if quoted else [])]
        text = text[:at] + draw(st.sampled_from(odd)) + text[at:]
    return f'"{text}"' if quoted else text


@given(number_tokens())
def test_an_integer_is_read_exactly_or_not_at_all(token: str) -> None:
    try:
        shown = json.loads(token) if token.startswith('"') else token.strip(" ")
        expected = meant(json.dumps(shown, ensure_ascii=False) if token.startswith('"') else shown)
    except ValueError:
        expected = None
    found = read(value(itemId=token))
    if expected is None:
        assert found is Reason.MALFORMED_JSON
    elif expected == 0:
        assert found is Reason.ITEM_ZERO
    else:
        assert found == (expected, 0, NOW_MS, 0)


NAMES = [name for field in BehaviorEvent.DESCRIPTOR.fields for name in dict.fromkeys((field.json_name, field.name))]
ANY = """null true {} [] "" "ann" "e" 5 0 1.0 2.5 -1 1e2 "7" "07" "1_0" NaN "ACTION_VIEW" "A" "\\ud800" "\u0661" """
TOKENS = st.sampled_from([*ANY.split(), str(NOW_MS)])
USUAL = [("userId", '"ann"'), ("eventTime", str(NOW_MS)), ("itemId", "5")]


@given(st.integers(0, 3), st.lists(st.tuples(st.sampled_from(NAMES), TOKENS | number_tokens()), max_size=4))
def test_what_is_read_is_what_protobufs_own_parser_reads_and_never_more(
    usual: int, more: list[tuple[str, str]]
) -> None:
    pairs = [*USUAL[:usual], *more]
    content = ("{" + ",".join(f'"{name}":{token}' for name, token in pairs) + "}").encode()
    found = read(content)
    if isinstance(found, tuple):
        own = json_format.Parse(content, BehaviorEvent())
        assert found == (own.item_id, own.category_id, own.event_time, own.action)
    fields = [BehaviorEvent.DESCRIPTOR.fields_by_camelcase_name.get(name, name) for name, _ in pairs]
    names = [field if isinstance(field, str) else field.name for field in fields]
    if len(set(names)) < len(names):
        assert found is Reason.MALFORMED_JSON
