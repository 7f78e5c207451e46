"""The reader of a service's log hangs, and its pipe is full: the service serves, says what it dropped, and ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from conftest import MakeTopics, RedisForTest
from localstack.server import Server
from localstack.uic_and_rtp import RtpProcess, Surroundings, UicWorker
from localstack.wait import until
from localstack.web import web
from support.uic_running import BUNDLE, RunningUic, click

pytestmark = pytest.mark.servers
PIPE_BYTES = 4096


@contextmanager
def log_that_hangs(server: Server) -> Iterator[None]:
    """Its log is a pipe that is full, and stays open."""
    server.log.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(server.log)
    pipe = os.open(server.log, os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x" * PIPE_BYTES)
    try:
        yield
    finally:
        server.kill()
        server.log.unlink()
        os.close(pipe)


def test_rtp_answers_and_ends_while_nobody_reads_its_log(tmp_path: Path, valkey: RedisForTest) -> None:
    rtp = RtpProcess("rtp", tmp_path, Surroundings("", valkey.url, BUNDLE, prefix=valkey.prefix))
    with log_that_hangs(rtp):
        rtp.spawn()
        url = f"{rtp.admin_url}/metrics"
        until(lambda: "rtp_log_lines_dropped_total 0.0" in _text(url), "RTP answers", within_s=rtp.ready_s)
        assert rtp.stop() == 0


def test_uic_folds_and_ends_while_nobody_reads_its_log(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    topics = make_topics(kafka, 2)
    worker = UicWorker("uic", tmp_path, Surroundings(kafka, valkey.url, BUNDLE, topics.events, 2, prefix=valkey.prefix))
    with log_that_hangs(worker):
        worker.spawn()
        until(worker.ready, "UIC serves", within_s=worker.ready_s)
        uic = RunningUic(worker)
        uic.wait_folded(uic.publish(click("u1")))
        uic.channel.close()
        assert worker.stop() == 0


def _text(url: str) -> str:
    try:
        return web().get(url, timeout=1).text
    except httpx.TransportError:
        return ""
