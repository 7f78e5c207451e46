"""Every decoder that reads what others wrote, as the fuzzer sees it: what it takes, what it may raise, real seeds.

A target's `decode` goes as far as the service goes with the same bytes, so that what a decoder lets through is used,
and an error that it raises is told to its caller. Add a decoder here, and `make fuzz` and CI fuzz it.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from uuid import UUID
from zlib import crc32

import grpc
import msgspec
import numpy as np
from google.protobuf import json_format
from kafka.errors import CorruptRecordError

from access.keys import MAX_FILE_BYTES, BadKeys, Scope, make_key, parse_keys
from ctr.event.v1.behavior_event_pb2 import ACTION_CLICK, BehaviorEvent
from ctr.uic.v1 import uic_service_pb2 as pb
from mimn.bundle import BundleError, load_bundle
from mimn.bundle.bundle import MAX_MANIFEST_BYTES
from mimn.bundle.fields import FieldSpec
from mimn.bundle.manifest import decode_manifest
from mimn.bundle.request_fields import RequestFields
from mimn.release import (
    BUCKETS,
    MAX_RECORD_BYTES,
    CorruptRecord,
    decode_record,
    encode_record,
    table,
)
from mimn.release.rollout import left_behind
from mimn.rows import stored
from mimn.rows.library import library
from mimn.rows.records import BatchHeader, parse_batch
from mimn.state import (
    Block,
    CorruptProgress,
    Keys,
    StateError,
    StateHeader,
    StateLayout,
    UserState,
    decode_progress,
    decode_state,
    encode_state,
    user_hash,
)
from mimn.state.codec import HEADER_BYTES
from rtp.core.fields import request_vector
from rtp.doors.problems import STATUS_TABLE, problem
from rtp.doors.request_body import decode_request
from rtp.errors import InvalidRequest, RtpError
from rtp.progress_watcher import NoNamespace, decode_meta
from uic.bulk.history import PLACE, Place, decode_place, encode_place
from uic.bulk.importing import There
from uic.core.commit import judge
from uic.core.event import MAX_VALUE_BYTES, Reason, check_key, decode, explain
from uic.core.header_places import write_place
from uic.core.letters import Letter, to_wire
from uic.core.record_headers import write_headers, zigzag
from uic.core.records import BatchRecord, Records
from uic.core.start_position import LogBounds, Mint, start_position
from uic.doors.arrival import parse_request
from uic.doors.servicer import UserInterestCenter
from uic.log.batch_hook import read_batch
from uic.log.erasures import Erasure, UnreadableErasure, decode_erasure, encode_erasure
from uic.log.producer import Position
from uic.log.record_batches import Malformed
from uic.log.topic_reader import LogRecord
from uic.metrics import Metrics
from uic.settings import GrpcSettings
from uic.store import read_meta
from uic.tools.letter_display import describe, summary
from uic.tools.letter_reading import NotALetter, read_letter
from uic.tools.letter_replay import decode_origin, not_replayable, replayed

TESTS: Final = Path(__file__).parents[1]
TINY: Final = TESTS / "fixtures/bundle_tiny/tiny/1"
CORPUS: Final = Path(__file__).parent / "corpus"
NOW_MS: Final = 1_700_000_000_000
USER: Final = "ann"
N: Final = 8
BUNDLE: Final = load_bundle(TINY)
FINGERPRINT: Final = bytes(range(32))
LAYOUT32: Final = StateLayout((Block("memory", (2, 3)), Block("controller", (4,))))
LAYOUT16: Final = StateLayout((Block("memory", (2, 4), "float16"), Block("counts", (3,))))


@dataclass(frozen=True)
class Target:
    """One decoder."""

    name: str
    decode: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    """What it may raise; anything else is a crash."""
    seeds: tuple[bytes, ...]
    max_bytes: int
    """What its door lets in; for records of the log, which may be larger and take time by their size, what is tried."""
    words: tuple[bytes, ...] = ()
    """Pieces of its format, to splice in."""
    seal: Callable[[bytes], bytes] | None = None
    """Makes the checksum of mutated bytes fit, so that what lies behind the check is reached."""

    @property
    def corpus(self) -> dict[str, bytes]:
        """Cases that were found once, by name."""
        folder = CORPUS / self.name
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())} if folder.exists() else {}


JSON_WORDS: Final = (
    b"{", b"}", b"[", b"]", b",", b":", b'""', b"null", b"true", b"false", b"0", b"-0", b"-1", b"1e308", b"1e309",
    b"1.5", b"18446744073709551615", b"18446744073709551616", b"9" * 400, b'"\\u0000"',
    b'"\\udc00\\ud800"', b'"\\ud800"',
    b"NaN", b"Infinity", b"\xef\xbb\xbf", b"\xc3\xa9", b"e\xcc\x81", b"\xed\xa0\x80", b"\xff", b'{"":', b'[{"":',
)  # fmt: skip


# The store's values


def _state(value: bytes) -> None:
    """It is a state of one of two layouts, or an error by both."""
    wrong = []
    for layout in (LAYOUT32, LAYOUT16):
        try:
            state = decode_state(value, FINGERPRINT, layout, user_hash(USER))
        except StateError as error:
            wrong.append(error)
            assert _refuses(value, layout), "C decodes what Python refuses"
            continue
        compiled = stored.decode(value, FINGERPRINT, layout, user_hash(USER))
        half = layout.half_floats  # a float16 that signals that it is no number has other bits by F16C than by numpy
        np.testing.assert_array_equal(compiled.tensors[:half], state.tensors[:half])
        assert compiled.tensors[half:].tobytes() == state.tensors[half:].tobytes()
        assert state.tensors.shape == (layout.floats,)
        with np.errstate(all="ignore"):  # a float16 that is no number stays none
            encode_state(state, FINGERPRINT, layout)
    if len(wrong) == 2:
        raise wrong[0]


def _refuses(value: bytes, layout: StateLayout) -> bool:
    try:
        stored.decode(value, FINGERPRINT, layout, user_hash(USER))
    except StateError:
        return True
    return False


def _seal_state(value: bytes) -> bytes:
    if len(value) < HEADER_BYTES:
        return value
    return value[:44] + struct.pack("<I", crc32(value[48:], crc32(value[:44]))) + value[48:]


def _a_state(layout: StateLayout, zeros: float = 0) -> bytes:
    header = StateHeader(user_hash(USER), 7, 1, 41, 3, NOW_MS, bytes(range(8)), partial=True)
    tensors = layout.round(np.linspace(-1, 1, layout.floats, dtype=np.float32))
    tensors[: round(zeros * layout.floats)] = 0
    return encode_state(UserState(header, tensors), FINGERPRINT, layout)


BOUNDS: Final = (LogBounds(0, 50, bytes(16)), LogBounds(5, 2**62, bytes([7]) * 16))
MINT: Final = Mint(N, "earliest", 5, 6)
GOLDEN: Final = {path.stem: path.read_bytes() for path in (TESTS / "golden").iterdir()}


def _rollout(value: bytes) -> None:
    """RTP routes by it, and the tool looks at every rollout."""
    record = decode_record(value)
    assert (
        len(table(arm.buckets for arm in record.arms)) == len(table(arm.buckets for arm in record.shadows)) == BUCKETS
    )
    assert record.serving in record.held
    for rollout in record.rollouts:
        left_behind(record, rollout)
    assert decode_record(encode_record(record)) == record


def _seal_rollout(value: bytes) -> bytes:
    document = value[16:]
    return value[:8] + struct.pack("<II", len(document), crc32(document)) + document


def _progress(record: bytes) -> None:
    judge(record, GOLDEN["progress"], None)
    judge(GOLDEN["progress"], record, None)
    for bounds in BOUNDS:
        start_position(record, bounds, MINT)
    decode_progress(record)


def _seal_progress(record: bytes) -> bytes:
    return record[:-4] + struct.pack("<I", crc32(record[:-4]))


KEYS: Final = Keys("0011223344556677-0", "uic")


def _meta(value: bytes) -> None:
    read_meta(value)
    partitions, _ = decode_meta(value, KEYS)
    assert 1 <= partitions <= 1 << 16


# The log's records


def _event_under(headers: Sequence[tuple[str, bytes]]) -> Callable[[bytes], None]:
    def event(value: bytes) -> None:
        found = decode(value, headers, USER, NOW_MS, text_ids=True)
        if isinstance(found, Reason):
            detail = explain(found, value, headers)
            assert detail.isprintable()
            assert len(detail.encode()) < 1024
        else:
            assert 0 < found[0] < 2**64
            assert 0 <= found[1] < 2**64

    return event


def _an_event(**fields: Any) -> BehaviorEvent:
    told = {"event_id": "e1", "user_id": USER, "item_id": 2**64 - 1, "category_id": 7, "action": ACTION_CLICK}
    return BehaviorEvent(**{**told, "event_time": NOW_MS, **fields})


EVENT: Final = _an_event()
LATER: Final = EVENT.SerializeToString() + b"\xfa\x01\x03new"
AS_JSON: Final = (("content-type", b"application/json"),)


def _batch(data: bytes) -> Any:
    """A batch whose frame, which the client library has checked, says that `data` holds as many records as its first
    byte counts; above 127, that they count from the least time there is."""
    first = data[0] if data else 0
    return SimpleNamespace(
        magic=2, base_offset=5, first_timestamp=-(2**63) if first > 127 else NOW_MS, max_timestamp=NOW_MS,
        timestamp_type=0, LOG_APPEND_TIME=1, records_count=first % 128, compression_type=0, _buffer=data[1:], _pos=0,
    )  # fmt: skip


def _records(data: bytes) -> None:
    """Compiled code, which reads large batches, leaves what it does not read as Python does."""
    batch, built = _batch(data), library()
    header = BatchHeader(batch.base_offset, batch.first_timestamp, None, batch.records_count)
    columns = None if built is None else parse_batch(built, header, batch._buffer)
    found = read_batch(batch)
    assert columns is None or list(Records(columns, (batch._buffer,))) == list(found)
    np.array([(record.offset, record.timestamp) for record in found], np.int64)  # as the fold's columns hold them
    for record in found:
        check_key(record.key)
        to_wire(Letter.of(record, Reason.MALFORMED_JSON, "events", 3), 1 << 20)


def record_bytes(records: Sequence[BatchRecord]) -> bytes:
    """What `_records` reads as these."""
    body = b""
    for record in records:
        inner = b"\0" + zigzag(record.timestamp - NOW_MS) + zigzag(record.offset - 5)
        inner += b"".join(
            zigzag(-1) if some is None else zigzag(len(some)) + some for some in (record.key, record.value)
        )
        inner += write_headers(record.headers)
        body += zigzag(len(inner)) + inner
    return bytes([len(records)]) + body


SOME_RECORDS: Final = (
    BatchRecord(5, NOW_MS, b"ann", EVENT.SerializeToString(), []),
    BatchRecord(6, NOW_MS + 70, b"bob", None, [("content-type", b"application/json"), ("trace", None)]),
    BatchRecord(9, NOW_MS - 5, None, b"v" * 200, [("\u00e9", b"")]),
)


def _letter(data: bytes) -> None:
    """A record of the dead-letter topic: arbitrary headers, and UIC's if the seed's survive."""
    try:
        records = read_batch(_batch(data))
    except (Malformed, CorruptRecordError) as error:
        raise NotALetter(str(error)) from error
    for r in records:
        headers: Any = tuple(r.headers)
        letter = read_letter(LogRecord("events.dlq", 3, r.offset, r.timestamp, r.key, r.value, headers))
        summary(letter)
        for line in describe(letter):
            assert line.isprintable(), line
        if not_replayable(letter, "events") is None:
            assert 0 <= replayed(letter, N).partition < N


def a_letter(key: bytes | None, value: bytes | None, room: int = 1 << 20) -> BatchRecord:
    """A dead letter, as a record."""
    letter = Letter(Reason.ITEM_ZERO, "events", 3, 41, NOW_MS, key, value, (("trace", b"x"), *AS_JSON))
    wire_key, wire_value, headers = to_wire(letter, room)
    return BatchRecord(5, NOW_MS, wire_key, wire_value, [*headers])


def _header_place(value: bytes) -> None:
    """Two headers have this form: that of an imported record, which each import looks at, and that of a replayed one.
    What is read of it is all that it says."""
    record = BatchRecord(5, NOW_MS, b"ann", b"v", [(PLACE, value)])
    There("0011223344556677").add(3, record)
    found, origin = decode_place(value), decode_origin(value)
    assert (found is None) is (origin is None)
    if found is None or origin is None:
        raise NoPlace
    assert encode_place(*found) == value
    assert write_place(*origin) == value
    assert origin.partition < 10**19 > origin.offset


class NoPlace(Exception):
    """The header names no place."""


# What callers send


ONE_MORE: Final = b'{"item_id":1,"category_id":"2"},'
MAX_ANSWER_BYTES: Final = 16 << 10


FIELDS: Final = RequestFields(
    [
        FieldSpec(name="hour", source="context", kind="numeric", transform="log1p"),
        FieldSpec(name="day", source="context", kind="categorical", rows=9, whole=True),
        FieldSpec(name="tags", source="context", kind="multi", rows=30, hashed=True),
        FieldSpec(name="age", source="user", kind="numeric", rows=5, edges=(18.0, 65.0)),
        FieldSpec(name="both", source="context", kind="cross", rows=40, hashed=True, of=("day", "age")),
    ],
    {},
    np.ones((9 + 30 + 5 + 40, 2), np.float32),
)


def _predict(body: bytes) -> None:
    """As the door does: an error is told, and its answer is bounded and JSON."""
    try:
        request = decode_request(body)
        assert np.isfinite(request_vector(FIELDS, request).values).all()
    except RtpError as error:
        told = problem(STATUS_TABLE[type(error)], error)
        said = json.loads(told)
        if len(told) > MAX_ANSWER_BYTES:
            raise ValueError(f"an answer of {len(told)} bytes") from None
        if not said["detail"] or (isinstance(error, InvalidRequest) and not said["errors"]):
            raise ValueError(f"an answer that says nothing: {said}") from None
        raise
    assert len(request.item_ids) == len(request.category_ids) > 0
    try:
        whole = decode_request(bytearray(body))  # of which compiled code reads no candidates
    except RtpError as error:
        raise ValueError("only the shorter way accepts this") from error
    assert request.item_ids.tolist() == whole.item_ids.tolist()
    assert request.category_ids.tolist() == whole.category_ids.tolist()
    assert msgspec.structs.replace(request, item_ids=whole.item_ids, category_ids=whole.category_ids) == whole


def _a_request(**fields: Any) -> bytes:
    told = {"user_id": USER, "candidates": [{"item_id": 3, "category_id": 2}, {"item_id": "17", "category_id": "0"}]}
    return json.dumps({**told, **fields}).encode()


class Aborted(Exception):
    """The call ended with a status."""


class _Call:
    """A servicer's context."""

    code = grpc.StatusCode.OK

    def time_remaining(self) -> float:
        return 1.0

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def set_trailing_metadata(self, metadata: object) -> None:
        return

    def set_code(self, code: grpc.StatusCode) -> None:
        assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND), code
        self.code = code

    def set_details(self, detail: str) -> None:
        assert len(detail.encode()) < 1024, f"a detail of {len(detail)} characters"
        assert bool(detail) == (self.code is not grpc.StatusCode.OK)


