"""One suite for every `StateReader`: the fake that scoring is tested with, and a real server through redis-py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
from pydantic import SecretStr
from structlog.testing import capture_logs

from localstack.ports import free_port
from localstack.valkey import Valkey
from localstack.wait import until
from rtp.core.ports import StateReader
from rtp.errors import StoreAway, StoreError, StoreLate, StoreRefused
from rtp.settings import RedisSettings
from rtp.store import open_store
from rtp.store import reader as reader_module
from rtp.store_clock import wall_ms
from support.fake_state_reader import FakeStateReader
from support.one_node_cluster import ClusterNode, OneNodeCluster, join, move_slot, replicated, three_masters
from support.sentinel_node import LOGINS, SentinelNode, ask_for_login
from torture.wire import Wire

T = TypeVar("T")
Test = Callable[[StateReader], Awaitable[T]]
POOL = 4
PATIENT_S = 30.0
"""Where how long a read takes is not the claim."""


@dataclass
class Subject:
    """A store under test, and what the tests do to it. `open` makes a fresh reader: one is bound to its event loop."""

    open: Callable[[], StateReader]
    put: Callable[[str, bytes], object]
    make_refused: Callable[[str], object]
    freeze: Callable[[], object]
    thaw: Callable[[], object]
    stop: Callable[[], object]
    start: Callable[[], object]
    restart_connections: Callable[[], object]
    allow_get: Callable[[bool], object]
    named: str = "the store"
    """In reasons."""

    def run(self, test: Test[T]) -> T:
        async def with_reader() -> T:
            reader = self.open()
            try:
                return await test(reader)
            finally:
                await reader.close()

        return asyncio.run(with_reader())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), appendfsync="always") as server:
        yield server


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory: pytest.TempPathFactory, server: Valkey) -> Iterator[SentinelNode]:
    with SentinelNode(tmp_path_factory.mktemp("sentinel"), server) as sentinel:
        yield sentinel


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneNodeCluster]:
    with OneNodeCluster(tmp_path_factory.mktemp("cluster"), appendfsync="always") as node:
        yield node


def fake() -> Subject:
    store = FakeStateReader()
    return Subject(
        open=lambda: store,
        put=store.values.__setitem__,
        make_refused=store.refused.add,
        freeze=lambda: setattr(store, "frozen", True),
        thaw=lambda: setattr(store, "frozen", False),
        stop=lambda: setattr(store, "away", True),
        start=lambda: setattr(store, "away", False),
        restart_connections=lambda: None,
        allow_get=lambda _: None,
    )


REAL = [pytest.param(mode, marks=pytest.mark.servers) for mode in ("single", "sentinel", "cluster")]


@pytest.fixture(params=["fake", *REAL])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    if request.param == "fake":
        yield fake()
        return
    server: Valkey = request.getfixturevalue("cluster" if request.param == "cluster" else "server")
    told = {
        "url": server.address,
        "mode": request.param,
        "pool_size": POOL,
        "failures_to_pause": 3,
        "retry_every_ms": 10,
        "connect_timeout_ms": 2000,  # no promise of these tests: a busy machine may take longer than the default
    }
    if request.param == "sentinel":
        watcher = request.getfixturevalue("sentinel")
        told |= {"url": "redis://not-used:1/0", "sentinels": f"127.0.0.1:{watcher.port}", "sentinel_service": "states"}
    settings = RedisSettings.model_validate(told)
    client = redis.Redis.from_url(server.address, protocol=2)
    client.flushall()
    try:
        yield Subject(
            open=lambda: open_store(settings),
            put=client.set,
            make_refused=lambda key: client.lpush(key, "a list, not a string"),
            freeze=server.freeze,
            thaw=server.thaw,
            stop=server.kill,
            start=server.start,
            restart_connections=lambda: client.client_kill_filter(_type="normal", skipme=True),
            allow_get=lambda allowed: allow_get(client, allowed),
            named=f"node {server.address.split('/')[2]} of the store" if request.param == "cluster" else "the store",
        )
    finally:
        server.thaw()
        if not server.alive():
            server.start()
        allow_get(client, True)
        client.close()


def allow_get(client: Any, allowed: bool) -> None:  # redis-py leaves commands without types
    client.execute_command("ACL SETUSER", "default", "+get" if allowed else "-get")


def test_the_clock_is_the_stores(subject: Subject) -> None:
    async def test(reader: StateReader) -> int:
        return await reader.time_ms(PATIENT_S)

    before = wall_ms()  # of the same machine
    assert before <= subject.run(test) <= wall_ms()


def test_a_store_that_hangs_does_not_tell_its_time(subject: Subject) -> None:
    async def test(reader: StateReader) -> None:
        await reader.time_ms(PATIENT_S)
        await asyncio.to_thread(subject.freeze)
        with pytest.raises(StoreLate):
            await reader.time_ms(0.05)
        await asyncio.to_thread(subject.thaw)

    subject.run(test)


@pytest.mark.servers
def test_a_slot_that_moves_to_another_master_is_read_before_during_and_after(tmp_path: Path) -> None:
    keys = [f"uic:{{abc-0.{i}}}:s:ann" for i in range(6)]
    with three_masters(tmp_path) as nodes:
        with redis.RedisCluster.from_url(nodes[0].address, protocol=2) as client:
            for key in keys:
                client.set(key, key)
        found: list[list[bytes | None]] = []

        async def test() -> None:
            reader = open_store(RedisSettings(url=SecretStr(nodes[0].address), mode="cluster", connect_timeout_ms=2000))

            async def read() -> None:
                found.append([await reader.read(key, PATIENT_S) for key in keys])
                found.append(await reader.read_many(keys, PATIENT_S))

            await read()
            loop = asyncio.get_running_loop()

            def halfway() -> None:
                asyncio.run_coroutine_threadsafe(read(), loop).result(60)

            await asyncio.to_thread(move_slot, nodes, keys[0], halfway)
            await read()
            await reader.close()

        asyncio.run(test())
    assert found == [[key.encode() for key in keys]] * 6


@pytest.mark.servers
def test_a_slot_that_moves_to_a_master_that_has_none_yet_is_read_meanwhile(tmp_path: Path) -> None:
    keys = [f"uic:{{abc-0.1}}:s:{i}" for i in range(6)]
    with three_masters(tmp_path) as nodes, ClusterNode(tmp_path / "new") as newcomer:
        with redis.RedisCluster.from_url(nodes[0].address, protocol=2) as client:
            for key in keys:
                client.set(key, key)
        found: list[list[bytes | None]] = []

        async def test() -> None:
            reader = open_store(RedisSettings(url=SecretStr(nodes[0].address), mode="cluster", connect_timeout_ms=2000))

            async def read() -> None:
                found.append(list(await asyncio.gather(*(reader.read(key, PATIENT_S) for key in keys))))
                found.append(await reader.read_many(keys, PATIENT_S))

            await read()
            await asyncio.to_thread(join, [*nodes, newcomer])
            loop = asyncio.get_running_loop()

            def halfway() -> None:
                asyncio.run_coroutine_threadsafe(read(), loop).result(60)

            await asyncio.to_thread(move_slot, [*nodes, newcomer], keys[0], halfway, to=3)
            await read()
            await reader.close()

        asyncio.run(test())
    assert found == [[key.encode() for key in keys]] * 6


@pytest.mark.servers
@pytest.mark.parametrize("end", ["kill", "freeze"])
def test_a_node_that_is_away_or_hangs_is_noticed_by_its_own_users_alone(tmp_path: Path, end: str) -> None:
    keys = [f"uic:{{abc-0.{i}}}:s:ann" for i in range(30)]
    with three_masters(tmp_path, each_alone=True) as nodes:
        with redis.RedisCluster.from_url(nodes[0].address, protocol=2) as client:
            for key in keys:
                client.set(key, key)
            its_own = {key for key in keys if client.get_node_from_key(key).port == nodes[1].port}
        assert 0 < len(its_own) < len(keys)

        async def test() -> None:
            told = {"url": nodes[0].address, "mode": "cluster", "pool_size": POOL, "failures_to_pause": 3}
            # Patient, so that a busy machine is not taken for a node that is away.
            reader = open_store(RedisSettings.model_validate(told | {"connect_timeout_ms": 2000}))
            # One that is away is refused at once; one that hangs is waited for, and the others must answer meanwhile.
            patience_s = PATIENT_S if end == "kill" else 2.0

            async def outcome(key: str) -> object:
                try:
                    return await reader.read(key, 0.05 if key in its_own else PATIENT_S)
                except (StoreAway, StoreLate):
                    return None

            wanted = [None if key in its_own else key.encode() for key in keys]
            assert await reader.read_many(keys, PATIENT_S) == [key.encode() for key in keys]
            await asyncio.to_thread(getattr(nodes[1], end))
            assert abs(await reader.time_ms(patience_s) - wall_ms()) < 60_000, "by the nodes that answer"
            for _ in range(10):
                assert await asyncio.gather(*map(outcome, keys)) == wanted
                found = await reader.read_each(keys, patience_s)
                assert [None if isinstance(value, StoreError) else value for value in found] == wanted
                away = {str(value) for value in found if isinstance(value, StoreAway)}
                assert all(f"127.0.0.1:{nodes[1].port} of the store" in one for one in away), "which node"
                assert away or end == "freeze"
                with pytest.raises(StoreError):
                    await reader.read_many(keys, patience_s)
            if end == "freeze":
                await asyncio.to_thread(nodes[1].thaw)
                for key in its_own:
                    assert await eventually(lambda key=key: reader.read(key, 1.0)) == key.encode()  # type: ignore[misc]
            await reader.close()

        try:
            asyncio.run(test())
        finally:
            nodes[1].thaw()


@pytest.mark.servers
def test_a_replica_that_takes_over_is_asked_without_a_restart(tmp_path: Path) -> None:
    with replicated(tmp_path) as nodes:
        with redis.RedisCluster.from_url(nodes[0].address, protocol=2) as client:
            key = next(key for key in map(str, range(99)) if client.get_node_from_key(key).port == nodes[1].port)
            client.set(key, b"1")
            client.wait(1, 0, target_nodes=client.get_node_from_key(key))

        async def test() -> bytes | None:
            reader = open_store(RedisSettings(url=SecretStr(nodes[0].address), mode="cluster"))
            assert await reader.read(key, PATIENT_S) == b"1"
            await asyncio.to_thread(nodes[1].kill)
            value = await eventually(lambda: reader.read(key, 1.0))
            assert await reader.read_many([key], 1.0) == [value]
            await reader.close()
            return value

        assert asyncio.run(test()) == b"1"


async def eventually(read: Callable[[], Awaitable[T]]) -> T:
    """The first result that is not a StoreError, within a minute."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await read()
            except StoreError:
                await asyncio.sleep(0.01)


