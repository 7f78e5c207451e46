"""RTP for ten minutes: whatever grows a little with every request would show."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import psutil

from localstack.uic_and_rtp import RtpProcess, Surroundings
from localstack.wait import until
from support.world import BUNDLE
from torture.stage import Size, Stage, Tally
from torture.traffic import PATIENT_MS, Audience, Traffic, answered, quantile, slope

PER_S = 200
WINDOWS = 20
MEMORY_GROWTH = 0.02
"""Of what it was in the first half."""
P99_GROWTH = 0.5
CPU_GROWTH = 0.5


@dataclass(frozen=True)
class Window:
    """A twentieth of the run."""

    memory_bytes: int
    descriptors: int
    """But for TCP: there are as many connections as the clients and the pool want, which depends on the moment."""
    threads: int
    p99_ms: float
    """By RTP's own clock."""
    stall_ms: float
    """How late the generator's own timer fired, p99: what others do to this machine."""
    cpu_us: float
    """Processor time a request."""


def nothing_grows_and_nothing_slows_down(stage: Stage, size: Size) -> Tally:
    """200 requests/s for ten minutes (fast: 20 s), in twenty windows: memory, descriptors, threads and p99 of the
    second half are those of the first, but for what the machine's own stalls add. Written to `soak.json`, too."""
    lasts_s = 600.0 if size == "full" else 20.0
    store, audience = stage.valkey(), Audience()
    audience.settle(store)
    deadline_ms = "1000" if size == "full" else PATIENT_MS[size]
    told = {"RTP_STATE__STALE_AFTER_S": "86400"} | {
        f"RTP_DEADLINE__{one}_MS": deadline_ms for one in ("DEFAULT", "MAX")
    }
    windows: list[Window] = []
    with (
        RtpProcess("rtp", stage.folder / "rtp", Surroundings("", store.address, BUNDLE, rtp=told)) as rtp,
        Traffic(rtp.ports["http"], audience.cases, per_s=PER_S) as traffic,
    ):
        assert rtp.child is not None
        process = psutil.Process(rtp.child.pid)
        until(lambda: len(traffic.answers) >= 5 * PER_S, "it is warm", within_s=60)
        for _ in range(WINDOWS):
            before_s = sum(process.cpu_times()[:2])
            began = traffic.go_on(lasts_s / WINDOWS)
            cpu_s = sum(process.cpu_times()[:2]) - before_s
            answers = traffic.between(began, time.monotonic())
            windows.append(
                Window(
                    process.memory_info().rss,
                    _descriptors(process),
                    process.num_threads(),
                    round(1000 * quantile([a.server_s for a in answers if a.status], 0.99), 3),
                    round(1000 * quantile(traffic.stalls_s[-len(answers) :], 0.99), 3),
                    round(1e6 * cpu_s / max(1, len(answers)), 1),
                )
            )
    tally = judge(windows, size) + answered(traffic.answers)
    (stage.folder / "soak.json").write_text(json.dumps([vars(window) for window in windows], indent=1) + "\n")
    return tally


def _descriptors(process: psutil.Process) -> int:
    """But for TCP. A connection may come or go between the two counts: of three looks the middle one is taken."""
    return int(sorted(process.num_fds() - len(process.net_connections("tcp")) for _ in range(3))[1])


def judge(windows: list[Window], size: Size) -> Tally:
    """What grew: by a straight line through all windows, and by the second half against the first. Whether it slowed
    down, p99 says in full, and in the fast size processor time, which neighbors on the machine hardly stretch."""
    half = len(windows) // 2
    memory = [float(w.memory_bytes) for w in windows]
    p99 = [w.p99_ms for w in windows]
    wrong = []
    first, second = quantile(memory[:half], 0.5), quantile(memory[half:], 0.5)
    if second > (1 + MEMORY_GROWTH) * first and slope(memory) > MEMORY_GROWTH * first:
        wrong.append(f"memory grew from {first:.0f} to {second:.0f} bytes")
    for name in ("descriptors", "threads"):
        values = [getattr(window, name) for window in windows]
        if max(values[half:]) > max(values[:half]):
            wrong.append(f"{name} grew from {max(values[:half])} to {max(values[half:])}")
    first, second = quantile(p99[:half], 0.5), quantile(p99[half:], 0.5)
    stalls_ms = slope([w.stall_ms for w in windows])
    slower = second > (1 + P99_GROWTH) * first and slope(p99) - max(0.0, stalls_ms) > P99_GROWTH * first
    if size == "full" and slower:
        wrong.append(f"p99 grew from {first:.2f} to {second:.2f} ms")
    before, after = (quantile([w.cpu_us for w in some], 0.5) for some in (windows[:half], windows[half:]))
    if after > (1 + CPU_GROWTH) * before:
        wrong.append(f"processor time grew from {before:.0f} to {after:.0f} µs a request")
    figures = {
        "memory, % over the run": 100 * slope(memory) / memory[0],
        "descriptors, over the run": slope([float(w.descriptors) for w in windows]),
        "threads, over the run": slope([float(w.threads) for w in windows]),
        "p99 by RTP's clock, second half, times the first's": second / first,
        "p99 by RTP's clock, ms": quantile(p99, 0.5),
        "processor time a request, second half, times the first's": after / before,
        "processor time, µs a request": quantile([w.cpu_us for w in windows], 0.5),
    }
    return Tally(1, 0, wrong=tuple(wrong), figures={name: [round(value, 3)] for name, value in figures.items()})
