"""A migration that keeps ledgers: what is stored is the old ledger beside the fold of the events that are left."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimn.bundle import load_bundle
from mimn.bundle.graph import open_step
from mimn.bundle.manifest import shared_blocks
from mimn.state import UserState, decode_state, encode_state
from support.bundles import LEDGER, RETRAINED, SKETCH
from support.partition_rows import USERS, N, Row, fold_partition, log_of, random_rows, stored
from uic.bulk.errors import BulkRefused, DamagedFile
from uic.bulk.folder import Folder
from uic.bulk.kept_ledgers import KeptPartition, keep
from uic.bulk.pool import save
from uic.bulk.saved_states import SavedStates, saved_partition, seal, states_of, writing_partition
from uic.bulk.verification import Verified, compare, fold_users
from uic.core.records import BatchRecord
from uic.fold.bundle_model import model_of

OLD, NEW = load_bundle(LEDGER), load_bundle(RETRAINED)
OLD_MODEL, NEW_MODEL = (model_of(bundle, open_step(bundle)) for bundle in (OLD, NEW))
SHARED = shared_blocks(NEW.manifest, OLD.manifest)
LINEAGE = 77  # of `log_of`
NO_ID = str(UUID(bytes=bytes(16)))


def snapshot(values: Mapping[bytes, bytes | None], reached: int, era: int = 0) -> Folder:
    """A snapshot of two partitions, of which the first has these states and its progress is at `reached`."""
    folder = Folder(f"memory://kept-{uuid.uuid4().hex}")
    saved = []
    for partition, some in enumerate((values, {})):
        with writing_partition(folder, partition) as writer:
            writer.add(list(some), list(some.values()))
        progress = log_of([]).begin._replace(lineage=5, next_offset=reached, as_of_ms=11, last_offset=reached - 1)
        saved.append(writer.finish(progress._replace(era=era)))
    manifest = SavedStates(
        namespace="old",
        fingerprint=OLD.manifest.fingerprint,
        prefix="uic",
        topic="events",
        topic_id=NO_ID,
        n=N,
        created_ms=1,
        partitions=tuple(saved),
    )
    seal(folder, manifest)
    return folder


def in_service(rows: Sequence[Row]) -> dict[bytes, bytes]:
    """The states of an older lineage."""
    log = log_of(rows)
    return stored(fold_partition(replace(log, begin=log.begin._replace(lineage=5)), OLD_MODEL))


def kept(folder: Folder, erased: Mapping[bytes, int] | None = None) -> KeptPartition:
    told = keep(folder, LEDGER, NEW, topic="events", topic_id=NO_ID, n=N)
    return KeptPartition(folder, told.partitions[0], OLD, NEW, LINEAGE, 9, erased or {})


def joined(states: KeptPartition, rows: Sequence[Row], *, base: int = 0, shards: int = 1) -> dict[bytes, bytes | None]:
    """What a backfill of these records stores."""
    out = Folder(f"memory://joined-{uuid.uuid4().hex}")

    def log() -> object:
        whole = log_of(rows, [len(rows) // 2], base=base, erased=states.erased)
        return replace(whole, records=states.cut(iter(whole.records)))

    folds = (fold_partition(log(), NEW_MODEL, shard=(i, shards)) for i in range(shards))  # type: ignore[arg-type]
    saved = save(out, folds, states)
    assert saved.decoded == states.reached == saved.decoded._replace(lineage=LINEAGE, writer=9, as_of_ms=11)
    assert saved == saved_partition(out, 0)
    assert saved.kept == {"complete": states.joined.complete, "partial": states.joined.partial}
    return {user: value for users, values in states_of(out, saved) for user, value in zip(users, values, strict=True)}


KINDS = st.lists(st.tuples(st.integers(0, len(USERS) - 1), st.integers(0, 12)), min_size=1, max_size=60)
AHEAD = st.lists(st.integers(0, 60), min_size=len(USERS), max_size=len(USERS))


def in_states(rows: Sequence[Row], reached: int, ahead: Sequence[int]) -> list[Row]:
    """The records that are in the states of users, each of which is as far as `ahead` says, or as the progress."""
    upto = {user.encode(): max(reached, at) for user, at in zip(USERS, ahead, strict=True)}
    return [row for row in rows if row[0] < upto[row[2] or b""]]


@settings(max_examples=80)
@given(kinds=KINDS, reached=st.integers(0, 60), ahead=AHEAD, lost=st.booleans(), shards=st.sampled_from([1, 3]))
def test_with_the_whole_log_every_byte_is_that_of_a_fold_of_the_whole_log(
    kinds: list[tuple[int, int]], reached: int, ahead: list[int], lost: bool, shards: int
) -> None:
    rows = random_rows(kinds)
    reached = min(reached, len(rows))
    known = in_states(rows, reached, ahead)
    old: dict[bytes, bytes | None] = {**in_service(known)}
    if lost and USERS[0].encode() in old:
        old[USERS[0].encode()] = None
    states = kept(snapshot(old, reached))
    found = joined(states, rows, shards=shards)
    whole = stored(fold_partition(log_of(known), NEW_MODEL))
    below = stored(fold_partition(log_of(rows[:reached]), NEW_MODEL))
    assert found == below | {user: whole[user] for user, value in old.items() if value is not None}
    assert states.joined.complete == sum(value is not None for value in old.values())
    assert states.joined.partial == 0


@settings(max_examples=80)
@given(kinds=KINDS, reached=st.integers(0, 60), ahead=AHEAD, forgotten=st.integers(0, 60))
def test_of_a_cut_log_ledgers_and_counters_are_whole_and_who_has_less_in_memory_is_partial(
    kinds: list[tuple[int, int]], reached: int, ahead: list[int], forgotten: int
) -> None:
    rows = random_rows(kinds)
    reached = min(reached, len(rows))
    forgotten = min(forgotten, reached)
    known = in_states(rows, reached, ahead)
    old = in_service(known)
    left = stored(fold_partition(log_of([row for row in known if row[0] >= forgotten], base=forgotten), NEW_MODEL))
    states = kept(snapshot(old, reached))
    found = joined(states, rows[forgotten:], base=forgotten)
    assert set(old) <= set(found)
    for user, value in old.items():
        before = decode_state(value, OLD.fingerprint, OLD.layout)
        after = decode_state(found[user] or b"", NEW.fingerprint, NEW.layout)
        read = decode_state(left[user], NEW.fingerprint, NEW.layout) if user in left else None
        digest = None if read is None else read.header.digest
        assert after.header.partial == (digest != before.header.digest)
        for name in ("user", "era", "last_offset", "event_count", "last_event_time", "digest"):
            assert getattr(after.header, name) == getattr(before.header, name), name
        folded = NEW.initial_state if read is None else read.tensors
        now, then, memory = after.tensors, OLD.layout.view(before.tensors), NEW.layout.view(folded)
        for name, block in NEW.layout.view(now).items():
            assert block.tobytes() == (then if name in SHARED else memory)[name].tobytes(), name
    assert states.joined.partial == sum(state_of(found[user]).header.partial for user in old)


@settings(max_examples=60)
@given(kinds=KINDS, reached=st.integers(0, 60), ahead=AHEAD, earlier_log=st.booleans(), whose=st.integers(0))
def test_a_memory_that_is_not_the_fold_of_the_log_is_found_however_far_its_state_is(
    kinds: list[tuple[int, int]], reached: int, ahead: list[int], earlier_log: bool, whose: int
) -> None:
    rows = random_rows(kinds)
    reached = min(reached, len(rows))
    states = kept(snapshot(in_service(in_states(rows, reached, ahead)), reached, era=int(earlier_log)))
    found = joined(states, rows)

    def verified() -> Verified:
        records = [BatchRecord(at, time, key, value, []) for at, time, key, value, _ in rows if states.holds(key, at)]
        begin = log_of(rows).begin
        folded = fold_users(records, set(found), {}, NEW_MODEL, partition=0, begin=begin)
        seen, shared = Verified(), states.shared(set(found))
        compare(found, folded, NEW_MODEL, lineage=LINEAGE, end=reached, verified=seen, kept=shared)
        return seen

    assert (verified().users, verified().wrong) == (len(found), 0)
    if found:
        user = sorted(found)[whose % len(found)]
        state = state_of(found[user])
        tensors = state.tensors.copy()
        NEW.layout.view(tensors)[next(name for name in NEW.layout.view(tensors) if name not in SHARED)][...] += 1.0
        found[user] = encode_state(UserState(state.header, tensors), NEW.fingerprint, NEW.layout)
        assert (verified().users, verified().tensors) == (len(found), 1)


def state_of(value: bytes | None) -> UserState:
    return decode_state(value or b"", NEW.fingerprint, NEW.layout)


def test_who_was_erased_since_the_snapshot_is_left_out() -> None:
    rows = random_rows([(0, 3), (1, 4), (0, 5)])
    old = in_service(rows)
    states = kept(snapshot(old, 3), erased={USERS[0].encode(): 2, USERS[1].encode(): 0})
    assert set(joined(states, rows)) == {USERS[1].encode()}


def test_a_state_of_an_earlier_log_keeps_its_ledger_and_skips_nothing_of_this_one() -> None:
    before, now = random_rows([(0, 3), (0, 4), (0, 5)]), random_rows([(1, 6), (0, 7)])
    user = USERS[0].encode()
    old = in_service(before)
    states = kept(snapshot(old, 1, era=1))
    assert states.ahead == {}, "offset 2 is of another log"
    found = {user: state_of(value) for user, value in joined(states, now).items()}
    assert found[user].header.event_count == 3
    assert (found[user].header.era, found[user].header.partial) == (0, True)
    assert found[USERS[1].encode()].header.era == 1


def test_what_does_not_fit_is_refused_with_what_to_do(tmp_path: Path) -> None:
    rows = random_rows([(0, 3), (0, 4)])
    folder = snapshot({**in_service(rows)}, 1)

    def refused(bundle: Path = LEDGER, new: Path = RETRAINED, **changes: object) -> str:
        about: dict[str, object] = {"topic": "events", "topic_id": NO_ID, "n": N}
        with pytest.raises(BulkRefused) as said:
            keep(folder, bundle, load_bundle(new), **(about | changes))  # type: ignore[arg-type]  # one is wrong
        return str(said.value)

    assert "--of-bundle" in refused(bundle=RETRAINED)
    assert "UIC_KAFKA__TOPIC" in refused(topic="others")
    assert "UIC_KAFKA__PARTITIONS" in refused(n=4)
    assert "created again" in refused(topic_id=str(UUID(int=1)))
    assert "read the same states" in refused(new=LEDGER)
    assert "without --keep-ledgers" in refused(new=SKETCH)

    with pytest.raises(BulkRefused, match="archive ends at 1, and the snapshot's states at 2"):
        kept(folder).refuse_older_log(1)
    kept(folder).refuse_older_log(2)

    with pytest.raises(DamagedFile, match="gone or damaged: take another"):
        keep(Folder(str(tmp_path)), LEDGER, NEW, topic="events", topic_id=NO_ID, n=N)
    told = keep(folder, LEDGER, NEW, topic="events", topic_id=NO_ID, n=N)
    folder.remove("1.parquet")
    with pytest.raises(DamagedFile, match="gone or damaged: take another"):
        told.copy(Folder(str(tmp_path)))

    damaged = snapshot({USERS[0].encode(): b"not a state"}, 1)
    with pytest.raises(DamagedFile, match="Take another snapshot, and choose another --work"):
        list(kept(damaged).states())
