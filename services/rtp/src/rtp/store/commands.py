"""How keys are read, whatever the mode of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from process.store_tls import cause_of

SCAN_COUNT: Final = 1000
_SCAN_CALLS: Final = 500
"""How much of the store a sample may look at: half a million keys, a second or so."""


FAIR_S: Final = 0.02
"""How long a store that is well may take for a reply, with much to spare. A caller that waited for less has learned
nothing about the store, so what it did not wait for counts against neither the store nor the connection."""

Command = Sequence[str | bytes]
SETTINGS: Final = "RTP_REDIS"
"""How the names of the store's settings begin."""
MAX_CODE: Final = 32
MAX_TEXT: Final = 240
MAX_DIGITS: Final = 18


class TooManyConnects(Exception):
    """A pool's worth of connections were opened within a second in vain, so no more are for now. Says why the last of
    them was, because there is nothing newer to say about the store."""


def reason_of(error: BaseException) -> str:
    """Why the store gave no answer, for operators. An error reply by redis-py's class of it, or else by its first word:
    what follows may name keys and users. Of a cluster with the node, which is the error's first note."""
    node = next(iter(getattr(error, "__notes__", ())), "")
    at = f"node {node} of the store" if node else "the store"
    match error:
        case TooManyConnects() | MasterNotFoundError():
            return str(error)
        case RedisClusterException() if isinstance(error.__cause__, RedisError | OSError):
            return reason_of(error.__cause__)
        case asyncio.CancelledError() | TimeoutError():
            return "no reply in time"
        case ResponseError():
            first = error.status_code or str(error).partition(" ")[0]
            name = first if type(error) is ResponseError else type(error).__name__
            return f"{at} refuses: {''.join(filter(str.isprintable, name[:MAX_CODE]))}"
        case _:
            return f"no connection to {at} ({failure_of(error)})"


def failure_of(error: BaseException) -> str:
    """Why there is no connection, to the store or to a Sentinel: what OpenSSL or the system says, with what to correct,
    or else what the client says."""
    if (cause := cause_of(error, SETTINGS)) is not None:
        return str(cause)
    if type(error) is RedisConnectionError and str(error):  # of its subclasses some are error replies
        return "".join(filter(str.isprintable, str(error)[:MAX_TEXT]))
    return type(error).__name__


def fits(command: Command, reply: Any) -> bool:
    """Whether a reply has the form of the command's replies. If not, the connection is out of step, or a program
    between here and the store has answered. Values of MGET may be error replies."""
    match command[0]:
        case "GET":
            return _is_value(reply)
        case "MGET":
            whole = isinstance(reply, list) and len(reply) == len(command) - 1
            return whole and all(_is_value(one) or isinstance(one, Exception) for one in reply)
        case "EXISTS":
            return isinstance(reply, int)
        case "TIME":
            return isinstance(reply, list | tuple) and len(reply) == 2 and all(map(_is_whole, reply))
        case "SCAN":
            return isinstance(reply, list | tuple) and len(reply) == 2 and isinstance(reply[1], list)
        case _:
            return True


def _is_value(reply: Any) -> bool:
    return reply is None or isinstance(reply, bytes)


def _is_whole(reply: Any) -> bool:
    return isinstance(reply, int) or (isinstance(reply, bytes) and reply.isdigit() and len(reply) <= MAX_DIGITS)


def in_ms(clock: Sequence[int | bytes]) -> int:
    """What TIME answers, seconds and microseconds, in milliseconds."""
    seconds, microseconds = map(int, clock)
    return seconds * 1000 + microseconds // 1000


class Commands(Protocol):
    """How keys are read in one of the three modes. `get` has a time limit because every request pays for it, `get_many`
    because some keys may be answered in time and others not; for the others the caller cancels."""

    @property
    def sentinels(self) -> str | None:
        """See `StateReader`."""
        ...

    async def get(self, key: str, timeout_s: float) -> bytes | None:
        """The value under one key, perhaps by one command with others.

        Raises TimeoutError when there is no reply within `timeout_s` seconds.
        """
        ...

    async def get_many(self, keys: Sequence[str], timeout_s: float) -> Sequence[bytes | Exception | None]:
        """Many GETs, in as few round trips as the mode allows. What was raised for one key is in place of its value:
        nodes of a cluster fail one by one, and MGET may have error replies. Otherwise raises TimeoutError as `get`."""
        ...

    async def sample(self, pattern: str, most: int) -> tuple[list[bytes], bool]:
        """SCAN until `most` keys are found, the end is reached or enough was looked at; whether it was the end."""
        ...

    async def count(self, keys: Sequence[bytes]) -> int:
        """One EXISTS."""
        ...

    async def time_ms(self, timeout_s: float) -> int:
        """TIME, in ms; raises TimeoutError as `get`."""
        ...

    async def announce(self, name: str, into: str, key: str, value: bytes, lasts_ms: int) -> None:
        """One SADD and one SET."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


async def scan(step: Callable[[int], Awaitable[tuple[int, Sequence[bytes]]]], most: int) -> tuple[list[bytes], bool]:
    """Up to `most` different keys that `step` (cursor → next cursor, keys) finds, and whether the end was reached."""
    found: dict[bytes, None] = {}
    cursor = 0
    for _ in range(_SCAN_CALLS):
        cursor, keys = await step(cursor)
        found |= dict.fromkeys(keys)
        if not cursor or len(found) >= most:
            break
    return list(found)[:most], not cursor and len(found) <= most
