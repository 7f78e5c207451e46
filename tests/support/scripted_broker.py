"""A real Apache Kafka for tests, behind a script."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from localstack.process import Ended
from localstack.signals import end_with_us, has_ended
from support.class_archive import java_options


class ScriptedBroker:
    """A real Apache Kafka behind a script: `<script> start --data DIR` prints the bootstrap address, `stop` ends it."""

    def __init__(self, script: Path, folder: Path) -> None:
        self._script = script
        self._folder = folder
        self.address = ""

    def start(self, *options: str) -> str:
        """Start it and return the bootstrap address; `options` are passed to the script's `start`.

        Raises:
            Ended: the script failed; the message has what it wrote.
        """
        end_with_us(self.stop)
        self.address = self._run("start", *options).splitlines()[0]
        return self.address

    def stop(self, *options: str) -> None:
        """Orderly stop, data kept; of one node with `--node N`."""
        self._run("stop", *options)
        if not options:
            has_ended(self.stop)

    def kill(self, *options: str) -> None:
        """SIGKILL, data kept as the crash left it; of one node with `--node N`."""
        self._run("kill", *options)
        if not options:
            has_ended(self.stop)

    def freeze(self, *options: str) -> None:
        """SIGSTOP; of one node with `--node N`."""
        self._run("freeze", *options)

    def thaw(self, *options: str) -> None:
        """SIGCONT; of one node with `--node N`."""
        self._run("thaw", *options)

    def _run(self, verb: str, *options: str) -> str:
        command = [str(self._script), verb, "--data", str(self._folder), *options]
        told = {**os.environ, "JAVA_TOOL_OPTIONS": java_options(self._script)}
        done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=240, check=False)
        if done.returncode:
            raise Ended(f"{self._script.name} {verb} ended with {done.returncode}: {done.stderr.strip()[-1000:]}")
        return done.stdout
