"""A cluster: redis-py knows which node has a key, and owns the connections; each node is asked by itself.

redis-py's own way of asking looks at the whole cluster again when a node fails, while every other command waits, and
closes all connections when it is interrupted. So one node that is down or hangs would take the others with it.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, Final

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode, PipelineCommand
from redis.cluster import PRIMARY
from redis.exceptions import (
    AskError,
    ClusterDownError,
    InvalidResponse,
    MovedError,
    RedisClusterException,
    RedisError,
    SlotNotCoveredError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from rtp.store.commands import FAIR_S, SCAN_COUNT, Command, fits, in_ms, scan
from rtp.store.connection import check_client
from rtp.time_limits import within

_MOVES: Final = 4
"""How often a key may have moved until a command gives up."""
_LOOK_EVERY_S: Final = 1.0
"""How often, at most, the cluster is asked which node has what: redis-py renews all connections each time."""
_LOOK_S: Final = 1.0
_CALLER_CANCELS_S: Final = 3600.0


class ClusterCommands:
    """A cluster; as many connections to each node as `size` says. Nodes are waited for side by side."""

    def __init__(self, cluster: RedisCluster, size: int) -> None:
        check_client()
        self._cluster = cluster
        self._free: defaultdict[str, asyncio.Semaphore] = defaultdict(partial(asyncio.Semaphore, size))
        """By node: its connections, because redis-py fails rather than waits when none is free."""
        self._looking: asyncio.Task[None] | None = None
        self._looked = -math.inf

    @property
    def sentinels(self) -> str | None:
        """See `Commands`."""
        return None

    def node_of(self, key: str) -> str:
        """The name of the node that has a key, as far as is known; empty if it is not."""
        try:
            return self._known_node(key).name
        except SlotNotCoveredError:
            return ""

    async def get(self, key: str, timeout_s: float) -> bytes | None:
        """See `Commands`."""
        value: bytes | None
        try:
            value = await within(timeout_s, self._ask(key, "GET", key))
        except TimeoutError:
            if timeout_s >= FAIR_S:
                self._look_again(self.node_of(key))
            raise
        return value

    async def get_many(self, keys: Sequence[str], timeout_s: float) -> Sequence[bytes | Exception | None]:
        """See `Commands`."""
        return await self._ask_each([(key, ("GET", key)) for key in keys], timeout_s)

    async def sample(self, pattern: str, most: int) -> tuple[list[bytes], bool]:
        """See `Commands`."""
        await self._know()
        primaries = self._cluster.get_primaries()
        found: list[bytes] = []
        whole = True
        for node in primaries:

            async def step(cursor: int, node: ClusterNode = node) -> tuple[int, Sequence[bytes]]:
                command = ("SCAN", str(cursor), "MATCH", pattern, "COUNT", str(SCAN_COUNT))
                [reply] = await self._exchange(node, [command])
                cursor, keys = _answer(reply)
                return cursor, keys

            some, all_of_it = await scan(step, -(-most // len(primaries)))
            found += some
            whole &= all_of_it
        return found[:most], whole

    async def count(self, keys: Sequence[bytes]) -> int:
        """See `Commands`."""
        replies = await self._ask_each([(key.decode(), ("EXISTS", key)) for key in keys], _CALLER_CANCELS_S)
        return sum(map(_answer, replies))

    async def time_ms(self, timeout_s: float) -> int:
        """See `Commands`."""
        until = monotonic() + timeout_s
        await within(timeout_s, self._know())

        async def ask(node: ClusterNode) -> Any:
            try:
                [reply] = await within(until - monotonic(), self._exchange(node, [("TIME",)]))
            except (RedisError, OSError) as error:
                return error
            return reply

        replies = await asyncio.gather(*map(ask, self._cluster.get_primaries()))
        clocks = [in_ms(reply) for reply in replies if not isinstance(reply, Exception)]
        return max(clocks) if clocks else in_ms(_answer(replies[0]))

    async def announce(self, name: str, into: str, key: str, value: bytes, lasts_ms: int) -> None:
        """See `Commands`."""
        await self._ask(into, "SADD", into, name)
        await self._ask(key, "SET", key, value, "PX", str(lasts_ms))

    async def close(self) -> None:
        """See `Commands`."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await self._cluster.nodes_manager.aclose()
        await self._cluster.nodes_manager.aclose("startup_nodes")

    # Nodes

    def _known_node(self, key: str) -> ClusterNode:
        node = self._cluster.get_node_from_key(key)
        assert node is not None  # noqa: S101 (only a replica may be)
        return node

    def _node_at(self, host: str, port: int) -> ClusterNode:
        """The node that a key moves to. One that has no slot yet is in no list of nodes: it is kept with those that
        are, as redis-py keeps the one that a key has moved to."""
        manager = self._cluster.nodes_manager
        node = self._cluster.get_node(host, port)
        if node is None:
            node = ClusterNode(host, port, PRIMARY, **manager.connection_kwargs)
            manager.set_nodes(manager.nodes_cache, {node.name: node})
        return node

    async def _know(self) -> None:
        """Ask a node where the others are, before the first command."""
        if not self._cluster.nodes_manager.slots_cache:
            await self._cluster.nodes_manager.initialize()

    def _look_again(self, failed: str) -> None:
        """Learn in the background which node has what by now, from others than the one that failed if there are any."""
        now = monotonic()
        if now - self._looked >= _LOOK_EVERY_S and (self._looking is None or self._looking.done()):
            self._looked = now
            self._looking = asyncio.create_task(self._look(failed))

    async def _look(self, failed: str) -> None:
        with suppress(RedisError, RedisClusterException, OSError):
            await within(_LOOK_S, self._cluster.nodes_manager.initialize(last_failed_node_name=failed))

    # Asking

    async def _ask(self, key: str, *command: str | bytes) -> Any:
        """The reply of the node that has `key`; of another one if that one says so.

        Raises:
            RedisError, RedisClusterException, OSError: an error reply, or none.
        """
        await self._know()
        for _ in range(_MOVES):
            try:
                node = self._known_node(key)
            except SlotNotCoveredError:
                self._look_again("")
                raise
            [reply] = await self._exchange(node, [command])
            if isinstance(reply, MovedError):
                await self._cluster.nodes_manager.move_slot(reply)
                self._look_again(node.name)
            elif isinstance(reply, AskError):
                [_, reply] = await self._exchange(self._node_at(reply.host, reply.port), [("ASKING",), command])
                return _answer(reply)
            else:
                break
        return _answer(reply)

    async def _ask_each(self, asked: Sequence[tuple[str, Command]], timeout_s: float) -> list[Any]:
        """The reply to each key's command, in one round trip to each node, or what was raised instead."""
        until = monotonic() + timeout_s
        await within(timeout_s, self._know())
        replies: list[Any] = [None] * len(asked)
        of_node: defaultdict[ClusterNode, list[int]] = defaultdict(list)
        for i, (key, _) in enumerate(asked):
            try:
                of_node[self._known_node(key)].append(i)
            except SlotNotCoveredError as error:
                replies[i] = error
                self._look_again("")

        async def ask(node: ClusterNode, here: list[int]) -> None:
            try:
                got = await within(until - monotonic(), self._exchange(node, [asked[i][1] for i in here]))
            except (RedisError, OSError) as error:
                if isinstance(error, TimeoutError):
                    self._look_again(node.name)
                got = [error] * len(here)
            for i, reply in zip(here, got, strict=True):
                replies[i] = await self._followed(asked[i], reply, until)

        await asyncio.gather(*(ask(node, here) for node, here in of_node.items()))
        return replies

    async def _followed(self, asked: tuple[str, Command], reply: Any, until: float) -> Any:
        """A reply, or if that says that the key moves, the reply where it is."""
        if not isinstance(reply, AskError):
            return reply
        key, command = asked
        try:
            return await within(until - monotonic(), self._ask(key, *command))
        except (RedisError, RedisClusterException, OSError) as error:
            return error

    async def _exchange(self, node: ClusterNode, commands: Sequence[Command]) -> list[Any]:
        """The replies of one node, in one round trip; error replies among them.

        Raises:
            RedisError, OSError: not all came.
        """
        asked = [PipelineCommand(i, *command) for i, command in enumerate(commands)]
        try:
            async with self._free[node.name]:
                await _sent(node, asked)
        except (RedisError, OSError) as error:
            error.add_note(node.name)
            self._look_again(node.name)
            raise
        for one in asked:
            if isinstance(one.result, Exception):
                one.result.add_note(node.name)
        if any(isinstance(one.result, ClusterDownError) for one in asked):
            self._look_again(node.name)
        return [
            one.result if isinstance(one.result, Exception) or fits(command, one.result) else InvalidResponse()
            for one, command in zip(asked, commands, strict=True)
        ]


async def _sent(node: ClusterNode, asked: list[PipelineCommand]) -> None:
    """Put the replies, error replies among them, into what is asked.

    Raises:
        RedisError, OSError: not all came.
    """
    for again in (True, False):
        try:
            await node.execute_pipeline(asked)
            if lost := [one.result for one in asked if isinstance(one.result, RedisConnectionError)]:
                raise lost[0]
        except RedisConnectionError as error:
            if not again or type(error) is not RedisConnectionError:
                raise
            # The node closed idle connections, or restarted; the others are as old. Once more, by new ones.
            node.update_active_connections_for_reconnect()
            await node.disconnect_free_connections()
        else:
            return


def _answer(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply
