"""Clients that go away in the middle of a request or of its answer: others get theirs, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import psutil
import uvloop

from loadtest.client import Target
from localstack.ports import LOOPBACK
from localstack.uic_and_rtp import RtpProcess, Surroundings
from localstack.wait import until
from support.world import BUNDLE
from torture.stage import Size, Stage, Tally
from torture.traffic import PATIENT_MS, Audience, Traffic, answered
from torture.watching import metric

AT_ONCE = 32
POOL = 16
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that turns a close into a reset."""


@dataclass(frozen=True)
class Left:
    """What a process holds: with only the steady traffic it must be the same before and after."""

    clients: int
    store_connections: int
    descriptors: int
    tasks: int
    in_flight: int


def clients_that_go_away_leave_nothing_behind(stage: Stage, size: Size) -> Tally:
    """100,000 clients (fast: 2,000) leave at a random byte of the request, while it is answered, or in the middle of
    the answer, by a close or a reset. Steady clients at the same time get the right scores; no connection and no task
    remains.
    """
    count = 100_000 if size == "full" else 2000
    store, audience = stage.valkey(), Audience()
    audience.settle(store)
    told = {
        "RTP_STATE__STALE_AFTER_S": "86400",
        "RTP_DEADLINE__DEFAULT_MS": PATIENT_MS[size],
        "RTP_DEADLINE__MAX_MS": PATIENT_MS[size],
        "RTP_REDIS__POOL_SIZE": str(POOL),
    }
    with RtpProcess("rtp", stage.folder / "rtp", Surroundings("", store.address, BUNDLE, rtp=told)) as rtp:
        request = Target(f"{rtp.address}/predict").request(audience.cases[-1].body)
        with Traffic(rtp.ports["http"], audience.cases, per_s=50) as traffic:
            until(lambda: len(traffic.answers) > 50, "there is traffic", within_s=60)
            began = time.monotonic()
            uvloop.run(_leave(rtp.ports["http"], request, count, random.Random(stage.seed)))
            took_s = time.monotonic() - began
            traffic.go_on(1.0)
        with suppress(TimeoutError):
            until(lambda: not _stays(_left(rtp, store.port)), "nothing is left behind", within_s=60)
        left = _left(rtp, store.port)
        log = rtp.log.read_text()
    wrong = [*_stays(left), *(["a traceback in the log"] if "Traceback" in log else [])]
    figures = {
        "clients that left, a second": [round(count / took_s, 1)],
        "connections to the store after": [float(left.store_connections)],
        "tasks after": [float(left.tasks)],
    }
    return Tally(count, count, wrong=tuple(wrong), figures=figures) + answered(traffic.answers)


MOST_TASKS = 12
"""Of an idle process: two listeners, the watcher, and the request for the metrics itself."""


def _stays(left: Left) -> list[str]:
    return [
        *([f"{left.clients} connections of clients stay"] if left.clients else []),
        *([f"{left.store_connections} connections to the store"] if left.store_connections > POOL else []),
        *([f"{left.in_flight} requests in flight"] if left.in_flight else []),
        *([f"{left.tasks} tasks"] if left.tasks > MOST_TASKS else []),
    ]


def _left(rtp: RtpProcess, store_port: int) -> Left:
    assert rtp.child is not None
    process = psutil.Process(rtp.child.pid)
    connections = [c for c in process.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED]
    return Left(
        clients=sum(c.laddr.port == rtp.ports["http"] for c in connections),
        store_connections=sum(bool(c.raddr) and c.raddr.port == store_port for c in connections),
        descriptors=process.num_fds(),
        tasks=int(metric(rtp, "rtp_tasks")),
        in_flight=int(metric(rtp, "rtp_in_flight")),
    )


async def _leave(port: int, request: bytes, count: int, chance: random.Random) -> None:
    """`count` clients, some at a time."""
    left = iter(range(count))

    async def some() -> None:
        for _ in left:
            with suppress(OSError):
                await _come_and_go(port, request, chance)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


async def _come_and_go(port: int, request: bytes, chance: random.Random) -> None:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        match chance.randrange(3):
            case 0:  # in the request
                writer.write(request[: chance.randrange(len(request))])
            case 1:  # as soon as it is sent
                writer.write(request)
            case _:  # in the answer
                writer.write(request)
                await reader.readexactly(chance.randrange(1, 200))
        await writer.drain()
        if chance.random() < 0.5:
            raw = cast(socket.socket, writer.get_extra_info("socket"))
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    except asyncio.IncompleteReadError as cut:
        raise ConnectionError("it was cut off") from cut
    finally:
        writer.transport.abort()