class _NoStates:
    def stored_values(self, partition: int, users: Sequence[str]) -> list[bytes | None]:
        return [None for _ in users]


class _Published:
    """In place of the log, whose work is not the decoder's."""

    def publish(self, events: Sequence[tuple[bytes, bytes]], timeout_s: float) -> list[Position]:
        return [Position(0, 0)] * len(events)

    def erase(self, user_id: str, timeout_s: float) -> Position:
        return Position(0, 0)


def _service() -> UserInterestCenter:
    publisher: Any = _Published()
    return UserInterestCenter(
        publisher=publisher,
        states=_NoStates(),
        bundle=BUNDLE,
        partitions=N,
        metrics=Metrics(),
        settings=GrpcSettings(),
        now_ms=lambda: NOW_MS,
    )


METHODS: Final = ("PublishBehaviors", "GetUserState", "EraseUser")
SERVICE: Final = _service()
LOOP: Final = asyncio.new_event_loop()


def _grpc(data: bytes) -> None:
    """The first byte says which method; the rest is its message."""
    method = METHODS[data[0] % len(METHODS)] if data else METHODS[0]
    call: Any = _Call()
    request = parse_request(getattr(pb, f"{method}Request").FromString, data[1:], call)
    if request is not None:
        LOOP.run_until_complete(getattr(SERVICE, method)(request, call))
    if call.code is not grpc.StatusCode.OK:
        raise Aborted