def test_what_was_put_is_read_as_the_same_bytes_and_nothing_is_none(subject: Subject) -> None:
    value = bytes(range(256)) * 8
    subject.put("a", value)
    assert subject.run(lambda reader: reader.read("a", PATIENT_S)) == value
    assert subject.run(lambda reader: reader.read("b", PATIENT_S)) is None


def test_many_are_read_in_order_with_none_for_what_is_absent(subject: Subject) -> None:
    subject.put("a", b"1")
    subject.put("c", b"")
    assert subject.run(lambda reader: reader.read_many(["c", "b", "a"], PATIENT_S)) == [b"", None, b"1"]


def test_what_is_announced_is_read_by_its_key(subject: Subject) -> None:
    async def announced(reader: StateReader) -> bytes | None:
        await reader.announce("web:1", "p:{rtp}", "p:{rtp}:web:1", b"said", lasts_s=30, timeout_s=PATIENT_S)
        return (await reader.read_many(["p:{rtp}:web:1"], PATIENT_S))[0]

    assert subject.run(announced) == b"said"


def test_a_sample_has_only_keys_that_match_and_says_whether_it_has_all(subject: Subject) -> None:
    ours = {f"uic:{{abc-0.{i % 4}}}:s:{i}".encode() for i in range(300)}
    for key in (*(key.decode() for key in ours), "uic:{abc-0.1}:progress", "uic:{abc-1.1}:s:7", "x:{abc-0.1}:s:7"):
        subject.put(key, b"1")

    async def test(reader: StateReader) -> tuple[tuple[list[bytes], bool], tuple[list[bytes], bool]]:
        pattern = "uic:{abc-0.*}:s:*"
        return await reader.sample(pattern, 1000, PATIENT_S), await reader.sample(pattern, 50, PATIENT_S)

    (found, whole), (some, not_whole) = subject.run(test)
    assert whole
    assert sorted(found) == sorted(ours)
    assert not not_whole
    assert len(some) == len(set(some)) == 50
    assert set(some) <= ours


