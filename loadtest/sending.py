"""The generator as a process of its own, for programs that do more than send: it must not share its interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from loadtest.population import Population
from loadtest.result import Run

_ROOT = Path(__file__).resolve().parent.parent


class NotSent(RuntimeError):
    """The generator ended without a result; the message is its own."""


def send(host: str, population: Population, mode: str, **options: object) -> list[Run]:
    """The runs of `python -m loadtest <mode>` with these options (`server_pid=7` is `--server-pid 7`, and a list is the
    option once for each).

    Raises:
        NotSent: it could not send.
    """
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "runs.json"
        command = [sys.executable, "-m", "loadtest", mode, "--host", host, "--json", str(written)]
        for name, value in options.items():
            for one in value if isinstance(value, list) else [value]:
                command += [f"--{name.replace('_', '-')}", str(one)]
        environment = {**os.environ, **population.environment()}
        done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
        if not written.exists():
            raise NotSent(f"the generator ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
        return [Run.from_json(run) for run in json.loads(written.read_text("utf-8"))["runs"]]
