"""A wire between a client and a server on loopback that can be slow, swallow everything or lead elsewhere, and counts
who connects."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import Self

from localstack.ports import LOOPBACK

_CHUNK = 65536


class Wire:
    """Forwards TCP connections, from its own thread. Change `delay_s`, `swallows` and `to_port` at any time."""

    def __init__(self, to_port: int) -> None:
        self.delay_s = 0.0
        """What the server says arrives so much later."""
        self.swallows = False
        """Whether everything that is sent is lost, although connections are accepted and stay open."""
        self.connects: list[float] = []
        """When clients connected, in seconds of `time.monotonic`."""
        self.port = 0
        self.to_port = to_port
        """Where new connections lead; those that are open stay, as behind a name that moves."""
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="wire", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, LOOPBACK, 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connects.append(time.monotonic())
        with suppress(OSError, asyncio.CancelledError):
            try:
                there, back = await asyncio.open_connection(LOOPBACK, self.to_port)
                try:
                    await asyncio.wait(
                        [
                            asyncio.create_task(self._forward(reader, back, late=False)),
                            asyncio.create_task(self._forward(there, writer, late=True)),
                        ],
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                finally:
                    back.transport.abort()
            finally:
                writer.transport.abort()

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, late: bool) -> None:
        with suppress(OSError):
            while data := await source.read(_CHUNK):
                if late and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if not self.swallows:
                    sink.write(data)
                    await sink.drain()
