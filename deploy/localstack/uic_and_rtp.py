"""UIC and RTP as processes: their commands, and the variables that configure them.

`deploy/docker-compose.yml` has the same commands and variables; a test compares the two.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from localstack.ports import LOOPBACK
from localstack.server import Server
from localstack.topics import EVENTS, PARTITIONS
from localstack.web import web
from uic.tools.proxies import DIRECT

UIC_COMMAND = ("-m", "uic", "serve")
RTP_COMMAND = ("-m", "rtp")


@dataclass(frozen=True)
class Surroundings:
    """What the services share: the servers, the bundle, and the names of their data."""

    bootstrap: str
    redis_url: str
    bundle: Path
    topic: str = EVENTS
    partitions: int = PARTITIONS
    prefix: str = "uic"
    generation: int = 0
    uic: Mapping[str, str] = field(default_factory=dict)
    """More variables for UIC, such as `UIC_FOLD__...`."""
    rtp: Mapping[str, str] = field(default_factory=dict)
    """More variables for RTP."""


def uic_variables(surroundings: Surroundings, *, grpc_port: int, admin_port: int) -> dict[str, str]:
    """UIC's settings."""
    return {
        "UIC_KAFKA__BOOTSTRAP_SERVERS": surroundings.bootstrap,
        "UIC_KAFKA__TOPIC": surroundings.topic,
        "UIC_KAFKA__PARTITIONS": str(surroundings.partitions),
        "UIC_REDIS__URL": surroundings.redis_url,
        "UIC_REDIS__PREFIX": surroundings.prefix,
        "UIC_BUNDLE__PATH": str(surroundings.bundle),
        "UIC_BUNDLE__GENERATION": str(surroundings.generation),
        "UIC_GRPC__PORT": str(grpc_port),
        "UIC_ADMIN__PORT": str(admin_port),
        **surroundings.uic,
    }


def rtp_variables(surroundings: Surroundings, *, port: int, admin_port: int) -> dict[str, str]:
    """RTP's settings."""
    return {
        "RTP_REDIS__URL": surroundings.redis_url,
        "RTP_REDIS__PREFIX": surroundings.prefix,
        "RTP_BUNDLE__PATH": str(surroundings.bundle),
        "RTP_BUNDLE__GENERATION": str(surroundings.generation),
        "RTP_HTTP__PORT": str(port),
        "RTP_ADMIN__PORT": str(admin_port),
        **surroundings.rtp,
    }


class UicWorker(Server):
    """One UIC process; ready when its gRPC health says SERVING."""

    ready_s = 40.0

    def __init__(
        self,
        name: str,
        folder: Path,
        surroundings: Surroundings,
        *,
        port: int = 0,
        admin_port: int = 0,
        logs: Path | None = None,
    ) -> None:
        super().__init__(name, folder, {"grpc": port, "admin": admin_port}, logs=logs)
        self._surroundings = surroundings

    @property
    def address(self) -> str:
        """Where its gRPC service is."""
        return f"{LOOPBACK}:{self.ports['grpc']}"

    @property
    def admin_url(self) -> str:
        """Metrics and admin calls."""
        return f"http://{LOOPBACK}:{self.ports['admin']}"

    def command(self) -> list[str]:
        """`python -m uic serve`."""
        return [sys.executable, *UIC_COMMAND]

    def environment(self) -> Mapping[str, str]:
        """Ours, and UIC's settings."""
        told = uic_variables(self._surroundings, grpc_port=self.ports["grpc"], admin_port=self.ports["admin"])
        return {**os.environ, **told}

    def ready(self) -> bool:
        """The health service answers SERVING."""
        return grpc_serves(self.address)

    def says(self) -> str:
        """What its /readyz answers."""
        return answer_of(f"{self.admin_url}/readyz")


class RtpProcess(Server):
    """One RTP process, on its own port or on a listening socket that several share; ready when /readyz answers 200."""

    ready_s = 40.0

    def __init__(
        self,
        name: str,
        folder: Path,
        surroundings: Surroundings,
        *,
        port: int = 0,
        admin_port: int = 0,
        shared_fd: int | None = None,
        logs: Path | None = None,
    ) -> None:
        """With `shared_fd`, the descriptor of a socket that listens on `port`, the process uses that socket."""
        super().__init__(name, folder, {"http": port, "admin": admin_port}, logs=logs)
        self._surroundings = surroundings
        self._shared_fd = shared_fd

    @property
    def address(self) -> str:
        """Where `/predict` is."""
        return f"http://{LOOPBACK}:{self.ports['http']}"

    @property
    def admin_url(self) -> str:
        """Metrics and admin calls."""
        return f"http://{LOOPBACK}:{self.ports['admin']}"

    def command(self) -> list[str]:
        """`python -m rtp`, with the shared socket if there is one."""
        shared = [] if self._shared_fd is None else ["--fd", str(self._shared_fd)]
        return [sys.executable, *RTP_COMMAND, *shared]

    def environment(self) -> Mapping[str, str]:
        """Ours, and RTP's settings."""
        told = rtp_variables(self._surroundings, port=self.ports["http"], admin_port=self.ports["admin"])
        return {**os.environ, **told}

    def pass_fds(self) -> Sequence[int]:
        """The shared socket."""
        return () if self._shared_fd is None else (self._shared_fd,)

    def ready(self) -> bool:
        """/readyz answers 200 on its own admin port; other processes may share the public one."""
        return http_ok(f"{self.admin_url}/readyz")

    def says(self) -> str:
        """What its /readyz answers."""
        return answer_of(f"{self.admin_url}/readyz")


def grpc_serves(address: str) -> bool:
    """Whether the standard health service at `address` says SERVING."""
    with grpc.insecure_channel(address, DIRECT) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def http_ok(url: str) -> bool:
    """Whether `url` answers 200 now."""
    try:
        return web().get(url, timeout=1).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def detail_of(url: str) -> str:
    """What `/readyz` at `url` says is not as it should be; empty if nothing, or if it does not answer."""
    try:
        said = web().get(url, timeout=1).json()
    except (httpx.TransportError, ValueError):
        return ""
    return str(said.get("detail", "")) if isinstance(said, dict) else ""


def answer_of(url: str) -> str:
    """The status and the body that `url` answers, or why it answers nothing, for the message of a failure."""
    try:
        answer = web().get(url, timeout=1)
    except httpx.TransportError as error:
        return f"; {url} does not answer: {error!r}"
    return f"; {url} answers {answer.status_code}: {answer.text[:1000]}"
