"""Which master the Sentinels name, and whether they are enough to replace it.

redis-py asks one Sentinel after another and starts from the first each time it is interrupted, so one that hangs in
front hides the others from all who have less time than it takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.exceptions import AuthenticationError

from process.sentinels import QUORUM, Named, address_of, login_refused, none_named, too_few
from process.tls_causes import by_cause
from rtp.errors import StoreAway
from rtp.store.commands import SETTINGS, failure_of
from rtp.trouble import Trouble

log = structlog.stdlib.get_logger(__name__)


class Sentinels(Sentinel):
    """Asks the Sentinels in turn, the one that answered last first. What is asked is asked to the end, however little
    time the asker has. While none answers, the master that they named last is gone on with."""

    def __init__(self, addresses: Sequence[tuple[str, int]], timeout_s: float, options: Mapping[str, Any]) -> None:
        """`timeout_s` bounds, in seconds, the wait for one Sentinel. `options` are redis-py's, of a connection."""
        super().__init__(addresses, sentinel_kwargs={**options, "socket_timeout": timeout_s})  # type: ignore[no-untyped-call] # redis-py has no annotation here
        self._timeout_s = timeout_s
        self._named = Named()
        self._trouble = Trouble()
        self._asked = False
        """Whether they were asked before."""
        self._asking: asyncio.Task[None] | None = None

    @property
    def trouble(self) -> str | None:
        """Why no failover is followed, as of when they were asked last: none of them named a master, or they are too
        few to replace it. Empty if all is well, None before they were asked."""
        return (self._trouble.reason or "") if self._asked else None

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Host and port of the master. Waits no longer than for one Sentinel, if a master was named before.

        Raises:
            MasterNotFoundError: no Sentinel names one, or none answers and none did before.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(service_name))
        if self._named.last is None:
            await asyncio.wait([self._asking])
        elif not self._named.silent:
            await asyncio.wait([self._asking], timeout=self._timeout_s)
        if (master := self._named.master) is None:
            raise MasterNotFoundError(self._named.trouble)
        return master

    async def _ask(self, service_name: str) -> None:
        """Never raises: what a server answers that is no Sentinel is no answer, either."""
        failed: list[tuple[str, str]] = []
        watched = False
        for sentinel in list(self.sentinels):
            at = sentinel.connection_pool.connection_kwargs
            try:
                masters: Any = await sentinel.sentinel_masters()
                state = masters.get(service_name)
                if state is None:
                    continue
                watched = True
                if not self.check_master_state(state, service_name):
                    continue
                master = str(state["ip"]), int(state["port"])
            except AuthenticationError:
                failed.append((address_of(at), login_refused(SETTINGS, at)))
                continue
            except Exception as error:
                failed.append((address_of(at), failure_of(error)))
                continue
            self.sentinels = [sentinel, *(other for other in self.sentinels if other is not sentinel)]
            self._named = Named(master)
            if why := await _too_few(sentinel, service_name):
                self._fails(why)
            elif self._trouble.ends():
                log.info("the Sentinels ensure failovers again", master=f"{master[0]}:{master[1]}")
            self._asked = True
            return
        self._named = none_named(self._named, SETTINGS, service_name, len(self.sentinels), failed, watched=watched)
        self._fails(self._named.trouble, failed=by_cause(failed))
        self._asked = True

    def _fails(self, reason: str, **more: Any) -> None:
        if self._trouble.begins(StoreAway(reason), reason):
            log.warning("the Sentinels ensure no failover", reason=reason, **more)


async def _too_few(sentinel: Any, service_name: str) -> str:
    """Ask one Sentinel whether they are enough to replace the master; empty if so, or if it does not say."""
    try:
        answer: object = await sentinel.execute_command(*QUORUM, service_name)
    except Exception as error:
        answer = error
    return too_few(answer, address_of(sentinel.connection_pool.connection_kwargs), service_name)
