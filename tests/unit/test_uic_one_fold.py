"""Whole partitions are folded to the same bytes by C and by the graph, whatever the log holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf.json_format import MessageToJson
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from mimn.bundle import load_bundle
from mimn.bundle.fields import code_of
from mimn.bundle.graph import StepGraph, open_step
from mimn.rows.library import library
from mimn.state import Progress, partition_of
from mimn.state.codec import HEADER_BYTES
from support import skips
from uic.bulk.partition_fold import FoldedPartition, fold_partitions
from uic.bulk.partition_log import RECORDS, PartitionLog
from uic.core.event import ERASE_ITEM
from uic.core.model import Model
from uic.fold.bundle_model import model_of

ROOT = Path(__file__).parents[2]
BUNDLES = {
    "tiny": ROOT / "tests/fixtures/bundle_tiny/tiny/1",
    "tiny-sketch": ROOT / "tests/fixtures/bundle_tiny_sketch/tiny-sketch/1",
    "tiny-actions": ROOT / "tests/fixtures/bundle_tiny_actions/tiny-actions/1",
    "online-retail-sketch": ROOT / "models/bundles/online-retail-sketch/1",
    "online-retail-ledger": ROOT / "models/bundles/online-retail-ledger/2",
}
TEXTS = "texts"
"""As `tiny-sketch`, of string ids."""
NOW = 1_700_000_000_000
N = 2
LONG = "l" * 127
NAMES = [*(f"u{i}" for i in range(12)), "größe", "ключ-7", LONG, LONG + "m", "日本語の本", "x" * 64]

Row = tuple[int, int, bytes | None, bytes | None, list[dict[str, object]] | None]
Kind = Callable[[str, int, int], tuple[bytes | None, bytes | None, list[dict[str, object]] | None]]


def event(user: str, item: int, at: int, **more: object) -> BehaviorEvent:
    days = (at * 7919) % 90
    fields: dict[str, object] = {"user_id": user, "item_id": item, "category_id": item % 5, "action": 1 + item % 5}
    fields["event_time"] = NOW - days * 43_200_000
    return BehaviorEvent(**(fields | more))  # type: ignore[arg-type]  # fields given by the test


def plain(user: str, item: int, at: int) -> tuple[bytes, bytes, None]:
    return user.encode(), event(user, item, at).SerializeToString(), None


def with_value(value: bytes | None) -> Kind:
    return lambda user, item, at: (user.encode(), value, None)


def with_fields(**more: object) -> Kind:
    return lambda user, item, at: (user.encode(), event(user, item, at, **more).SerializeToString(), None)


def with_headers(name: str, value: bytes | None, as_json: bool) -> Kind:
    def made(user: str, item: int, at: int) -> tuple[bytes, bytes, list[dict[str, object]]]:
        one = event(user, item, at)
        content = MessageToJson(one).encode() if as_json else one.SerializeToString()
        return user.encode(), content, [{"name": name, "value": value}]

    return made


def with_json(change: Callable[[str], str]) -> Kind:
    def made(user: str, item: int, at: int) -> tuple[bytes, bytes, list[dict[str, object]]]:
        content = change(MessageToJson(event(user, item, at), indent=None))
        return user.encode(), content.encode(), [{"name": "content-type", "value": b"application/json"}]

    return made


KINDS: list[Kind] = [
    *[plain] * 12,
    with_value(None),
    with_fields(action=ERASE_ITEM),
    with_value(b""),
    with_value(b"\xff"),
    with_fields(item_id=0),
    with_fields(item_id=(1 << 64) - 1, category_id=1 << 63),
    with_fields(item_id=0, item_text="sku-1"),
    with_fields(item_id=0, item_text="sku-1", category_id=0, category_text="größe"),
    with_fields(item_id=0, item_text="sku-1", action=ERASE_ITEM),
    with_fields(item_text="sku-1"),
    with_json(lambda text: text.replace('"itemId":', '"itemText":')),
    with_fields(user_id="somebody else"),
    with_fields(event_id="é" * 20),
    with_fields(event_id="e" * 64),
    with_fields(event_id="e" * 65),
    with_fields(event_time=1),
    with_fields(event_time=NOW + 86_400_000 * 2),
    with_fields(action=99),
    with_fields(action=0),
    with_headers("content-type", b"application/json", as_json=True),
    with_json(lambda text: text),
    with_json(lambda text: text.replace('"itemId":', '"item_id":1,"itemId":')),
    with_json(lambda text: text.replace('"itemId":"', '"itemId":"1_')),
    with_headers("content-type", b"text/plain", as_json=False),
    with_headers("trace", None, as_json=False),
    lambda user, item, at: (None, event(user, item, at).SerializeToString(), None),
    lambda user, item, at: (b"", event(user, item, at).SerializeToString(), None),
    lambda user, item, at: (b"\xff\xfe", b"", None),
    lambda user, item, at: (user.encode(), event(user, item, at).SerializeToString() + b"\xfa\x01\x01x", []),
    lambda user, item, at: (user.encode(), event(user, item, at).SerializeToString()[::-1], None),
]


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    if library() is None:
        pytest.skip(skips.NO_COMPILED_STEP)
    bundles = {name: load_bundle(path) for name, path in BUNDLES.items()}
    found = {name: model_of(bundle, open_step(bundle)) for name, bundle in bundles.items()}
    return found | {TEXTS: replace(found["tiny-sketch"], text_ids=True)}


@pytest.fixture(scope="module")
def without_c(models: dict[str, Model]) -> dict[str, Model]:
    """The same models, whose step is the graph; Python does the rest."""
    steps = {name: StepGraph(load_bundle(path)) for name, path in BUNDLES.items()}
    steps[TEXTS] = steps["tiny-sketch"]
    return {name: replace(model, step=steps[name], compiled=None) for name, model in models.items()}


def partition_log(partition: int, rows: Sequence[Row], cuts: Sequence[int], **more: object) -> PartitionLog:
    base = 3 if more.pop("begins_late", False) else 0
    begin = Progress(
        partitions=N, next_offset=base, lineage=70 + partition, writer=5, base=base, as_of_ms=0, era=partition
    )
    batches = [
        pa.RecordBatch.from_arrays(
            [pa.array([row[i] for row in rows[a:b]], RECORDS.field(i).type) for i in range(5)], schema=RECORDS
        )
        for a, b in pairwise([0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)])
    ]
    sliced = [pa.concat_batches([batch, batch]).slice(len(batch), len(batch)) for batch in batches]
    return PartitionLog(partition, begin, sliced, **more)  # type: ignore[arg-type]  # fields given by the test


def stored(folded: FoldedPartition) -> dict[bytes, bytes]:
    return {
        user: value
        for users, values in folded.states.values()
        for user, value in zip(users.to_pylist(), values.to_pylist(), strict=True)
    }


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(
        st.tuples(st.integers(0, len(NAMES) - 1), st.integers(0, len(KINDS) - 1), st.integers(1, 9)),
        min_size=1,
        max_size=120,
    ),
    cuts=st.lists(st.integers(0, 120), max_size=4),
    name=st.sampled_from(sorted([*BUNDLES, TEXTS])),
    erased=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 120), max_size=4),
    begins_late=st.booleans(),
    gap=st.none() | st.integers(4, 100),
    shards=st.integers(1, 2),
)
def test_c_stores_the_bytes_of_the_graph(
    models: dict[str, Model],
    without_c: dict[str, Model],
    kinds: list[tuple[int, int, int]],
    cuts: list[int],
    name: str,
    erased: dict[str, int],
    begins_late: bool,
    gap: int | None,
    shards: int,
) -> None:
    rows: list[list[Row]] = [[], []]
    for at, (who, kind, item) in enumerate(kinds):
        user = NAMES[who]
        key, value, headers = KINDS[kind](user, item, at)
        home = partition_of(key or b"", N)
        partition = 1 - home if (at * 31) % 17 == 0 else home
        rows[partition].append((at + 3 + 2 * (gap is not None and at > gap), NOW + at, key, value, headers))
    more: dict[str, object] = {"erased": {user.encode(): upto for user, upto in erased.items()}}
    if gap is not None:
        more["gap_ends"] = [gap + 4]
    logs = [
        partition_log(p, some, cuts if p else cuts[::2], begins_late=begins_late, **more) for p, some in enumerate(rows)
    ]
    model = models[name]
    for shard in range(shards):
        got = fold_partitions(logs, model, shard=(shard, shards))
        want = fold_partitions(logs, without_c[name], shard=(shard, shards))
        for one, other in zip(got, want, strict=True):
            assert (one.progress, one.tally) == (other.progress, other.tally)
            assert stored(one) == stored(other)
            assert sorted(one.states.users) == sorted(other.states.users)


def test_an_archive_of_texts_folds_as_one_of_numbers(models: dict[str, Model]) -> None:
    tensors = []
    for item, text in ((0, "sku-1"), (code_of("sku-1"), "")):
        key, value, headers = with_fields(item_id=item, item_text=text)("u0", 1, 0)
        logs = [
            partition_log(p, [(3, NOW, key, value, headers)] if p == partition_of(b"u0", N) else [], []) for p in (0, 1)
        ]
        [user] = [value for one in fold_partitions(logs, models[TEXTS]) for value in stored(one).values()]
        tensors.append(user[HEADER_BYTES:])
    assert tensors[0] == tensors[1]


@pytest.mark.parametrize("name", sorted(BUNDLES))
def test_a_step_that_is_not_finite_is_rejected_and_the_state_stays(
    models: dict[str, Model], without_c: dict[str, Model], name: str
) -> None:
    model = models[name]

    def vectors(*ids: np.ndarray) -> np.ndarray:
        found = model.vectors(*ids).copy()
        found[ids[0] == 7] = np.nan
        return found

    broken = replace(model, vectors=vectors)
    users = [user for user in NAMES if partition_of(user.encode(), N) == 0]
    rows: list[Row] = [(at, NOW + at, *plain(users[at % len(users)], 1 + (at * 5) % 9, at)) for at in range(60)]
    results = []
    for each in (broken, replace(without_c[name], vectors=vectors)):
        [folded] = fold_partitions([partition_log(0, rows, [9, 30])], each)
        results.append((folded.progress, folded.tally, stored(folded)))
    assert results[0] == results[1]
    assert results[0][1].rejected
