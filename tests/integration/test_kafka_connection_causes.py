"""Why there is no connection to a real Kafka with TLS and a login is told, with the setting to correct."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from localstack.uic_and_rtp import Surroundings, UicWorker
from localstack.wait import until
from support.certificates import Certificates
from support.for_test import RedisForTest, TopicsForTest
from support.secured_kafka import SecuredKafka, secured_kafka
from support.uic_running import BUNDLE, RunningUic, running_uic
from uic import preflight
from uic.core.deployment import Severity
from uic.errors import LogUnavailable
from uic.log.topic_reader import read_to_end
from uic.preflight import check_topic
from uic.settings import KafkaSettings
from uic.tools.doctor import log_checks
from uic.tools.doctor.log_facts import gather_log

pytestmark = pytest.mark.servers

TIMEOUT_S = 5.0
"""How long a broker is looked for. All of it passes where the reason is told: a client tries again and again."""


@dataclass(frozen=True)
class Secured:
    """A broker that asks its clients for a certificate and for a password, and certificates that it does not trust."""

    kafka: SecuredKafka
    ours: Certificates
    foreign: Certificates
    named: TopicsForTest

    def variables(self) -> dict[str, Any]:
        """UIC's settings, which are all right."""
        shown: dict[str, Any] = {
            "UIC_KAFKA__SSL_CERTFILE": str(self.ours.client),
            "UIC_KAFKA__SSL_KEYFILE": str(self.ours.client_key),
        }
        return self.kafka.variables() | shown

    def settings(self, **changed: Any) -> KafkaSettings:
        """The same, but for some; None unsets one."""
        told: dict[str, Any] = {
            name.removeprefix("UIC_KAFKA__").lower(): value for name, value in self.variables().items()
        }
        told |= {"bootstrap_servers": self.kafka.mutual_address, "topic": self.named.events, "partitions": 2}
        return KafkaSettings(**{name: value for name, value in (told | changed).items() if value is not None})


@pytest.fixture
def secured(secured_broker: SecuredKafka, tmp_path: Path) -> Secured:
    named = replace(secured_broker.create(f"events-{time.time_ns()}", 2), bootstrap=secured_broker.mutual_address)
    secured_broker.grant_documented(named, named.events)
    foreign = Certificates.issue(tmp_path / "foreign")
    return Secured(secured_broker, secured_broker.certificates, foreign, named)


TLS_ONLY = {"sasl_mechanism": None, "sasl_username": None, "sasl_password": None}
PLAIN_TEXT = {"ssl_cafile": None, "ssl_certfile": None, "ssl_keyfile": None}
NO_CERTIFICATE = {"ssl_certfile": None, "ssl_keyfile": None}
WITHOUT_A_WORD = "Connection reset by peer"
CAUSES: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "a wrong password": (
        {"sasl_password": "wrong"},
        ("Authentication failed", WITHOUT_A_WORD),
        "correct UIC_KAFKA__SASL_USERNAME or UIC_KAFKA__SASL_PASSWORD",
    ),
    "a mechanism that the broker does not know": (
        {"sasl_mechanism": "SCRAM-SHA-256"},
        ("the broker does not know this SASL mechanism", WITHOUT_A_WORD),
        "UIC_KAFKA__SASL_MECHANISM",
    ),
    "another CA": (
        {"ssl_cafile": "foreign.ca"},
        ("certificate verify failed: ",),
        "UIC_KAFKA__SSL_CAFILE must name the CA",
    ),
    "no client certificate": (
        NO_CERTIFICATE,
        ("CERTIFICATE_REQUIRED",),
        "refuses the certificate of UIC_KAFKA__SSL_CERTFILE",
    ),
    "plain text where TLS is wanted": (
        PLAIN_TEXT | TLS_ONLY | {"security_protocol": "PLAINTEXT"},
        ("the broker answers with TLS", WITHOUT_A_WORD),
        "correct UIC_KAFKA__SECURITY_PROTOCOL",
    ),
    "no login where one is wanted": (
        TLS_ONLY | {"security_protocol": "SSL"},
        (WITHOUT_A_WORD,),
        "or wants a login: correct UIC_KAFKA__SECURITY_PROTOCOL",
    ),
    "a name that the certificate does not hold": (
        {"bootstrap_servers": "other name"},
        ("certificate verify failed: ",),
        "certificate must hold the address by which it is reached",
    ),
}


