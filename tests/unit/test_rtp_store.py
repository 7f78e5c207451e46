"""Reads of the store: when a reply counts as late, and that no read ever gets the reply of another one."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio.connection import DefaultParser

from localstack import wait
from rtp import store as rtp_store
from rtp.core.circuit_breaker import CircuitBreaker
from rtp.errors import StoreAway, StoreLate, StoreRefused
from rtp.settings import RedisSettings
from rtp.store import RedisStateReader, open_store
from rtp.store.commands import FAIR_S, Commands, reason_of
from rtp.store.together import MOST
from support.certificates import Certificates
from support.scripted_store import PATIENT_S, REPLIES, ScriptedStore, value_of
from support.waiting import until


def told(store: ScriptedStore, **more: object) -> RedisSettings:
    """Settings for it. A busy machine may take longer than the default to connect."""
    url = f"redis://127.0.0.1:{store.port}"
    return RedisSettings.model_validate({"url": url, "connect_timeout_ms": 20_000, **more})


def unpaused(told: RedisSettings) -> RedisStateReader:
    """A reader that asks each time, whatever became of the times before."""
    breaker = CircuitBreaker(1_000_000, retry_every_s=0.0)
    return RedisStateReader(rtp_store._commands(told), lambda _: breaker)


# Late, by a loop that other work keeps from its sockets


async def a_request(reader: RedisStateReader, timeout_s: float) -> bytes | None:
    return await reader.read("held", timeout_s)


async def the_background(reader: RedisStateReader, timeout_s: float) -> bytes | None:
    return (await reader.read_many(["held"], timeout_s))[0]


Asks = Callable[[RedisStateReader, float], Coroutine[Any, Any, bytes | None]]
BOTH = pytest.mark.parametrize("asks", [a_request, the_background])


def passed(what: str, condition: Callable[[], bool]) -> None:
    """Wait for it on the loop's own thread, so that the loop runs nothing else meanwhile."""
    wait.until(condition, what, within_s=PATIENT_S)


def read(asks: Asks, *, timeout_s: float, replied: bool) -> bytes | None:
    """One read by a loop that something else keeps busy past the deadline. `replied`: the reply is there before."""

    async def reading(store: ScriptedStore) -> bytes | None:
        reader = open_store(told(store))
        await reader.read("whole", PATIENT_S)
        asked = asyncio.create_task(asks(reader, timeout_s))
        await until(lambda: store.holds == 1, "the reply is held", within_s=PATIENT_S)
        due = time.monotonic() + timeout_s
        if replied:
            store.release()
            assert store.sent.wait(PATIENT_S)
        passed("the deadline", lambda: time.monotonic() >= due)
        try:
            return await asked
        finally:
            await reader.close()

    with ScriptedStore() as store:
        value: bytes | None = uvloop.run(reading(store))
        return value


@BOTH
def test_a_reply_that_is_there_is_not_late_though_the_loop_was_kept_from_it(asks: Asks) -> None:
    assert read(asks, timeout_s=2.0, replied=True) == value_of("held")


@BOTH
def test_a_reply_that_is_not_there_is_late(asks: Asks) -> None:
    with pytest.raises(StoreLate, match="300 ms"):
        read(asks, timeout_s=0.3, replied=False)


# Whose reply it is

OUTCOMES: dict[str, type[Exception] | None] = {
    "whole": None,
    "cut": None,
    "big": None,
    "nil": None,
    "closing": None,
    "held": StoreLate,
    "refused": StoreRefused,
    "loading": StoreAway,
    "twice": StoreAway,
    "noise": StoreAway,
    "number": StoreAway,
    "array": StoreAway,
    "upstream": StoreRefused,
    "closed": StoreAway,
}
"""How a read ends by its key's first word; None: with the value of its key."""


def expected(key: str) -> object:
    kind = key.partition(" ")[0]
    return OUTCOMES[kind] or (None if kind == "nil" else value_of(key))


def fits(found: object, key: str) -> bool:
    """Whether it is the key's own outcome. With other reads it is asked by MGET, which has nothing for what is no
    string."""
    return found == expected(key) or (found is None and key.startswith("refused"))


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.issue(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=["plain", "tls"])
def store_and_settings(
    request: pytest.FixtureRequest, issued: Certificates
) -> Iterator[tuple[ScriptedStore, RedisSettings]]:
    more: dict[str, Path | str] = {}
    context = None
    if request.param == "tls":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(issued.server, issued.server_key)
        more = {"tls_ca_file": issued.ca}
    with ScriptedStore(context) as store:
        if context is not None:
            more["url"] = f"rediss://localhost:{store.port}"
        yield store, told(store, pool_size=100, **more)


