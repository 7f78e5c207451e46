"""Restarts in turn and bundle swaps under load: what an operator does on any day, and no caller may notice."""

from __future__ import annotations

import signal
import time

from localstack.ports import shared_listener
from localstack.uic_and_rtp import RtpProcess, Surroundings
from localstack.wait import until
from support.bundles import again
from support.world import BUNDLE
from torture.fleet import producing
from torture.stage import Size, Stage, Tally
from torture.traffic import PATIENT_MS, Audience, Traffic, answered, quantile
from torture.watching import metric, owned

EXIT_S = 10.0
PER_S = 300
N = 8


def rtp_processes_on_one_socket_restart_in_turn_and_no_request_fails(stage: Stage, size: Size) -> Tally:
    """Two processes, restarted in turn twenty times (fast: 3) under 300 requests/s: every request is answered, and each
    process ends within 10 s."""
    restarts = 20 if size == "full" else 3
    store, audience = stage.valkey(), Audience()
    audience.settle(store)
    told = {"RTP_STATE__STALE_AFTER_S": "86400"} | {
        f"RTP_DEADLINE__{one}_MS": PATIENT_MS[size] for one in ("DEFAULT", "MAX")
    }
    listener = shared_listener()
    port = listener.getsockname()[1]

    def process(name: str) -> RtpProcess:
        surroundings = Surroundings("", store.address, BUNDLE, rtp=told)
        return RtpProcess(name, stage.folder / name, surroundings, port=port, shared_fd=listener.fileno())

    ends_s, statuses = [], []
    with (
        listener,
        process("a") as first,
        process("b") as second,
        Traffic(port, audience.cases, per_s=PER_S, connections=64) as traffic,
    ):
        until(lambda: len(traffic.answers) > PER_S // 2, "there is traffic", within_s=60)
        for n in range(restarts):
            member = (first, second)[n % 2]
            began = time.monotonic()
            statuses.append(member.stop(grace_s=60))
            ends_s.append(_took(stage, size, began))
            member.start()
        traffic.go_on(0.5)
    return answered(traffic.answers) + _ended(statuses, ends_s, restarts)


def uic_workers_restart_in_turn_and_no_event_is_lost(stage: Stage, size: Size) -> Tally:
    """Two workers, restarted in turn twenty times (fast: 3) while events flow: every event is folded once, and each
    worker ends within 10 s."""
    restarts = 20 if size == "full" else 3
    world = stage.world("restarts", stage.valkey().address, partitions=N)
    workers = [world.worker(), world.worker()]
    ends_s, statuses = [], []
    with producing(world, 200, a_second=200) as produced:
        until(lambda: produced() >= 200, "the load has begun", within_s=60)
        for n in range(restarts):
            member = workers[n % 2]
            began = time.monotonic()
            statuses.append(member.stop(grace_s=60))
            ends_s.append(_took(stage, size, began))
            member.start()
            until(lambda: sum(map(owned, workers)) == N, "all partitions are folded again", within_s=60)
    caught_up_s = world.wait_folded(60)
    figures = {"caught up after the last event, s": caught_up_s}
    return Tally.of(world.compare(), trials=0, faults=0, figures=figures) + _ended(statuses, ends_s, restarts)


def a_bundle_is_swapped_under_load_and_no_request_fails(stage: Stage, size: Size) -> Tally:
    """SIGHUP 50 times (fast: 5), each to another version with the same fingerprint, under 200 requests/s."""
    swaps = 50 if size == "full" else 5
    store, audience = stage.valkey(), Audience()
    audience.settle(store)
    versions = [again(stage.folder / "bundles", BUNDLE, version=number) for number in ("1", "2")]
    current = stage.folder / "current"
    current.symlink_to(versions[0])
    told = {"RTP_STATE__STALE_AFTER_S": "86400"} | {
        f"RTP_DEADLINE__{one}_MS": PATIENT_MS[size] for one in ("DEFAULT", "MAX")
    }
    refused = 0.0
    took_s = []
    with (
        RtpProcess("rtp", stage.folder / "rtp", Surroundings("", store.address, current, rtp=told)) as rtp,
        Traffic(rtp.ports["http"], audience.cases, per_s=200) as traffic,
    ):
        assert rtp.child is not None
        for n in range(1, swaps + 1):
            fresh = current.with_suffix(".new")
            fresh.symlink_to(versions[n % 2])
            fresh.replace(current)
            began = time.monotonic()
            rtp.child.send(signal.SIGHUP)
            until(lambda n=n: metric(rtp, "rtp_bundle_reloads_total") >= n, "the bundle is swapped", within_s=60)  # type: ignore[misc]  # mypy cannot infer a lambda's default
            took_s.append(time.monotonic() - began)
        refused = metric(rtp, "rtp_bundle_reloads_total", 'result="refused"')
        traffic.go_on(0.3)
    wrong = (f"{refused:.0f} swaps were refused",) if refused else ()
    figures = {
        "swapped after, s": [round(max(took_s), 3)],
        "p99 by RTP's clock, ms": [round(1000 * quantile([a.server_s for a in traffic.answers if a.status], 0.99), 3)],
    }
    return Tally(swaps, swaps, wrong=wrong, figures=figures) + answered(traffic.answers)


def _took(stage: Stage, size: Size, began: float) -> float:
    """Seconds since then; in the fast size without those for which the machine stalled."""
    now = time.monotonic()
    return now - began - (0.0 if size == "full" else stage.stalls.within(began, now))


def _ended(statuses: list[int | None], ends_s: list[float], restarts: int) -> Tally:
    wrong = [f"exit status {status}" for status in statuses if status != 0]
    wrong += [f"a process took {seconds:.1f} s to end" for seconds in ends_s if seconds > EXIT_S]
    return Tally(restarts, restarts, wrong=tuple(wrong), figures={"ended after, s": [round(s, 3) for s in ends_s]})