def test_keys_that_exist_are_counted(subject: Subject) -> None:
    there = [f"uic:{{abc-0.{i % 4}}}:s:{i}".encode() for i in range(100)]
    for key in there[:60]:
        subject.put(key.decode(), b"1")
    assert subject.run(lambda reader: reader.count(there, PATIENT_S)) == 60


def test_an_error_reply_is_refused_and_the_next_read_works(subject: Subject) -> None:
    subject.make_refused("list")
    subject.put("a", b"1")

    async def test(reader: StateReader) -> bytes | None:
        with pytest.raises(StoreRefused):
            await reader.read("list", PATIENT_S)
        return await reader.read("a", PATIENT_S)

    assert subject.run(test) == b"1"


@pytest.fixture
def calm_passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the reader's clock pass `CALM_S`."""
    ahead_s = 0.0
    monkeypatch.setattr(reader_module, "monotonic", lambda: time.monotonic() + ahead_s)

    def passes() -> None:
        nonlocal ahead_s
        ahead_s += reader_module.CALM_S

    return passes


@pytest.mark.parametrize("subject", REAL, indirect=True)
def test_a_store_that_refuses_requests_is_told_once_and_until_they_have_gone_well_for_a_while(
    subject: Subject, calm_passes: Callable[[], None]
) -> None:
    async def test(reader: StateReader) -> None:
        await reader.read("a", PATIENT_S)
        assert reader.troubles == []
        for _ in range(3):
            subject.allow_get(False)
            with pytest.raises(StoreRefused):
                await reader.read("a", PATIENT_S)
            subject.allow_get(True)
            await reader.read("a", PATIENT_S)
            refused = f"StoreRefused: {subject.named} refuses: NoPermissionError"
            assert reader.troubles == [f"states cannot be read: {refused}"]
        calm_passes()
        await reader.read("a", PATIENT_S)
        assert reader.troubles == []

    with capture_logs() as lines:
        subject.run(test)
    assert [line["event"] for line in lines] == ["states cannot be read", "states are read again"]


