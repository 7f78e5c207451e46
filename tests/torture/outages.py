"""The store is slow, silent, gone or fails over under requests: RTP answers in time, says what it knows, and comes back
by itself."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass

import redis

from localstack.ports import LOOPBACK
from localstack.uic_and_rtp import RtpProcess, Surroundings
from localstack.valkey import Valkey
from localstack.wait import NotReady, until
from support.sentinel_node import SentinelNode
from support.world import BUNDLE
from torture.stage import Size, Stage, Tally
from torture.traffic import Answer, Audience, Traffic, answered, busiest_second, quantile
from torture.watching import metric, sees_store
from torture.wire import Wire

DEADLINE_S = {"full": 0.25, "fast": 1.0}
"""Full: RTP's default; fast: longer than a machine that others use stalls."""
PAST_DEADLINE_S = 0.005
RECOVERY_S = 1.0
MAY_FAIL = {"full": 0.001, "fast": 0.005}
"""Share of the requests. The fast size has some 1200 a fault: a few may wait for the store while the machine stalls,
before RTP has learned not to."""
POOL = 16
CONNECTS = {"full": POOL, "fast": 2 * POOL}
"""In a second, as the wire sees them: after a stall of the machine those of more than a second come at once. Without
a limit it would be one for each request."""
PER_S = 200
STATES = ("warm", "stale", "cold", "unavailable")


@dataclass
class Scene:
    """A store that may be harmed, and what lies between it and RTP."""

    store: Valkey
    wire: Wire
    deadline_s: float
    heir: Valkey | None = None
    sentinel: SentinelNode | None = None


@contextmanager
def a_store_that_takes_50_ms(scene: Scene) -> Iterator[None]:
    """Longer than all the rest, but in time."""
    with _delayed(scene, 0.05):
        yield


@contextmanager
def a_store_that_takes_twice_the_deadline(scene: Scene) -> Iterator[None]:
    """500 ms, in full."""
    with _delayed(scene, 2 * scene.deadline_s):
        yield


@contextmanager
def a_store_that_swallows_everything(scene: Scene) -> Iterator[None]:
    """Connections open and stay open, and nothing comes back."""
    scene.wire.swallows = True
    yield
    scene.wire.swallows = False


@contextmanager
def a_store_that_is_gone(scene: Scene) -> Iterator[None]:
    """Killed, and started again."""
    scene.store.kill()
    yield
    scene.store.start()


@contextmanager
def a_store_that_fails_over(scene: Scene) -> Iterator[None]:
    """The primary is killed; for a while there is none, then Sentinel names the replica."""
    if scene.sentinel is None or scene.heir is None:
        raise AssertionError("no replica was started")
    scene.store.kill()
    yield
    with redis.Redis.from_url(scene.heir.address, protocol=2) as client:
        client.execute_command("REPLICAOF", "NO", "ONE")
    with redis.Redis.from_url(scene.sentinel.address, protocol=2) as client:
        client.execute_command("SENTINEL REMOVE", "states")
        client.execute_command("SENTINEL MONITOR", "states", LOOPBACK, scene.heir.port, 1)


@contextmanager
def _delayed(scene: Scene, seconds: float) -> Iterator[None]:
    scene.wire.delay_s = seconds
    yield
    scene.wire.delay_s = 0.0


Fault = Callable[[Scene], AbstractContextManager[None]]
LABELS: dict[Fault, set[str]] = {
    a_store_that_takes_50_ms: {"warm"},
    a_store_that_takes_twice_the_deadline: {"unavailable"},
    a_store_that_swallows_everything: {"unavailable"},
    a_store_that_is_gone: {"unavailable"},
    a_store_that_fails_over: {"unavailable"},
}
"""What answers say while the fault lasts."""


def answers_go_on_while_the_store_is_away_slow_or_fails_over(stage: Stage, size: Size) -> Tally:
    """Five faults of 4 s (full: 15 s, twice each) under 200 requests/s: at least 99.9 % of the requests are answered
    by their deadline and say what their scores rest on, all are warm again a second after the store is back, and no
    process floods it with connects. RTP is ready all the time; its metrics and the detail in `/readyz` say that the
    store is away, and then that it is back, and it has counted what its answers said."""
    rounds, lasts_s = (2, 15.0) if size == "full" else (1, 4.0)
    audience = Audience()
    tally = Tally()
    for n in range(rounds):
        for fault in LABELS:
            tally += _trial(stage, audience, fault, n, lasts_s, size)
    return tally


