"""A topic that was created again under UIC's states: partitions stop by name, and go on as an operator decides."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from kafka import KafkaProducer

from localstack.topics import Topic, create_topics
from localstack.wait import until
from localstack.web import web
from mimn.state import partition_of
from support.for_test import MakeTopics, RedisForTest
from support.uic_running import RunningUic, click, delete_and_wait, running_uic
from uic.doors.servicer import SERVICE
from uic.tools import partitions

pytestmark = pytest.mark.servers

N = 4
PATIENT: dict[str, Any] = {"UIC_GRPC__TIMEOUT_S": "60"}
"""For the first call to a broker that has just started."""
USERS = [f"u{i}" for i in range(40)]
PARTITION = {user: partition_of(user.encode(), N) for user in USERS}


def serving(uic: RunningUic) -> bool:
    stub = health_pb2_grpc.HealthStub(uic.channel)
    status: int = stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=60, wait_for_ready=True).status
    return bool(status == health_pb2.HealthCheckResponse.SERVING)


def command(uic: RunningUic, verb: str, *arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    return partitions.main(verb, [*arguments, "--admin", uic.worker.admin_url], out), out.getvalue()


def test_partitions_stop_by_name_and_go_on_as_the_operator_decides(
    tmp_path: Path,
    valkey: RedisForTest,
    kafka: str,
    make_topics: MakeTopics,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert set(PARTITION.values()) == set(range(N))
    topics = make_topics(kafka, N)
    with running_uic(tmp_path / "before", valkey, topics, **PATIENT) as uic:
        uic.wait_folded(uic.publish(*[click(user) for user in USERS for _ in range(3)]))
    delete_and_wait(kafka, topics.events)
    create_topics(kafka, [Topic(topics.events, N)])

    with running_uic(tmp_path / "after", valkey, topics, serving=False, **PATIENT) as uic:

        def phases() -> dict[int, str]:
            return {p["partition"]: p["phase"] for p in uic.admin("/partitions")["partitions"]}

        until(lambda: phases() == dict.fromkeys(range(N), "broken"), "every partition is broken", within_s=60)
        until(lambda: not serving(uic), "health follows", within_s=60)
        ready = web().get(f"{uic.worker.admin_url}/readyz", timeout=60)
        assert ready.status_code == 503
        assert "broken_log" in ready.json()["detail"]
        code, text = command(uic, "partitions")
        assert code == 1
        assert text.count("broken_log") >= N

        code, text = command(uic, "continue", "--partition", "0")
        assert (code, text.endswith("era 1\n")) == (0, True)
        for p in range(1, N):
            code, text = command(uic, "rebuild", "--partition", str(p))
            assert code == 0
            assert text.endswith("era 0\n")
        until(lambda: serving(uic), "health follows", within_s=60)
        assert command(uic, "rebuild", "--partition", "0")[0] == 1
        assert "not_broken" in capsys.readouterr().err
        assert command(uic, "rebuild", "--partition", str(N))[0] == 1
        assert "not_ours" in capsys.readouterr().err

        uic.wait_folded(uic.publish(*[click(user) for user in USERS]))
        for user in USERS:
            state = uic.state(user)
            assert state is not None
            assert (state.event_count, state.era) == ((4, 1) if PARTITION[user] == 0 else (1, 0)), user


def test_misrouted_records_stop_their_partition_until_an_operator_sends_them_to_the_dead_letters(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = make_topics(kafka, N)
    astray = [user for user in USERS if PARTITION[user] != 0]
    letters = 5 * len(astray)
    strict = PATIENT | {"UIC_FOLD__MISROUTED_SHARE": "0.001"}
    with running_uic(tmp_path / "before", valkey, topics, **strict) as uic:
        uic.wait_folded(uic.publish(*[click(user) for user in USERS]))
        producer = KafkaProducer(bootstrap_servers=kafka)
        sent = [
            producer.send(topics.events, key=user.encode(), value=click(user).SerializeToString(), partition=0)
            for user in astray * 5
        ]
        for one in sent:
            one.get(timeout=60)
        producer.close()
        until(lambda: not serving(uic), "health says that something stopped", within_s=60)
        assert "misrouted" in web().get(f"{uic.worker.admin_url}/readyz", timeout=60).json()["detail"]

    with running_uic(tmp_path / "after", valkey, topics, serving=False, **strict) as uic:

        def stopped() -> set[int]:
            return {p["partition"] for p in uic.admin("/partitions")["partitions"] if p["phase"] == "broken"}

        until(lambda: stopped() == {0}, "a restart stops at the same records", within_s=60)
        waiting = uic.publish(*[click(user) for user in USERS])
        uic.wait_folded([at for at in waiting if at.partition != 0])  # the other partitions go on
        assert command(uic, "rebuild", "--partition", "0")[0] == 1
        assert "continue without an offset" in capsys.readouterr().err
        code, text = command(uic, "continue", "--partition", "0")
        assert (code, text.endswith("era 0\n")) == (0, True)
        uic.wait_folded(waiting)
        until(lambda: serving(uic), "health follows", within_s=60)
        for user in USERS:
            state = uic.state(user)
            assert state is not None
            assert state.event_count == 2, user
        metrics = web().get(f"{uic.worker.admin_url}/metrics", timeout=60).text
        assert f'uic_dead_letters_total{{reason="misrouted"}} {letters}.0' in metrics


def test_a_port_that_is_taken_ends_the_start_with_its_name(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    with running_uic(tmp_path, valkey, make_topics(kafka, N)) as uic:
        same = dict(uic.worker.environment())
        for changed, named in ({}, "UIC_ADMIN__PORT"), ({"UIC_ADMIN__PORT": "0"}, "UIC_GRPC__PORT"):
            second = subprocess.run(
                uic.worker.command(), env=same | changed, capture_output=True, text=True, timeout=120, check=False
            )
            assert second.returncode == 2
            assert named in second.stderr
        assert serving(uic)