def given(secured: Secured, changed: dict[str, Any]) -> KafkaSettings:
    """The settings of a cause."""
    port = secured.kafka.ports["mutual"]
    known: dict[str, Any] = {
        "foreign.ca": secured.foreign.ca,
        "other name": f"127.1:{port}",
    }
    return secured.settings(
        **{name: str(known.get(value, value)) if value else None for name, value in changed.items()}
    )


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start looks only for a moment, again and again; here it looks once."""
    monkeypatch.setattr(preflight, "BOOTSTRAP_MS", int(TIMEOUT_S * 1000))


def why(ask: Callable[[], object]) -> str:
    """Why there is no log."""
    with pytest.raises(LogUnavailable) as refused:
        ask()
    return refused.value.detail


@pytest.mark.parametrize("name", CAUSES)
def test_why_there_is_no_connection_is_told_with_what_to_correct(name: str, secured: Secured) -> None:
    changed, words, fix = CAUSES[name]
    settings = given(secured, changed)
    with ThreadPoolExecutor() as asking:  # at the same time, because each takes all of its time
        start = asking.submit(why, lambda: check_topic(settings))
        reads = partial(read_to_end, settings.client_options(), settings.dead_letter_topic, idle_s=TIMEOUT_S)
        command = asking.submit(why, lambda: list(reads()))
        doctor = asking.submit(gather_log, settings, None, TIMEOUT_S).result()
    for said in (start.result(), command.result()):
        assert settings.bootstrap_servers in said
        assert any(one in said for one in words), said
        assert fix in said
        assert "Timeout" not in said
    finding = log_checks.broker_reachable(settings.bootstrap_servers, doctor.error, doctor.version, doctor.fix)
    assert finding.verdict is Severity.FAIL
    assert any(one in finding.seen for one in words), finding.seen
    assert fix in finding.fix
    assert "start Kafka" not in finding.fix


def test_settings_that_are_right_connect(secured: Secured) -> None:
    check_topic(secured.settings())


# The processes


def reasons(uic: RunningUic) -> str:
    """What `/readyz` says is wrong."""
    said = uic.admin("/readyz")
    return f"{said.get('detail', '')} {said.get('degraded', '')}"


def lines(uic: RunningUic) -> list[str]:
    return uic.worker.log.read_text().splitlines()


def test_a_worker_with_a_wrong_password_says_so_and_does_not_flood_its_log(
    secured: Secured, valkey: RedisForTest, tmp_path: Path
) -> None:
    wrong = secured.variables() | {"UIC_KAFKA__SASL_PASSWORD": "wrong"}
    with running_uic(tmp_path, valkey, secured.named, serving=False, **wrong) as uic:
        until(lambda: "correct UIC_KAFKA__SASL_USERNAME" in reasons(uic), "/readyz says so", within_s=60)
        before, began = len(lines(uic)), time.monotonic()
        until(lambda: time.monotonic() > began + 12, "many tries are over", within_s=60)
        new, lasted_s = lines(uic)[before:], time.monotonic() - began
        assert len(new) <= lasted_s, new


def environment(secured: Secured, folder: Path, **changed: str) -> Mapping[str, str]:
    around = Surroundings(
        secured.kafka.mutual_address, "redis://localhost:1/0", BUNDLE, topic=secured.named.events, partitions=2,
        uic=secured.variables() | changed,
    )  # fmt: skip
    return UicWorker("uic", folder, around).environment()


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        (["serve"], "SSL_CAFILE", "/no/such/ca.pem"),
        (["serve"], "SSL_KEYFILE", "foreign"),
        (["verify"], "SSL_CAFILE", "/no/such/ca.pem"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_its_name(
    command: list[str], name: str, value: str, secured: Secured, tmp_path: Path
) -> None:
    value = str(secured.foreign.client_key) if value == "foreign" else value
    given = environment(secured, tmp_path, **{f"UIC_KAFKA__{name}": value})
    run = [sys.executable, "-m", "uic", *command]
    done = subprocess.run(run, env=given, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert f"UIC_KAFKA__{name}={value}" in done.stderr


@pytest.mark.full
def test_a_certificate_that_a_broker_comes_back_with_is_told_while_the_worker_runs(
    valkey: RedisForTest, tmp_path: Path
) -> None:
    ours = Certificates.issue(tmp_path / "ours")
    good = {file: file.read_bytes() for file in (ours.server, ours.server_key)}
    with secured_kafka(tmp_path, ours) as kafka:
        named = kafka.create("events", 2)
        kafka.grant_documented(named, valkey.prefix)
        variables: Any = kafka.variables()
        with running_uic(tmp_path, valkey, named, **variables) as uic:
            foreign = Certificates.issue(tmp_path / "foreign")
            for file, other in ((ours.server, foreign.server), (ours.server_key, foreign.server_key)):
                file.write_bytes(other.read_bytes())
            kafka.restart()
            until(lambda: "UIC_KAFKA__SSL_CAFILE" in reasons(uic), "/readyz says so", within_s=60)
            for file, content in good.items():
                file.write_bytes(content)
            kafka.restart()
            until(lambda: uic.admin("/readyz").get("degraded") == [], "it goes on by itself", within_s=60)
