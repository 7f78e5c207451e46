"""Whether clocks agree: as-of times and the limits of event times compare those of several machines. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from uic.core.deployment import Finding, fail, ok, warn
from uic.tools.doctor.samples import Sample

CLOCK_WARN_S = 2.0
CLOCK_FAIL_S = 60.0


def clock(what: str, ahead_s: float | None) -> Finding:
    """Our clock and another machine's agree: as-of times and the limits of event times compare them."""
    check = f"clock of {what}"
    if ahead_s is None:
        return ok(check, "nothing to compare yet")
    seen = f"{abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} ours"
    fix = "synchronize both clocks (chrony or ntpd)"
    if abs(ahead_s) > CLOCK_FAIL_S:
        return fail(check, seen, fix)
    if abs(ahead_s) > CLOCK_WARN_S:
        return warn(check, seen, fix)
    return ok(check, seen)


def newest_event(samples: Iterable[Sample], now_ms: int) -> Finding:
    """No record has a timestamp ahead of our clock; otherwise its producer's clock is wrong, or ours."""
    newest = max((s.newest_ms for s in samples if s.newest_ms is not None), default=None)
    if newest is None or newest <= now_ms:
        return ok("clock of the producers", "no record from the future")
    return clock("the producers", (newest - now_ms) / 1000)


def worker_clocks(newest_as_of_ms: int | None, store_now_ms: float) -> Finding:
    """No worker's clock is ahead: it would hide that states are stale until time has caught up."""
    if newest_as_of_ms is None or newest_as_of_ms <= store_now_ms:
        return ok("clock of the workers", "no progress from the future")
    return clock("the workers", (newest_as_of_ms - store_now_ms) / 1000)