@pytest.mark.parametrize("subject", REAL, indirect=True)
def test_that_a_store_no_longer_refuses_requests_is_told_without_one(
    subject: Subject, calm_passes: Callable[[], None]
) -> None:
    async def test(reader: StateReader) -> None:
        subject.allow_get(False)
        with pytest.raises(StoreRefused):
            await reader.read("a", PATIENT_S)
        for calm, allowed, ends in ((False, True, False), (True, False, False), (True, True, True)):
            if calm:
                calm_passes()
            subject.allow_get(allowed)
            await reader.read_again(PATIENT_S)
            assert (reader.troubles == []) is ends

    with capture_logs() as lines:
        subject.run(test)
    assert [line["event"] for line in lines] == ["states cannot be read", "states are read again"]


@pytest.mark.parametrize("subject", REAL, indirect=True)
def test_a_key_that_fails_when_it_is_read_again_does_not_keep_the_trouble_of_requests_that_go_well(
    subject: Subject, calm_passes: Callable[[], None]
) -> None:
    subject.make_refused("list")
    subject.put("a", b"1")

    async def test(reader: StateReader) -> None:
        with pytest.raises(StoreRefused):
            await reader.read("list", PATIENT_S)
        calm_passes()
        await reader.read_again(PATIENT_S)
        assert reader.troubles != [], "no read has gone well"
        await reader.read("a", PATIENT_S)
        assert reader.troubles == []

    subject.run(test)


