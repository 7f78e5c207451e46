"""The store's clients over TLS behind Sentinel and in a cluster, with servers that ask for certificates."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from localstack.ports import LOOPBACK, free_port
from localstack.server import Server
from localstack.wait import until
from mimn.state import Keys
from rtp.errors import StoreAway
from rtp.settings import RedisSettings as RtpRedis
from rtp.store import open_store
from rtp.store.reader import RedisStateReader
from support import skips
from support.certificates import Certificates
from uic.core.commit import ABSENT, Commit, Written
from uic.errors import StoreUnavailable
from uic.settings import RedisSettings as UicRedis
from uic.store import RedisStore

pytestmark = pytest.mark.servers

KEYS = Keys("0123456789abcdef-0", "tls")


@dataclass(frozen=True)
class Store:
    """How to reach it, without the authority to trust."""

    told: dict[str, Any]
    issued: Certificates
    servers: list[TlsRedis]


class TlsRedis(Server):
    """A Redis with TLS alone, which asks its clients for a certificate of the authority that issued its own."""

    def __init__(self, folder: Path, issued: Certificates, *options: str, config: str | None = None) -> None:
        super().__init__("redis", folder, {"redis": 0})
        self._issued = issued
        self._options = options
        self._config = config

    @property
    def address(self) -> str:
        return f"rediss://localhost:{self.port}/0"

    def command(self) -> list[str]:
        issued, first = self._issued, []
        if self._config is not None:
            file = self.folder / "sentinel.conf"
            file.write_text(self._config)
            first = [str(file), "--sentinel"]
        return [
            skips.tls_redis(),
            *first,
            *("--port", "0", "--tls-port", str(self.port), "--bind", LOOPBACK, "--dir", str(self.folder.resolve())),
            *("--tls-cert-file", str(issued.server), "--tls-key-file", str(issued.server_key)),
            *("--tls-ca-cert-file", str(issued.ca), "--tls-auth-clients", "yes", "--tls-replication", "yes"),
            *self._options,
        ]

    def client(self) -> redis.Redis:
        files = {"ca_certs": self._issued.ca, "certfile": self._issued.client, "keyfile": self._issued.client_key}
        return redis.Redis.from_url(
            self.address, protocol=2, socket_timeout=30, **{f"ssl_{name}": str(file) for name, file in files.items()}
        )

    def ready(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


@pytest.fixture(params=["sentinel", "cluster"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    issued = Certificates.issue(tmp_path / "certificates")
    if request.param == "cluster":
        options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--tls-cluster", "yes")
        with TlsRedis(tmp_path / "redis", issued, *options) as server, server.client() as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            until(lambda: client.cluster("INFO")["cluster_state"] == "ok", "the cluster is up", within_s=60)
            yield Store({"url": server.address, "mode": "cluster"}, issued, [server])
        return
    with TlsRedis(tmp_path / "redis", issued, "--save", "") as server:
        config = f"sentinel monitor states {LOOPBACK} {server.port} 1\nsentinel down-after-milliseconds states 60000\n"
        with TlsRedis(tmp_path / "sentinel", issued, config=config) as watcher:
            told = {"mode": "sentinel", "sentinels": f"localhost:{watcher.port}", "sentinel_service": "states"}
            yield Store({"url": "rediss://not-used:1/0", **told}, issued, [server, watcher])


def files(issued: Certificates, authority: Path) -> dict[str, Any]:
    return {"tls_ca_file": authority, "tls_cert_file": issued.client, "tls_key_file": issued.client_key}


async def read(settings: RtpRedis, key: str) -> bytes | None:
    store = open_store(settings)
    try:
        return await store.read(key, 60)
    finally:
        await store.close()


def test_what_uic_writes_rtp_reads_and_neither_talks_to_who_has_a_foreign_certificate(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is foreign if the setting names another CA, though the system trusts it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(store.issued.ca))
    trusted = store.told | files(store.issued, store.issued.ca)
    written = RedisStore(UicRedis(**trusted, timeout_s=60), KEYS)
    assert written.commit([Commit(3, ABSENT, b"p", (("u", b"state"),))]) == [Written()]
    written.close()
    assert asyncio.run(read(RtpRedis(**trusted, connect_timeout_ms=60_000), KEYS.state(3, "u"))) == b"state"
    distrusting = store.told | files(store.issued, Certificates.issue(tmp_path / "foreign").ca)
    with pytest.raises(StoreAway):
        asyncio.run(read(RtpRedis(**distrusting, connect_timeout_ms=60_000), KEYS.state(3, "u")))
    refused = RedisStore(UicRedis(**distrusting, timeout_s=60), KEYS)
    with pytest.raises(StoreUnavailable):
        refused.read_progress([3])


def test_both_services_read_renewed_files_when_they_connect(store: Store, tmp_path: Path) -> None:
    """The authority is another one, too, so neither an old certificate nor an old CA is of any use."""
    told = store.told | files(store.issued, store.issued.ca)
    settings = RtpRedis(**told, connect_timeout_ms=60_000)
    folded = RedisStore(UicRedis(**told, timeout_s=60), KEYS)
    found = folded.read_progress([3])
    key = KEYS.state(3, "u")
    store.servers[0].client().set(key, b"state")
    with asyncio.Runner() as runner:
        opened = runner.run(_opened(settings))
        assert runner.run(opened.read(key, 60)) == b"state"
        renewed = Certificates.issue(tmp_path / "renewed")
        for file in vars(store.issued):
            shutil.copyfile(getattr(renewed, file), getattr(store.issued, file))
        for server in store.servers:
            server.restart()

        def writes() -> bool:
            with suppress(redis.RedisError), store.servers[0].client() as client:
                return bool(client.set(key, b"later"))
            return False

        until(writes, "the store takes writes", within_s=60)

        def reads() -> bool:
            with suppress(StoreAway):
                return bool(runner.run(opened.read(key, 60)) == b"later" and not opened.sentinels)
            return False

        until(reads, "RTP reads by the new files", within_s=60)
        runner.run(opened.close())

    def folds() -> bool:
        with suppress(StoreUnavailable):
            return folded.read_progress([3]) == found
        return False

    until(folds, "UIC reads by the new files", within_s=60)
    folded.close()


async def _opened(settings: RtpRedis) -> RedisStateReader:
    return open_store(settings)
