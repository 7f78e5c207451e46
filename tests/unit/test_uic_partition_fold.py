"""The fold of whole partitions: the states and the progress that UIC stores, however the log is cut into pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr.event.v1.behavior_event_pb2 import ACTION_CLICK, BehaviorEvent
from mimn.bundle import load_bundle
from mimn.bundle.graph import open_step
from mimn.state import EMPTY_DIGEST, extend_digest, partition_of, user_hash, witness
from support.partition_rows import NOW, USERS, N, click, erasure, fold_partition, log_of, random_rows, stored
from uic.bulk.folder import Folder
from uic.bulk.pool import save
from uic.bulk.saved_states import saved_partition
from uic.core.event import Reason
from uic.core.model import Model
from uic.fold.bundle_model import model_of

FIXTURES = Path(__file__).parents[1] / "fixtures"
BUNDLES = {
    folder.name: folder / "1"
    for parent in sorted(FIXTURES.glob("bundle_*"))
    for folder in parent.iterdir()
    if folder.is_dir()
}


def opened(path: Path) -> Model:
    bundle = load_bundle(path)
    return model_of(bundle, open_step(bundle))


MODELS = {name: opened(path) for name, path in BUNDLES.items()}
"""One for each kind of state."""
MODEL = MODELS["tiny"]


def test_states_and_progress_are_the_fold_of_each_users_records_in_order() -> None:
    rows = [click(offset, USERS[offset % 3], 1 + offset) for offset in range(20)]
    folded = fold_partition(log_of(rows), MODEL)

    assert set(folded.states.users) == {user.encode() for user in USERS[:3]}
    for at, key in enumerate(folded.states.users):
        digest, state, last = EMPTY_DIGEST, MODEL.initial_state[np.newaxis], -1
        for offset, _, user, value, _ in rows:
            if user == key and value is not None:
                digest, last = extend_digest(digest, offset, value), offset
                event = BehaviorEvent.FromString(value)
                ids = np.array([event.item_id], np.uint64), np.array([event.category_id], np.uint64)
                state = MODEL.step(MODEL.vectors(*ids, np.array([ACTION_CLICK], np.uint8)), state)
        header = folded.states.headers[at]
        assert (bytes(header["digest"]), header["last_offset"]) == (digest, last)
        assert (header["user"], header["lineage"], header["partial"]) == (user_hash(key.decode()), 77, False)
        assert folded.states.tensors[at].tobytes() == state[0].tobytes(), "to the last bit, however wide the wave was"
    last_row = rows[-1]
    assert folded.progress == log_of(rows).begin._replace(
        next_offset=20,
        last_offset=19,
        witness=witness(last_row[2], last_row[3], last_row[1]),
        as_of_ms=last_row[1],
    )


@settings(max_examples=80)
@given(
    kinds=st.lists(st.tuples(st.integers(0, len(USERS) - 1), st.integers(0, 12)), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    name=st.sampled_from(sorted(MODELS)),
)
def test_how_the_log_is_cut_changes_no_byte(kinds: list[tuple[int, int]], cuts: list[int], name: str) -> None:
    model = MODELS[name]
    rows = random_rows(kinds)
    whole = fold_partition(log_of(rows), model)
    cut = fold_partition(log_of(rows, [min(c, len(rows)) for c in cuts]), model)
    shards = [fold_partition(log_of(rows), model, shard=(i, 3)) for i in range(3)]
    assert stored(cut) == stored(whole)
    assert {k: v for shard in shards for k, v in stored(shard).items()} == stored(whole)
    assert {whole.progress, cut.progress, *(shard.progress for shard in shards)} == {whole.progress}
    assert whole.tally.rejected.get(Reason.MALFORMED_PROTOBUF, 0) == sum(item == 1 for _, item in kinds)
    assert whole.tally.records == len(rows)


def test_an_erased_user_has_only_what_came_after_the_erasure() -> None:
    rows = [click(0, USERS[0]), click(1, USERS[1]), erasure(2, USERS[0]), erasure(3, USERS[1]), click(4, USERS[0], 8)]
    folded = fold_partition(log_of(rows, [1, 3]), MODEL)
    assert folded.states.users == [USERS[0].encode()]
    assert (folded.states.headers["event_count"].tolist(), folded.tally.erased) == ([1], 2)


def test_events_below_a_note_of_erasure_are_left_out() -> None:
    rows = [click(o, USERS[o % 2]) for o in range(6)]
    folded = fold_partition(log_of(rows, erased={USERS[0].encode(): 2}), MODEL)
    assert dict(zip(folded.states.users, folded.states.headers["event_count"].tolist(), strict=True)) == {
        USERS[0].encode(): 1,
        USERS[1].encode(): 3,
    }
    assert folded.tally.erased_later == 2


def test_states_behind_a_gap_are_partial_and_progress_says_where_it_ends() -> None:
    rows = [click(0, USERS[0]), click(1, USERS[1]), click(7, USERS[0]), click(8, USERS[2])]
    folded = fold_partition(log_of(rows, [2], gap_ends=[7], end=12), MODEL)
    partial = dict(zip(folded.states.users, folded.states.headers["partial"].tolist(), strict=True))
    assert partial == {USERS[0].encode(): True, USERS[1].encode(): False, USERS[2].encode(): True}
    assert (folded.progress.gaps, folded.progress.gap_end, folded.progress.next_offset) == (1, 7, 12)


def test_a_log_that_begins_above_0_gives_partial_states() -> None:
    folded = fold_partition(log_of([click(5, USERS[0])], base=5), MODEL)
    assert folded.states.headers["partial"].tolist() == [True]


def test_records_of_another_partition_and_without_a_key_are_counted_by_reason() -> None:
    other = next(u for u in (f"w{i}" for i in range(40)) if partition_of(u.encode(), N) == 1)
    rows = [click(0, USERS[0]), click(1, other), (2, NOW, None, b"x", None)]
    folded = fold_partition(log_of(rows), MODEL)
    assert folded.tally.rejected == {Reason.MISROUTED: 1, Reason.MISSING_KEY: 1}
    assert folded.progress.next_offset == 3


@pytest.mark.parametrize("shards", [1, 3])
def test_what_is_saved_says_what_became_of_every_record(tmp_path: Path, shards: int) -> None:
    other = next(u for u in (f"w{i}" for i in range(40)) if partition_of(u.encode(), N) == 1)
    rows = [click(offset, USERS[offset % 4]) for offset in range(200)]
    rows += [erasure(200, USERS[0]), click(201, USERS[0]), click(202, other), (203, NOW, USERS[1].encode(), b"x", None)]
    log = log_of(rows, erased={USERS[2].encode(): 9})
    saved = save(Folder(str(tmp_path)), [fold_partition(log, MODEL, shard=(i, shards)) for i in range(shards)])
    assert saved.outcomes == {"folded": 199, "erased": 1, "erased_later": 2, "ignored": 0}
    assert saved.rejected == {"misrouted": 1, "malformed_protobuf": 1}
    assert saved.records == sum(saved.outcomes.values()) + sum(saved.rejected.values()) == len(rows)
    assert saved_partition(Folder(str(tmp_path)), 0) == saved