def test_what_is_read_again_raises_nothing(subject: Subject) -> None:
    async def test(reader: StateReader) -> None:
        await reader.read_again(PATIENT_S)
        subject.stop()
        with pytest.raises(StoreAway):
            await reader.read("a", PATIENT_S)
        await reader.read_again(PATIENT_S)

    subject.run(test)


def test_no_reply_is_late_after_the_time_that_was_given(subject: Subject) -> None:
    async def test(reader: StateReader) -> float:
        await reader.read("a", PATIENT_S)
        subject.freeze()
        began = asyncio.get_running_loop().time()
        with pytest.raises(StoreLate):
            await reader.read("a", 0.05)
        return asyncio.get_running_loop().time() - began

    assert 0.045 <= subject.run(test) < 5, "a frozen store never answers"


def test_no_time_left_is_late_at_once(subject: Subject) -> None:
    async def test(reader: StateReader) -> None:
        with pytest.raises(StoreLate):
            await reader.read("a", 0.0)

    subject.run(test)


def test_a_late_reply_never_answers_another_read(subject: Subject) -> None:
    for i in range(20):
        subject.put(f"k{i}", b"%d" % i)

    async def test(reader: StateReader) -> list[bytes | None]:
        await asyncio.gather(*(reader.read(f"k{i}", PATIENT_S) for i in range(POOL)))
        subject.freeze()
        late = await asyncio.gather(*(reader.read(f"k{i}", 0.03) for i in range(10)), return_exceptions=True)
        assert {type(outcome) for outcome in late} <= {StoreLate, StoreAway}
        subject.thaw()
        await eventually(lambda: reader.read("k0", 1.0))
        return [await eventually(lambda i=i: reader.read(f"k{i}", 1.0)) for i in range(20)]  # type: ignore[misc]

    assert subject.run(test) == [b"%d" % i for i in range(20)]


def test_reads_with_hardly_any_time_cost_others_nothing(subject: Subject) -> None:
    subject.put("a", b"value of a")

    async def test(reader: StateReader) -> int:
        late = 0

        async def hasty() -> None:
            nonlocal late
            try:
                await reader.read("a", 0.0001)
            except StoreLate:
                late += 1

        for _ in range(100):
            read, *_ = await asyncio.gather(reader.read("a", PATIENT_S), *(hasty() for _ in range(POOL)))
            assert read == b"value of a"
        return late

    late = subject.run(test)
    assert late or isinstance(subject.open(), FakeStateReader)


def test_more_reads_at_once_than_connections_each_get_their_own_value(subject: Subject) -> None:
    for i in range(100):
        subject.put(f"k{i}", b"%d" % i)

    async def test(reader: StateReader) -> list[bytes | None]:
        return list(await asyncio.gather(*(reader.read(f"k{i}", 5.0) for i in range(100))))

    assert subject.run(test) == [b"%d" % i for i in range(100)]


