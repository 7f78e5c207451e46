"""Several acceptors on one listening socket: each gets its part, none stands in another's way, and nothing is lost."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest
import uvloop
from structlog.testing import capture_logs

from rtp.doors.sharing import SharedListener, waiting_on
from support.waiting import until


class Peer(asyncio.Protocol):
    """One accepted connection."""

    def __init__(self, held: set[Peer]) -> None:
        self._held = held

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._held.add(self)
        self._transport = transport

    def close(self) -> None:
        self._transport.close()


class Acceptor:
    """What a process is to the socket: a listener on a descriptor of its own, and connections that it holds."""

    def __init__(self, listener: socket.socket, *, holds: int = 0) -> None:
        self.taken: set[Peer] = set()
        self._socket = listener.dup()
        self._others = list(range(holds))
        self.listener = SharedListener(self._socket, lambda: Peer(self.taken), self, None)

    def __len__(self) -> int:
        return len(self._others) + len(self.taken)

    def close(self) -> None:
        self.listener.close()
        self._socket.close()
        for peer in self.taken:
            peer.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as server:
        yield server


def connect(listener: socket.socket, count: int) -> list[socket.socket]:
    return [socket.create_connection(listener.getsockname()) for _ in range(count)]


def close(acceptors: list[Acceptor], clients: list[socket.socket]) -> None:
    for acceptor in acceptors:
        acceptor.close()
    for client in clients:
        client.close()


async def all_taken(acceptors: list[Acceptor], count: int) -> None:
    await until(lambda: sum(len(one.taken) for one in acceptors) >= count, "all are taken", within_s=60)


def shares(listener: socket.socket, connections: int, holds: list[int]) -> list[int]:
    """How many of the connections, opened at once, each acceptor takes that holds so many already."""

    async def share() -> list[int]:
        clients = connect(listener, connections)
        assert waiting_on(listener) == connections
        acceptors = [Acceptor(listener, holds=held) for held in holds]
        await all_taken(acceptors, connections)
        taken = [len(one.taken) for one in acceptors]
        close(acceptors, clients)
        return taken

    return uvloop.run(share())


@pytest.mark.parametrize(("connections", "processes"), [(16, 2), (24, 3), (200, 2), (200, 4)])
def test_connections_opened_at_once_are_shared_out(listener: socket.socket, connections: int, processes: int) -> None:
    taken = shares(listener, connections, [0] * processes)
    assert min(taken) > connections / processes / 2, taken


def test_who_has_fewer_connections_takes_the_new_ones(listener: socket.socket) -> None:
    few, many = shares(listener, 10, [0, 100])
    assert few > many
    few, many = shares(listener, 100, [20, 120])
    assert few > many


def test_one_that_closes_leaves_what_waits_to_the_others(listener: socket.socket) -> None:
    async def hand_over() -> None:
        first, second = Acceptor(listener, holds=1), Acceptor(listener, holds=1)
        first.close()
        clients = connect(listener, 40)
        await all_taken([second], 40)
        assert not first.taken
        close([second], clients)

    uvloop.run(hand_over())


def test_a_client_that_left_and_a_process_without_descriptors_end_nothing(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtp.doors.sharing._PAUSE_S", 0.01)

    class Exhausted(socket.socket):
        failures = 1

        def accept(self) -> tuple[socket.socket, object]:
            if self.failures:
                self.failures -= 1
                raise OSError(24, "Too many open files")
            return super().accept()

    async def go_on() -> None:
        taken: set[Peer] = set()
        poor = Exhausted(fileno=listener.dup().detach())
        shared = SharedListener(poor, lambda: Peer(taken), taken, None)
        for client in connect(listener, 5):
            client.close()
        clients = connect(listener, 5)
        await until(lambda: len(taken) >= 5, "all are taken", within_s=60)
        shared.close()
        for peer in taken:
            peer.close()
        for client in (*clients, poor):
            client.close()

    with capture_logs() as logs:
        uvloop.run(go_on())
    assert any(line.get("reason") == "Too many open files" for line in logs)
