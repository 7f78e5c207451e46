"""Reloads on a real process and a real Valkey: a bundle that cannot be read costs nothing but its reload, and users do
not lose their states."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import onnx
import pytest
import redis
from onnx import TensorProto, helper

from localstack.uic_and_rtp import RtpProcess, Surroundings
from localstack.valkey import Valkey
from localstack.wait import until
from localstack.web import web
from mimn.bundle import load_bundle
from mimn.release import Record, Release, encode_record, record_key
from support.bundles import again
from support.stored import Stored

pytestmark = pytest.mark.servers

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
TINY = FIXTURES / "bundle_tiny/tiny/1"
USERS = [f"user-{i}" for i in range(300)]
HANGS_S = 10.0
"""What a load may take where one hangs: more than a good one takes on a busy machine, which is loaded after it."""


def write(server: Valkey, stored: Stored) -> None:
    with redis.Redis.from_url(server.address, protocol=2) as client:
        client.mset(cast("dict[str | bytes, bytes]", stored.values))


def with_users(bundle: Path, users: list[str]) -> Stored:
    stored = Stored(load_bundle(bundle))
    for user in users:
        stored.state(user)
    return stored


@dataclass
class Running:
    """A process that serves the tiny bundle through a link, and where the link leads."""

    rtp: RtpProcess
    link: Path

    def point(self, target: Path) -> None:
        fresh = self.link.with_suffix(".new")
        fresh.symlink_to(target)
        fresh.replace(self.link)

    def reload(self, **parameters: Any) -> tuple[int, dict[str, Any]]:
        answer = web().post(f"{self.rtp.admin_url}/bundle/reload", params=parameters, timeout=120)
        return answer.status_code, answer.json()

    def status(self, user: str = USERS[0]) -> str:
        asked = {"user_id": user, "candidates": [{"item_id": 3, "category_id": 2}]}
        told = {"x-request-deadline-ms": "30000"}
        answer = web().post(f"{self.rtp.address}/predict", json=asked, headers=told, timeout=60)
        assert answer.status_code == 200, answer.text
        return cast("str", answer.json()["state"]["status"])

    def served(self) -> str:
        answer = web().get(f"{self.rtp.admin_url}/bundle", timeout=60).json()
        return f"{answer['name']}/{answer['version']}"

    def metric(self, name: str) -> float:
        for line in web().get(f"{self.rtp.admin_url}/metrics", timeout=60).text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0


@contextmanager
def running(server: Valkey, folder: Path, **variables: str) -> Iterator[Running]:
    link = folder / "current"
    link.symlink_to(TINY)
    told = {
        "RTP_BUNDLE__LOAD_TIMEOUT_S": "60",
        "RTP_STATE__REFRESH_EVERY_S": "0.1",
        "RTP_DEADLINE__MAX_MS": "60000",
        "RTP_LOG__FORMAT": "json",
        **variables,
    }
    with RtpProcess("rtp", folder / "rtp", Surroundings("", server.address, link, rtp=told)) as rtp:
        yield Running(rtp, link)


def copied(folder: Path) -> Path:
    """The tiny bundle in a folder that a test may spoil."""
    target = folder / "tiny/1"
    shutil.copytree(TINY, target)
    return target


def fifo(folder: Path) -> Path:
    bundle = copied(folder)
    (bundle / "head.onnx").unlink()
    os.mkfifo(bundle / "head.onnx")
    return bundle


def link_to_elsewhere(folder: Path) -> Path:
    bundle = copied(folder)
    shutil.move(bundle / "head.onnx", folder / "head.onnx")
    (bundle / "head.onnx").symlink_to(folder / "head.onnx")
    return bundle


def huge(folder: Path) -> Path:
    """A file of 64 GiB, of which nothing lies on the disk."""
    bundle = again(folder, TINY)
    os.truncate(bundle / "items.vectors.npy", 64 << 30)
    return bundle


def endless(folder: Path) -> Path:
    """A head with the right inputs and outputs that counts to 2^62 first."""
    model = onnx.load(TINY / "head.onnx")
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["sum"], ["sum_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_out", TensorProto.FLOAT, None),
        ],
    )
    graph = model.graph
    last = graph.output[0].name
    for node in graph.node:
        node.output[:] = [f"{name}_soon" if name == last else name for name in node.output]
    graph.initializer.extend(
        [
            helper.make_tensor("turns", TensorProto.INT64, [], [1 << 62]),
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        ]
    )
    graph.node.append(helper.make_node("Loop", ["turns", "yes", f"{last}_soon"], [last], body=body))
    return again(folder, TINY, head=model.SerializeToString())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (fifo, "head.onnx is not a regular file"),
        (link_to_elsewhere, "leads out of the bundle's folder"),
        (huge, f"has {64 << 30} bytes"),
    ],
)
def test_a_bundle_that_would_hang_or_mislead_is_refused_before_it_is_read(
    own_valkey: Valkey, tmp_path: Path, spoil: Callable[[Path], Path], words: str
) -> None:
    write(own_valkey, with_users(TINY, USERS))
    with running(own_valkey, tmp_path) as process:
        process.point(spoil(tmp_path / "bundles"))
        status, said = process.reload()
        assert (status, said["code"]) == (409, "reload_refused")
        assert words in said["detail"]
        assert process.metric('rtp_bundle_reloads_total{result="refused"}') == 1
        assert process.metric("rtp_hanging_loads") == 0
        assert process.status() == "warm"


def test_a_graph_that_never_ends_costs_its_reload_and_nothing_else(own_valkey: Valkey, tmp_path: Path) -> None:
    write(own_valkey, with_users(TINY, USERS))
    with running(own_valkey, tmp_path, RTP_BUNDLE__LOAD_TIMEOUT_S=str(HANGS_S)) as process:
        process.point(endless(tmp_path / "endless"))
        status, said = process.reload()
        assert (status, said["code"]) == (409, "reload_refused")
        assert "did not load within" in said["detail"]
        assert process.metric('rtp_bundle_reloads_total{result="timed_out"}') == 1
        assert process.metric("rtp_hanging_loads") == 1
        assert process.status() == "warm"
        assert web().get(f"{process.rtp.address}/readyz", timeout=60).status_code == 200
        process.point(again(tmp_path / "good", TINY))
        assert process.reload()[0] == 200
        assert process.rtp.stop(grace_s=30) == 0


def test_sigterm_ends_a_process_whose_first_release_never_loads(own_valkey: Valkey, tmp_path: Path) -> None:
    write(own_valkey, with_users(TINY, USERS))
    bundle = load_bundle(endless(tmp_path / "bundles"))
    of = bundle.manifest
    named = Release(of.name, of.version, bundle.sha256, of.files["head.onnx"], of.fingerprint, 0)
    with redis.Redis.from_url(own_valkey.address, protocol=2) as client:
        client.set(record_key("uic"), encode_record(Record(revision=1, salt="0" * 16, serving=named)))
    told = {"RTP_BUNDLE__LOAD_TIMEOUT_S": "600", "RTP_BUNDLES__FOLDER": str(tmp_path / "bundles")}
    rtp = RtpProcess("rtp", tmp_path / "rtp", Surroundings("", own_valkey.address, TINY, rtp=told))
    rtp.spawn()
    try:
        until(lambda: "listening" in rtp.log.read_text() and busy(rtp), "the graph runs", within_s=60)
        assert rtp.stop(grace_s=20) == 0
    finally:
        rtp.kill()
    assert "Traceback" not in rtp.log.read_text()


def busy(rtp: RtpProcess) -> bool:
    """Whether a thread other than the main one has used 200 ms of processor time."""
    assert rtp.child is not None
    main = str(rtp.child.pid)
    others = [thread for thread in Path(f"/proc/{main}/task").iterdir() if thread.name != main]
    return any(int((thread / "stat").read_text().rpartition(")")[2].split()[11]) > 20 for thread in others)


def test_every_line_of_the_log_is_json_with_the_same_keys(own_valkey: Valkey, tmp_path: Path) -> None:
    write(own_valkey, with_users(TINY, USERS))
    with running(own_valkey, tmp_path, RTP_LOG__REQUEST_SAMPLE="1") as process:
        told = {"x-request-id": "trace-7", "x-request-deadline-ms": "30000"}
        asked = {"user_id": "secret-user", "candidates": [{"item_id": 3, "category_id": 2}]}
        answer = web().post(f"{process.rtp.address}/predict", json=asked, headers=told, timeout=30)
        assert answer.headers["x-request-id"] == "trace-7"
        until(lambda: "trace-7" in process.rtp.log.read_text(), "the request is logged", within_s=60)
    text = process.rtp.log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert all({"event", "level", "timestamp", "logger"} <= line.keys() for line in lines)
    assert any(line.get("request_id") == "trace-7" and line["status"] == 200 for line in lines)
    assert "secret-user" not in text
