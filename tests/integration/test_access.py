"""Keys on running processes that listen beyond loopback: made, rotated and revoked by command, without a restart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from access import Scope
from ctr.uic.v1 import uic_service_pb2 as pb
from localstack.uic_and_rtp import RtpProcess, Surroundings, UicWorker
from localstack.wait import until
from support.for_test import MakeTopics, RedisForTest
from support.uic_running import BUNDLE, RunningUic, click

pytestmark = pytest.mark.servers

N = 8
EVERYWHERE = "0.0.0.0"  # noqa: S104 (what the keys are for)
ASK = {"user_id": "u", "candidates": [{"item_id": 3, "category_id": 2}]}


def make(file: Path, *scopes: Scope) -> str:
    """A new key in `file`, as an operator makes it; returns its secret."""
    words = [word for scope in scopes for word in ("--scope", scope)]
    command = [sys.executable, "-m", "access", "make", str(file), *words, "--name", "test"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def hang_up(process: RtpProcess | UicWorker) -> None:
    """One signal: what can be reloaded is."""
    assert process.child is not None
    process.child.send(signal.SIGHUP)


def revoke(file: Path, secret: str) -> None:
    command = [sys.executable, "-m", "access", "revoke", str(file), secret.split("_")[1]]
    subprocess.run(command, capture_output=True, check=True)


def test_rtp_rotates_keys_while_it_answers(valkey: RedisForTest, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    old, operator = make(keys, Scope.PREDICT), make(keys, Scope.METRICS, Scope.ADMIN)
    rtp = {"RTP_HTTP__HOST": EVERYWHERE, "RTP_ADMIN__HOST": EVERYWHERE, "RTP_ACCESS__KEYS_FILE": str(keys)}
    rtp |= {f"RTP_DEADLINE__{which}_MS": "30000" for which in ("DEFAULT", "MAX")}  # keys are what is tested
    surroundings = Surroundings("", valkey.url, BUNDLE, prefix=valkey.prefix, rtp=rtp)
    process = RtpProcess("rtp", tmp_path / "rtp", surroundings)
    valkey.client.set(_meta(valkey.prefix), '{"partitions": 4, "topic": "t"}')
    with process, httpx.Client(timeout=60) as client:

        def predict(secret: str | None) -> int:
            told = {} if secret is None else {"authorization": f"Bearer {secret}"}
            return client.post(f"{process.address}/predict", json=ASK, headers=told).status_code

        def admin(path: str, secret: str | None) -> int:
            told = {} if secret is None else {"authorization": f"Bearer {secret}"}
            return client.get(process.admin_url + path, headers=told).status_code

        assert [predict(None), predict(operator), predict(old)] == [401, 403, 200]
        assert [admin("/metrics", None), admin("/metrics", old), admin("/metrics", operator)] == [401, 403, 200]
        assert [admin("/readyz", None), admin("/bundle", operator)] == [200, 200]
        hang_up(process)
        until(lambda: "has not changed: 2 keys" in process.log.read_text(), "SIGHUP reads the keys", within_s=60)
        until(lambda: process.log.read_text().count("serving bundle") == 2, "and the bundle", within_s=60)
        new = make(keys, Scope.PREDICT)
        until(lambda: predict(new) == 200, "the new key counts", within_s=60)
        assert predict(old) == 200, "both count while callers change over"
        revoke(keys, old)
        until(lambda: predict(old) == 401, "the old key counts no more", within_s=60)
        assert predict(new) == 200
        spoiled = tmp_path / "spoiled"
        spoiled.write_text("spoiled")
        spoiled.replace(keys)  # whole: a file that is half written would be refused, too, and counted
        told = {"authorization": f"Bearer {operator}"}
        refused = 'rtp_key_reads_total{result="refused"} 1.0'
        until(
            lambda: refused in client.get(f"{process.admin_url}/metrics", headers=told).text,
            "the spoiled file is noticed",
            within_s=60,
        )
        assert predict(new) == 200
        hang_up(process)
        until(
            lambda: process.log.read_text().count("the earlier 2 keys stay in effect") == 2,
            "it says so again",
            within_s=60,
        )
        metrics = client.get(f"{process.admin_url}/metrics", headers=told).text
        assert "rtp_keys 2.0" in metrics
        assert "rtp_keys_refused 1.0" in metrics
        log = process.log.read_text()
        assert "the earlier 2 keys stay in effect" in log
        assert not any(secret in text for secret in (old, new, operator) for text in (log, metrics))
        keys.unlink()
        os.mkfifo(keys)
        until(lambda: "is not a regular file" in process.log.read_text(), "a FIFO is noticed", within_s=60)
        assert process.stop(60) == 0, "and the process ends beside it"


def _meta(prefix: str) -> str:
    from mimn.bundle import load_bundle
    from mimn.state import Keys, namespace

    return Keys(namespace(load_bundle(BUNDLE).manifest.fingerprint, 0), prefix).meta


def test_uic_lets_each_key_do_what_its_scopes_say_and_the_commands_bring_theirs(
    valkey: RedisForTest, kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = make_topics(kafka, N)
    keys = tmp_path / "keys"
    shop, desk, operator = make(keys, Scope.PUBLISH), make(keys, Scope.READ, Scope.ERASE), make(keys, Scope.OPERATE)
    variables = {"UIC_GRPC__HOST": EVERYWHERE, "UIC_ADMIN__HOST": EVERYWHERE, "UIC_ACCESS__KEYS_FILE": str(keys)}
    variables |= {"UIC_GRPC__TIMEOUT_S": "60"}  # the first call to a fresh broker takes longer
    surroundings = Surroundings(kafka, valkey.url, BUNDLE, topics.events, N, prefix=valkey.prefix, uic=variables)
    worker = UicWorker("uic", tmp_path / "uic", surroundings)
    with worker:
        uic = RunningUic(worker)

        def bearing(secret: str) -> Any:
            return (("authorization", f"Bearer {secret}"),)

        def code(call: Any, request: Any, secret: str | None) -> grpc.StatusCode:
            try:
                call(request, timeout=60, metadata=() if secret is None else bearing(secret))
            except grpc.RpcError as error:
                failed: Any = error
                return grpc.StatusCode(failed.code())
            return grpc.StatusCode.OK

        publish = pb.PublishBehaviorsRequest(events=[click("u1")])
        erase, get = pb.EraseUserRequest(user_id="u1"), pb.GetUserStateRequest(user_id="u1")
        stub = uic.stub
        assert code(stub.PublishBehaviors, publish, None) is grpc.StatusCode.UNAUTHENTICATED
        assert code(stub.PublishBehaviors, publish, desk) is grpc.StatusCode.PERMISSION_DENIED
        assert code(stub.PublishBehaviors, publish, shop) is grpc.StatusCode.OK
        until(lambda: code(stub.GetUserState, get, desk) is grpc.StatusCode.OK, "it is folded", within_s=60)
        assert code(stub.EraseUser, erase, shop) is grpc.StatusCode.PERMISSION_DENIED
        assert code(stub.EraseUser, erase, desk) is grpc.StatusCode.OK
        until(lambda: code(stub.GetUserState, get, desk) is grpc.StatusCode.NOT_FOUND, "it is gone", within_s=60)

        secret_file = tmp_path / "operator.secret"
        command = [sys.executable, "-m", "uic", "partitions", "--admin", worker.admin_url]

        def partitions() -> tuple[int, str]:
            told = {**os.environ, "UIC_ACCESS__SECRET_FILE": str(secret_file)}
            done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=60, check=False)
            return done.returncode, done.stdout + done.stderr

        secret_file.write_text(shop + "\n")
        status, said = partitions()
        assert status == 1
        assert "set UIC_ACCESS__SECRET_FILE" in said
        secret_file.write_text(operator + "\n")
        status, said = partitions()
        assert status == 0, said
        revoke(keys, shop)
        hang_up(worker)
        # Until the worker has read the file the key still publishes: for another user, so that u1 stays erased.
        again = pb.PublishBehaviorsRequest(events=[click("u2")])
        until(
            lambda: code(stub.PublishBehaviors, again, shop) is grpc.StatusCode.UNAUTHENTICATED,
            "the revoked key counts no more",
            within_s=60,
        )
        hang_up(worker)
        until(lambda: "has not changed: 2 keys" in worker.log.read_text(), "SIGHUP reads the keys", within_s=60)
        assert code(stub.GetUserState, get, desk) is grpc.StatusCode.NOT_FOUND, "and ends nothing"
        assert "needs_a_restart" in worker.log.read_text()
        uic.channel.close()
    assert not any(secret in worker.log.read_text() for secret in (shop, desk, operator))