KEYS = st.builds("{} {}".format, st.sampled_from(sorted(OUTCOMES)), st.integers(0, 99))
ROUNDS = st.lists(st.lists(KEYS, min_size=1, max_size=5), min_size=1, max_size=6)
"""The keys that are read at once, round by round."""


def test_every_read_gets_its_own_reply_whatever_became_of_those_before(
    store_and_settings: tuple[ScriptedStore, RedisSettings],
) -> None:
    store, told = store_and_settings
    assert set(OUTCOMES) == set(REPLIES)

    async def outcome(reader: RedisStateReader, key: str) -> object:
        try:
            return await reader.read(key, 0.02 if key.startswith("held") else PATIENT_S)
        except (StoreLate, StoreAway, StoreRefused) as error:
            return type(error)

    @settings(max_examples=30, deadline=None)
    @given(ROUNDS)
    def test(rounds: list[list[str]]) -> None:
        async def reading() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, trouble: troubles.append(trouble))
            reader = unpaused(told)
            for keys in rounds:
                found = await asyncio.gather(*(outcome(reader, key) for key in keys))
                store.release()
                assert [key for key, got in zip(keys, found, strict=True) if not fits(got, key)] == []
            await reader.close()

        troubles: list[dict[str, Any]] = []
        uvloop.run(reading())
        # uvloop's TLS tells the loop of a write of its own to a transport that was aborted.
        assert told.tls or not troubles, "the loop had to deal with no error of ours"

    test()


def test_reads_that_are_cancelled_leave_the_pool_whole_and_take_no_reply_of_others() -> None:
    size = 16

    async def all_of_the_pool(store: ScriptedStore, reader: RedisStateReader) -> None:
        """One read more than it has connections, each by one of its own: that one waits."""
        reads = [asyncio.create_task(reader.read_many([f"held {i}"], PATIENT_S)) for i in range(size + 1)]
        await until(lambda: store.holds == size, "a reply is held on each connection", within_s=PATIENT_S)
        store.release()
        await until(lambda: store.holds == 1, "one reply is held", within_s=PATIENT_S)
        store.release()
        assert await asyncio.gather(*reads) == [[value_of(f"held {i}")] for i in range(size + 1)]

    async def reading(store: ScriptedStore, seed: int) -> None:
        drawn = random.Random(seed)
        reader = open_store(told(store, pool_size=size))
        await all_of_the_pool(store, reader)
        keys = [f"{drawn.choice(['whole', 'cut', 'nil'])} {i}" for i in range(80)]
        tasks = [asyncio.create_task(reader.read(key, PATIENT_S)) for key in keys]
        # Fewer than the pool holds: what a busy machine does not answer soon counts as opened in vain.
        for task in drawn.sample(tasks, size - 1):
            for _ in range(drawn.randrange(4)):
                await asyncio.sleep(0)
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        for key, got in zip(keys, found, strict=True):
            assert isinstance(got, asyncio.CancelledError) or got == expected(key)
        await all_of_the_pool(store, reader)
        await until(lambda: store.connections <= size, "what was opened in vain is closed", within_s=PATIENT_S)
        await reader.close()
        await until(lambda: not store.connections, "all connections are closed", within_s=PATIENT_S)

    for seed in range(3):
        with ScriptedStore() as store:
            uvloop.run(reading(store, seed))


def test_a_store_that_closed_an_idle_connection_is_asked_by_a_new_one() -> None:
    async def reading(store: ScriptedStore) -> None:
        reader = open_store(told(store))
        for number in range(20):
            assert await reader.read(f"closing {number}", PATIENT_S) == value_of(f"closing {number}")
            if number % 2:  # the connection has, or has not, heard of it
                await until(lambda: not store.connections, "all connections are closed", within_s=PATIENT_S)
        await reader.close()

    with ScriptedStore() as store:
        uvloop.run(reading(store))


# Reads with little time


class Silent:
    """A store that gives no reply."""

    async def get(self, key: str, timeout_s: float) -> bytes | None:
        raise TimeoutError


@pytest.mark.parametrize(("timeout_s", "paused"), [(FAIR_S, True), (FAIR_S - 0.001, False)])
def test_a_store_is_late_only_for_those_that_gave_it_time(timeout_s: float, paused: bool) -> None:
    breaker = CircuitBreaker(5, retry_every_s=100.0)
    reader = RedisStateReader(cast("Commands", Silent()), lambda _: breaker)
    for _ in range(5):
        with pytest.raises(StoreLate):
            asyncio.run(reader.read("a", timeout_s))
    assert breaker.paused == paused


# Reads that meet


