"""The thread that holds this worker's lease and learns from the leases which partitions it has.

It is neither the thread that folds nor the one that polls: a lease must outlast a slow batch. A worker that cannot read
the log gives its lease up, so that the others take its partitions over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from uic.core.leases import Leases
from uic.core.ports import Owned
from uic.errors import StoreUnavailable
from uic.logs import say

log = logging.getLogger("uic.fold.lease_keeper")

RENEWALS: Final = 5
"""How often a lease is renewed before it would end."""
UNHELD_S: Final = 0.1
"""Between looks whether this worker may have one."""


class LeaseStore(Protocol):
    """Where leases are."""

    def renew_lease(self, worker: str, lasts_s: float) -> Leases:
        """Take or renew the worker's lease. Raises `StoreUnavailable`."""

    def give_lease_up(self, worker: str) -> None:
        """End it. Raises `StoreUnavailable`."""


class Owner(Protocol):
    """What reads the partitions that this worker has."""

    def own(self, owned: Owned) -> None:
        """Read these partitions and no others."""

    def disown(self, why: str) -> None:
        """Read none, because this worker holds no lease."""


class LeaseKeeper(threading.Thread):
    """Begin with `start`, end with `leave`."""

    def __init__(
        self, worker: str, lasts_s: float, *, store: LeaseStore, log: Owner, partitions: int, unfit: Callable[[], str]
    ) -> None:
        """Holds nothing yet.

        Args:
            worker: its name, unique among the processes of the namespace.
            lasts_s: how long a lease lasts, in seconds.
            store: where leases are.
            log: hears which partitions this worker has, once for each renewal.
            partitions: how many there are.
            unfit: why this worker should have none; empty if it should.
        """
        super().__init__(name="lease", daemon=True)
        self._worker = worker
        self._lasts_s = lasts_s
        self._store = store
        self._log = log
        self._partitions = partitions
        self._unfit = unfit
        self._leaving = threading.Event()
        self._holds = False

    def run(self) -> None:
        """Renew the lease until told to leave."""
        while not self._leaving.is_set():
            self._renew()
            self._leaving.wait(self._lasts_s / RENEWALS if self._holds else UNHELD_S)
        with suppress(StoreUnavailable):  # then it runs out
            self._store.give_lease_up(self._worker)

    def leave(self, timeout_s: float) -> None:
        """Give the lease up and end the thread."""
        self._leaving.set()
        if self.ident is not None:
            self.join(timeout_s)

    def _renew(self) -> None:
        asked_at = time.monotonic()
        try:
            if why := self._unfit():
                self._give_up(why)
                return
            leases = self._store.renew_lease(self._worker, self._lasts_s)
        except StoreUnavailable as error:  # without the store nobody commits, and so nobody takes over
            say(log, logging.DEBUG, "lease not renewed", detail=error.detail)
            return
        self._holds = True
        owned = leases.owned_by(self._worker, self._partitions)
        self._log.own(Owned(owned, asked_at, leases.workers))

    def _give_up(self, why: str) -> None:
        if not self._holds:
            return
        self._holds = False
        say(log, logging.WARNING, "lease given up", detail=why)
        self._log.disown(why)
        self._store.give_lease_up(self._worker)