def _a_call(method: str, message: Any) -> bytes:
    return bytes([METHODS.index(method)]) + bytes(message.SerializeToString())


# What operators write


def _keys(content: bytes) -> None:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise BadKeys("is not text") from None
    for lookup, key in parse_keys(text).items():
        assert lookup == key.lookup
        assert key.scopes


def _a_key(i: int) -> str:
    return make_key([Scope.PREDICT, *([Scope.METRICS] if i % 2 else [])], f"ad-server-{i}")[1].line()


TARGETS: Final = (
    Target(
        "state", _state, (StateError,),
        (
            _a_state(LAYOUT32), _a_state(LAYOUT16), _a_state(LAYOUT32, 0.7), _a_state(LAYOUT16, 0.7),
            GOLDEN["state_float32"], GOLDEN["state_float16"], GOLDEN["state_sparse"],
        ),
        4096, (b"UIST", FINGERPRINT[:16]), _seal_state,
    ),
    Target("progress", _progress, (CorruptProgress,), (GOLDEN["progress"],), 4096, (b"UIPR",), _seal_progress),
    Target(
        "rollout", _rollout, (CorruptRecord,), (GOLDEN["rollout"],), MAX_RECORD_BYTES,
        (b"UIRO", *JSON_WORDS, b'"buckets"', b'"state"', b'"canary"', b'"arms"', b"[0,500]", b"10000"), _seal_rollout,
    ),
    Target(
        "meta", _meta, (NoNamespace,),
        (b'{"partitions": 8, "topic": "behavior-events"}', b'{"topic": "t", "partitions": 64, "x": [1, {"a": null}]}'),
        1 << 16, (*JSON_WORDS, b'"partitions"', b'"topic"'),
    ),
    Target(
        "event-protobuf", _event_under(()), (),
        (EVENT.SerializeToString(), LATER, _an_event(event_id="\u00e9" * 32, category_id=0).SerializeToString(),
         _an_event(item_id=0, item_text="sku-1").SerializeToString()),
        2 * MAX_VALUE_BYTES, (b"\x0a", b"\x12\x03ann", b"\x18\x00", b"\x30", b"\xff" * 9 + b"\x01", b"\x0b", b"\x0c"),
    ),
    Target(
        "event-json", _event_under(AS_JSON), (),
        (
            json_format.MessageToJson(EVENT).encode(),
            json_format.MessageToJson(_an_event(item_id=0, item_text="sku-1")).encode(),
            json.dumps({"user_id": USER, "itemId": 5, "eventTime": str(NOW_MS), "new": {"a": [1, None, {}]}}).encode(),
        ),
        2 * MAX_VALUE_BYTES, (*JSON_WORDS, b'"userId"', b'"user_id"', b'"itemId"', b'"action"', b'"ACTION_CLICK"'),
    ),
    Target(
        "record-batch", _records, (Malformed, CorruptRecordError), (record_bytes(SOME_RECORDS),), 1 << 14,
        (b"\xff" * 10, b"\x01"),
    ),
    Target(
        "dead-letter", _letter, (NotALetter,),
        (
            record_bytes([a_letter(b"ann", EVENT.SerializeToString())]),
            record_bytes([a_letter(None, None)]),
            record_bytes([a_letter(b"k" * 900, json_format.MessageToJson(EVENT).encode() * 9, 2000)]),
        ),
        1 << 16, (b"uic-reason", b"uic-offset", b"uic-value-bytes", b"uic-null", b"-1", b"9" * 30, b"1_0", b"\x1b[2J"),
    ),
    Target(
        "header-place", _header_place, (NoPlace,),
        (encode_place("0011223344556677", Place(3, 41)), write_place("behavior-events", 0, 2**63 - 1)),
        1 << 14, (b"/", b"0", b"-1", b"9" * 30, b"1_0", b" 7", "\u0663".encode(), b"\n"),
    ),
    Target(
        "erasure", decode_erasure, (UnreadableErasure,),
        (encode_erasure(Erasure(3, 41, UUID(int=7).bytes)),),
        1 << 16, (*JSON_WORDS, b'"partition"', b'"offset"', b'"topic_id"', b"{00000000-0000-0000-0000-000000000007}"),
    ),
    Target(
        "predict", _predict, (RtpError,),
        (
            _a_request(),
            _a_request(request_id="r", context={"hour": 3.5, "day": 1}, require_state=True),
            _a_request(user={"age": 30}, context={"hour": None, "day": "7", "tags": ["a", 5, True, 2.0]}),
            _a_request(candidates=[{"item_id": i + 1, "category_id": i % 7} for i in range(100)]),
        ),
        1 << 16,
        (*JSON_WORDS, b'"user_id"', b'"candidates"', ONE_MORE, b'"context"', b'"user"', b'"tags"', b'"request_id"',
         b'"require_state"'),
    ),
    Target(
        "grpc", _grpc, (Aborted,),
        (
            _a_call("PublishBehaviors", pb.PublishBehaviorsRequest(events=[EVENT, _an_event(item_id=5, user_id="b")])),
            _a_call("PublishBehaviors", pb.PublishBehaviorsRequest(events=[_an_event(item_id=0)])),
            _a_call("GetUserState", pb.GetUserStateRequest(user_id=USER)),
            _a_call("EraseUser", pb.EraseUserRequest(user_id="\u00e9" * 64)),
        ),
        1 + GrpcSettings().max_message_bytes,
        (b"\x0a\x00", b"\x0a\x03ann", b"\xff" * 9 + b"\x01", b"\x0b", b"\x12", b"\x18"),
    ),
    Target("manifest", decode_manifest, (BundleError,),
        tuple((TESTS / f"fixtures/{name}/manifest.json").read_bytes() for name in
              ("bundle_tiny/tiny/1", "bundle_tiny_context/tiny-context/1", "bundle_tiny_sketch/tiny-sketch/1")),
        MAX_MANIFEST_BYTES, (*JSON_WORDS, b'"shape"', b'"float16"', b'"sketch"', b'"files"', b'"step.onnx"'),
    ),
    Target("keys", _keys, (BadKeys,), ("\n".join(["# keys", *map(_a_key, range(9))]).encode(),), MAX_FILE_BYTES,
        (b"\n", b" ", b"predict", b",", b"#", b"\x00", b"\x85", b"\xe2\x80\xa8", b"0" * 12, b"f" * 64),
    ),
)  # fmt: skip
"""All of them."""
