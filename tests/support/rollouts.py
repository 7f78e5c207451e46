"""A deployment whose model changes: two UIC fleets over one log, RTP, requests all the time, and `ctr rollout`."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localstack.ports import LOOPBACK
from localstack.uic_and_rtp import RtpProcess, Surroundings, uic_variables
from localstack.wait import until
from localstack.web import web
from mimn.bundle import Bundle, load_bundle
from mimn.bundle.graph import open_head
from mimn.release import Record, decode_record, record_key
from mimn.state import decode_state, partition_of, user_hash
from support.bundles import SKETCH, TINY, with_scaled_head
from support.for_test import RedisForTest, TopicsForTest
from support.world import World
from uic.rollout import main as command

ITEMS = [3, 10, 999, 17]
CATEGORIES = [2, 5, 0, 1]
BODY_CANDIDATES = [{"item_id": i, "category_id": c} for i, c in zip(ITEMS, CATEGORIES, strict=True)]
QUICK = ("--allowed-lag", "20s", "--steady-for", "1s", "--whole", "3", "--sample", "50")
"""Gates that need seconds instead of minutes."""


@dataclass(frozen=True)
class Answered:
    """One request of the traffic."""

    at: float
    """When it was sent, and then answered, in seconds of the monotonic clock."""
    done: float
    user: str
    status: int
    model: str = ""
    arm: str = ""
    state: str = ""
    scores: tuple[float, ...] = ()


@dataclass
class Traffic:
    """Requests that go on in threads."""

    answers: list[Answered] = field(default_factory=list)

    def failed(self) -> list[Answered]:
        return [one for one in self.answers if one.status != 200]

    def since(self, at: float) -> list[Answered]:
        return [one for one in self.answers if one.at >= at]

    def last_by(self, model: str) -> float:
        """When the last answer of a model came."""
        return max((one.done for one in self.answers if one.model == model), default=0.0)


class Deployment:
    """One log, one store, a release in service, and bundles to roll out."""

    deadline_ms = 1000
    """Of each request."""

    def __init__(
        self,
        folder: Path,
        redis: RedisForTest,
        topics: TopicsForTest,
        store: Mapping[str, str],
        bundles: tuple[Path, Path] = (TINY, SKETCH),
    ) -> None:
        """`store`: more settings of the store, for UIC and RTP, named without `UIC_REDIS__` and `RTP_REDIS__`."""
        self.folder = folder
        self.redis = redis
        self.topics = topics
        root = folder / "bundles"
        self.old_bundle, self.new_bundle = (root / path.parent.name / path.name for path in bundles)
        for path, copy in zip(bundles, (self.old_bundle, self.new_bundle), strict=True):
            shutil.copytree(path, copy)
        self.other_head = with_scaled_head(root, self.old_bundle, f"{self.old_bundle.name}-scaled", 0.5)
        told = {f"UIC_REDIS__{name}": value for name, value in store.items()}
        read = {f"RTP_REDIS__{name}": value for name, value in store.items()}
        at = (topics, redis.url, redis.prefix, told)
        self.old = World(folder / "old", *at, client=redis.client, bundle=self.old_bundle)
        self.new = World(folder / "new", *at, client=redis.client, bundle=self.new_bundle, seed=8)
        self.surroundings = Surroundings(
            topics.bootstrap, redis.url, self.old_bundle, topic=topics.events, partitions=topics.partitions,
            prefix=redis.prefix, uic=told, rtp={"RTP_STATE__REFRESH_EVERY_S": "0.5", **read},
        )  # fmt: skip
        self.rtp = RtpProcess("rtp", folder / "rtp", self.surroundings)
        self.variables = uic_variables(self.surroundings, grpc_port=1, admin_port=2)
        self._heads: dict[str, tuple[Bundle, Any]] = {}

    # The command

    def rollout(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Run `ctr rollout ... --json` in this process; exit status and document."""
        out, kept = io.StringIO(), dict(os.environ)
        os.environ.update(self.variables)
        try:
            with redirect_stderr(io.StringIO()):
                status = command.main([*arguments, "--json"], out)
        finally:
            os.environ.clear()
            os.environ.update(kept)
        return status, json.loads(out.getvalue() or "{}")

    def done(self, *arguments: str) -> dict[str, Any]:
        """Run it, and expect success."""
        status, view = self.rollout(*arguments)
        assert status == 0, (arguments, status, view)
        return view

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Run it as a process of its own."""
        environment = {**os.environ, **self.variables}
        return subprocess.Popen(
            [sys.executable, "-m", "uic", "rollout", *arguments, "--json"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def record(self) -> Record:
        """The record in the store."""
        value = self.redis.client.get(record_key(self.redis.prefix))
        assert isinstance(value, bytes)
        return decode_record(value)

    def closed(self, *arguments: str) -> set[str]:
        """Run a command that a gate must stop; the names of the gates."""
        status, view = self.rollout(*arguments)
        assert status == 3, (arguments, status, view)
        return {one["gate"] for one in view["gates"]}

    def ready(self) -> str:
        """Bring the other fingerprint's rollout to `ready`; its id."""
        identity: str = self.done("start", str(self.new_bundle))["id"]
        self.done("wait", identity, "--timeout", "120s", *QUICK)
        return identity

    # Requests

    def predict(self, user: str, connection: HTTPConnection) -> Answered:
        """One request, over an open connection."""
        began = time.monotonic()
        body = json.dumps({"user_id": user, "candidates": BODY_CANDIDATES})
        headers = {"Content-Type": "application/json", "X-Request-Deadline-Ms": str(self.deadline_ms)}
        try:
            connection.request("POST", "/predict", body, headers)
            answer = connection.getresponse()
            told = json.loads(answer.read())
        except (OSError, HTTPException) as error:
            connection.close()
            return Answered(began, time.monotonic(), user, 599, model=type(error).__name__)
        if answer.status != 200:
            return Answered(began, time.monotonic(), user, answer.status, model=told.get("code", ""))
        model = f"{told['model']['name']}/{told['model']['version']}"
        return Answered(
            began, time.monotonic(), user, 200, model, told["arm"], told["state"]["status"], tuple(told["scores"])
        )

    @contextmanager
    def traffic(self, users: Sequence[str], per_second: float = 100.0, threads: int = 2) -> Iterator[Traffic]:
        """Requests for these users in turn, until the block ends."""
        traffic, over = Traffic(), threading.Event()

        def send(first: int) -> None:
            connection = HTTPConnection(LOOPBACK, self.rtp.ports["http"], timeout=10)
            number, due = first, time.monotonic()
            while not over.is_set():
                traffic.answers.append(self.predict(users[number % len(users)], connection))
                number += threads
                due = max(due + threads / per_second, time.monotonic() - 0.1)
                over.wait(max(0.0, due - time.monotonic()))
            connection.close()

        running = [threading.Thread(target=send, args=(i,), daemon=True) for i in range(threads)]
        for thread in running:
            thread.start()
        try:
            yield traffic
        finally:
            over.set()
            for thread in running:
                thread.join(30)

    @contextmanager
    def events(self, users: Sequence[str], per_second: float = 50.0) -> Iterator[None]:
        """Events of these users, until the block ends."""
        over = threading.Event()

        def send() -> None:
            while not over.is_set():
                self.old.send(self.old.random.choice(list(users)))
                over.wait(1 / per_second)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(30)
            self.old.producer.flush(timeout=60)

    def gave(self, path: Path, one: Answered, atol: float) -> bool:
        """Whether an answer has the scores that a bundle gives. Some count days, and midnight may come between the
        request and the answer."""
        return any(np.allclose(one.scores, self.expected(path, one.user, at), atol=atol) for at in (one.at, one.done))

    def expected(self, path: Path, user: str, at: float | None = None) -> NDArray[np.float32]:
        """The scores that a bundle gives a user by the state that is stored now in its namespace.

        `at`: the time of the request, in seconds of the monotonic clock; None: now.
        """
        key = f"{path.parent.name}/{path.name}"
        if key not in self._heads:
            bundle = load_bundle(path)
            self._heads[key] = bundle, open_head(bundle)
        bundle, head = self._heads[key]
        world = self.old if path in (self.old_bundle, self.other_head) else self.new
        value = self.redis.client.get(world.keys.state(partition_of(user.encode(), self.topics.partitions), user))
        assert isinstance(value, bytes)
        state = decode_state(value, bundle.fingerprint, bundle.layout, user_hash(user)).tensors
        ids = np.array(ITEMS, np.uint64), np.array(CATEGORIES, np.uint64)
        counted: tuple[Any, ...] = ()
        now_ms = time.time_ns() // 1_000_000
        if at is not None:
            now_ms -= round((time.monotonic() - at) * 1000)
        if bundle.sketch is not None:
            counted = (bundle.sketch.addresses(*ids), bundle.sketch.sketch.moments(np.array([now_ms]))[0])
        reads = None if bundle.reads is None else bundle.reads.read(bundle.reads.ledger.of(state), ids[0], now_ms)
        context = np.zeros(0, np.float32)
        scores: NDArray[np.float32] = head(bundle.vectors(*ids), state, context, *counted, reads=reads)
        return scores

    def wait_revision(self) -> None:
        """Wait until RTP follows the record as it is now, and has loaded what it can."""

        def follows() -> bool:
            told = web().get(f"{self.rtp.admin_url}/releases", timeout=60).json()
            return told["revision"] == self.record().revision and not told["trouble"]

        until(follows, "RTP follows the record", within_s=60)

    def wait_loaded(self, bundle: str) -> None:
        """Wait until RTP has a bundle loaded."""

        def loaded() -> bool:
            told = web().get(f"{self.rtp.admin_url}/releases", timeout=60).json()
            return bundle in [one["bundle"] for one in (*told["arms"], *told["shadows"], *told["standby"])]

        until(loaded, f"RTP has loaded {bundle}", within_s=60)

    def close(self) -> None:
        """End every process."""
        self.rtp.stop()
        self.old.close()
        self.new.close()


