"""A measurement that is ended by SIGTERM, as by `timeout` or a cancelled job, takes its servers and services down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from localstack.wait import until

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[2]


def command_of(process: psutil.Process) -> str:
    """Its command line, nothing if it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # a zombie is one
        return ""


def test_a_measurement_that_is_ended_leaves_nothing_running(tmp_path: Path) -> None:
    output, said = tmp_path / "output", tmp_path / "said"
    whole = [sys.executable, "-m", "loadtest.budgets", "--only", "fold_rate", "--output", str(output)]
    own = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "KAFKA_BOOTSTRAP_SERVERS")}
    with said.open("wb") as log, subprocess.Popen(whole, cwd=ROOT, env=own, stdout=log, stderr=log) as measuring:
        started: list[psutil.Process] = []

        def all_run() -> bool:
            started[:] = psutil.Process(measuring.pid).children(recursive=True)
            commands = [command_of(child) for child in started]
            return all(any(name in said for said in commands) for name in ("valkey", "uic"))

        try:
            until(all_run, "the store and UIC run", within_s=60)
            measuring.send_signal(signal.SIGTERM)
            assert measuring.wait(120) == 128 + signal.SIGTERM, said.read_text()
            _, left = psutil.wait_procs(started, timeout=60)
            assert left == [], said.read_text()
        finally:
            for process in started:
                if process.is_running():
                    process.kill()
            measuring.kill()
    assert not output.exists(), "half a record is not a record"
