"""The generator: locust's users, released by a schedule. Importing this patches the standard library for gevent, so a
process that imports it should do nothing else: `python -m loadtest`, or `locust -f loadtest/locustfile.py`.
"""

from __future__ import annotations

import base64
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import gevent
from locust import FastHttpUser, constant, task
from locust.env import Environment

from loadtest.arrivals import Arrivals
from loadtest.cpu import cpu_s_of
from loadtest.result import Run
from loadtest.schedule import Schedule

USERS = 100
"""Requests that can be under way at once."""
PATIENCE_S = 1.0
"""An arrival that has found no free user for this long is dropped."""
GIVE_UP_S = 10.0
"""A request that has not been answered for this long has failed."""
_SPAWNED_PER_S = 100
"""As many users as locust starts a second without a warning."""
_DEGRADED = b'"unavailable"'


@dataclass(frozen=True)
class Asking:
    """What users ask."""

    bodies: Sequence[bytes]
    """Taken in turn."""
    path: str = "/predict"
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Self:
        """From a JSON file with path, headers and bodies in base64: requests in another protocol.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not such a file.
        """
        stored = json.loads(file.read_text("utf-8"))
        try:
            bodies = [base64.b64decode(body, validate=True) for body in stored["bodies"]]
            return cls(bodies, stored["path"], dict(stored["headers"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{file} is not a file of requests: it needs path, headers and bodies") from error


def headers(key_file: Path | None = None, deadline_ms: int | None = None) -> dict[str, str]:
    """What every request says, the key from the first line of `key_file` included.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no key.
    """
    told = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if key_file is not None:
        key = key_file.read_text("utf-8").strip().partition("\n")[0]
        if not key or not key.isascii() or " " in key:
            raise ValueError(f"{key_file} holds no key: its first line must be one, as `ctr keys make` prints it")
        told["Authorization"] = f"Bearer {key}"
    if deadline_ms is not None:
        told["X-Request-Deadline-Ms"] = str(deadline_ms)
    return told


def hold(environment: Environment, asking: Asking, arrivals: Arrivals) -> None:
    """Leave on locust's environment what its users need."""
    # locust keeps what its users share on its environment.
    environment.asking = asking  # type: ignore[attr-defined]
    environment.arrivals = arrivals  # type: ignore[attr-defined]


class AdServer(FastHttpUser):
    """Requests scores whenever a request is due."""

    wait_time = constant(0)
    network_timeout = GIVE_UP_S
    connection_timeout = GIVE_UP_S
    insecure = False

    def on_start(self) -> None:
        """RTP sets no cookies, and looking for them in each answer costs more than reading it."""
        self.client.client.cookiejar = None

    @task
    def predict(self) -> None:
        """One request; its time counts from when it was due, in locust's tables too."""
        asking: Asking = self.environment.asking
        arrivals: Arrivals = self.environment.arrivals
        arrival = arrivals.take()
        body: Any = asking.bodies[arrival.number % len(asking.bodies)]  # annotated for text, but sent as it is
        with self.client.post(asking.path, data=body, headers=asking.headers, catch_response=True) as response:
            error = _error(response)
            response.request_meta["response_time"] = 1000 * arrivals.settle(arrival, error)
            if error is not None:
                response.failure(error)


def _error(response: Any) -> str | None:
    """Why an answer does not count, in a few words; None when it does."""
    if response.status_code == 200:
        return "200, but without the user's state" if _DEGRADED in response.content else None
    if response.status_code:
        return f"HTTP {response.status_code}"
    failure = getattr(response.error, "original", None) or response.error  # what made the client give up
    return f"no answer: {type(failure).__name__}"


class Generator:
    """Users that wait for schedules; a context manager.

    with Generator("http://127.0.0.1:8000", Asking(bodies)) as generator:
        run = generator.run(Schedule(fixed(500, 20)))

    Within it Ctrl-C and SIGTERM cut the run short, and any later one; a second signal ends the process at once.
    """

    def __init__(
        self,
        host: str,
        asking: Asking,
        *,
        users: int = USERS,
        patience_s: float = PATIENCE_S,
        server_pids: Sequence[int] = (),
    ) -> None:
        """No request is sent yet.

        Args:
            host:        `http://host:port`, or https with a certificate that this system trusts.
            asking:      the requests.
            users:       requests that can be under way at once.
            patience_s:  how long an arrival waits for a free one of them.
            server_pids: local processes whose CPU time is reported.
        """
        self._arrivals = Arrivals(patience_s, cpu_s_of(server_pids) if server_pids else None)
        self._users = users
        environment = Environment(user_classes=[AdServer], host=host)
        hold(environment, asking, self._arrivals)
        self._runner = environment.create_local_runner()
        self._signals: list[gevent.signal_handler] = []

    def __enter__(self) -> Self:
        # Python's own handler raises in whichever greenlet runs, which may be a user's: its request would never have
        # an outcome, and the run would wait for it.
        handled = [sign for sign in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(sign) is not signal.SIG_IGN]
        self._signals = [gevent.signal_handler(sign, self._end) for sign in handled]
        self._runner.start(self._users, spawn_rate=min(self._users, _SPAWNED_PER_S))
        if self._runner.spawning_greenlet is not None:
            self._runner.spawning_greenlet.join()
        return self

    def run(self, schedule: Schedule) -> Run:
        """Send what the schedule says, and return once every request has an outcome."""
        return self._arrivals.drive(schedule)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore_signals()
        self._runner.quit()

    def _end(self) -> None:
        self._restore_signals()
        print("loadtest: ending, once what is under way is answered (again: at once)", file=sys.stderr, flush=True)
        self._arrivals.end()

    def _restore_signals(self) -> None:
        """Let signals end the process again."""
        for handler in self._signals:
            handler.cancel()
        self._signals = []