@contextmanager
def deployed(
    folder: Path,
    redis: RedisForTest,
    topics: TopicsForTest,
    users: Sequence[str],
    *,
    new: bool = True,
    rtp: bool = True,
    bundles: tuple[Path, Path] = (TINY, SKETCH),
    patient: bool = False,
    **store: str,
) -> Iterator[Deployment]:
    """A deployment in which every user has events, folded by the old release, and with `new` by the new one too.
    `store`: see `Deployment`. `patient`: requests, and commands that ask the store, wait for longer than a machine
    stalls, where their time is not what is tested."""
    deployment = Deployment(folder, redis, topics, store, bundles)
    if patient:
        deployment.deadline_ms = 9000  # below the client's patience
        waits = {f"RTP_{name}": "20000" for name in ("DEADLINE__MAX_MS", "REDIS__CONNECT_TIMEOUT_MS")}
        told = deployment.surroundings
        deployment.surroundings = replace(told, rtp={**told.rtp, **waits})
        deployment.rtp = RtpProcess("rtp", folder / "rtp", deployment.surroundings)
        deployment.variables["UIC_REDIS__TIMEOUT_S"] = "20"
    try:
        deployment.old.worker()
        if new:
            deployment.new.worker()
        for user in users:
            deployment.old.send(user)
        deployment.old.produce(len(users) * 3, users)
        deployment.old.wait_folded()
        if new:
            log = deployment.new.log()
            until(lambda: deployment.new.covered(log), "the new release has folded the log", within_s=60)
        if rtp:
            deployment.rtp.start()
        yield deployment
    finally:
        deployment.close()
