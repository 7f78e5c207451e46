"""A minimal Sentinel."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import redis

from localstack.valkey import Valkey


class SentinelNode(Valkey):
    """One Sentinel, which watches one master. It finds the others that watch it by itself."""

    def __init__(self, folder: Path, master: Valkey, *, quorum: int = 1, down_after_ms: int = 60_000) -> None:
        """`quorum`: how many must agree that the master is down; `down_after_ms`: how long a server, or another
        Sentinel, must be silent to count as down."""
        super().__init__(folder, name="sentinel")
        self._master = master
        self._quorum = quorum
        self._down_after_ms = down_after_ms

    def command(self) -> list[str]:
        config = self.folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder.resolve()}\n"
            f"sentinel monitor states 127.0.0.1 {self._master.port} {self._quorum}\n"
            f"sentinel down-after-milliseconds states {self._down_after_ms}\n"
        )
        return [super().command()[0], str(config), "--sentinel"]


LOGINS: Final[tuple[dict[str, str], ...]] = (
    {"sentinel_password": "of-all"},
    {"sentinel_username": "ctr", "sentinel_password": "of-ctr"},
)
"""Settings by which a Sentinel answers once `ask_for_login` has been called."""


def ask_for_login(sentinel: SentinelNode) -> None:
    """Let it answer to `LOGINS` alone; the second is a user with no more rights than docs/runbooks/redis-users.md
    gives."""
    with redis.Redis.from_url(sentinel.address, protocol=2) as client:
        client.execute_command(
            "ACL", "SETUSER", "ctr", "reset", "on", ">of-ctr", "+sentinel|masters", "+sentinel|ckquorum"
        )
        client.execute_command("ACL", "SETUSER", "default", "resetpass", ">of-all")
