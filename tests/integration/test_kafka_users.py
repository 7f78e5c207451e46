"""The rights that the runbook gives the user of the brokers are enough for all that UIC does, on a real Kafka that
forbids the rest; and a right that is missing is told by its name, and never taken for an empty or a missing topic."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import uuid
from contextlib import AbstractContextManager, closing, redirect_stderr
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType

from localstack.wait import until
from localstack.web import web
from support.bulk_running import run, run_main
from support.for_test import RedisForTest, TopicsForTest
from support.secured_kafka import SecuredKafka
from support.uic_running import BUNDLE, RunningUic, click, running_uic
from uic.rollout.planning import _other_log
from uic.settings import read_client_settings
from uic.tools import dead_letters, verify
from uic.tools.doctor import command as doctor

pytestmark = pytest.mark.servers

RUNBOOK = Path(__file__).parents[2] / "docs" / "runbooks" / "kafka-users.md"
N = 4
USERS = [f"u{i}" for i in range(12)]
NEEDS = "user uic needs"
PATIENT = {"UIC_GRPC__TIMEOUT_S": "60"}
"""For the first call to a broker that has just started."""


@pytest.fixture
def broker(secured_broker: SecuredKafka) -> SecuredKafka:
    return secured_broker


@pytest.fixture
def named(broker: SecuredKafka) -> TopicsForTest:
    """Three topics of the test's own, on which no user has a right yet."""
    return broker.create(f"events-{uuid.uuid4().hex[:8]}", N)


@pytest.fixture
def environment(broker: SecuredKafka, named: TopicsForTest, valkey: RedisForTest) -> dict[str, str]:
    """What the commands of UIC are started with."""
    return {
        "UIC_KAFKA__BOOTSTRAP_SERVERS": named.bootstrap,
        "UIC_KAFKA__TOPIC": named.events,
        "UIC_KAFKA__PARTITIONS": str(N),
        "UIC_REDIS__URL": valkey.url,
        "UIC_REDIS__PREFIX": valkey.prefix,
        "UIC_BUNDLE__PATH": str(BUNDLE),
        **broker.variables(),
    }


def started(
    folder: Path, broker: SecuredKafka, named: TopicsForTest, valkey: RedisForTest, *, serving: bool = True
) -> AbstractContextManager[RunningUic]:
    return running_uic(folder / "uic", valkey, named, serving=serving, bundle=BUNDLE, **PATIENT, **broker.variables())


def ready(uic: RunningUic) -> tuple[int, str]:
    answer = web().get(f"{uic.worker.admin_url}/readyz", timeout=60)
    return answer.status_code, answer.text


def metrics(uic: RunningUic) -> str:
    return web().get(f"{uic.worker.admin_url}/metrics", timeout=60).text


def told(environment: dict[str, str], verb: str, *arguments: str) -> tuple[int, str]:
    """Exit status of a bulk command, and all that it wrote."""
    with redirect_stderr(io.StringIO()) as wrong:
        code, said = run(environment, verb, *arguments)
    return code, said + wrong.getvalue()


