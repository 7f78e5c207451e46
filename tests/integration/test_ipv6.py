"""Doors on IPv6 addresses, with and without brackets: they start, answer, and the commands reach them by UIC's own
settings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from localstack.server import Server
from localstack.uic_and_rtp import RtpProcess, Surroundings, UicWorker
from localstack.web import web
from support.for_test import MakeTopics, RedisForTest

pytestmark = pytest.mark.servers

BUNDLE = Path(__file__).parents[1] / "fixtures" / "bundle_tiny" / "tiny" / "1"


class UicOnIpv6(UicWorker):
    """Its doors are on `::1`."""

    @property
    def address(self) -> str:
        return f"[::1]:{self.ports['grpc']}"

    @property
    def admin_url(self) -> str:
        return f"http://[::1]:{self.ports['admin']}"


class RtpOnIpv6(RtpProcess):
    """Its doors are on `::1`."""

    @property
    def address(self) -> str:
        return f"http://[::1]:{self.ports['http']}"

    @property
    def admin_url(self) -> str:
        return f"http://[::1]:{self.ports['admin']}"


@contextmanager
def running(server: Server) -> Iterator[None]:
    """Start the server, wait until it is ready, and stop it at the end."""
    server.start()
    try:
        yield
    finally:
        server.stop()


def test_both_services_serve_on_ipv6_and_the_commands_find_uic_by_its_settings(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, 2)
    told = Surroundings(
        topics.bootstrap,
        valkey.url,
        BUNDLE,
        topics.events,
        2,
        valkey.prefix,
        uic={"UIC_GRPC__HOST": "::1", "UIC_ADMIN__HOST": "[::1]"},
        rtp={"RTP_HTTP__HOST": "[::1]", "RTP_ADMIN__HOST": "::1"},
    )
    worker = UicOnIpv6("uic", tmp_path, told)

    def run(*command: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "uic", *command],
            env={**os.environ, **worker.environment()},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    with running(worker):
        status, said = run("partitions")
        assert status == 0, said
        assert [line.split()[0] for line in said.splitlines() if line[:1].isdigit()] == ["0", "1"]
        for arguments in ([], ["--grpc", worker.address], ["--grpc", f"::1:{worker.ports['grpc']}"]):
            status, said = run("state", "ann", *arguments)
            assert "NOT_FOUND" in said, "UIC itself answered"
        rtp = RtpOnIpv6("rtp", tmp_path, told)
        with running(rtp):
            assert web().get(f"{rtp.address}/livez", timeout=60).status_code == 200
            log = rtp.log.read_text()
            assert f"address={rtp.address}" in log
            assert f"address={rtp.admin_url}" in log
