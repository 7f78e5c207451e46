"""The rollout tool is killed by SIGKILL just before and just after each of its writes, again and again, under load."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stderr
from typing import Any

import redis
from numpy.typing import NDArray

from localstack.topics import create_topics, delete_topics, topics
from mimn.state import decode_progress, encode_progress
from support.for_test import RedisForTest, TopicsForTest
from support.rollouts import QUICK, Deployment, deployed
from torture.rollouts import judged, wait_follows
from torture.stage import Size, Stage, Tally
from torture.watching import metric, wait_well

N = 4
USERS = [f"user-{i}" for i in range(60)]
QUIET, BUSY = USERS[:30], USERS[30:]
RECORD = ("before", "written")
"""Of the record's replacement."""
DROP = ("progress", "slice", "keys", "name")
"""Of a namespace that `gc` removes."""
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["uic.rollout.main"])


def the_rollout_tool_killed_at_each_write_is_run_again_and_finishes(stage: Stage, size: Size) -> Tally:
    """20 rounds (fast: one) of a head's rollout that is aborted and a migration that is rolled back and collected. Each
    command is killed before its write and after it, and `gc` after each of its steps too; then it is run again. After
    each kill the record is whole, and RTP says in `/readyz` and its metrics that it follows it; every request is
    answered by one release, and rightly, and no user turns cold."""
    rounds = 20 if size == "full" else 1
    store = stage.valkey()
    names = TopicsForTest(stage.bootstrap, f"tool-{uuid.uuid4().hex[:10]}", N)
    create_topics(stage.bootstrap, topics(names.events, N))
    client = redis.Redis.from_url(store.address, protocol=2, socket_timeout=10)
    try:
        with (
            deployed(
                stage.folder,
                RedisForTest(store.address, "shop", client),
                names,
                USERS,
                new=False,
                patient=size == "fast",
            ) as running,
            ExitStack() as ended,
        ):
            traffic = ended.enter_context(running.traffic(QUIET, 50))
            ended.enter_context(running.events(BUSY, 50))
            tool, expected = _Tool(running), dict[tuple[str, str], NDArray[Any]]()
            for _ in range(rounds):
                tool.head_only()
                tool.migration(expected)
            ended.close()  # traffic and events
            running.old.wait_folded()
            wait_well(running.old.workers, N)
            tally = Tally.of(running.old.compare(), trials=rounds, faults=tool.kills)
    finally:
        delete_topics(stage.bootstrap, [names.events, names.dlq, names.erased])
    return tally + judged(traffic, expected)


class _Tool:
    """Runs subcommands, each after runs that are killed."""

    def __init__(self, running: Deployment) -> None:
        self._running = running
        self.kills = 0

    def head_only(self) -> None:
        """Another head, aborted as a canary."""
        identity = self._finished("start", str(self._running.other_head))["id"]
        self._finished("wait", identity)
        self._finished("canary", identity, "--percent", "20")
        self._finished("abort", identity)

    def migration(self, expected: dict[tuple[str, str], NDArray[Any]]) -> None:
        """Another fingerprint, promoted, rolled back and collected; `expected` gets the scores of both."""
        running = self._running
        identity = self._finished("start", str(running.new_bundle))["id"]
        worker = running.new.worker()
        self._finished("wait", identity, "--timeout", "180s", *QUICK)
        for path in (running.old_bundle, running.other_head, running.new_bundle):
            model = f"{path.parent.name}/{path.name}"
            expected.update({(model, user): running.expected(path, user) for user in QUIET})
        self._finished("canary", identity, "--percent", "20", *QUICK)
        self._finished("shadow", identity, "--percent", "20")
        running.wait_loaded("tiny-sketch/1")
        self._finished("promote", identity, *QUICK)
        self._finished("rollback", identity)
        worker.stop()
        wait_follows(running)  # `gc` removes no namespace that an RTP reads
        self._age(running.new.keys)
        for step in DROP:
            self._killed(("gc",), step)
        self._finished("gc")
        wait_follows(running)
        if left := list(running.redis.client.scan_iter(match=f"{running.redis.prefix}:*{running.new.keys.namespace}*")):
            raise AssertionError(f"{len(left)} keys of the collected namespace are left")
        if held := metric(running.rtp, "rtp_release", f'state_namespace="{running.new.keys.namespace}"'):
            raise AssertionError(f"RTP says that it holds {held:.0f} releases of the collected namespace")

    def _finished(self, *arguments: str) -> dict[str, Any]:
        """Run a subcommand that is killed at both points, and then to its end."""
        for point in RECORD:
            self._killed(arguments, point)
        return self._running.done(*arguments)

    def _killed(self, arguments: tuple[str, ...], point: str) -> None:
        child = _FORKED.Process(target=_run_and_die, args=(self._running.variables, arguments, point))
        child.start()
        child.join(240)
        if child.exitcode == -signal.SIGKILL:
            self.kills += 1
        elif child.exitcode != 0:
            raise AssertionError(f"rollout {' '.join(arguments)} ended with {child.exitcode}")
        if self._running.redis.client.exists(f"{self._running.redis.prefix}:rollout"):
            wait_follows(self._running)  # so it is whole

    def _age(self, keys: Any) -> None:
        """Have the namespace look as if its workers had stopped long ago, which saves half a minute a round."""
        client = self._running.redis.client
        for p in range(N):
            value = client.get(keys.progress(p))
            assert isinstance(value, bytes)
            client.set(keys.progress(p), encode_progress(decode_progress(value)._replace(as_of_ms=1)))


def _run_and_die(variables: Mapping[str, str], arguments: tuple[str, ...], point: str) -> None:
    """In a process of its own: run a subcommand that kills itself at `point`; status 0 if it never got there because
    nothing was left to be written."""
    from uic.bulk.namespaces import Namespaces
    from uic.rollout import main as command
    from uic.rollout.desk import Desk

    os.environ.update(variables)
    replace_record, drop = Desk.replace, Namespaces.drop

    def at(reached: str) -> None:
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def replaced(self: Desk, before: Any, after: Any) -> Any:
        if after is not before:
            at("before")
            replace_record(self, before, after)
            at("written")
        return after

    Desk.replace = replaced  # type: ignore[method-assign]

    def dropped(self: Namespaces, name: str, *, force: bool, after: Callable[[str], None]) -> int:
        return drop(self, name, force=force, after=at)

    Namespaces.drop = dropped  # type: ignore[method-assign, assignment]
    with redirect_stderr(io.StringIO()):
        sys.exit(command.main([*arguments, "--json"], io.StringIO()))
