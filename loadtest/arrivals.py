"""Between a schedule and locust's users: each arrival goes, when it is due, to a user that is free.

locust's own users decide when to send again, so the load waits for the server. Here they only take what is due. An
arrival that finds none free waits; its latency counts from when it was due. One that has waited longer than
`patience_s` is dropped and counted. Runs in gevent's loop.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gevent
import numpy as np
from gevent.event import AsyncResult, Event
from gevent.hub import get_hub
from numpy.typing import NDArray

from loadtest.result import HIGHEST_US, Result, Run
from loadtest.schedule import Schedule

_CLOCK_MONOTONIC, _NONBLOCK, _ABSOLUTE = 1, 0o4000, 1


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that is due."""

    number: int
    """From 0, over the whole schedule."""
    due: float
    """By `time.perf_counter`, seconds."""
    result: Result
    """Where its outcome is counted."""


class Arrivals:
    """Hands out arrivals and counts their outcomes; one schedule after the other."""

    def __init__(self, patience_s: float = 1.0, server_cpu_s: Callable[[], float] | None = None) -> None:
        self._patience_s = patience_s
        self._server_cpu_s = server_cpu_s
        self._free: list[AsyncResult] = []
        """Users that wait. The one that came last goes first, so that only as many connections open as are needed."""
        self._waiting: deque[Arrival] = deque()
        self._open = 0
        self._last = False
        self._settled = Event()
        self._run = Run([])
        self._ended = False
        self._handing: gevent.Greenlet | None = None

    def take(self) -> Arrival:
        """The next arrival that is due; waits for it."""
        while self._waiting:
            arrival = self._waiting.popleft()
            if time.perf_counter() - arrival.due <= self._patience_s:
                return self._sent(arrival)
            arrival.result.dropped += 1
            self._close()
        ticket = AsyncResult()
        self._free.append(ticket)
        arrival = ticket.get()
        return self._sent(arrival)

    def settle(self, arrival: Arrival, error: str | None) -> float:
        """Count the outcome of an arrival that was taken; returns the seconds since it was due."""
        now = time.perf_counter()
        if error is None:
            arrival.result.answered(now - arrival.due)
            arrival.result.seconds = now  # as a point in time, until the run has ended
        else:
            arrival.result.errors[error] += 1
        self._close()
        return now - arrival.due

    def drive(self, schedule: Schedule) -> Run:
        """Hand out a whole schedule and return once every arrival has an outcome.

        Users must be taking arrivals, and give up each request eventually. `end` cuts the schedule short at once; what
        was sent is still reported.
        """
        due = schedule.due_s()
        self._run = run = Run([])
        self._settled.clear()
        self._open, self._last = 0, False
        cpu_s, began = time.process_time(), time.perf_counter()
        starts: list[float] = []
        server: list[float] = []
        if not self._ended:
            self._handing = gevent.spawn(self._hand_out, schedule, due, began, starts, server)
            try:
                self._handing.get()
            finally:
                self._handing.kill()  # the driving greenlet may be killed as well
        run.cut = self._ended
        if run.cut and run.phases:
            run.phases[-1].span_s = min(run.phases[-1].span_s, time.perf_counter() - starts[-1])
        self._last = True
        if self._open:
            self._settled.wait()
        ended = time.perf_counter()
        server.append(self._server_cpu_s() if self._server_cpu_s else 0.0)
        for i, (result, start) in enumerate(zip(run.phases, starts, strict=True)):
            shortest_s = result.latencies.get_min_value() / 1e6
            result.seconds = max(result.seconds - start - shortest_s, result.span_s)
            result.server_cpu_s = server[i + 1] - server[i] if self._server_cpu_s else None
        run.generator_cpu = (time.process_time() - cpu_s) / (ended - began)
        return run

    def end(self) -> None:
        """Hand out nothing more, now or later: `drive` returns once everything under way has an outcome."""
        self._ended = True
        if self._handing is not None:
            self._handing.kill(block=False)

    def _hand_out(
        self,
        schedule: Schedule,
        due: Sequence[NDArray[np.float64]],
        began: float,
        starts: list[float],
        server: list[float],
    ) -> None:
        """In a greenlet of its own, which can be ended wherever the others are; notes each phase's start."""
        timer, start, number = _Timer(), began, 0
        try:
            for phase, offsets in zip(schedule.phases, due, strict=True):
                timer.sleep_until(start)
                result = Result(phase.name, 0, phase.seconds)
                self._run.phases.append(result)
                starts.append(start)
                server.append(self._server_cpu_s() if self._server_cpu_s else 0.0)
                start += phase.seconds
                for offset in offsets.tolist():
                    arrival = Arrival(number, began + offset, result)
                    timer.sleep_until(arrival.due)
                    number += 1
                    result.due += 1
                    self._open += 1
                    if self._free:
                        self._free.pop().set(arrival)
                    else:
                        self._waiting.append(arrival)
            timer.sleep_until(began + schedule.seconds)
        finally:
            timer.close()

    def _sent(self, arrival: Arrival) -> Arrival:
        late_us = round((time.perf_counter() - arrival.due) * 1e6)
        self._run.late.record_value(min(max(1, late_us), HIGHEST_US))
        return arrival

    def _close(self) -> None:
        self._open -= 1
        if self._last and not self._open:
            self._settled.set()


class _Timer:
    """Sleeps to within some tens of microseconds: gevent's own sleep rounds to milliseconds, which would be half of
    the latency that is measured here."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create: the generator needs Linux")
        self._io = get_hub().loop.io(self._fd, 1)

    def sleep_until(self, due: float) -> None:
        """Return at `due` by `time.perf_counter`; when that has passed, after letting others have a turn."""
        if due <= time.perf_counter():
            gevent.sleep(0)
            return
        seconds, nanoseconds = divmod(int(due * 1e9), 10**9)
        self._libc.timerfd_settime(self._fd, _ABSOLUTE, struct.pack("qqqq", 0, 0, seconds, nanoseconds), None)
        get_hub().wait(self._io)
        os.read(self._fd, 8)

    def close(self) -> None:
        """Release the descriptor."""
        self._io.close()
        os.close(self._fd)