def test_a_store_that_is_away_is_away_and_back_when_it_is_back(subject: Subject) -> None:
    subject.put("a", b"1")

    async def test(reader: StateReader) -> bytes | None:
        assert await reader.read("a", PATIENT_S) == b"1"
        subject.stop()
        for _ in range(5):
            with pytest.raises(StoreAway):
                await reader.read("a", 0.5)
        with pytest.raises(StoreAway):
            await reader.read_many(["a"], 0.5)
        await asyncio.to_thread(subject.start)
        return await eventually(lambda: reader.read("a", 1.0))

    assert subject.run(test) == b"1"


def test_connections_that_the_server_closed_are_not_noticed_by_a_read(subject: Subject) -> None:
    subject.put("a", b"1")

    async def test(reader: StateReader) -> bytes | None:
        await asyncio.gather(*(reader.read("a", PATIENT_S) for _ in range(POOL)))
        subject.restart_connections()
        return await reader.read("a", PATIENT_S)

    assert subject.run(test) == b"1"


@pytest.mark.servers
def test_a_master_that_was_demoted_is_left_though_it_goes_on_answering(tmp_path: Path) -> None:
    with Valkey(tmp_path / "a", name="a") as old, Valkey(tmp_path / "b", name="b") as new:
        for server, value in ((old, b"old"), (new, b"new")):
            with redis.Redis.from_url(server.address, protocol=2) as client:
                client.set("a", value)
        with SentinelNode(tmp_path / "sentinel", old) as watcher:
            told = {"mode": "sentinel", "sentinels": f"127.0.0.1:{watcher.port}", "sentinel_service": "states"}
            settings = RedisSettings.model_validate(told)

            async def test() -> list[bytes | None]:
                reader = open_store(settings)
                seen = [await reader.read("a", 2.0)]
                with redis.Redis.from_url(watcher.address, protocol=2) as client:
                    client.execute_command("SENTINEL REMOVE", "states")
                    client.execute_command("SENTINEL MONITOR", "states", "127.0.0.1", new.port, 1)
                seen += await reader.read_many(["a"], 2.0)
                seen.append(await reader.read("a", 2.0))
                await reader.close()
                return seen

            assert asyncio.run(test()) == [b"old", b"new", b"new"]


@pytest.mark.servers
def test_a_master_is_read_on_while_no_sentinel_answers(tmp_path: Path) -> None:
    with Valkey(tmp_path / "a", name="a") as server, SentinelNode(tmp_path / "sentinel", server) as watcher:
        told = {"mode": "sentinel", "sentinels": f"127.0.0.1:{watcher.port}", "sentinel_service": "states"}

        async def test() -> None:
            reader = open_store(RedisSettings.model_validate(told))
            assert await reader.read("a", PATIENT_S) is None
            watcher.kill()
            for _ in range(3):
                assert await reader.read_many(["a"], PATIENT_S) == [None]
                assert await reader.read("a", PATIENT_S) is None
            await reader.close()

        asyncio.run(test())


@contextmanager
def sentinels_of(folder: Path, master: Valkey, count: int) -> Iterator[tuple[list[SentinelNode], RedisSettings]]:
    """Sentinels of one master, and RTP's settings for them."""
    with ExitStack() as ending:
        watchers = [ending.enter_context(SentinelNode(folder / f"sentinel-{i}", master)) for i in range(count)]
        addresses = ",".join(f"127.0.0.1:{watcher.port}" for watcher in watchers)
        told = {"mode": "sentinel", "sentinels": addresses, "sentinel_service": "states", "pool_size": POOL}
        try:
            yield watchers, RedisSettings.model_validate(told)
        finally:
            for watcher in watchers:
                watcher.thaw()


