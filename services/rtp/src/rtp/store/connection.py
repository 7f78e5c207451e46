"""One connection to the store after its handshake: a command, its whole reply, then the next command.

redis-py finds the address, connects, speaks TLS, authenticates and selects the database. Then its streams are set aside
and a protocol of ours drives the transport: through the streams a GET costs three times as much CPU. All that reaches
into redis-py's private parts for this is here, each part behind an assumption that is checked before use, as is what
`cluster` needs of its inner parts; another version may move any of it, so `check_client` names the first that does not
hold. Decision 151.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from typing import Any, Final, Protocol

import redis
from hiredis import Reader, pack_command
from redis.asyncio.cluster import ClusterNode, NodesManager
from redis.asyncio.connection import (
    AbstractConnection,
    DefaultParser,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.connection import (
    Connection as TcpConnection,
)
from redis.asyncio.sentinel import SentinelManagedConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError

from process.assumptions import broken, takes, uses
from process.store_tls import RenewedContext
from rtp.errors import UnsuitableClient

# What is assumed


ASSUMPTIONS: Final[dict[str, Callable[[], bool]]] = {
    "a connection that is made has its streams in _reader and _writer": lambda: (
        uses(TcpConnection._connect, "open_connection", "_reader", "_writer")
        and uses(UnixDomainSocketConnection._connect, "open_unix_connection", "_reader", "_writer")
        and "_connect" not in vars(SSLConnection)
    ),
    "a connection is connected for as long as it has _reader and _writer": lambda: (
        uses(vars(AbstractConnection)["is_connected"].fget, "_reader", "_writer")
        and uses(AbstractConnection._close, "_reader", "_writer")
    ),
    "a connection that is collected without a _writer closes nothing": lambda: (
        "_writer" in AbstractConnection.__del__.__code__.co_consts
    ),
    "can_read() tells what came behind the last reply, the end included": lambda: (
        takes(AbstractConnection.can_read, "self")
        and uses(AbstractConnection.can_read, "_parser", "can_read")
        and uses(DefaultParser.can_read, "has_data", "at_eof", "_buffer")
    ),
    "_parser.parse_error(response) makes an exception of an error reply": lambda: (
        uses(AbstractConnection.set_parser, "_parser")
        and takes(DefaultParser.parse_error, "response")
        and isinstance(DefaultParser.parse_error("LOADING x"), RedisConnectionError)  # type: ignore[no-untyped-call]
    ),
    "a cluster's node puts each reply of a pipeline, or its error, into the command's result": lambda: (
        takes(ClusterNode.execute_pipeline, "self", "commands")
        and uses(ClusterNode.execute_pipeline, "acquire_connection", "parse_response", "result", "release")
    ),
    "nodes_manager learns slots_cache by initialize() and move_slot(), and closes by aclose()": lambda: (
        takes(NodesManager.initialize, "self", "additional_startup_nodes_info", "last_failed_node_name")
        and uses(NodesManager.initialize, "slots_cache", "nodes_cache")
        and takes(NodesManager.move_slot, "self", "e")
        and takes(NodesManager.aclose, "self", "attr")
    ),
    "an SSLConnection gets its TLS context by ssl_context.get() whenever it connects": lambda: uses(
        SSLConnection._connection_arguments, "ssl_context", "get"
    ),
    "nodes_manager takes another node by set_nodes(), made with its connection_kwargs": lambda: (
        takes(NodesManager.set_nodes, "self", "old", "new")
        and uses(NodesManager.move_slot, "connection_kwargs", "set_nodes", "nodes_cache")
    ),
}


@cache
def check_client() -> None:
    """Once, before the first connection.

    Raises:
        UnsuitableClient: the installed redis-py is not one that this module is for.
    """
    if found := broken(ASSUMPTIONS):
        raise UnsuitableClient(
            f"redis-py {redis.__version__} does not work with this version of RTP, which assumes that "
            f"{'; '.join(found)}. Install redis[hiredis]>=8.1,<9"
        )


class RenewedTls(SSLConnection):
    """Has the TLS files as they are whenever it connects, because they may have been renewed. redis-py reads them once
    for each connection that it makes, and the nodes of a cluster and the clients of Sentinels keep theirs for good."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context: Any = RenewedContext(options)


class RenewedTlsOfMaster(SentinelManagedConnection, RenewedTls):
    """The same, of the master that Sentinels name."""


# The exchange

_MORE: Final = object()
"""What the reader gives while a reply is not whole."""