def test_reads_that_meet_are_asked_at_once_and_one_that_is_alone_does_not_wait_for_others() -> None:
    keys = [f"whole {i}" for i in range(2 * MOST + 3)]

    async def reading(store: ScriptedStore) -> None:
        reader = open_store(told(store))
        await asyncio.gather(*(reader.read("nil", PATIENT_S) for _ in range(4)))  # four connections
        store.asked.clear()
        values = await asyncio.gather(*(reader.read(key, PATIENT_S) for key in keys))
        assert values == [value_of(key) for key in keys]
        await reader.close()

    with ScriptedStore() as store:
        uvloop.run(reading(store))
        first, rest = keys[:1], keys[1:]
        pieces = [rest[:MOST], rest[MOST : 2 * MOST], rest[2 * MOST :]]
        expected = [("GET", first), *(("MGET", piece) for piece in pieces)]
        assert sorted(store.asked) == sorted(expected)  # connections are served side by side


def test_what_is_late_for_one_read_is_not_waited_for_by_those_it_was_asked_with() -> None:
    async def reading(store: ScriptedStore) -> None:
        reader = open_store(told(store))
        await asyncio.gather(*(reader.read("whole", PATIENT_S) for _ in range(2)))
        limits = {"nil": PATIENT_S, "held": 0.5, "whole 1": PATIENT_S, "whole 2": PATIENT_S}
        found = await asyncio.gather(*(reader.read(*each) for each in limits.items()), return_exceptions=True)
        assert ("MGET", ["held", "whole 1", "whole 2"]) in store.asked
        assert isinstance(found[1], StoreLate)
        assert [found[0], *found[2:]] == [None, value_of("whole 1"), value_of("whole 2")]
        store.release()
        await until(lambda: not store.holds, "no reply is held", within_s=PATIENT_S)
        await reader.close()

    with ScriptedStore() as store:
        uvloop.run(reading(store))


def test_many_values_are_read_whole_or_the_reply_is_none() -> None:
    async def reading(store: ScriptedStore) -> None:
        reader = unpaused(told(store))
        found = await reader.read_each(["whole 1", "upstream", "nil"], PATIENT_S)
        assert found[::2] == [value_of("whole 1"), None]
        assert isinstance(found[1], StoreRefused), "an error in the place of one value is that one's"
        for kind in ("number", "array"):
            with pytest.raises(StoreAway):
                await reader.read_each(["whole 1", kind], PATIENT_S)
        with pytest.raises(StoreAway):
            await reader.count([b"whole 1"], PATIENT_S)  # `+OK` is no number
        with pytest.raises(StoreAway):
            await reader.sample("*", 10, PATIENT_S)
        assert await reader.read_many(["whole 2"], PATIENT_S) == [value_of("whole 2")]
        await reader.close()

    with ScriptedStore() as store:
        uvloop.run(reading(store))


# What is said of it


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ("NOPERM User ann has no permissions to access the 'uic:{a}:s:bob' key", "NoPermissionError"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "OutOfMemoryError"),
        ("ERR unknown command 'GET', with args beginning with: 'uic:{a}:s:bob'", "ERR"),
        ("\x1b[31m" + "A" * 99 + " x", "[31m" + "A" * 27),
        ("LOADING Redis is loading the dataset in memory", "(BusyLoadingError)"),
        ("WRONGPASS invalid username-password pair", "(AuthenticationError)"),
    ],
)
def test_an_error_is_named_as_in_the_runbook_without_keys_and_users(reply: str, named: str) -> None:
    assert reason_of(DefaultParser.parse_error(reply)).endswith(f" {named}")  # type: ignore[no-untyped-call] # redis-py has no types here


def test_connections_in_vain_do_not_hide_why_they_were() -> None:
    async def reasons(told: RedisSettings, key: str) -> set[str]:
        reader = unpaused(told)
        found = set()
        for _ in range(20):
            with pytest.raises(StoreAway) as away:
                await reader.read(key, PATIENT_S)
            found.add(str(away.value))
        await reader.close()
        return found

    with socket.socket() as refusing:  # bound, and does not listen
        refusing.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{refusing.getsockname()[1]}"
        refused = {"no connection to the store (Connection refused)"}
        assert asyncio.run(reasons(RedisSettings.model_validate({"url": url, "pool_size": 3}), "a")) == refused


def test_the_url_does_not_choose_the_protocol_nor_the_type_of_values() -> None:
    async def reading(store: ScriptedStore) -> bytes | None:
        url = f"redis://127.0.0.1:{store.port}?protocol=3&decode_responses=1"
        reader = open_store(told(store, url=url))
        value = await reader.read("whole", PATIENT_S)
        await reader.close()
        return value

    with ScriptedStore() as store:
        assert asyncio.run(reading(store)) == value_of("whole")