@pytest.mark.servers
def test_a_failover_is_followed_though_the_sentinel_asked_before_hangs_with_the_master(tmp_path: Path) -> None:
    with Valkey(tmp_path / "a", name="a") as old, Valkey(tmp_path / "b", name="b") as new:
        for server, value in ((old, b"old"), (new, b"new")):
            with redis.Redis.from_url(server.address, protocol=2) as client:
                client.set("a", value)
        with sentinels_of(tmp_path, old, 3) as (watchers, settings):

            async def test() -> None:
                reader = open_store(settings)
                assert await eventually(lambda: reader.read_many(["a"], 1.0)) == [b"old"]
                with redis.Redis.from_url(watchers[1].address, protocol=2) as client:
                    client.execute_command("SENTINEL REMOVE", "states")
                    client.execute_command("SENTINEL MONITOR", "states", "127.0.0.1", new.port, 1)
                watchers[0].freeze()
                old.freeze()
                assert await eventually(lambda: reader.read_many(["a"], 1.0)) == [b"new"]
                assert await eventually(lambda: reader.read("a", 0.16)) == b"new"
                assert reader.troubles == []
                await reader.close()

            try:
                asyncio.run(test())
            finally:
                old.thaw()


@pytest.mark.servers
def test_sentinels_that_all_hang_take_no_time_of_the_master_they_named_and_are_told(tmp_path: Path) -> None:
    with Valkey(tmp_path / "a", name="a") as server, sentinels_of(tmp_path, server, 5) as (watchers, settings):

        async def test() -> None:
            reader = open_store(settings)
            assert await eventually(lambda: reader.read_many(["a"], 1.0)) == [None]
            for watcher in watchers:
                watcher.freeze()
            while not reader.troubles:
                assert await reader.read_many(["a"], 1.0) == [None]
                assert await reader.read("a", PATIENT_S) is None
            assert "no Sentinel of RTP_REDIS__SENTINELS answers" in reader.troubles[0]
            with redis.Redis.from_url(server.address, protocol=2) as client:
                client.client_kill_filter(_type="normal", skipme=True)
            assert await asyncio.gather(*(reader.read("a", PATIENT_S) for _ in range(2 * POOL))) == [None] * 2 * POOL
            for watcher in watchers:
                watcher.thaw()
            while reader.troubles:
                assert await reader.read_many(["a"], PATIENT_S) == [None]
            await reader.close()

        asyncio.run(test())


@pytest.mark.servers
def test_a_name_that_no_sentinel_watches_is_told_with_its_setting(tmp_path: Path) -> None:
    with Valkey(tmp_path / "a", name="a") as server, sentinels_of(tmp_path, server, 2) as (_, settings):

        async def test() -> None:
            reader = open_store(settings.model_copy(update={"sentinel_service": "mystates"}))
            for reading in (reader.read("a", PATIENT_S), reader.read_many(["a"], PATIENT_S)):
                with pytest.raises(StoreAway, match="'mystates', the name in RTP_REDIS__SENTINEL_SERVICE"):
                    await reading
            await reader.close()

        asyncio.run(test())


@pytest.mark.servers
def test_sentinels_are_given_their_own_password_and_a_missing_or_wrong_one_is_named(tmp_path: Path) -> None:
    with Valkey(tmp_path / "a", name="a") as server, sentinels_of(tmp_path, server, 1) as ([watcher], settings):
        ask_for_login(watcher)
        told = settings.model_dump() | {"url": SecretStr("redis://:of-the-master@not-used:1/0")}

        async def test() -> None:
            for login, said in (
                ({}, "it asks for a password: set RTP_REDIS__SENTINEL_PASSWORD"),
                (
                    {"sentinel_password": "wrong"},
                    "it refuses the user or password: correct RTP_REDIS__SENTINEL_PASSWORD",
                ),
            ):
                reader = open_store(RedisSettings.model_validate(told | login))
                with pytest.raises(StoreAway, match=f":{watcher.port} .{said}"):
                    await reader.read("a", PATIENT_S)
                await reader.close()
            with redis.Redis.from_url(server.address, protocol=2) as client:
                client.execute_command("ACL", "SETUSER", "default", "resetpass", ">of-the-master")
            for login in LOGINS:
                reader = open_store(RedisSettings.model_validate(told | login))
                assert await reader.read("a", PATIENT_S) is None
                await reader.close()

        asyncio.run(test())


