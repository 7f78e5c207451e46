"""A load in bulk into real servers: what it writes, and what it refuses when others write meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import OutOfMemoryError

from localstack.valkey import Valkey
from mimn.state import REMOVAL, Keys, Progress, StateHeader, UserState, encode_progress, encode_state, user_hash
from support import hand_model
from support.one_node_cluster import ClusterNode, move_slot, three_masters
from uic import store as store_module
from uic.bulk.errors import BulkRefused
from uic.bulk.folder import Folder
from uic.bulk.loading import STATES_A_CALL, Loader, claim_of
from uic.bulk.politeness import Politeness
from uic.bulk.saved_states import SavedPartition, writing_partition
from uic.core.commit import ABSENT, Commit, Written
from uic.errors import StoreUnavailable
from uic.settings import RedisSettings
from uic.store import RedisStore
from uic.store_failures import describe
from uic.transaction import Sent

pytestmark = pytest.mark.servers

PARTITION = 2
USERS = [f"u{i}".encode() for i in range(2 * STATES_A_CALL + 10)]
LOST = USERS[5]
"""Had a state and lost it."""
STATES = {user: None if user == LOST else b"state of %b" % user * 500 for user in USERS}
WORKER = b"record of a worker"


@dataclass
class World:
    """A store, states in a folder, and what others do between the steps of a load."""

    keys: Keys
    store: RedisStore
    client: Any
    folder: Folder
    saved: SavedPartition
    nodes: list[ClusterNode]
    meanwhile: dict[tuple[str, int], Callable[[], object]] = field(default_factory=dict)
    """By a step of the load, or "look", and how often that has happened: what is done then."""
    steps: Counter[str] = field(default_factory=Counter)

    def passed(self, step: str) -> None:
        """A step is done."""
        self.steps[step] += 1
        self.meanwhile.pop((step, self.steps[step]), lambda: None)()

    def load(self, *, take_over: bool = False) -> Loader:
        """Run a load."""
        loader = Loader(self.store, self.keys, Politeness(1e12, 60.0), take_over=take_over, after=self.passed)
        loader.load(self.folder, self.saved, {})
        return loader

    def others(self) -> dict[str, Callable[[], object]]:
        """What may happen meanwhile, by the words of the refusal that follows."""
        keys, client = self.keys, self.client
        claim = Commit(PARTITION, ABSENT, b"claim of a worker", begins_lineage=True)
        folded = Commit(PARTITION, claim.progress, WORKER, (("u1", b"folded"), ("new", b"folded")), created=2)
        both = [claim, folded]
        return {
            "a worker began to fold": lambda: self.store.commit(both) == [Written()] * 2 or pytest.fail("not written"),
            "took partition 2 over": lambda: client.set(keys.loading(PARTITION), b"another load"),
            "or the store was emptied": client.flushall,
            "no longer has exactly the states": lambda: client.srem(keys.staged(PARTITION), USERS[0]),
        }


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Valkey]]:
    with Valkey(tmp_path_factory.mktemp("valkey"), appendfsync="off") as server:
        yield [server]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ClusterNode]]:
    with three_masters(tmp_path_factory.mktemp("masters")) as nodes:
        yield nodes


@pytest.fixture(params=["single", "cluster"])
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    servers = request.getfixturevalue(request.param)
    keys = Keys("0011223344556677-0", "bulk")
    client: Any = (redis.Redis if request.param == "single" else redis.RedisCluster).from_url(
        servers[0].address, protocol=2
    )
    client.flushall()
    folder = Folder(str(tmp_path))
    with writing_partition(folder, PARTITION) as writer:
        writer.add(USERS, [STATES[user] for user in USERS])
    saved = writer.finish(Progress(4, 1000, lineage=7, writer=8, base=0, as_of_ms=1, last_offset=999))
    store = RedisStore(RedisSettings(url=servers[0].address, mode=request.param), keys)
    found = World(keys, store, client, folder, saved, servers)
    exchange = store_module._exchange

    def interrupted(connection: Any, sent: Sent) -> list[Any]:
        replies = exchange(connection, sent)
        if b"SCARD" in sent.pieces[0]:
            found.passed("look")
        return replies

    monkeypatch.setattr(store_module, "_exchange", interrupted)
    yield found
    store.close()
    client.close()


class Killed(Exception):
    """The load ends here."""


def is_whole(world: World, users: Sequence[bytes] = USERS) -> None:
    """Everything is there that was saved, and nothing else."""
    keys, client = world.keys, world.client
    assert world.store.read_progress([PARTITION]) == {PARTITION: bytes.fromhex(world.saved.progress)}
    [values] = world.store.load([(PARTITION, [user.decode() for user in users])])
    assert values == [STATES[user] for user in users]
    assert client.smembers(keys.users(PARTITION)) == set(users)
    assert client.exists(keys.loading(PARTITION)) + client.exists(keys.staged(PARTITION)) == 0


def state_value(user: bytes, era: int, last_offset: int) -> bytes:
    """A stored state."""
    header = StateHeader(user_hash(user.decode()), 7, era, last_offset, 1, 1, bytes(8))
    return encode_state(UserState(header, hand_model.INITIAL), hand_model.FINGERPRINT, hand_model.LAYOUT)


def test_a_user_who_was_erased_since_is_left_out_whatever_the_offset_of_a_log_before(world: World) -> None:
    newer = {b"came back": state_value(b"came back", era=1, last_offset=6)}
    older = {
        b"folded before": state_value(b"folded before", era=1, last_offset=5),
        b"of the log before": state_value(b"of the log before", era=0, last_offset=900),
    }
    every = newer | older
    with writing_partition(world.folder, PARTITION) as writer:
        writer.add(list(every), list(every.values()))
    progress = Progress(4, 20, lineage=7, writer=8, base=0, as_of_ms=1, last_offset=19, era=1)
    loader = Loader(world.store, world.keys, Politeness(1e12, 60.0))
    loader.load(world.folder, writer.finish(progress), dict.fromkeys(every, 5))
    assert loader.done.erased == len(older)
    assert world.client.smembers(world.keys.users(PARTITION)) == set(newer)
    assert not any(world.client.exists(world.keys.state(PARTITION, user.decode())) for user in older)


def test_states_their_users_and_the_record_are_loaded_and_the_claim_is_gone(world: World) -> None:
    world.client.sadd(world.keys.users(PARTITION), "of an earlier lineage")
    assert world.load().done.states == len(USERS)
    is_whole(world)


def test_a_partition_without_users_is_handed_over(world: World) -> None:
    with writing_partition(world.folder, PARTITION) as writer:
        pass
    world.saved = writer.finish(world.saved.decoded)
    world.load()
    assert world.store.read_progress([PARTITION]) == {PARTITION: encode_progress(world.saved.decoded)}
    assert not world.client.exists(world.keys.users(PARTITION))


MOMENTS = [("claim", 1), ("look", 1), ("states", 1), ("look", 4)]
"""Of a load with three calls that write states, and one that hands over."""
OTHERS = ["a worker began to fold", "took partition 2 over", "or the store was emptied"]


@pytest.mark.parametrize(
    ("what", "when"), [*product(OTHERS, MOMENTS), *product(["no longer has exactly the states"], MOMENTS[2:])], ids=str
)
def test_a_load_that_is_no_longer_alone_stops_and_writes_no_record(
    world: World, what: str, when: tuple[str, int]
) -> None:
    world.meanwhile[when] = world.others()[what]
    with pytest.raises(BulkRefused, match=what):
        world.load()
    assert not world.meanwhile, "it happened"
    worked = what == "a worker began to fold"
    assert world.store.read_progress([PARTITION]) == {PARTITION: WORKER if worked else ABSENT}
    if worked:
        assert world.store.load([(PARTITION, ["u1", "new"])]) == [[b"folded", b"folded"]]
        assert world.client.smembers(world.keys.users(PARTITION)) == {b"u1", b"new"}
        left = [world.keys.staged(PARTITION), world.keys.loading(PARTITION)]
        assert [world.client.exists(key) for key in left] == [0, 0], "no erasure would reach them"
        return
    world.load(take_over=True)
    is_whole(world)


def test_a_claim_that_is_written_again_between_look_and_write_only_costs_another_look(world: World) -> None:
    loading = world.keys.loading(PARTITION)
    world.meanwhile["look", 1] = lambda: world.client.set(loading, world.client.get(loading))
    world.load()
    assert not world.meanwhile, "it happened"
    is_whole(world)


@pytest.mark.parametrize("killed_at", [("states", 1), ("states", 3), ("look", 4)], ids=str)
def test_a_load_of_another_snapshot_leaves_nothing_of_the_killed_one_whose_claim_it_takes_over(
    world: World, tmp_path: Path, killed_at: tuple[str, int]
) -> None:
    """Both snapshots are of one lineage, and the second one lacks users of the first, who were erased in between."""
    first, kept = world.saved, USERS[STATES_A_CALL + 5 :]
    folder = Folder(str(tmp_path / "second"))
    with writing_partition(folder, PARTITION) as writer:
        writer.add(kept, [STATES[user] for user in kept])
    second = writer.finish(first.decoded._replace(next_offset=2000, last_offset=1999))

    def killed() -> None:
        raise Killed

    world.meanwhile[killed_at] = killed
    with pytest.raises(Killed):
        world.load()
    world.folder, world.saved = folder, second
    with pytest.raises(BulkRefused, match="being loaded by another job"):
        world.load()
    assert world.client.get(world.keys.loading(PARTITION)) == claim_of(first)
    world.load(take_over=True)
    is_whole(world, kept)
    assert not world.client.exists(*(world.keys.state(PARTITION, user.decode()) for user in USERS[: STATES_A_CALL + 5]))


def test_a_load_of_another_snapshot_that_took_a_partition_over_and_is_gone_stops_the_first(
    world: World, tmp_path: Path
) -> None:
    """The other one begins between the last write and the hand-over, and is killed behind its first write."""
    first, loads = (world.folder, world.saved), 0
    folder = Folder(str(tmp_path / "second"))
    with writing_partition(folder, PARTITION) as writer:
        writer.add(USERS, [value and value[:-1] for value in STATES.values()])
    second = writer.finish(first[1].decoded._replace(next_offset=2000, last_offset=1999))

    def another() -> None:
        nonlocal loads
        loads += 1
        world.folder, world.saved = folder, second
        world.meanwhile["states", world.steps["states"] + 1] = killed
        with pytest.raises(Killed):
            world.load(take_over=True)
        world.folder, world.saved = first

    def killed() -> None:
        raise Killed

    world.meanwhile["look", 4] = another
    with pytest.raises(BulkRefused, match="took partition 2 over"):
        world.load()
    assert loads == 1
    assert world.store.read_progress([PARTITION]) == {PARTITION: ABSENT}
    world.load(take_over=True)
    is_whole(world)


@pytest.mark.parametrize("when", MOMENTS, ids=str)
def test_another_run_of_the_same_load_that_is_faster_leaves_nothing_to_do(world: World, when: tuple[str, int]) -> None:
    world.meanwhile[when] = lambda: Loader(world.store, world.keys, Politeness(1e12, 60.0)).load(
        world.folder, world.saved, {}
    )
    slower = world.load().done
    assert not world.meanwhile, "it happened"
    assert (slower.partitions, slower.already_there) == (0, 1)
    assert (slower.states, slower.bytes, slower.erased) == (0, 0, 0), "what it wrote before counts as the other run's"
    is_whole(world)
    again = world.load().done
    assert (again.partitions, again.already_there, again.states) == (0, 1, 0)
    is_whole(world)


@pytest.mark.parametrize("world", ["single"], indirect=True)
def test_a_store_that_fails_is_told_in_the_words_of_all_commands(world: World) -> None:
    world.meanwhile["states", 1] = lambda: world.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable) as failed:
            world.load()
    finally:
        world.client.config_set("maxmemory", 0)
    assert isinstance(failed.value.__cause__, OutOfMemoryError)
    assert str(failed.value) == f"cannot load partition {PARTITION}: {describe(failed.value.__cause__)}"
    world.load()
    is_whole(world)


def test_a_store_that_hangs_as_it_is_asked_whether_it_forks_is_told_with_what_was_under_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(section: str) -> list[dict[str, Any]]:
        raise StoreUnavailable("cannot read the store's configuration: TimeoutError")

    monkeypatch.setattr(world.store, "info", hangs)
    with pytest.raises(StoreUnavailable, match=r"^cannot load partition 2: cannot read the store's configuration: "):
        world.load()


def test_a_namespace_that_is_removed_meanwhile_is_not_taken_for_one_that_a_worker_folds(world: World) -> None:
    mark = REMOVAL + b"0123456789abcdef"
    world.meanwhile["states", 1] = lambda: world.client.set(world.keys.progress(PARTITION), mark)
    for _ in range(2):
        with pytest.raises(BulkRefused, match="is being removed, or its removal was killed"):
            world.load()
    assert world.client.get(world.keys.progress(PARTITION)) == mark


@pytest.mark.parametrize("world", ["cluster"], indirect=True)
@pytest.mark.parametrize("when", MOMENTS, ids=str)
def test_a_partition_that_moves_to_another_master_is_loaded_there(world: World, when: tuple[str, int]) -> None:
    world.meanwhile[when] = lambda: move_slot(world.nodes, world.keys.progress(PARTITION))
    world.load()
    assert not world.meanwhile, "it happened"
    is_whole(world)