def give_the_runbooks_rights(broker: SecuredKafka, named: TopicsForTest, prefix: str, folder: Path) -> None:
    """Run the runbook's commands as they are, as the super user."""
    (commands,) = re.findall(r"```sh\n(.*?)```", RUNBOOK.read_text(), re.DOTALL)
    (folder / "admin.properties").write_text("")
    settings = {
        "PATH": f"{broker.tools}:{os.environ['PATH']}",
        "UIC_KAFKA__BOOTSTRAP_SERVERS": broker.address,
        "UIC_KAFKA__TOPIC": named.events,
        "UIC_REDIS__PREFIX": prefix,
    }
    shell = ["sh", "-e", "-c", commands]
    done = subprocess.run(
        shell, cwd=folder, env=os.environ | settings, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rights_of_the_runbook_suffice_for_the_service_and_its_commands(
    broker: SecuredKafka, named: TopicsForTest, environment: dict[str, str], valkey: RedisForTest, tmp_path: Path
) -> None:
    give_the_runbooks_rights(broker, named, valkey.prefix, tmp_path)
    with started(tmp_path, broker, named, valkey) as uic:
        uic.wait_folded(uic.publish(*[click(user) for user in USERS]))
        uic.wait_folded([uic.erase(USERS[0]), uic.erase_item(USERS[1], 3)])
        assert uic.state(USERS[0]) is None
        producer = KafkaProducer(bootstrap_servers=broker.address, acks="all")
        producer.send(named.events, key=USERS[2].encode(), value=b"no event").get(timeout=60)
        producer.close(timeout=5)

        def letters() -> str:
            return run_main(dead_letters.main, environment, "list", "--json")[1]

        until(lambda: '"malformed_protobuf"' in letters(), "the bad record is a dead letter", within_s=60, every_s=0.5)
        until(lambda: uic.admin("/readyz") == {"status": "ready", "degraded": []}, "nothing is missing", within_s=60)

        code, said = run_main(doctor.main, environment, "--json")
        findings = {one["check"]: (one["verdict"], one["seen"]) for one in json.loads(said)["findings"]}
        for topic in (named.events, named.dlq, named.erased):
            assert findings[f"topic {topic}"][0] == "OK"
        assert findings[f"cleanup.policy of {named.events}"] == ("OK", "delete")
        assert findings["rights on the topics"][0] == "OK"
        assert findings["rights on the transactional ids"][0] == "OK"
        assert "refused" not in said
        assert run_main(verify.main, environment)[0] == 0
    archive = str(tmp_path / "archive")
    code, said = told(environment, "archive", "--to", archive, "--json")
    assert (code, json.loads(said.partition("\n")[0])["records"]) == (0, len(USERS) + 3), said
    # And the notes of erasures are read, and a whole log folded and loaded:
    later = environment | {"UIC_BUNDLE__GENERATION": "1"}
    code, said = told(later, "backfill", "--work", str(tmp_path / "work"), "--workers", "1")
    assert code == 0, said
    code, said = told(environment, "namespaces")
    assert (code, "unknown" in said) == (0, False), said


@pytest.mark.full
def test_a_topic_that_may_not_be_seen_is_refused_by_name_and_nothing_is_written(
    named: TopicsForTest, environment: dict[str, str], tmp_path: Path
) -> None:
    archive, work = tmp_path / "archive", tmp_path / "work"
    refused = f"topic {named.events} is refused: {NEEDS} READ or WRITE on it (TopicAuthorizationFailedError"
    for arguments in (
        ("archive", "--to", str(archive)),
        ("archive", "--to", str(archive), "--partition", "1"),
        ("backfill", "--work", str(work), "--workers", "1"),
    ):
        code, said = told(environment, *arguments)
        assert (code, refused in said) == (1, True), said
    assert [path for folder in (archive, work) if folder.exists() for path in folder.rglob("*")] == []
    with redirect_stderr(io.StringIO()) as wrong:
        assert run_main(dead_letters.main, environment, "list")[0] == 1
        code, said = run_main(doctor.main, environment)
    assert f"topic {named.dlq} is refused: {NEEDS}" in wrong.getvalue()
    assert (code, "--create" in said, "does not exist" in said) == (1, False, False), said
    for topic in (named.events, named.dlq, named.erased):
        assert re.search(rf"FAIL +topic {topic} +is refused: {NEEDS} READ or WRITE", said), said
    code, said = told(environment, "namespaces")
    assert (code, f"lag is unknown: {refused}" in said) == (0, True), said
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        records, against = _other_log(read_client_settings(), named.events)
    assert (records, [one.passes for one in against]) == (0, [False]), "the gate of a rollout is closed, and says why"
    assert refused in against[0].reason


def test_the_doctor_names_each_right_that_is_missing_and_what_it_is_for(
    broker: SecuredKafka, named: TopicsForTest, environment: dict[str, str]
) -> None:
    def of_rights(resources: str = "topics") -> tuple[str, str]:
        _, said = run_main(doctor.main, environment, "--json")
        (found,) = (one for one in json.loads(said)["findings"] if one["check"] == f"rights on the {resources}")
        return found["verdict"], found["seen"]

    for topic in (named.events, named.dlq, named.erased):
        broker.grant("READ", "topic", topic)
    broker.grant("WRITE", "topic", named.erased)
    verdict, seen = of_rights()
    assert (verdict, "nothing is folded" in seen) == ("FAIL", False)
    assert f"no WRITE on {named.events}: UIC's gRPC calls" in seen
    assert f"no WRITE on {named.dlq}: a partition with a bad record waits" in seen
    broker.grant("WRITE", "topic", named.dlq)
    assert of_rights()[0] == "WARN", "producers may be the only ones who write events"
    broker.grant("WRITE", "transactional_id", f"{named.events}.replay")
    refused = f"no WRITE on {named.events}.import: ctr import is refused"
    assert of_rights("transactional ids") == ("WARN", refused)
    with closing(KafkaAdminClient(bootstrap_servers=broker.address)) as admin:
        assert named.events not in str(admin.list_transactions()), "no run has begun"


def test_a_start_waits_for_the_right_on_its_topic_and_goes_on_when_it_is_given(
    broker: SecuredKafka, named: TopicsForTest, valkey: RedisForTest, tmp_path: Path
) -> None:
    with started(tmp_path, broker, named, valkey, serving=False) as uic:
        waits = f"waiting for the log: topic {named.events} is refused: {NEEDS} READ or WRITE on it"
        until(lambda: ready(uic)[0] == 503 and waits in ready(uic)[1], "the right is named", within_s=60)
        broker.grant("READ", "topic", named.erased)
        broker.grant("WRITE", "topic", named.events)  # by which it is seen, and not read
        reads = f"topic {named.events} is refused: {NEEDS} READ on it"
        until(lambda: reads in ready(uic)[1], "then the right to read is named", within_s=60)
        broker.grant_documented(named, valkey.prefix)
        uic.worker.wait_ready()
        uic.wait_folded(uic.publish(click("ann")))
        assert uic.worker.alive()


@pytest.mark.full
def test_a_policy_that_is_not_told_any_more_stays_what_it_was(
    broker: SecuredKafka, named: TopicsForTest, valkey: RedisForTest, tmp_path: Path
) -> None:
    broker.grant_documented(named, valkey.prefix)
    broker.grant("DESCRIBE_CONFIGS", "topic", named.events)
    with started(tmp_path, broker, named, valkey) as uic:
        set_policy(broker, named.events, "compact")
        until(lambda: "log_compacted" in ready(uic)[1], "the policy is named", within_s=60)
        broker.revoke("DESCRIBE_CONFIGS", "topic", named.events)
        log = uic.worker.log
        until(lambda: "needs DESCRIBE_CONFIGS" in log.read_text(), "the log says what is not told", within_s=60)
        set_policy(broker, named.events, "delete")
        assert 'uic_trouble{cause="log_compacted"} 1.0' in metrics(uic)
        assert "log_compacted" in ready(uic)[1]
        assert "log_compacted is over" not in log.read_text()
        broker.grant("DESCRIBE_CONFIGS", "topic", named.events)
        until(lambda: "log_compacted" not in ready(uic)[1], "it is told again", within_s=60)
        assert 'uic_trouble{cause="log_compacted"} 0.0' in metrics(uic)
        assert log.read_text().count("needs DESCRIBE_CONFIGS") == 1


def set_policy(broker: SecuredKafka, topic: str, policy: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=broker.address)
    try:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs={"cleanup.policy": policy})
        admin.alter_configs([resource])
    finally:
        admin.close()
