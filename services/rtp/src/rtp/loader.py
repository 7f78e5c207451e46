"""Loads bundles, each in a thread of its own that is abandoned after a time limit.

A file system that hangs, or a graph that never ends, cannot be interrupted. An abandoned thread holds up neither later
loads nor the end of the process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rtp.core.ports import Model
from rtp.errors import ReloadRefused, ReloadTimedOut

T = TypeVar("T")

MAX_ABANDONED = 4
"""Loads that may hang at once; after that the process should be restarted."""

_ENDING = "this process is shutting down"


class Loader:
    """Loads bundles; several loads may go on at once."""

    def __init__(self, load: Callable[[Path], Model], timeout_s: float) -> None:
        self._load = load
        self._timeout_s = timeout_s
        self._abandoned: list[threading.Thread] = []
        self._loading: set[asyncio.Future[Any]] = set()
        self._closed = False

    @property
    def hanging(self) -> int:
        """Threads that were abandoned and have not ended yet."""
        self._abandoned = [thread for thread in self._abandoned if thread.is_alive()]
        return len(self._abandoned)

    async def load(self, path: Path) -> Model:
        """The model of the bundle at `path`. Raises: as `read`."""
        return await self.read(partial(self._load, path))

    async def read(self, what: Callable[[], T]) -> T:
        """What `what` reads of a bundle.

        Raises:
            ReloadTimedOut: it took too long, or too many loads hang already.
            Exception: whatever `what` raises.
        """
        if self._closed:
            raise ReloadRefused(_ENDING)
        if self.hanging >= MAX_ABANDONED:
            raise ReloadTimedOut(f"{self.hanging} earlier loads still hang: restart this process")
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[T] = loop.create_future()
        self._loading.add(loaded)

        def settle(made: tuple[T] | None, error: BaseException | None) -> None:
            if loaded.done():  # given up
                return
            if made is not None:
                loaded.set_result(made[0])
            else:
                loaded.set_exception(error or RuntimeError("nothing was loaded"))

        def work() -> None:
            made, error = None, None
            try:
                made = (what(),)
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, made, error)

        thread = threading.Thread(target=work, name="load-bundle", daemon=True)
        thread.start()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await loaded
        except TimeoutError as error:
            if loaded.done() and not loaded.cancelled():  # the load itself raised a TimeoutError
                raise
            raise ReloadTimedOut(
                f"the bundle did not load within {self._timeout_s:g} s: look at its file system and its graphs, "
                "or raise RTP_BUNDLE__LOAD_TIMEOUT_S"
            ) from error
        finally:
            self._loading.discard(loaded)
            if thread.is_alive():
                self._abandoned.append(thread)

    def close(self) -> None:
        """Give up the loads that are in progress, and refuse further ones."""
        self._closed = True
        for loading in self._loading:
            if not loading.done():
                loading.set_exception(ReloadRefused(_ENDING))