@pytest.mark.servers
def test_what_is_announced_reaches_the_new_master_though_the_old_one_still_answers(tmp_path: Path) -> None:
    with Valkey(tmp_path / "a", name="a") as old, Valkey(tmp_path / "b", name="b") as new:
        with SentinelNode(tmp_path / "sentinel", old) as watcher:
            told = {"mode": "sentinel", "sentinels": f"127.0.0.1:{watcher.port}", "sentinel_service": "states"}
            settings = RedisSettings.model_validate(told)

            async def test() -> None:
                reader = open_store(settings)
                assert await reader.read("a", PATIENT_S) is None
                with redis.Redis.from_url(watcher.address, protocol=2) as client:
                    client.execute_command("SENTINEL REMOVE", "states")
                    client.execute_command("SENTINEL MONITOR", "states", "127.0.0.1", new.port, 1)
                with redis.Redis.from_url(old.address, protocol=2) as client:
                    client.replicaof("127.0.0.1", new.port)
                await reader.announce("web:1", "all", "one", b"said", lasts_s=30, timeout_s=PATIENT_S)
                await reader.close()

            asyncio.run(test())
        with redis.Redis.from_url(new.address, protocol=2) as client:
            assert client.get("one") == b"said"
            assert client.smembers("all") == {b"web:1"}


@pytest.mark.servers
def test_a_master_that_was_demoted_behind_its_name_is_left_with_the_next_announcement(tmp_path: Path) -> None:
    with Valkey(tmp_path / "a", name="a") as old, Valkey(tmp_path / "b", name="b") as new, Wire(old.port) as name:
        for server, value in ((old, b"old"), (new, b"new")):
            with redis.Redis.from_url(server.address, protocol=2) as client:
                client.set("a", value)
        settings = RedisSettings.model_validate({"url": f"redis://127.0.0.1:{name.port}/0", "pool_size": POOL})

        async def test() -> None:
            reader = open_store(settings)

            async def announce() -> None:
                await reader.announce("web:1", "all", "one", b"said", lasts_s=30, timeout_s=PATIENT_S)

            async def reads() -> set[bytes | None]:
                return set(await asyncio.gather(*(reader.read("a", PATIENT_S) for _ in range(POOL))))

            assert await reads() == {b"old"}
            with redis.Redis.from_url(old.address, protocol=2) as client:
                client.replicaof("127.0.0.1", free_port())
            opened = len(name.connects)
            for _ in range(3):
                with pytest.raises(StoreRefused, match="ReadOnlyError"):
                    await announce()
            assert len(name.connects) == opened + 3, "the name still leads there, so reads keep their connections"
            assert await reads() == {b"old"}
            name.to_port = new.port
            await announce()
            assert await reads() == {b"new"}
            await reader.close()

        asyncio.run(test())
        with redis.Redis.from_url(new.address, protocol=2) as client:
            assert client.get("one") == b"said"
            assert client.smembers("all") == {b"web:1"}


@pytest.mark.servers
def test_never_more_connections_than_the_pool_size(tmp_path: Path) -> None:
    with Valkey(tmp_path, appendfsync="no") as server:
        client = redis.Redis.from_url(server.address, protocol=2)
        before = client.info("stats")["total_connections_received"]

        async def test() -> None:
            reader = open_store(RedisSettings.model_validate({"url": server.address, "pool_size": POOL}))
            for _ in range(5):
                await asyncio.gather(*(reader.read("a", 5.0) for _ in range(50)))
            await reader.close()

        asyncio.run(test())
        assert client.info("stats")["total_connections_received"] - before == POOL
        until(lambda: len(client.client_list()) == 1, "the reader's connections are closed", within_s=60)
        client.close()
