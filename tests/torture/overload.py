"""Five times the requests that RTP can score: it scores as many as ever, and refuses the rest while that is cheap."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil
import uvloop

from loadtest.bare_loop import saturate
from localstack.uic_and_rtp import RtpProcess, Surroundings
from localstack.wait import NotReady, until
from support.world import BUNDLE
from torture.stage import Size, Stage, Tally
from torture.traffic import Answer, Audience, Traffic, quantile
from torture.watching import Watch, metric

TIMES = 5
REFUSED_WITHIN_S = 0.005
RECOVERY_S = 5.0
GROWTH = 1.25
CONNECTIONS = 8


@dataclass(frozen=True)
class Limits:
    """What a size asks for. In the fast one others may use the machine, and stall it or change its speed between the
    measurement of the knee and the overload: RTP is judged by its own clock, and by what it did with the time it got.
    """

    lasts_s: float
    knee_s: float
    deadline_s: float
    """Full: RTP's default; fast: longer than a stall."""
    offered: float
    """Of five times the knee. The load is five times that before it, held against the mean of before and after."""
    goodput: float
    """Scores in time, of those at the knee."""
    head_busy: float
    """Of the time for which the head was busy at the knee, times the share of the scores that were in time. Full: the
    goodput alone says it."""


LIMITS = {
    "full": Limits(60.0, 5.0, 0.25, offered=0.8, goodput=0.9, head_busy=0.0),
    "fast": Limits(5.0, 1.5, 1.0, offered=0.5, goodput=0.5, head_busy=0.75),
}


class HeavyRtp(RtpProcess):
    """RTP with a head of a fixed cost."""

    head_s = 0.005

    def command(self) -> list[str]:
        """As RTP's, with another head."""
        return [sys.executable, "-m", "torture.fixed_cost"]

    def environment(self) -> Mapping[str, str]:
        """RTP's, and where the head is."""
        tests = Path(__file__).parents[1]
        told = {"PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]), "HEAD_S": str(self.head_s)}
        return {**super().environment(), **told}


class Memory(Watch):
    """A process's resident bytes, twice a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(every_s=0.5)
        self._process = psutil.Process(pid)
        self.seen: list[int] = []

    def look(self) -> None:
        """Those of now."""
        self.seen.append(self._process.memory_info().rss)


def five_times_the_knee_costs_no_goodput(stage: Stage, size: Size) -> Tally:
    """For 60 s (fast: 5 s) five times as many requests as RTP can score: it scores at least 90 % as many, in time, as
    it does at its knee in the same run; refuses within 5 ms by its own clock; holds its memory; and is itself again
    within 5 s of the load's end."""
    limits = LIMITS[size]

    def stalled_s(begin: float, end: float) -> float:
        """For how long the machine let nothing run then, which counts in the fast size alone."""
        return 0.0 if size == "full" else stage.stalls.within(begin, end)

    store, audience = stage.valkey(), Audience()
    audience.settle(store)
    bodies = [case.body for case in audience.cases]
    told = {"RTP_STATE__STALE_AFTER_S": "86400", "RTP_DEADLINE__DEFAULT_MS": str(round(limits.deadline_s * 1000))}
    with HeavyRtp("rtp", stage.folder / "rtp", Surroundings("", store.address, BUNDLE, rtp=told)) as rtp:
        assert rtp.child is not None
        port = rtp.ports["http"]

        def busy_s() -> float:
            return metric(rtp, "rtp_head_seconds_sum")

        def knee() -> tuple[float, float]:
            busy, began = busy_s(), time.monotonic()
            rate = uvloop.run(saturate(f"{rtp.address}/predict", bodies, limits.knee_s, CONNECTIONS))
            return rate, (busy_s() - busy) / (time.monotonic() - began)

        uvloop.run(saturate(f"{rtp.address}/predict", bodies, 0.5, CONNECTIONS))  # warm
        before, busy_before = knee()
        idle = psutil.Process(rtp.child.pid).memory_info().rss
        cpu_s = sum(psutil.Process(rtp.child.pid).cpu_times()[:2])
        with (
            Memory(rtp.child.pid) as memory,
            Traffic(port, audience.cases, per_s=TIMES * before, connections=256) as traffic,
        ):
            busy, scores = busy_s(), metric(rtp, "rtp_head_seconds_count")
            began = traffic.go_on(limits.lasts_s)
            ends = time.monotonic()
            busy = busy_s() - busy
            head_s = busy / max(1.0, metric(rtp, "rtp_head_seconds_count") - scores)
            busy /= max(0.1, ends - began - stalled_s(began, ends))
        cpu_s = sum(psutil.Process(rtp.child.pid).cpu_times()[:2]) - cpu_s
        with Traffic(port, audience.cases, per_s=before / 2) as calm:
            calm.go_on(RECOVERY_S + 1)

            def recovered_s() -> float:
                came = list(calm.answers)
                return recovered([a._replace(due=a.due - stalled_s(ends, a.due)) for a in came], ends, size)

            with suppress(NotReady):  # that is judged below
                until(lambda: math.isfinite(recovered_s()), "RTP is itself again", within_s=30)
        answers = traffic.between(0, ends)
        after, busy_after = knee()
        busier = 2 * busy / (busy_before + busy_after)
        ran_s = max(0.1, limits.lasts_s - stalled_s(began, ends))
        calmly = [answer for answer in answers if not stalled_s(answer.due, answer.due + answer.took_s)]
        tally = _verdict(answers, calmly, size, ran_s, (before + after) / 2, busier, head_s)
    after_s = recovered_s()
    grown = max(memory.seen) / idle
    figures = {"recovered after, s": after_s, "memory, times that before": grown}
    figures |= {"RTP's processor time, µs an answer of any kind": 1e6 * cpu_s / len(traffic.answers)}
    wrong = [
        *([f"requests failed {after_s:.1f} s after the overload"] if after_s > RECOVERY_S else []),
        *([f"memory grew to {grown:.2f} times what it was"] if grown > GROWTH else []),
    ]
    return tally + Tally(wrong=tuple(wrong), figures={name: [round(value, 3)] for name, value in figures.items()})


def _verdict(
    answers: list[Answer], calmly: list[Answer], size: Size, ran_s: float, knee: float, busier: float, head_s: float
) -> Tally:
    """`calmly`: those of the answers during which the machine did not stall; `ran_s`: for how long it did not."""
    limits = LIMITS[size]
    scored = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.said == "overloaded"]
    others = len(answers) - len(scored) - len(refused)

    def in_time(some: list[Answer]) -> list[bool]:
        return [(a.took_s if size == "full" else a.server_s) <= limits.deadline_s for a in some if a.status == 200]

    goodput = sum(in_time(answers)) / ran_s
    offered = len(answers) / ran_s
    busy_in_time = busier * sum(in_time(calmly)) / max(1, len(in_time(calmly)))
    wrong = [
        *([f"the load was {offered:.0f}/s of {TIMES * knee:.0f}/s"] if offered < limits.offered * TIMES * knee else []),
        *([f"goodput {goodput:.0f}/s, at the knee {knee:.0f}/s"] if goodput < limits.goodput * knee else []),
        *([f"the head was busy for {busy_in_time:.2f} of the knee's"] if busy_in_time < limits.head_busy else []),
        *slow(size, [answer.server_s for answer in refused], [answer.server_s for answer in scored], head_s),
    ]
    figures = {
        "knee, requests/s": knee,
        "offered, times the knee": offered / knee,
        "goodput, times the knee": goodput / knee,
        "refused, p50 by RTP's clock, ms": 1000 * quantile([answer.server_s for answer in refused], 0.5),
        "refused, p99 by RTP's clock, ms": 1000 * quantile([answer.server_s for answer in refused], 0.99),
        "refused, p99 as the client sees it, ms": 1000 * quantile([answer.took_s for answer in refused], 0.99),
        "scored, p50 as the client sees it, ms": 1000 * quantile([answer.took_s for answer in scored], 0.5),
        "scored, p99 as the client sees it, ms": 1000 * quantile([answer.took_s for answer in scored], 0.99),
        "the head was busy, times the knee": busier,
        "answered after the deadline instead, %": 100 * others / len(answers),
    }
    return Tally(
        trials=1,
        faults=1,
        wrong_answers=sum(not answer.right for answer in scored),
        wrong=tuple(wrong),
        figures={name: [round(value, 3)] for name, value in figures.items()},
    )


