"""One suite for every `StateStore`: the fake that the protocol is tested with, and a real Valkey through redis-py."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import redis

from localstack.ports import free_port
from localstack.valkey import Valkey
from localstack.wait import until
from mimn.state import HEADERS, REMOVAL, Block, Keys, Progress, Staged, StateLayout, encode_progress
from support.fake_state_store import FakeStore
from support.one_node_cluster import ClusterNode, OneNodeCluster, join, move_slot, three_masters
from support.sentinel_node import LOGINS, SentinelNode, ask_for_login
from torture.wire import Wire
from uic import store as store_module
from uic.core.commit import ABSENT, Commit, NoAnswer, Refused, StatesLost, Written
from uic.core.leases import Leases
from uic.core.ports import StateStore
from uic.core.staged_values import StagedValues, States
from uic.errors import EvictingStore, NamespaceConflict, StoreUnavailable
from uic.settings import RedisSettings
from uic.store import CHUNK_STATES, RedisStore
from uic.tools.doctor.store_facts import gather_store
from uic.transaction import Sent

KEYS = Keys("0011223344556677-0", "contract")
USER = "ann {with} braces:and:é"


@dataclass
class Subject:
    """A store under test, and what the tests do behind its back."""

    store: StateStore
    stop: Callable[[], object]
    bad: Callable[[int], list[bytes]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), appendfsync="off") as server:
        yield server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with OneNodeCluster(tmp_path_factory.mktemp("cluster"), appendfsync="off") as server:
        yield server


@pytest.fixture(scope="module")
def masters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ClusterNode]]:
    with three_masters(tmp_path_factory.mktemp("masters")) as nodes:
        yield nodes


MODES = [pytest.param(mode, marks=pytest.mark.servers) for mode in ("single", "cluster")]


@pytest.fixture(params=["fake", *MODES, pytest.param("masters", marks=pytest.mark.servers)])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    if request.param == "fake":
        fake = FakeStore()
        yield Subject(fake, lambda: setattr(fake, "away", True), lambda p: fake.bad.get(p, []))
        return
    mode: Literal["single", "cluster"] = "single" if request.param == "single" else "cluster"
    servers: Valkey | list[ClusterNode] = request.getfixturevalue(
        {"single": "server"}.get(request.param, request.param)
    )
    server = servers[0] if isinstance(servers, list) else servers
    client: Any = (redis.Redis if mode == "single" else redis.RedisCluster).from_url(server.address, protocol=2)
    client.flushall()
    store = RedisStore(RedisSettings(url=server.address, mode=mode), KEYS)
    closed = request.getfixturevalue("closed_port")
    nowhere = RedisStore(RedisSettings(url=f"redis://{closed}/0", mode=mode, timeout_s=0.2), KEYS)
    found = Subject(store, lambda: None, lambda p: client.lrange(KEYS.bad(p), 0, -1))

    def stop() -> None:
        found.store = nowhere

    found.stop = stop
    yield found
    client.flushall()  # later tests move slots with all that lies in them
    store.close()
    nowhere.close()
    client.close()


def test_a_commit_writes_states_and_progress_together(subject: Subject) -> None:
    store = subject.store
    assert store.read_progress([0, 3]) == {0: ABSENT, 3: ABSENT}
    assert store.commit([Commit(3, ABSENT, b"p1", ((USER, b"s1"), ("bob", b"s2")))]) == [Written()]
    assert store.read_progress([0, 3]) == {0: ABSENT, 3: b"p1"}
    assert store.load([(3, [USER, "carol", "bob"]), (0, [USER]), (1, [])]) == [[b"s1", None, b"s2"], [None], []]


def test_a_commit_over_another_record_writes_nothing_and_returns_that_record(subject: Subject) -> None:
    store = subject.store
    store.commit([Commit(0, ABSENT, b"p1", ((USER, b"s1"),))])
    assert store.commit([Commit(0, ABSENT, b"p2", ((USER, b"s2"),))]) == [Refused(b"p1")]
    assert store.commit([Commit(0, b"p0", b"p2", ((USER, None),))]) == [Refused(b"p1")]
    assert store.commit([Commit(1, b"p0", b"p2", ((USER, b"s2"),))]) == [Refused(ABSENT)]
    assert store.load([(0, [USER]), (1, [USER])]) == [[b"s1"], [None]]
    assert store.read_progress([0, 1]) == {0: b"p1", 1: ABSENT}


def test_the_same_commit_twice_is_refused_with_its_own_record(subject: Subject) -> None:
    commit = Commit(0, ABSENT, b"p1", ((USER, b"s1"),))
    assert subject.store.commit([commit]) == [Written()]
    assert subject.store.commit([commit]) == [Refused(b"p1")]


def test_none_deletes(subject: Subject) -> None:
    store = subject.store
    store.commit([Commit(0, ABSENT, b"p1", ((USER, b"s1"), ("bob", b"s2")))])
    assert store.commit([Commit(0, b"p1", b"p2", ((USER, None), ("nobody", None)))]) == [Written()]
    assert store.load([(0, [USER, "bob"])]) == [[None, b"s2"]]


def test_a_user_who_should_have_had_no_state_and_had_one_is_told_and_nothing_is_written(subject: Subject) -> None:
    store = subject.store
    store.commit([Commit(0, ABSENT, b"p1", ((USER, b"s1"), ("bob", b"s2"), ("eve", b"s3")), created=2, listed=1)])
    commit = Commit(0, b"p1", b"p2", (("new", b"n"), ("eve", b"s4"), (USER, b"s5")), created=3)
    assert store.commit([commit]) == [StatesLost(("eve", USER))]
    assert store.read_progress([0]) == {0: b"p1"}
    assert store.load([(0, ["new", "eve"])]) == [[None, b"s3"]]
    others = Commit(0, b"p1", b"p2", (("new", b"n"), ("eve", b"s4"), (USER, b"s5")), created=1, listed=1)
    assert store.commit([others]) == [Written()]
    # An erased user has none; another partition and a new lineage know of no user.
    assert store.commit([Commit(0, b"p2", b"p3", ((USER, None),))]) == [Written()]
    assert store.commit([Commit(0, b"p3", b"p4", ((USER, b"s6"),), created=1)]) == [Written()]
    assert store.commit([Commit(1, ABSENT, b"p1", (("bob", b"s"),), created=1)]) == [Written()]
    assert store.commit([Commit(0, b"p4", b"p5", begins_lineage=True)]) == [Written()]
    assert store.commit([Commit(0, b"p5", b"p6", (("bob", b"s"),), created=1)]) == [Written()]


def test_a_commit_that_begins_a_lineage_may_delete_states_and_leaves_the_others(subject: Subject) -> None:
    store, users = subject.store, [USER, "bob", "gone"]
    store.commit([Commit(p, ABSENT, b"p1", ((USER, b"s1"), ("bob", b"s2")), created=2) for p in (0, 1)])
    claim = Commit(0, b"p1", b"p2", ((USER, None), ("gone", None)), begins_lineage=True, erases=True)
    assert store.commit([claim._replace(expected=b"p0")]) == [Refused(b"p1")]
    assert store.commit([claim]) == [Written()]
    assert store.load([(0, users), (1, users)]) == [[None, b"s2", None], [b"s1", b"s2", None]]
    assert store.commit([Commit(0, b"p2", b"p3", ((USER, b"s3"), ("bob", b"s4")), created=2)]) == [Written()]


def test_each_of_several_commits_stands_for_itself(subject: Subject) -> None:
    store = subject.store
    store.commit([Commit(1, ABSENT, b"p1")])
    commits = [Commit(p, ABSENT, b"p2", ((USER, b"s"),)) for p in range(3)]
    assert store.commit(commits) == [Written(), Refused(b"p1"), Written()]
    assert store.read_progress(range(3)) == {0: b"p2", 1: b"p1", 2: b"p2"}
    assert store.commit([]) == []


def test_more_states_than_one_pipeline_carries(subject: Subject) -> None:
    store = subject.store
    users = [f"u{i}" for i in range(CHUNK_STATES)]
    commits = [Commit(p, ABSENT, b"p", tuple((u, u.encode()) for u in users)) for p in range(4)]
    assert store.commit(commits) == [Written()] * 4
    wanted = [(p, users) for p in range(4)]
    assert store.load(wanted) == [[u.encode() for u in users]] * 4


def test_states_of_a_round_are_stored_as_they_are_encoded(subject: Subject) -> None:
    layout, users = StateLayout((Block("f", (3,)),)), [USER, "漢字", "bob"]
    headers, tensors = np.zeros(3, HEADERS), np.arange(12, dtype=np.float32).reshape(4, 3)
    staged = Staged(headers, tensors, np.array([3, 0, 1]), bytes(16), layout)
    values = staged.encoded()
    keys, states = [user.encode() for user in users], States(staged, None)
    commits = [Commit(p, ABSENT, b"p1", StagedValues(keys[p:], [2, 0, 1][p:], states), created=3 - p) for p in range(4)]
    assert subject.store.commit(commits) == [Written()] * 4
    found = [values[2], values[0], values[1]]
    assert subject.store.load([(p, users) for p in range(3)]) == [[None] * p + found[p:] for p in range(3)]
    again = Commit(0, b"p1", b"p2", StagedValues(keys, [1, -2, 0], states), created=1)
    assert subject.store.commit([again]) == [StatesLost((USER,))]
    assert subject.store.commit([again._replace(created=0)]) == [Written()]
    assert subject.store.load([(0, users)]) == [[values[1], None, values[0]]]


def test_any_bytes_are_stored_as_they_are(subject: Subject) -> None:
    everything = bytes(range(256)) * 8
    assert subject.store.commit([Commit(0, ABSENT, everything, ((USER, everything),))]) == [Written()]
    assert subject.store.commit([Commit(0, everything, b"p", ())]) == [Written()]
    assert subject.store.load([(0, [USER])]) == [[everything]]


def test_a_store_that_evicts_nothing_is_accepted(subject: Subject) -> None:
    subject.store.check()


def test_a_namespace_belongs_to_one_topic_and_partition_count(subject: Subject) -> None:
    store = subject.store
    identity = store.claim_namespace(64, "behavior-events")
    assert store.claim_namespace(64, "behavior-events") == identity
    with pytest.raises(NamespaceConflict) as refused:
        store.claim_namespace(32, "behavior-events")
    assert "b'" not in str(refused.value), "what is stored is shown as text"
    with pytest.raises(NamespaceConflict):
        store.claim_namespace(64, "other")


def test_the_store_says_what_time_it_is(subject: Subject) -> None:
    first = subject.store.time_ms()
    assert first > 1_600_000_000_000
    assert subject.store.time_ms() >= first


def test_unreadable_values_are_kept_newest_first_and_bounded(subject: Subject) -> None:
    for i in range(60):
        subject.store.set_aside(2, [f"{i}a".encode(), f"{i}b".encode()])
    kept = subject.bad(2)
    assert kept[:3] == [b"59b", b"59a", b"58b"]
    assert len(kept) == 100


def test_who_is_erased_takes_along_what_was_set_aside_in_his_partition_alone(subject: Subject) -> None:
    store = subject.store
    store.commit([Commit(p, ABSENT, b"p1", ((USER, b"s1"),)) for p in (2, 3)])
    for partition in (2, 3):
        store.set_aside(partition, [b"unreadable"])
    assert store.commit([Commit(2, b"p0", b"p2", ((USER, None),), erases=True)]) == [Refused(b"p1")]
    assert store.commit([Commit(2, b"p1", b"p2", (("bob", b"s2"),))]) == [Written()]
    assert subject.bad(2) == [b"unreadable"], "only an erasure empties it, and only one that is written"
    assert store.commit([Commit(2, b"p2", b"p3", ((USER, None),), erases=True)]) == [Written()]
    assert (subject.bad(2), subject.bad(3)) == ([], [b"unreadable"])
    assert store.commit([Commit(3, b"p1", b"p2", ((USER, b"s3"),), erases=True)]) == [Written()]
    assert subject.bad(3) == [], "also if the user who is erased has a state again"


def test_a_store_that_is_away_says_so_and_commits_have_no_answer(subject: Subject) -> None:
    subject.stop()
    store = subject.store
    for call in (
        store.check,
        store.time_ms,
        lambda: store.claim_namespace(1, "t"),
        lambda: store.read_progress([0]),
        lambda: store.load([(0, [USER])]),
        lambda: store.set_aside(0, [b"v"]),
    ):
        with pytest.raises(StoreUnavailable):
            call()
    answers = store.commit([Commit(p, ABSENT, b"p") for p in range(3)])
    assert len(answers) == 3
    assert all(isinstance(answer, NoAnswer) for answer in answers)


# What only a real server has


@pytest.mark.servers
def test_what_is_written_where_is_what_the_formats_say(valkey_store: tuple[RedisStore, redis.Redis]) -> None:
    store, client = valkey_store
    identity = store.claim_namespace(64, "behavior-events")
    store.commit([Commit(3, ABSENT, b"p1", (("ann", b"s1"),))])
    meta = f'{{"partitions": 64, "topic": "behavior-events", "store": "{identity}"}}'
    assert client.get("contract:0011223344556677-0:meta") == meta.encode()
    assert client.smembers("contract:namespaces") == {b"0011223344556677-0"}
    assert client.get("contract:{0011223344556677-0.3}:progress") == b"p1"
    assert client.get("contract:{0011223344556677-0.3}:s:ann") == b"s1"
    assert client.ttl("contract:{0011223344556677-0.3}:s:ann") == -1


FINGERPRINT = bytes.fromhex("00112233445566778899aabbccddeeff")


def record(lineage: int, next_offset: int = 9) -> bytes:
    return encode_progress(
        Progress(partitions=4, next_offset=next_offset, lineage=lineage, writer=1, base=0, as_of_ms=0)
    )


def state(lineage: int, fingerprint: bytes = FINGERPRINT) -> bytes:
    headers = np.zeros(1, HEADERS)
    headers["lineage"] = lineage
    layout = StateLayout((Block("f", (3,)),))
    return Staged(headers, np.ones((1, 3), np.float32), np.array([0]), fingerprint, layout).encoded()[0]


@pytest.mark.servers
@pytest.mark.parametrize("subject", [*MODES, pytest.param("masters", marks=pytest.mark.servers)], indirect=True)
def test_users_with_a_state_whom_the_list_lacks_are_found_and_listed_again(subject: Subject) -> None:
    store = subject.store
    assert isinstance(store, RedisStore)
    users = [f"u{i}" for i in range(CHUNK_STATES + 3)] + [USER, "a:s:b"]
    for p in range(3):
        values = tuple((user, state(1)) for user in users)
        assert store.commit([Commit(p, ABSENT, record(1), values, created=len(users))]) == [Written()]
    assert store.unlisted(FINGERPRINT) == {}

    client = store.client
    client.delete(KEYS.users(1))
    assert store.commit([Commit(1, record(1), record(1, 10), (("u0", state(1)),), listed=1)]) == [Written()]
    client.srem(KEYS.users(2), USER)
    found = store.unlisted(FINGERPRINT)
    assert {p: sorted(names) for p, names in found.items()} == {1: sorted(users[1:]), 2: [USER]}
    assert store.still_unlisted(1, users, FINGERPRINT) == users[1:]

    # What counts as no state is nothing to list: of another lineage or bundle, damaged, gone, or of no such key.
    client.mset({KEYS.state(1, "u1"): state(2), KEYS.state(1, "u2"): state(1, bytes(16)), KEYS.state(1, "u3"): b"x"})
    client.delete(KEYS.state(1, "u4"))
    client.set(KEYS.state(1, "")[:-2] + "x:", b"another key")
    client.set(KEYS.state(1, "u9").replace("1}", "01}").encode(), state(1))
    client.set(KEYS.state(1, "").encode() + b"\xff", state(1))
    assert store.still_unlisted(1, users, FINGERPRINT) == users[5:]
    assert sorted(store.unlisted(FINGERPRINT)[1]) == sorted(users[5:])
    assert store.list_again(1, users, FINGERPRINT) == len(users) - 5
    assert store.list_again(1, users, FINGERPRINT) == 0
    assert client.smembers(KEYS.users(1)) == {user.encode() for user in [users[0], *users[5:]]}
    assert store.unlisted(FINGERPRINT) == {2: [USER]}
    client.set(KEYS.progress(2), REMOVAL + b"1")
    assert store.unlisted(FINGERPRINT) == {}, "a namespace that is being removed has no states"


@pytest.mark.servers
def test_a_user_who_is_erased_meanwhile_is_not_listed_again(
    valkey_store: tuple[RedisStore, redis.Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, client = valkey_store
    store.commit([Commit(0, ABSENT, record(1), (("ann", state(1)), ("bob", state(1))), created=2)])
    client.delete(KEYS.users(0))
    exchange, erased = store_module._exchange, False

    def interrupted(connection: Any, sent: Sent) -> list[Any]:
        nonlocal erased
        replies = exchange(connection, sent)
        if b"WATCH" in sent.pieces[0] and not erased:
            erased = True
            client.delete(KEYS.state(0, "ann"))
            client.set(KEYS.progress(0), record(1, 10))
        return replies

    monkeypatch.setattr(store_module, "_exchange", interrupted)
    assert store.list_again(0, ["ann", "bob"], FINGERPRINT) == 1
    assert client.smembers(KEYS.users(0)) == {b"bob"}


@pytest.fixture(params=MODES)
def watched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    mode = request.param
    server: Valkey = request.getfixturevalue("server" if mode == "single" else "cluster")
    client = redis.Redis.from_url(server.address, protocol=2)
    client.flushall()
    found = Watched(RedisStore(RedisSettings(url=server.address, mode=mode), KEYS), client)
    exchange = store_module._exchange

    def interrupted(connection: Any, sent: Sent) -> list[Any]:
        replies = exchange(connection, sent)
        if b"WATCH" in sent.pieces[0] and b"MGET" in sent.pieces[0]:
            found.after_look(client)
        return replies

    monkeypatch.setattr(store_module, "_exchange", interrupted)
    yield found
    found.store.close()
    client.close()


@dataclass
class Watched:
    """A store, and what happens each time that it has looked and not written yet."""

    store: RedisStore
    client: redis.Redis
    after_look: Callable[[redis.Redis], object] = lambda client: None


def test_a_record_that_changes_after_it_was_read_is_not_replaced_and_the_others_are(watched: Watched) -> None:
    commits = [Commit(p, ABSENT, b"p1", ((USER, b"s1"),), created=1) for p in range(3)]
    watched.after_look = lambda client: client.set(KEYS.progress(1), b"another")
    assert watched.store.commit(commits) == [Written(), Refused(b"another"), Written()]
    assert watched.store.read_progress(range(3)) == {0: b"p1", 1: b"another", 2: b"p1"}
    assert watched.store.load([(p, [USER]) for p in range(3)]) == [[b"s1"], [None], [b"s1"]]
    assert [watched.store.lists(p, [USER]) for p in range(3)] == [[True], [False], [True]]


def test_a_store_that_is_emptied_after_the_records_were_read_keeps_nothing_of_the_commit(watched: Watched) -> None:
    assert watched.store.commit([Commit(0, ABSENT, b"p1", ((USER, b"s1"),))]) == [Written()]
    watched.after_look = lambda client: client.flushall()
    assert watched.store.commit([Commit(0, b"p1", b"p2", ((USER, b"s2"),))]) == [Refused(ABSENT)]
    assert watched.client.dbsize() == 0


def test_a_record_that_is_touched_each_time_has_no_answer_and_nothing_is_written(watched: Watched) -> None:
    assert watched.store.commit([Commit(0, ABSENT, b"p1")]) == [Written()]
    watched.after_look = lambda client: client.set(KEYS.progress(0), b"p1")
    [answer] = watched.store.commit([Commit(0, b"p1", b"p2", ((USER, b"s2"),))])
    assert isinstance(answer, NoAnswer)
    assert (watched.store.read_progress([0]), watched.store.load([(0, [USER])])) == ({0: b"p1"}, [[None]])
    watched.after_look = lambda client: None
    assert watched.store.commit([Commit(0, b"p1", b"p2", ((USER, b"s2"),))]) == [Written()]


def test_a_partition_whose_list_of_users_is_not_a_set_has_no_answer_and_the_others_are_written(
    watched: Watched,
) -> None:
    watched.client.set(KEYS.users(1), b"no list")
    many = tuple((f"u{i}", b"s") for i in range(CHUNK_STATES - 1))  # so that the last one is in another chunk
    commits = [Commit(p, ABSENT, b"p1", ((USER, b"s1"), *many), created=1) for p in range(3)]
    first, broken, last = watched.store.commit(commits)
    assert (first, last) == (Written(), Written())
    assert isinstance(broken, NoAnswer)
    assert "WRONGTYPE" in broken.detail
    assert watched.store.read_progress(range(3)) == {0: b"p1", 1: ABSENT, 2: b"p1"}


@pytest.mark.parametrize("mode", MODES)
def test_of_writers_that_race_one_at_a_time_writes_and_none_writes_over_another(
    mode: Literal["single", "cluster"], request: pytest.FixtureRequest
) -> None:
    server: Valkey = request.getfixturevalue("server" if mode == "single" else "cluster")
    keys, partitions, writers, rounds = Keys("0011223344556677-0", f"race-{mode}"), range(4), 3, 60

    def race(writer: int) -> Counter[tuple[int, type]]:
        store = RedisStore(RedisSettings(url=server.address, mode=mode), keys)
        outcomes: Counter[tuple[int, type]] = Counter()
        for _ in range(rounds):
            known = store.progress_of(partitions)
            said = {p: b"%d by %d" % (int((known[p] or b"0").split()[0]) + 1, writer) for p in partitions}
            commits = [Commit(p, known[p], said[p], ((USER, said[p]), (f"u{writer}", said[p]))) for p in partitions]
            answers = store.commit(commits)
            outcomes.update((p, type(answer)) for p, answer in zip(partitions, answers, strict=True))
        store.close()
        return outcomes

    with ThreadPoolExecutor(writers) as threads:
        total = sum(threads.map(race, range(writers)), Counter())
    judge = RedisStore(RedisSettings(url=server.address, mode=mode), keys)
    stored, states = judge.progress_of(partitions), judge.load([(p, [USER]) for p in partitions])
    judge.close()
    assert {outcome for _, outcome in total} == {Written, Refused}, "they met, and each commit had an answer"
    assert [int(stored[p].split()[0]) for p in partitions] == [total[p, Written] for p in partitions]
    assert states == [[stored[p]] for p in partitions]


@pytest.mark.servers
@pytest.mark.parametrize("when", ["before", "after the look", "after the records were written"])
def test_a_partition_that_moves_to_another_master_is_written_there(
    masters: list[ClusterNode], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    keys = Keys("0011223344556677-0", f"move {when}")
    store = RedisStore(RedisSettings(url=masters[0].address, mode="cluster"), keys)
    commits = [Commit(p, ABSENT, b"p1", ((USER, b"s1"),), created=1) for p in range(6)]
    assert store.commit(commits) == [Written()] * 6
    exchange, looks, moved = store_module._exchange, 0, False

    def interrupted(connection: Any, sent: Sent) -> list[Any]:
        nonlocal looks, moved
        replies = exchange(connection, sent)
        looks += b"WATCH" in sent.pieces[0]
        if (
            looks
            and not moved
            and when == ("after the look" if b"WATCH" in sent.pieces[0] else "after the records were written")
        ):
            moved = True
            move_slot(masters, keys.progress(0))
        return replies

    monkeypatch.setattr(store_module, "_exchange", interrupted)
    if when == "before":
        move_slot(masters, keys.progress(0))
    again = [Commit(p, b"p1", b"p2", ((USER, b"s2"), ("bob", b"s3")), listed=2) for p in range(6)]
    assert store.commit(again) == [Written()] * 6, "a moved partition is not a store that does not answer"
    third = [Commit(p, b"p2", b"p3", ((USER, None), ("eve", b"s4"))) for p in range(6)]
    assert store.commit(third) == [Written()] * 6
    assert store.read_progress(range(6)) == dict.fromkeys(range(6), b"p3")
    assert store.load([(p, [USER, "bob", "eve"]) for p in range(6)]) == [[None, b"s3", b"s4"]] * 6
    store.close()


@pytest.mark.servers
def test_a_partition_on_its_way_to_another_master_has_no_answer_and_is_written_when_it_is_there(
    masters: list[ClusterNode],
) -> None:
    keys = Keys("0011223344556677-0", "halfway")
    store = RedisStore(RedisSettings(url=masters[0].address, mode="cluster"), keys)
    assert store.commit([Commit(p, ABSENT, b"p1", ((USER, b"s1"),), created=1) for p in range(3)]) == [Written()] * 3
    commits = [Commit(p, b"p1", b"p2", ((USER, b"s2"), ("bob", b"s3"))) for p in range(3)]
    answers: list[Any] = []

    def halfway() -> None:
        answers.extend(store.commit(commits))
        answers.append(store.load([(p, [USER, "carol"]) for p in range(3)]))

    move_slot(masters, keys.progress(1), halfway)
    assert (answers[0], answers[2]) == (Written(), Written()), "the others go on meanwhile"
    assert isinstance(answers[1], NoAnswer)
    one, moving, other = answers[3]
    assert (one, other) == ([b"s2", None], [b"s2", None])
    assert isinstance(moving, NoAnswer), "some of its keys are here and some are there"
    assert "TryAgain" in moving.detail or "Ask" in moving.detail
    assert store.read_progress([1]) == {1: b"p1"}
    assert store.commit(commits[1:2]) == [Written()]
    assert store.load([(1, [USER, "bob"])]) == [[b"s2", b"s3"]]
    store.close()


@pytest.mark.servers
def test_a_partition_on_its_way_to_an_empty_master_waits(tmp_path: Path) -> None:
    keys, moving = Keys("0011223344556677-0", "growing"), 1
    with ExitStack() as ending:
        nodes = ending.enter_context(three_masters(tmp_path))
        settings = RedisSettings(url=nodes[0].address, mode="cluster")
        stores = [RedisStore(settings, keys)]  # which knows the three
        assert stores[0].commit([Commit(p, ABSENT, b"p1", ((USER, b"s1"),), created=1) for p in range(3)]) == (
            [Written()] * 3
        )
        stores[0].claim_namespace(3, "events")
        new = ending.enter_context(ClusterNode(tmp_path / "new"))
        join([*nodes, new])
        port = stores[0].client.get_node_from_key(keys.progress(moving)).port
        [owner] = [node for node in nodes if node.port == port]

        def halfway() -> None:
            stores.append(RedisStore(settings, keys))  # as after a restart
            for i, store in enumerate(stores):
                known = {0: b"p%d" % (1 + i), moving: b"p1", 2: b"p%d" % (1 + i)}
                assert store.read_progress(range(3)) == known
                commits = [Commit(p, known[p], b"p%d" % (2 + i), ((USER, b"s"), ("bob", b"s"))) for p in range(3)]
                one, waits, other = store.commit(commits)
                assert (one, other) == (Written(), Written()), "the others go on meanwhile"
                assert isinstance(waits, NoAnswer)
                assert "AskError" in waits.detail
                assert list(store.users(moving)) == [USER]
                assert store.lists(moving, [USER, "bob"]) == [True, False]
                store.set_aside(moving, [b"bad"])
                assert store.time_ms() > 1_600_000_000_000
            assert gather_store(settings, keys, 3, 5.0).error is None, "ctr doctor reads all progress, too"

        move_slot([owner, new, *(node for node in nodes if node is not owner)], keys.progress(moving), halfway)
        for i, store in enumerate(stores):
            commit = Commit(moving, b"p%d" % (1 + i), b"p%d" % (2 + i), ((USER, b"s2"), ("bob", b"s3")))
            assert store.commit([commit]) == [Written()]
            assert store.load([(moving, [USER, "bob"])]) == [[b"s2", b"s3"]]
            store.close()


@contextmanager
def timed(took_s: list[float]) -> Iterator[None]:
    """Append how long the body took. Each question is judged by itself: a slow machine makes all of them slower, but
    only a wait for a server takes a whole timeout."""
    began = time.monotonic()
    yield
    took_s.append(time.monotonic() - began)


@pytest.mark.servers
def test_partitions_of_a_master_that_is_away_have_no_answer_and_the_others_do(tmp_path: Path) -> None:
    keys, partitions = Keys("0011223344556677-0", "away"), range(12)
    with ExitStack() as ending:
        nodes = ending.enter_context(three_masters(tmp_path, each_alone=True))
        store = RedisStore(RedisSettings(url=nodes[0].address, mode="cluster", timeout_s=30.0), keys)
        ending.callback(store.close)
        assert set(store.commit([Commit(p, ABSENT, b"p1", ((USER, b"s1"),)) for p in partitions])) == {Written()}
        at = {p: store.client.get_node_from_key(keys.progress(p)).port for p in partitions}
        gone = next(node for node in nodes[1:] if node.port in at.values())
        away = {p for p in partitions if at[p] == gone.port}
        assert 0 < len(away) < len(partitions)
        gone.kill()
        answers = dict(enumerate(store.commit([Commit(p, b"p1", b"p2", ((USER, b"s2"),)) for p in partitions])))
        records = store.read_progress(partitions)
        values = dict(enumerate(store.load([(p, [USER]) for p in partitions])))
        for some in (answers, records, values):
            assert {p for p in partitions if isinstance(some[p], NoAnswer)} == away
        assert {records[p] for p in partitions if p not in away} == {b"p2"}
        assert store.time_ms() > 1_600_000_000_000, "by the clocks that answer"
        with pytest.raises(StoreUnavailable):
            store.progress_of(partitions)
        with pytest.raises(StoreUnavailable):
            store.load([(p, [USER]) for p in away])
        gone.start()

        def back() -> bool:
            try:  # it kept nothing: appendfsync is off
                return set(store.progress_of(partitions).values()) == {ABSENT, b"p2"}
            except StoreUnavailable:
                return False

        until(back, "it is back", within_s=60)


@pytest.mark.servers
def test_a_call_waits_once_for_a_master_that_hangs(tmp_path: Path) -> None:
    keys, partitions, timeout_s = Keys("0011223344556677-0", "hangs"), range(12), 2.0
    with ExitStack() as ending:
        nodes = ending.enter_context(three_masters(tmp_path, each_alone=True))
        settings = RedisSettings(url=nodes[0].address, mode="cluster", timeout_s=timeout_s)
        store = RedisStore(settings, keys)
        ending.callback(store.close)
        assert set(store.commit([Commit(p, ABSENT, b"p1", ((USER, b"s1"),)) for p in partitions])) == {Written()}
        at = {p: store.client.get_node_from_key(keys.progress(p)).port for p in partitions}
        hung = next(node for node in nodes[1:] if node.port in at.values())
        away = {p for p in partitions if at[p] == hung.port}
        hung.freeze()
        ending.callback(hung.thaw)

        def turn(progress: bytes, then: bytes) -> list[float]:
            """What the fold asks in a turn; seconds of each question."""
            took_s: list[float] = []
            with timed(took_s):
                assert store.time_ms() > 1_600_000_000_000
            with timed(took_s):
                loaded = dict(enumerate(store.load([(p, [USER]) for p in partitions])))
            commits = [Commit(p, progress, then, ((USER, b"s2"),)) for p in partitions]
            with timed(took_s):
                written = dict(enumerate(store.commit(commits)))
            with timed(took_s):
                records = store.read_progress(partitions)
            for some in (loaded, written, records):
                assert {p for p in partitions if isinstance(some[p], NoAnswer)} == away
                said = {some[p].detail for p in away}  # type: ignore[union-attr]
                assert all(f":{hung.port}: " in one for one in said), "which server, and why"
                assert all("Timeout" in one for one in said)
            return took_s

        assert len(away) > 1
        _, *each_s = turn(b"p1", b"p2")
        assert max(each_s) < 2 * timeout_s, "one of its partitions is asked for"
        found = gather_store(settings, keys, len(partitions), timeout_s)
        assert (found.error or "").startswith(f"master 127.0.0.1:{hung.port}: Timeout"), "ctr doctor says which"
        assert "start Redis" not in found.fix
        hung.thaw()

        def back() -> bool:
            return not any(isinstance(record, NoAnswer) for record in store.read_progress(partitions).values())

        until(back, "it is asked again", within_s=60)


def test_commits_of_one_partition_follow_each_other(subject: Subject) -> None:
    commits = [Commit(0, ABSENT, b"p1"), Commit(0, b"p1", b"p2", ((USER, b"s"),)), Commit(0, b"p1", b"p3")]
    assert subject.store.commit(commits) == [Written(), Written(), Refused(b"p2")]


@pytest.mark.servers
@pytest.mark.parametrize("mode", ["single", "cluster"])
def test_leases_are_held_run_out_and_are_given_up(
    request: pytest.FixtureRequest, mode: Literal["single", "cluster"]
) -> None:
    server: Valkey = request.getfixturevalue("server" if mode == "single" else "cluster")
    client = redis.Redis.from_url(server.address, protocol=2)
    client.flushall()
    store = RedisStore(RedisSettings(url=server.address, mode=mode), KEYS)
    assert store.renew_lease("a", 60) == Leases(frozenset({"a"}), joined=True)
    assert store.renew_lease("a", 60) == Leases(frozenset({"a"}), joined=False)
    assert store.renew_lease("b", 0.05) == Leases(frozenset({"a", "b"}), joined=True)
    until(lambda: store.renew_lease("a", 60).workers == {"a"}, "the lease of b runs out", within_s=30)
    assert store.renew_lease("b", 60).joined
    store.give_lease_up("a")
    assert store.renew_lease("b", 60) == Leases(frozenset({"b"}), joined=False)
    store.give_lease_up("b")
    until(lambda: not client.exists(KEYS.leases), "no lease leaves no key", within_s=30)
    store.close()


@pytest.mark.servers
@pytest.mark.parametrize("mode", ["single", "cluster"])
def test_all_workers_of_a_store_learn_one_identity_and_keep_it_when_the_store_is_emptied(
    request: pytest.FixtureRequest, mode: Literal["single", "cluster"]
) -> None:
    server: Valkey = request.getfixturevalue("server" if mode == "single" else "cluster")
    client = redis.Redis.from_url(server.address, protocol=2)
    client.flushall()
    stores = [RedisStore(RedisSettings(url=server.address, mode=mode), KEYS) for _ in range(3)]
    first, second, late = stores
    identity = first.claim_namespace(64, "behavior-events")
    assert second.claim_namespace(64, "behavior-events") == identity
    client.flushall()
    assert second.claim_namespace(64, "behavior-events") == identity
    assert late.claim_namespace(64, "behavior-events") == identity
    client.flushall()
    fresh = RedisStore(RedisSettings(url=server.address, mode=mode), KEYS)
    another = fresh.claim_namespace(64, "behavior-events")
    assert another != identity
    assert first.claim_namespace(64, "behavior-events") == another, "what the store says counts"

    client.set(KEYS.meta, '{"partitions": 64, "topic": "behavior-events"}')  # as earlier versions wrote it
    upgraded = {store.claim_namespace(64, "behavior-events") for store in (second, late, first)}
    assert len(upgraded) == 1
    for foreign in (b"null", b"[]", b"{}", b'{"partitions": 64, "topic": "behavior-events", "store": "../x"}'):
        client.set(KEYS.meta, foreign)
        with pytest.raises(NamespaceConflict):
            first.claim_namespace(64, "behavior-events")
    for store in (*stores, fresh):
        store.close()
    client.close()


@pytest.mark.servers
def test_a_store_emptied_at_any_moment_is_claimed_and_never_found_to_be_made_for_nothing(
    valkey_store: tuple[RedisStore, redis.Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, client = valkey_store
    execute = store.client.execute_command

    def emptied_after_each(*words: Any, **options: Any) -> Any:
        answer = execute(*words, **options)
        client.flushall()
        return answer

    monkeypatch.setattr(store.client, "execute_command", emptied_after_each)
    identity = store.claim_namespace(64, "behavior-events")
    assert store.claim_namespace(64, "behavior-events") == identity


@pytest.fixture
def valkey_store(server: Valkey) -> Iterator[tuple[RedisStore, redis.Redis]]:
    client = redis.Redis.from_url(server.address, protocol=2)
    client.flushall()
    store = RedisStore(RedisSettings(url=server.address, timeout_s=30.0), KEYS)
    yield store, client
    client.config_set("maxmemory", "0")
    client.config_set("maxmemory-policy", "noeviction")
    client.close()
    store.close()


@pytest.mark.servers
@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
def test_a_policy_that_may_evict_states_is_refused(valkey_store: tuple[RedisStore, redis.Redis], policy: str) -> None:
    store, client = valkey_store
    store.check()
    client.config_set("maxmemory-policy", policy)
    with pytest.raises(EvictingStore, match="noeviction"):
        store.check()


@pytest.mark.servers
def test_a_store_that_begins_to_evict_is_noticed(
    valkey_store: tuple[RedisStore, redis.Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, client = valkey_store
    monkeypatch.setattr("uic.store.EVICTION_EVERY_S", 0.0)
    store.time_ms()
    assert store.evicts == ""
    connections = store.connections
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("maxmemory", "4mb")
    for number in range(100):
        client.set(f"filler:{number}", b"x" * 100_000)
    store.time_ms()
    assert "allkeys-lru" in store.evicts
    assert f"evicted_keys is {client.info('stats')['evicted_keys']}" in store.evicts
    assert client.info("stats")["evicted_keys"] > 0
    assert store.connections == connections
    client.config_set("maxmemory-policy", "noeviction")
    store.time_ms()
    assert store.evicts == ""


@pytest.mark.servers
def test_a_full_store_has_no_answer_and_writes_nothing(valkey_store: tuple[RedisStore, redis.Redis]) -> None:
    store, client = valkey_store
    client.config_set("maxmemory", "1mb")
    answers = store.commit([Commit(0, ABSENT, b"p", (("ann", b"x" * 100),)), Commit(1, ABSENT, b"p")])
    assert all(isinstance(answer, NoAnswer) for answer in answers)
    client.config_set("maxmemory", "0")
    assert store.read_progress([0, 1]) == {0: ABSENT, 1: ABSENT}
    assert store.load([(0, ["ann"])]) == [[None]]


@pytest.mark.servers
@pytest.mark.parametrize("right", ["watch", "mget", "smismember", "multi", "unlink", "sadd", "mset", "exec"])
def test_a_user_who_lacks_a_right_writes_nothing_and_a_stale_owner_who_does_overwrites_nothing(
    valkey_store: tuple[RedisStore, redis.Redis], server: Valkey, right: str
) -> None:
    client: Any = valkey_store[1]
    client.execute_command("ACL SETUSER", "lacking", "on", "nopass", "~*", "+@all", f"-{right}")
    store = RedisStore(RedisSettings(url=f"redis://lacking:any@127.0.0.1:{server.port}/0"), KEYS)
    exchange = store_module._exchange

    def interrupted(connection: Any, sent: Sent) -> list[Any]:
        replies = exchange(connection, sent)
        if b"WATCH" in sent.pieces[0]:
            client.set(KEYS.progress(0), b"by its new owner")
        return replies

    commits = [Commit(p, ABSENT, b"p1", ((USER, b"s1"),), created=1, begins_lineage=True) for p in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "_exchange", interrupted)
        answers = store.commit(commits)
    assert all(isinstance(answer, NoAnswer) for answer in answers)
    assert all(right in answer.detail for answer in answers if isinstance(answer, NoAnswer))
    assert client.keys() == [KEYS.progress(0).encode()]
    assert client.get(KEYS.progress(0)) == b"by its new owner"
    client.execute_command("ACL SETUSER", "lacking", f"+{right}")
    assert store.read_progress([0, 1]) == {0: b"by its new owner", 1: ABSENT}, "its connection is as good as new"
    assert store.commit(commits) == [Refused(b"by its new owner"), Written()]
    store.close()
    client.acl_deluser("lacking")


@pytest.mark.servers
def test_a_replica_has_no_answer(valkey_store: tuple[RedisStore, redis.Redis]) -> None:
    store, client = valkey_store
    client.slaveof("127.0.0.1", free_port())
    try:
        [answer] = store.commit([Commit(0, ABSENT, b"p")])
    finally:
        client.slaveof()
    assert isinstance(answer, NoAnswer)
    assert "ReadOnlyError" in answer.detail


@pytest.mark.servers
def test_a_master_that_was_demoted_behind_its_name_is_left(tmp_path: Path) -> None:
    with (
        Valkey(tmp_path / "a", name="a") as old,
        Valkey(tmp_path / "b", name="b") as new,
        Wire(old.port) as name,
    ):
        store = RedisStore(RedisSettings(url=f"redis://127.0.0.1:{name.port}/0"), KEYS)
        store.claim_namespace(1, "events")
        assert store.commit([Commit(0, ABSENT, b"p")]) == [Written()]
        store.set_aside(0, [b"bad"])
        with redis.Redis.from_url(old.address, protocol=2) as client:
            client.replicaof("127.0.0.1", new.port)
        name.to_port = new.port
        before = store.connections
        with pytest.raises(StoreUnavailable, match="ReadOnlyError"):
            store.set_aside(0, [b"bad"])
        [answer] = store.commit([Commit(0, b"p", b"q")])
        assert isinstance(answer, NoAnswer)
        assert "ReadOnlyError" in answer.detail
        assert store.read_progress([0]) == {0: ABSENT}, "what the new one has"
        assert store.connections > before, "so that the fold reads its progress again"
        assert store.commit([Commit(0, ABSENT, b"q")]) == [Written()]
        store.set_aside(0, [b"bad"])
        store.claim_namespace(1, "events")
        store.close()


@pytest.mark.parametrize("mode", MODES)
def test_a_store_that_hangs_is_given_up_after_the_timeout_and_the_rest_is_not_tried(
    mode: Literal["single", "cluster"], tmp_path: Path
) -> None:
    from time import monotonic

    with (Valkey if mode == "single" else OneNodeCluster)(tmp_path / "own", appendfsync="off") as server:
        timeout_s = 5.0
        store = RedisStore(RedisSettings(url=server.address, mode=mode, timeout_s=timeout_s), KEYS)
        assert store.commit([Commit(0, ABSENT, b"p0")]) == [Written()]
        commits = [Commit(p, ABSENT, b"p", tuple((f"u{i}", b"s") for i in range(CHUNK_STATES))) for p in range(1, 9)]
        server.freeze()
        began = monotonic()
        answers = store.commit(commits)
        took_s = monotonic() - began
        server.thaw()
        assert all(isinstance(answer, NoAnswer) for answer in answers)
        assert took_s < len(commits) / 2 * timeout_s, "the timeout was waited for once, not for each"
        store.close()


@pytest.mark.servers
def test_connections_are_counted_so_that_a_reconnect_is_noticed(tmp_path: Path) -> None:
    server = Valkey(tmp_path / "own", appendfsync="off")
    server.start()
    store = RedisStore(RedisSettings(url=server.address, timeout_s=30.0), KEYS)
    try:
        store.read_progress([0])
        before = store.connections
        store.time_ms()
        store.load([(0, [USER])])
        store.commit([Commit(1, ABSENT, b"p", ((USER, b"s"),))])
        store.read_progress([0])
        assert store.connections == before, "what the fold asks again and again shares a connection"
        server.stop()
        with pytest.raises(StoreUnavailable):
            store.read_progress([0])
        server.start()
        store.read_progress([0])
        assert store.connections > before
    finally:
        store.close()
        server.stop()


@pytest.mark.servers
def test_a_server_that_restarted_between_two_commits_answers_the_second(tmp_path: Path) -> None:
    server = Valkey(tmp_path / "own", appendfsync="always")
    server.start()
    store = RedisStore(RedisSettings(url=server.address, timeout_s=30.0), KEYS)
    try:
        assert store.commit([Commit(p, ABSENT, b"p", ((USER, b"s"),)) for p in range(2)]) == [Written()] * 2
        server.stop()
        server.start()
        assert store.commit([Commit(p, b"p", b"q", ((USER, b"t"),)) for p in range(2)]) == [Written()] * 2
        assert store.load([(1, [USER, "ben"])]) == [[b"t", None]]
    finally:
        store.close()
        server.stop()


@pytest.mark.servers
def test_answers_that_come_too_late_are_not_taken_for_those_of_the_next_call(tmp_path: Path) -> None:
    with Valkey(tmp_path / "own", appendfsync="off") as server:
        store = RedisStore(RedisSettings(url=server.address, timeout_s=4.0), KEYS)
        assert store.commit([Commit(0, ABSENT, b"p", ((USER, b"s"),))]) == [Written()]
        server.freeze()
        with pytest.raises(StoreUnavailable):
            store.load([(0, [USER])])
        [answer] = store.commit([Commit(1, ABSENT, b"p", ((USER, b"s"),))])
        assert isinstance(answer, NoAnswer)
        server.thaw()
        assert store.load([(0, ["ben"]), (5, [USER])]) == [[None], [None]]
        [answer] = store.commit([Commit(0, b"p", b"q", ((USER, b"t"),))])
        assert answer == Written()
        store.close()


@pytest.mark.servers
def test_a_master_that_sentinel_no_longer_names_is_left_though_it_goes_on_answering(tmp_path: Path) -> None:
    with (
        Valkey(tmp_path / "a", name="a") as old,
        Valkey(tmp_path / "b", name="b") as new,
        SentinelNode(tmp_path / "sentinel", old) as watcher,
    ):
        store = RedisStore(
            RedisSettings(mode="sentinel", sentinels=f"127.0.0.1:{watcher.port}", sentinel_service="states"), KEYS
        )
        assert store.commit([Commit(0, ABSENT, b"p")]) == [Written()]
        with redis.Redis.from_url(watcher.address, protocol=2) as client:
            client.execute_command("SENTINEL REMOVE", "states")
            client.execute_command("SENTINEL MONITOR", "states", "127.0.0.1", new.port, 1)
        assert store.read_progress([0]) == {0: ABSENT}, "what the new one has"
        assert store.commit([Commit(0, ABSENT, b"q")]) == [Written()]
        assert store.sentinels == ""
        watcher.kill()
        assert store.read_progress([0]) == {0: b"q"}, "without a Sentinel it goes on"
        store.close()


@pytest.mark.servers
def test_sentinels_that_all_hang_hold_up_no_fold_are_told_and_are_asked_again(tmp_path: Path) -> None:
    with ExitStack() as ending:
        old, new = (ending.enter_context(Valkey(tmp_path / name, name=name)) for name in "ab")
        watchers = [ending.enter_context(SentinelNode(tmp_path / f"sentinel-{i}", old)) for i in range(3)]
        sentinels = ",".join(f"127.0.0.1:{watcher.port}" for watcher in watchers)
        timeout_s = 8.0
        told = {"mode": "sentinel", "sentinels": sentinels, "sentinel_service": "states", "timeout_s": timeout_s}
        store = RedisStore(RedisSettings.model_validate(told), KEYS)
        ending.callback(store.close)
        assert store.sentinels is None, "they were not asked"
        assert store.commit([Commit(0, ABSENT, b"p")]) == [Written()]
        for watcher in watchers:
            watcher.freeze()
            ending.callback(watcher.thaw)

        def trouble() -> str | None:
            assert store.read_progress([0]) == {0: b"p"}
            assert store.time_ms() > 0
            return store.sentinels

        until(trouble, "it is told that no Sentinel answers", within_s=60)
        took_s: list[float] = []
        for _ in range(5):
            with timed(took_s):
                assert "no Sentinel of UIC_REDIS__SENTINELS answers" in (trouble() or "")
        assert max(took_s) < timeout_s, "none of the ten questions waits for a Sentinel"
        with redis.Redis.from_url(old.address, protocol=2) as client:
            client.client_kill_filter(_type="normal", skipme=True)
        until(lambda: store.commit([Commit(1, ABSENT, b"q")]) == [Written()], "a new connection", within_s=10)
        for watcher in watchers:
            watcher.thaw()
            with redis.Redis.from_url(watcher.address, protocol=2) as client:
                client.execute_command("SENTINEL REMOVE", "states")
                client.execute_command("SENTINEL MONITOR", "states", "127.0.0.1", new.port, 1)
        until(lambda: store.read_progress([0]) == {0: ABSENT}, "the new master is read", within_s=60)
        assert store.sentinels == ""


@pytest.mark.servers
def test_sentinels_are_given_their_own_password_and_a_missing_or_wrong_one_is_named(tmp_path: Path) -> None:
    with Valkey(tmp_path / "a", name="a") as server, SentinelNode(tmp_path / "sentinel", server) as watcher:
        ask_for_login(watcher)
        url = "redis://:of-the-master@not-used:1/0"
        told = {"url": url, "mode": "sentinel", "sentinels": f"127.0.0.1:{watcher.port}", "sentinel_service": "states"}
        for login, said in (
            ({}, "it asks for a password: set UIC_REDIS__SENTINEL_PASSWORD"),
            ({"sentinel_password": "wrong"}, "it refuses the user or password: correct UIC_REDIS__SENTINEL_PASSWORD"),
        ):
            store = RedisStore(RedisSettings.model_validate(told | login), KEYS)
            with pytest.raises(StoreUnavailable, match=f":{watcher.port} .{said}"):
                store.read_progress([0])
            store.close()
        with redis.Redis.from_url(server.address, protocol=2) as client:
            client.execute_command("ACL", "SETUSER", "default", "resetpass", ">of-the-master")
        for login in LOGINS:
            store = RedisStore(RedisSettings.model_validate(told | login), KEYS)
            assert store.read_progress([0]) == {0: b""}
            store.close()
