"""A model that changes its fingerprint under load, while the workers of both fleets and the store die repeatedly."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray

from localstack.topics import create_topics, delete_topics, topics
from localstack.wait import until
from support.for_test import RedisForTest, TopicsForTest
from support.rollouts import QUICK, Deployment, Traffic, deployed
from torture.stage import Size, Stage, Tally
from torture.watching import metric, readiness, sees_store, wait_well

N = 8
USERS = [f"user-{i}" for i in range(80)]
QUIET, BUSY = USERS[:40], USERS[40:]
"""The states of the first half do not change, so what each model must answer is known."""
LAST_ANSWER_S = 2.0


def a_rollout_goes_on_while_workers_and_the_store_die(stage: Stage, size: Size) -> Tally:
    """Ten migrations (fast: one) under requests and events, to another fingerprint and back. Before each of three steps
    a worker of each fleet and then the store (AOF always) are killed. Every request is answered, by one release, with
    scores that are right for it, and no user turns cold; the release that ends answers for at most 2 s more. RTP is
    ready all the time and says that the store is away while it is; in the end both fleets say that all is well."""
    turns = 10 if size == "full" else 1
    store = stage.valkey(appendfsync="always")
    names = TopicsForTest(stage.bootstrap, f"rollout-{uuid.uuid4().hex[:10]}", N)
    create_topics(stage.bootstrap, topics(names.events, N))
    client = redis.Redis.from_url(store.address, protocol=2, socket_timeout=10)
    kills, last_s = 0, []
    try:
        at = RedisForTest(store.address, "shop", client)
        with deployed(stage.folder, at, names, USERS, patient=size == "fast") as running:

            def shaken() -> None:
                nonlocal kills
                for world in (running.old, running.new):
                    world.workers[-1].kill()
                store.kill()
                running.old.produce(40, BUSY)
                until(lambda: sees_store(running.rtp, up=False), "RTP says that the store is away", within_s=60)
                store.start()
                for world in (running.old, running.new):
                    world.worker()
                kills += 3

            with running.traffic(USERS, 100) as traffic, running.events(BUSY, 50):
                for _ in range(turns):
                    identity = running.done("start", str(running.new_bundle))["id"]
                    shaken()
                    running.done("wait", identity, "--timeout", "180s", *QUICK)
                    running.wait_loaded("tiny-sketch/1")
                    running.done("canary", identity, "--percent", "30", *QUICK)
                    shaken()
                    running.done("wait", identity, "--timeout", "180s", *QUICK)
                    running.done("promote", identity, *QUICK)
                    last_s.append(_last(traffic, "tiny/1", stage, size))
                    shaken()
                    running.done("rollback", identity)
                    last_s.append(_last(traffic, "tiny-sketch/1", stage, size))
                until(lambda: traffic.answers[-1].state == "warm", "states are read again", within_s=60)
                until(lambda: sees_store(running.rtp, up=True), "RTP says that the store is back", within_s=60)
                wait_follows(running)
            running.old.wait_folded()
            for world in (running.old, running.new):
                wait_well(world.workers[-1:], N)
            found = running.old.compare()
            tally = Tally.of(found, trials=turns, faults=kills) + judged(traffic, _expected(running))
    finally:
        delete_topics(stage.bootstrap, [names.events, names.dlq, names.erased])
    late = tuple(f"a release answered {late:.1f} s after it ended" for late in last_s if late > LAST_ANSWER_S)
    return tally + Tally(wrong=late, figures={"last answer of the release that ends, s": [round(max(last_s), 3)]})


def wait_follows(running: Deployment) -> None:
    """Wait until `/readyz` and the metrics of RTP say that it follows the record as it is now, and serves by it."""

    def follows() -> bool:
        record, rtp = running.record(), running.rtp
        now = record.serving
        serving = f'bundle="{now.bundle}",role="serving",state_namespace="{now.namespace}"'
        shown = metric(rtp, "rtp_rollout_revision"), metric(rtp, "rtp_release", serving)
        return (*shown, metric(rtp, "rtp_release_refused"), readiness(rtp)) == (record.revision, 1, 0, (200, ""))

    until(follows, "RTP says that it follows the record", within_s=60)


def _last(traffic: Traffic, model: str, stage: Stage, size: Size) -> float:
    """How long a model still answers after now; in the fast size without the time for which the machine stalls."""
    at = time.monotonic()
    until(lambda: len(traffic.since(at + LAST_ANSWER_S + 0.5)) > len(USERS), "requests go on", within_s=60)
    last = max(at, traffic.last_by(model))
    return last - at - (0.0 if size == "full" else stage.stalls.within(at, last))


def _expected(running: Deployment) -> dict[tuple[str, str], NDArray[Any]]:
    """The scores of users whose states do not change, by model and user."""
    paths = {"tiny/1": running.old_bundle, "tiny-sketch/1": running.new_bundle}
    return {(model, user): running.expected(path, user) for model, path in paths.items() for user in QUIET}


def judged(traffic: Traffic, expected: Mapping[tuple[str, str], NDArray[Any]]) -> Tally:
    """What was answered: failures, users that turned cold, and scores that are not those of the model named."""
    wrong = 0
    for one in traffic.answers:
        scores = expected.get((one.model, one.user))
        # Without a state the scores are the cold ones, and the answer says so.
        if one.status == 200 and scores is not None and one.state != "unavailable":
            wrong += not np.allclose(one.scores, scores, atol=2e-3)
    states = Counter(one.state for one in traffic.answers)
    cold = (f"{states['cold']} answers were cold",) if states["cold"] else ()
    share = states["unavailable"] / max(1, len(traffic.answers))
    return Tally(
        wrong_answers=wrong,
        failed_requests=len(traffic.failed()),
        wrong=cold,
        figures={"requests": [float(len(traffic.answers))], "share without the store": [round(share, 3)]},
    )