def recovered(answers: list[Answer], ends: float, size: Size) -> float:
    """How many seconds after the overload, which `ends` then, RTP was itself again, by the answers under a light load.

    In full, after the last request that failed. A machine that others use may stall it later for longer than its
    deadline, which says nothing of the overload: in fast, as soon as all requests of one second are scored; infinite if
    there is no such second.
    """
    failed_s = sorted(answer.due - ends for answer in answers if answer.status != 200)
    if size == "full":
        return max(failed_s, default=0.0)
    last_s = max(answer.due - ends for answer in answers)
    for after_s, before_s in pairwise([0.0, *failed_s, last_s]):
        if before_s - after_s >= 1.0:
            return after_s
    return math.inf


def slow(size: Size, refused_s: list[float], scored_s: list[float], head_s: float) -> list[str]:
    """What is wrong with how long refusals took, by RTP's clock.

    In full, alone on a machine, all but 1 % take at most 5 ms. A machine that others use takes RTP off its
    core in the middle of any answer, so that no time holds there. But it does the same to scores, and a comparison
    within the run holds: half of the refusals cost less than the head's own 5 ms, as measured meanwhile (`head_s`),
    and all but 10 % at most a tenth of the median score, which waited in the line. A refusal that waits for the line,
    or for one score, fails.
    """
    p99, p90, p50 = (quantile(refused_s, q) for q in (0.99, 0.9, 0.5))
    if size == "full":
        return [f"p99 of refusals {p99 * 1000:.1f} ms"] if p99 > REFUSED_WITHIN_S else []
    score_s = quantile(scored_s, 0.5)
    return [
        *([f"p50 of refusals {p50 * 1000:.1f} ms, the head took {head_s * 1000:.1f} ms"] if p50 > head_s else []),
        *(
            [f"p90 of refusals {p90 * 1000:.1f} ms, p50 of scores {score_s * 1000:.1f} ms"]
            if p90 > score_s / 10
            else []
        ),
    ]
