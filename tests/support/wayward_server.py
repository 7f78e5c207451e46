"""An HTTP server that misbehaves on request, for the tests of the load generator."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Behave = Callable[[int], tuple[float, int, bool]]
"""Number of the request → seconds to wait before answering it, status, whether to close after it."""


@contextmanager
def server(behave: Behave, *, one_at_a_time: bool = False, heads: list[str] | None = None) -> Iterator[str]:
    """Run an HTTP server in a separate thread that behaves as `behave` says, and collect the requests' `heads`; yields
    its URL."""
    started, ended = threading.Event(), threading.Event()
    seen, port = 0, 0
    turn = asyncio.Lock()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:")
                )
                if heads is not None:
                    heads.append(head)
                await reader.readexactly(length)
                wait_s, status, close = behave(seen)
                seen += 1
                if one_at_a_time:
                    async with turn:
                        await asyncio.sleep(wait_s)
                else:
                    await asyncio.sleep(wait_s)
                told = "connection: close\r\n" if close else ""
                writer.write(f"HTTP/1.1 {status} X\r\n{told}content-length: 2\r\n\r\n".encode())
                writer.write(b"{}")
                if close:
                    writer.close()
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()

    async def run() -> None:
        nonlocal port
        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        started.set()
        await asyncio.to_thread(ended.wait)
        listening.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        ended.set()
        thread.join(60)
