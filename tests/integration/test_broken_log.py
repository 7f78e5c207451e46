"""A topic that was made anew under UIC's states: partitions stop by name, and go on as an operator decides."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from conftest import MakeTopics, RedisForTest
from localstack.topics import Topic, create_topics
from localstack.wait import until
from mimn.state import partition_of
from support.uic_running import RunningUic, click, delete_and_wait, running_uic
from uic.doors.servicer import SERVICE
from uic.tools import partitions

pytestmark = pytest.mark.servers

N = 4
USERS = [f"u{i}" for i in range(40)]
PARTITION = {user: partition_of(user.encode(), N) for user in USERS}


def serving(uic: RunningUic) -> bool:
    stub = health_pb2_grpc.HealthStub(uic.channel)
    status: int = stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=5, wait_for_ready=True).status
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
    with running_uic(tmp_path / "before", valkey, topics) as uic:
        uic.wait_folded(uic.publish(*[click(user) for user in USERS for _ in range(3)]))
    delete_and_wait(kafka, topics.events)
    create_topics(kafka, [Topic(topics.events, N)])

    with running_uic(tmp_path / "after", valkey, topics, serving=False) as uic:

        def phases() -> dict[int, str]:
            return {p["partition"]: p["phase"] for p in uic.admin("/partitions")["partitions"]}

        until(lambda: phases() == dict.fromkeys(range(N), "broken"), "every partition is broken", within_s=60)
        until(lambda: not serving(uic), "health follows", within_s=60)
        ready = httpx.get(f"{uic.worker.admin_url}/readyz", timeout=5)
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


def test_a_port_that_is_taken_ends_the_start_with_its_name(
    tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics
) -> None:
    with running_uic(tmp_path, valkey, make_topics(kafka, N)) as uic:
        same = dict(uic.worker.environment())
        for changed, named in ({}, "UIC_ADMIN__PORT"), ({"UIC_ADMIN__PORT": "0"}, "UIC_GRPC__PORT"):
            second = subprocess.run(
                uic.worker.command(), env=same | changed, capture_output=True, text=True, timeout=60, check=False
            )
            assert second.returncode == 2
            assert named in second.stderr
        assert serving(uic)
