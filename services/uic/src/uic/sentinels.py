"""Which master the Sentinels name, and whether they are enough to replace it.

redis-py asks one Sentinel after another in the thread that wants to know, each for as long as it may take, and says in
the end how it represents its clients. Here a thread asks, so that Sentinels which hang hold up no fold.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from redis.exceptions import AuthenticationError
from redis.sentinel import MasterNotFoundError, Sentinel

from process.sentinels import QUORUM, Named, address_of, login_refused, none_named, too_few
from uic.store_failures import SETTINGS, describe_connection


class Sentinels(Sentinel):
    """Asks the Sentinels in turn, the one that answered last first, to the end. While none answers, the master that
    they named last is gone on with. Thread-safe."""

    def __init__(self, addresses: Sequence[tuple[str, int]], timeout_s: float, options: Mapping[str, Any]) -> None:
        """`timeout_s` bounds, in seconds, the wait for one Sentinel. `options` are redis-py's, of a connection."""
        super().__init__(addresses, sentinel_kwargs={**options, "socket_timeout": timeout_s})  # type: ignore[no-untyped-call]  # redis-py has no types here
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._asking: threading.Thread | None = None
        self.named = Named()
        """What they said of the master when they were asked last."""
        self.trouble: str | None = None
        """Why no failover is followed, as of when they were asked last: none of them named a master, or they are too
        few to replace it. Empty if all is well, None before they were asked."""
        self.quorum_untold = ""
        """Why the one that named the master did not say whether they are enough; empty if it did."""

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Host and port of the master. Waits no longer than for one Sentinel if a master was named before, and not at
        all if none answered when they were asked last.

        Raises:
            MasterNotFoundError: no Sentinel names one, or none answers and none did before.
        """
        with self._lock:
            if self._asking is None or not self._asking.is_alive():
                self._asking = threading.Thread(target=self._ask, args=(service_name,), name="sentinels", daemon=True)
                self._asking.start()
            asking = self._asking
        if self.named.last is None:
            asking.join()
        elif not self.named.silent:
            asking.join(self._timeout_s)
        named = self.named
        if named.master is None:
            raise MasterNotFoundError(named.trouble)
        return named.master

    def _ask(self, service_name: str) -> None:
        """Never raises: what a server answers that is no Sentinel is no answer, either."""
        failed: list[tuple[str, str]] = []
        watched = False
        for sentinel in list(self.sentinels):
            at = sentinel.connection_pool.connection_kwargs
            try:
                masters: Any = sentinel.sentinel_masters()
                state = masters.get(service_name)
                if state is None:
                    continue
                watched = True
                if not self.check_master_state(state, service_name):  # type: ignore[no-untyped-call]  # as above
                    continue
                master = str(state["ip"]), int(state["port"])
            except AuthenticationError:
                failed.append((address_of(at), login_refused(SETTINGS, at)))
                continue
            except Exception as error:
                failed.append((address_of(at), describe_connection(error)))
                continue
            self.sentinels = [sentinel, *(other for other in self.sentinels if other is not sentinel)]
            self.named = Named(master)
            self.trouble = self._too_few(sentinel, service_name)
            return
        self.named = none_named(self.named, SETTINGS, service_name, len(self.sentinels), failed, watched=watched)
        self.trouble = self.named.trouble

    def _too_few(self, sentinel: Any, service_name: str) -> str:
        """Ask one whether they are enough to replace the master; never raises."""
        self.quorum_untold = ""
        try:
            answer: object = sentinel.execute_command(*QUORUM, service_name)
        except Exception as error:
            answer = error
        found = too_few(answer, address_of(sentinel.connection_pool.connection_kwargs), service_name)
        if isinstance(answer, Exception) and not found:
            self.quorum_untold = describe_connection(answer)
        return found
