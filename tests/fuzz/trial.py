"""One input on one target, and what is asked of it: only named errors, little time, memory in proportion."""

from __future__ import annotations

import resource
import tracemalloc
from dataclasses import dataclass
from itertools import count
from time import process_time, thread_time

from fuzz.mutation import Mutator
from fuzz.targets import Target

CPU_S = 0.010
"""No input takes more at its best, or, on a slow machine, more than counting to `COUNTED` does, in most of `TIMES`
turns. The slowest that is known takes four fifths of that: a dead letter with as many headers as fit."""
COUNTED = 300_000
TIMES = 10
"""What other processes do to the caches, and the garbage collector to one turn, is no decoder's fault."""
BYTES_AN_INPUT_BYTE = 64
"""An input may take this many times its size: an empty object, of two bytes and a comma, takes half of it in Python."""
SPARE_BYTES = 256 << 10
MEASURE_MEMORY_EVERY = 32
"""Watching the memory makes a trial several times slower."""
RESIDENT_BYTES = 256 << 20
"""By how much the process may grow in a whole run, what decoders take outside of Python's heap included."""


class Failure(AssertionError):
    """An input that a target does not stand."""


def attempt(target: Target, data: bytes, *, memory: bool) -> float:
    """Decode `data`, and return the seconds of CPU it took.

    Raises:
        Failure: too slow, or (looked at if `memory`) too large.
        Exception: whatever the target raised that is none of its named errors.
    """
    best, longer = _timed(target, data), 0
    for _ in range(TIMES):
        if best <= CPU_S:
            break
        # In turn, because a machine may become slower or faster between them.
        took_s, counted_s = _timed(target, data), _counting()
        best, longer = min(best, took_s), longer + (took_s > counted_s)
    if best > CPU_S and 2 * longer > TIMES:
        raise Failure(f"{best * 1000:.1f} ms of CPU for {len(data)} bytes")
    if memory:
        tracemalloc.start()
        try:
            _decode(target, data)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        if peak > BYTES_AN_INPUT_BYTE * len(data) + SPARE_BYTES:
            raise Failure(f"{peak} bytes of memory for {len(data)} bytes")
    return best


def _counting() -> float:
    """The seconds of CPU that this machine takes now to count to `COUNTED`."""
    began, number = thread_time(), 0
    for step in range(COUNTED):
        number += step & 7
    return thread_time() - began


def _timed(target: Target, data: bytes) -> float:
    began = thread_time()
    _decode(target, data)
    return thread_time() - began


def _decode(target: Target, data: bytes) -> None:
    try:
        target.decode(data)
    except target.errors:
        return


@dataclass(frozen=True)
class Outcome:
    """What a run on one target found: nothing, or one input and what it did."""

    inputs: int
    slowest_s: float
    found: bytes | None = None
    what: str = ""


def fuzz(target: Target, cpu_s: float, seed: int) -> Outcome:
    """Try inputs until `cpu_s` of CPU are spent, or one does what it must not."""
    slowest_s = 0.0
    before = resident()
    ends = process_time() + cpu_s
    inputs = iter(Mutator(target, seed))
    for tried in count(1):
        data = next(inputs)
        try:
            slowest_s = max(slowest_s, attempt(target, data, memory=tried % MEASURE_MEMORY_EVERY == 0))
        except Exception as error:
            return Outcome(tried, slowest_s, data, f"{type(error).__name__}: {error}")
        if process_time() > ends:
            break
    grown = resident() - before
    if grown > RESIDENT_BYTES:
        return Outcome(tried, slowest_s, None, f"the process grew by {grown >> 20} MiB")
    return Outcome(tried, slowest_s)


def resident() -> int:
    """The most memory that the process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
