"""How a client learns of the cluster from one bootstrap server."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kafka.errors import IncompatibleBrokerVersion, KafkaTimeoutError
from kafka.future import Future
from kafka.net.manager import KafkaConnectionManager

from uic.log.kafka_repairs.metadata import address_of
from uic.log.kafka_repairs.race import ms_until

log = logging.getLogger("kafka.uic")
"""Among the library's, with its level: what it logs itself where it is not repaired."""


class BootstrapServer:
    """A server that is asked for the cluster's metadata until it answers, or its answer is not needed any more.

    The library's own way shares one request among all who ask: a server that hangs at it would keep the others waiting.
    """

    def __init__(
        self, manager: KafkaConnectionManager, server: Any, deadline: float | None, failed: Callable[[], None]
    ) -> None:
        """`failed` is called when a try has failed; there may be more of them."""
        self._manager = manager
        self._server = server
        self._deadline = deadline
        self._failed = failed
        self._began = time.monotonic()
        self._stopped = Future()

    async def answer(self) -> None:
        """Let the client's cluster be as this server says.

        Raises:
            KafkaError: it refuses, or its time is over.
        """
        manager, node_id = self._manager, self._server.node_id
        while not (self._stopped.is_done or manager.closed or ms_until(self._deadline) == 0):
            if (delay_s := manager.connection_delay(node_id)) > 0:
                with suppress(KafkaTimeoutError):
                    await manager.wait_for(self._stopped, ms_until(self._deadline, delay_s * 1000))
                continue
            conn = manager.get_connection(
                node_id,
                timeout_ms=ms_until(self._deadline),
                pop_on_close=False,
                refresh_metadata_on_err=False,
                reset_backoff_on_connect=False,
            )
            try:
                await conn
                manager.cluster.update_metadata(await conn.send_request(manager.cluster.metadata_request()))
                manager.note_answer(node_id)
                if manager.cluster.brokers():
                    manager.reset_backoff(node_id)
                    return
            except IncompatibleBrokerVersion:
                raise
            except Exception as error:
                if not self._stopped.is_done:
                    log.warning("no metadata from %s: %s", address_of(self._server), error)
            finally:
                if manager._conns.get(node_id) is conn:
                    del manager._conns[node_id]
                _close(conn)
            if not self._stopped.is_done:
                manager.update_backoff(node_id)
                self._failed()
        raise KafkaTimeoutError(f"no answer from {address_of(self._server)}")

    def stop(self, *, needed: bool) -> None:
        """Ask no more. That there was no answer says something of the server only if it was `needed`."""
        if not self._stopped.is_done:
            self._stopped.success(None)
        if (conn := self._manager._conns.pop(self._server.node_id, None)) is None:
            return
        if needed:
            conn.close(KafkaTimeoutError(f"no answer for {time.monotonic() - self._began:.1f} s"))
        else:
            _close(conn)


def _close(conn: Any) -> None:
    """End a connection that is not needed any more; the library's way is an error in its log where it is not made."""
    if conn.transport is None:
        conn.connection_lost(None)
    else:
        conn.transport.close()