def packed(*command: str | bytes) -> bytes:
    """The bytes of a command."""
    made: bytes = pack_command(command)  # type: ignore[arg-type] # hiredis declares tuples of one
    return made


class Asker(Protocol):
    """Who gets a reply: a future, or something like one."""

    def done(self) -> bool:
        """Whether it no longer waits."""
        ...

    def set_result(self, reply: Any, /) -> None:
        """The reply."""
        ...

    def set_exception(self, error: Exception, /) -> None:
        """Why there is none."""
        ...


class Connection(asyncio.Protocol):
    """Asks one command at a time. A connection that is broken or out of step is closed and never used again: its reply
    would answer another request."""

    def __init__(
        self,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        error_of: Callable[[str], Exception],
        epoch: int = 0,
    ) -> None:
        """Takes the transport of `streams` over; nothing may be unread in them. `error_of` makes an exception of an
        error reply. `epoch` is the owner's to read."""
        replies = Reader(protocolError=InvalidResponse, replyError=error_of, notEnoughData=_MORE)
        self._feed, self._next_reply, self._has_more = replies.feed, replies.gets, replies.has_data
        self._streams = streams
        """Kept, because a writer that is collected closes its transport."""
        self._transport = streams[1].transport
        self._write = self._transport.write
        self.promise: Callable[[], asyncio.Future[Any]] = asyncio.get_running_loop().create_future
        """Makes a future of the loop that the connection belongs to."""
        self._asked: Asker | None = None
        """Gets the reply that is outstanding."""
        self._open = True
        self.epoch = epoch
        self.proven = False
        """Whether it has answered; the owner's to tell."""
        self._transport.set_protocol(self)

    @property
    def free(self) -> bool:
        """Whether a command may be asked."""
        return self._open and self._asked is None

    @property
    def busy(self) -> bool:
        """Whether a reply is outstanding that may still come."""
        return self._open and self._asked is not None

    def ask(self, command: bytes) -> asyncio.Future[Any]:
        """Send a packed command; only while `free`. Who no longer waits for the reply must `close` the connection, or
        `hand_over` the reply.

        The future fails with:
            RedisConnectionError: the connection is lost, or the reply says that it cannot be used.
            ResponseError: another error reply.
            InvalidResponse: the server does not speak the protocol.
        """
        asked = self.promise()
        self.ask_for(asked, command)
        return asked

    def ask_for(self, asked: Asker, command: bytes) -> None:
        """As `ask`; the reply goes to `asked`."""
        self._asked = asked
        self._write(command)

    def hand_over(self, asked: Asker) -> None:
        """Have `asked` get the reply that is outstanding, in place of who asked; only while `busy`."""
        self._asked = asked

    def close(self) -> None:
        """Close it, at once if a reply is outstanding."""
        self._open = False
        if self._asked is None:
            self._transport.close()
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """A reply, or a part of one."""
        asked = self._asked
        if asked is None or asked.done():
            self._fail(RedisConnectionError("a reply that is not waited for"))
            return
        try:
            self._feed(data)
            reply = self._next_reply()
        except RedisError as error:
            self._fail(error)
            return
        if reply is _MORE:
            return
        if self._has_more():
            self._fail(RedisConnectionError("more than one reply"))
        elif isinstance(reply, RedisConnectionError):
            self._fail(reply)
        else:
            self._asked = None
            if isinstance(reply, Exception):
                asked.set_exception(reply)
            else:
                asked.set_result(reply)

    def eof_received(self) -> None:
        """The server closed the connection; the transport closes itself and says so next."""
        self._open = False

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is closed, by either side."""
        lost = RedisConnectionError(f"the connection is lost ({exc or 'closed by the store'})")
        lost.__cause__ = exc
        self._fail(lost)

    def _fail(self, error: RedisError) -> None:
        self._open = False
        if self._asked is not None and not self._asked.done():
            self._asked.set_exception(error)
        self._transport.abort()


async def connect(client: AbstractConnection, epoch: int = 0) -> Connection:
    """Have redis-py connect, and take over.

    Raises:
        RedisError, OSError: no connection, or the handshake failed.
    """
    try:
        await client.connect()  # type: ignore[no-untyped-call] # redis-py has no annotation here
        reader, writer = client._reader, client._writer
        if reader is None or writer is None or writer.is_closing() or reader.exception() or await client.can_read():
            broken_by = None if reader is None else reader.exception()
            raise RedisConnectionError("closed, or out of step, right after the handshake") from broken_by
    except BaseException:
        await client.disconnect(nowait=True)
        raise
    client._reader = client._writer = None
    return Connection((reader, writer), client._parser.parse_error, epoch)
