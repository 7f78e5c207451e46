"""A peer's server: started in an empty folder, known with every process that it starts, and ended with all of them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from loadtest.cpu import cpu_s_of
from loadtest.peers.catalog import HOST, ROOT, Peer, Setup
from localstack.ports import free_port
from localstack.process import Child, Identity
from localstack.wait import until
from localstack.web import open_client

READY_S = 180.0
SETTLED_S = 1.0
"""A server has started once it has made or ended no process for this long."""


@dataclass(frozen=True)
class Served:
    """A server that answers."""

    url: str
    root: int
    """Its first process."""

    def pids(self) -> list[int]:
        """All its processes."""
        root = psutil.Process(self.root)
        return [root.pid, *(child.pid for child in root.children(recursive=True))]

    def idle_cpu(self, seconds: float) -> float:
        """The share of a core that it uses without a request."""
        read = cpu_s_of(self.pids())
        before, began = read(), time.perf_counter()
        time.sleep(seconds)
        return (read() - before) / (time.perf_counter() - began)


@contextmanager
def serving(
    peer: Peer, setup: Setup, *, environments: Path, told: dict[str, str], body: bytes, logs: Path
) -> Iterator[Served]:
    """The peer's server, once it answers `body` and starts no more processes.

    Args:
        peer:         whose server.
        setup:        how it runs.
        environments: folder of the virtual environments.
        told:         PEER_... variables.
        body:         a request of the population.
        logs:         folder of its log.

    Raises:
        Ended: it ended.
        NotReady: it did not answer in time.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        start = peer.start(environments.absolute() / peer.name, setup, port, Path(folder))
        path = [str(ROOT), str(ROOT / "models/src"), *filter(None, [start.environment.get("PYTHONPATH")])]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        env = {**kept, "OMP_NUM_THREADS": "1", **told, **start.environment, "PYTHONPATH": os.pathsep.join(path)}
        child = Child(setup.name, start.command, log=logs / f"{setup.name}.log", env=env)
        served, wire = Served(f"http://{HOST}:{port}", child.pid), setup.wire
        tree: list[Identity] = []
        try:
            with open_client() as client:
                until(
                    lambda: _answers(client, served.url + wire.path, wire.body(body), dict(wire.headers)),
                    f"{setup.name} answers (log: {child.log})", within_s=READY_S, every_s=0.2, alive=child.check,
                )  # fmt: skip
            _settle(served)
            yield served
        finally:
            if child.alive():
                tree = [Identity(process.pid, process.create_time()) for process in _below(child.pid)]
            child.stop()
            for process in tree:
                process.end()


def _below(pid: int) -> list[psutil.Process]:
    try:
        children: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
        return children
    except psutil.NoSuchProcess:
        return []


def _answers(client: httpx.Client, url: str, body: bytes, headers: dict[str, str]) -> bool:
    try:
        return client.post(url, content=body, headers=headers, timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _settle(served: Served) -> None:
    seen, since = set(served.pids()), time.monotonic()

    def settled() -> bool:
        nonlocal seen, since
        now = set(served.pids())
        if now != seen:
            seen, since = now, time.monotonic()
        return time.monotonic() - since >= SETTLED_S

    until(settled, "the server has started all its processes", within_s=READY_S, every_s=0.1)
