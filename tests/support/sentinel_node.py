"""A minimal Sentinel."""

from __future__ import annotations

from pathlib import Path

from localstack.valkey import Valkey


class SentinelNode(Valkey):
    """One Sentinel, which watches one master and needs no other Sentinel to agree (quorum 1)."""

    def __init__(self, folder: Path, master: Valkey) -> None:
        super().__init__(folder, name="sentinel")
        self._master = master

    def command(self) -> list[str]:
        config = self.folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder.resolve()}\n"
            f"sentinel monitor states 127.0.0.1 {self._master.port} 1\nsentinel down-after-milliseconds states 60000\n"
        )
        return [super().command()[0], str(config), "--sentinel"]