def _trial(stage: Stage, audience: Audience, fault: Fault, n: int, lasts_s: float, size: Size) -> Tally:
    name, deadline_s = f"{fault.__name__}-{n}", DEADLINE_S[size]

    def calm(begin: float, end: float) -> bool:
        """Whether the machine let RTP run then, and for a while before. In full it is never asked."""
        return size == "full" or not stage.stalls.within(begin - RECOVERY_S, end)

    def judged(answers: Sequence[Answer]) -> list[Answer]:
        return [answer for answer in answers if calm(answer.due, answer.due + answer.took_s)]

    with ExitStack() as ending:
        scene, told = _scene(stage, audience, fault, name, deadline_s, ending)
        url = f"redis://{LOOPBACK}:{scene.wire.port}/0"
        rtp = ending.enter_context(
            RtpProcess("rtp", stage.folder / f"{name}-rtp", Surroundings("", url, BUNDLE, rtp=told))
        )
        with Traffic(rtp.ports["http"], audience.cases, per_s=PER_S) as traffic:
            until(lambda: len(traffic.answers) > PER_S // 4, "there is traffic", within_s=60)
            with fault(scene):
                began = traffic.go_on(lasts_s)
                up = LABELS[fault] == {"warm"}
                until(
                    lambda: sees_store(rtp, up=up),
                    f"RTP says that the store is {'there' if up else 'away'}",
                    within_s=60,
                )
                with suppress(NotReady):  # on a machine that stalls all the time, what there is must do
                    until(
                        lambda: judged(traffic.between(began + deadline_s, time.monotonic() - deadline_s))[PER_S:],
                        "there is a second to be judged",
                        within_s=30,
                    )
                ends = time.monotonic()
            back = time.monotonic()
            traffic.go_on(RECOVERY_S + 0.7)
            with suppress(NotReady):  # as above
                until(
                    lambda: judged(traffic.between(back + RECOVERY_S, time.monotonic()))[PER_S // 4 :],
                    "there is something to be judged",
                    within_s=30,
                )
            until(lambda: sees_store(rtp, up=True), "RTP says that the store is back", within_s=60)
        during = judged(traffic.between(began + deadline_s, ends - deadline_s))
        unlike = {answer.said for answer in during if answer.status == 200} - LABELS[fault]
        answers = judged(traffic.answers)
        late = quantile([a.server_s for a in answers if a.status], 0.99)
        recovered_s = max((a.due - back for a in answers if a.said != "warm" and a.due > back), default=0.0)
        storm = busiest_second([at for at in scene.wire.connects if began < at and calm(at, at)])
        wrong = [
            *([f"{name}: answers said {', '.join(sorted(unlike))}"] if unlike else []),
            *([f"{name}: p99 {late:.3f} s by RTP's clock"] if late > deadline_s + PAST_DEADLINE_S else []),
            *([f"{name}: warm only {recovered_s:.2f} s after the store was back"] if recovered_s > RECOVERY_S else []),
            *([f"{name}: {storm} connects in a second"] if storm > CONNECTS[size] else []),
            *_miscounted(name, rtp, traffic.answers),
        ]
        figures = {
            "answers other than 200, %": 100 * sum(a.status != 200 for a in traffic.answers) / len(traffic.answers),
            f"p99 by RTP's clock, ms ({fault.__name__})": late * 1000,
            "all warm after the store was back, s": recovered_s,
            "most connects in a second": storm,
        }
        measured = Tally(1, 1, wrong=tuple(wrong), figures={name: [round(v, 3)] for name, v in figures.items()})
        counted = [a for a in traffic.answers if a.status == 200 or calm(a.due, a.due + a.took_s)]
        return measured + answered(counted, may_fail=MAY_FAIL[size])


def _miscounted(name: str, rtp: RtpProcess, answers: Sequence[Answer]) -> list[str]:
    """Where `rtp_states_total` is not what the answers said; a client that gave up does not know what was said."""
    said = Counter(answer.said for answer in answers if answer.status == 200)
    unheard = sum(answer.status == 0 for answer in answers)
    counted = {state: metric(rtp, "rtp_states_total", f'status="{state}"') for state in STATES}
    wrong = {state: n for state, n in counted.items() if not said[state] <= n <= said[state] + unheard}
    return [f"{name}: RTP counted {wrong}, its answers said {dict(said)}"] if wrong else []


def _scene(
    stage: Stage, audience: Audience, fault: Fault, name: str, deadline_s: float, ending: ExitStack
) -> tuple[Scene, dict[str, str]]:
    # What is stored survives a kill.
    store = ending.enter_context(Valkey(stage.folder / f"{name}-store", appendfsync="always"))
    audience.settle(store)
    wire = ending.enter_context(Wire(store.port))
    told = {
        "RTP_REDIS__POOL_SIZE": str(POOL),
        "RTP_STATE__STALE_AFTER_S": "86400",
        "RTP_DEADLINE__DEFAULT_MS": str(round(deadline_s * 1000)),
        # What is too slow for requests is too slow for what RTP reads in the background.
        "RTP_REDIS__BACKGROUND_TIMEOUT_MS": str(round(deadline_s * 1000)),
    }
    if fault is not a_store_that_fails_over:
        return Scene(store, wire, deadline_s), told
    heir = ending.enter_context(Valkey(stage.folder / f"{name}-replica", appendfsync="off"))
    with redis.Redis.from_url(heir.address, protocol=2) as client:
        client.execute_command("REPLICAOF", LOOPBACK, store.port)
        until(lambda: client.info("replication")["master_link_status"] == "up", "it follows", within_s=60)
        until(lambda: client.dbsize() == len(audience.stored.values), "it has everything", within_s=60)
    sentinel = ending.enter_context(SentinelNode(stage.folder / f"{name}-sentinel", store))
    told |= {
        "RTP_REDIS__MODE": "sentinel",
        "RTP_REDIS__SENTINELS": f"{LOOPBACK}:{sentinel.port}",
        "RTP_REDIS__SENTINEL_SERVICE": "states",
    }
    return Scene(store, wire, deadline_s, heir, sentinel), told
