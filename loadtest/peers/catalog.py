"""The engines that RTP is compared with: how each is installed, started and asked."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.peers.wire import LISTED, PLAIN, TENSORS, Wire

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
HOST = "127.0.0.1"
ENVIRONMENTS = Path(".peers")
"""Where the peers' virtual environments are: each in a folder of its name."""


class NotInstalled(Exception):
    """Peers are missing; the message says how to install them."""


@dataclass(frozen=True)
class Setup:
    """One way to run a peer."""

    name: str
    batch: bool
    wire: Wire
    why: str
    """What it is, for the report."""


@dataclass(frozen=True)
class Start:
    """What starts a server."""

    command: list[str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Peer:
    """One engine."""

    name: str
    title: str
    package: str
    """Pinned in `requirements`."""
    setups: tuple[Setup, ...]
    start: Callable[[Path, Setup, int, Path], Start]
    """Of a virtual environment, a setup, a port and an empty folder: what starts the server on that port."""

    @property
    def requirements(self) -> Path:
        """Its pins."""
        return HERE / "requirements" / f"{self.name}.txt"

    @property
    def version(self) -> str:
        """The one that is pinned."""
        for line in self.requirements.read_text("utf-8").splitlines():
            name, found, version = line.partition("==")
            if found and name.partition("[")[0] == self.package:
                return version
        raise ValueError(f"{self.requirements} does not pin {self.package}")

    def installed(self, environments: Path) -> bool:
        """Whether its environment has the pinned version."""
        return packages(environments / self.name, f"{self.package.replace('-', '_')}-{self.version}.dist-info") != []


def packages(environment: Path, pattern: str = "") -> list[Path]:
    """The folders of an environment's packages, or what matches `pattern` in them."""
    return sorted(environment.glob(f"lib/python3*/site-packages/{pattern}".rstrip("/")))


def _ray(environment: Path, setup: Setup, port: int, folder: Path) -> Start:
    command = [str(environment / "bin/python"), "-m", "loadtest.peers.ray_serve", str(port)]
    variables = {
        # What its guide to performance advises: the replica's loop runs the code, and HAProxy, which comes with it,
        # hands requests to the replica.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # Its replicas would have the lowest priority on a machine that other programs share.
        "RAY_worker_niceness": "0",
        # A busy machine takes longer to start its proxy.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_TMPDIR": str(folder),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "haproxy.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
    }
    return Start([*command, *(["--batch"] if setup.batch else [])], variables)


def _bentoml(environment: Path, setup: Setup, port: int, folder: Path) -> Start:
    served = f"loadtest.peers.bento:{'PredictBatch' if setup.batch else 'Predict'}"
    command = [str(environment / "bin/bentoml"), "serve", served, "--host", HOST, "--port", str(port)]
    return Start(command, {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(folder)})


TRITON_CONFIG = """\
name: "predict"
backend: "python"
max_batch_size: 16
{batching}
input [
  {{ name: "user_id" data_type: TYPE_STRING dims: [1] }},
  {{ name: "item_id" data_type: TYPE_UINT64 dims: [-1] }},
  {{ name: "category_id" data_type: TYPE_UINT64 dims: [-1] }}
]
output [ {{ name: "scores" data_type: TYPE_FP32 dims: [-1] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
"""
TRITON_BATCHING = "dynamic_batching { max_queue_delay_microseconds: 1000 }"


def _triton(environment: Path, setup: Setup, port: int, folder: Path) -> Start:
    (site,) = packages(environment)
    server = site / "pytriton/tritonserver"
    backend, model = folder / "backends/python", folder / "models/predict"
    backend.mkdir(parents=True)
    model.mkdir(parents=True)
    for file in (server / "backends/python").iterdir():
        (backend / file.name).symlink_to(file)
    stub = server / "python_backend_stubs" / site.parent.name.removeprefix("python") / "triton_python_backend_stub"
    (backend / stub.name).symlink_to(stub)
    (model / "config.pbtxt").write_text(TRITON_CONFIG.format(batching=TRITON_BATCHING if setup.batch else ""), "utf-8")
    (model / "1").symlink_to(HERE / "triton")
    options = {
        "model-repository": model.parent, "backend-directory": backend.parent, "http-address": HOST, "http-port": port,
        "allow-grpc": "false", "allow-metrics": "false", "log-info": "false",
    }  # fmt: skip
    command = [str(server / "bin/tritonserver"), *(f"--{name}={value}" for name, value in options.items())]
    # Its backend runs on the system's libpython, and takes the modules of the first python3 on the path.
    variables = {"PATH": os.defpath, "PYTHONPATH": str(site), "LD_LIBRARY_PATH": str(site / "nvidia_pytriton.libs")}
    return Start(command, variables)


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "ray", "Ray Serve", "ray",
            (
                Setup("ray", False, PLAIN, "HAProxy, one replica"),
                Setup("ray-batch", True, PLAIN, "`serve.batch`, up to 16 within 1 ms"),
            ),
            _ray,
        ),
        Peer(
            "bentoml", "BentoML", "bentoml",
            (
                Setup("bentoml", False, PLAIN, "mounted ASGI application, one worker"),
                Setup("bentoml-batch", True, LISTED, "adaptive batching, up to 16"),
            ),
            _bentoml,
        ),
        Peer(
            "triton", "NVIDIA Triton", "nvidia-pytriton",
            (
                Setup("triton", False, TENSORS, "Python backend, binary tensors"),
                Setup("triton-batch", True, TENSORS, "dynamic batching, up to 16 within 1 ms"),
            ),
            _triton,
        ),
    )
}  # fmt: skip


def require(names: Sequence[str], environments: Path) -> None:
    """Check that each of these peers is installed.

    Raises:
        NotInstalled: one is not.
    """
    missing = [PEERS[name] for name in names if not PEERS[name].installed(environments)]
    if not missing:
        return
    lines = [f"{', '.join(peer.title for peer in missing)}: not installed under {environments}. Install with"]
    for peer in missing:
        folder, pins = environments / peer.name, peer.requirements
        pins = pins.relative_to(Path.cwd()) if pins.is_relative_to(Path.cwd()) else pins
        quoted = [shlex.quote(str(path)) for path in (sys.executable, folder, folder / "bin/pip", pins)]
        lines.append("    {} -m venv {} && {} install -r {}".format(*quoted))
    lines.append("or leave them out of --compare. Environments in another folder: --peers FOLDER.")
    raise NotInstalled("\n".join(lines))
