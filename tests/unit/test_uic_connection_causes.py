"""Why a connection to a broker fails is found behind the client's errors, and said with the setting to correct."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import (
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    SaslAuthenticationFailedError,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)

from localstack.ports import LOOPBACK, free_port
from process.tls_causes import BadTlsFiles
from support.certificates import Certificates, TlsFront
from support.choosy_brokers import MECHANISM, TOPIC, choosy_brokers
from uic.errors import LogUnavailable
from uic.log.clients import explained, open_kafka_client
from uic.log.connection_causes import ConnectionsFailed, NoConnection, why_no_connection
from uic.log.topic_answers import TO_WRITE
from uic.log.topic_reader import read_to_end
from uic.log.unreachable import described, seen_and_fix, stopped, to_correct, unreachable
from uic.settings import KafkaSettings

CLIENT = {"bootstrap_servers": ["a:1", "b:1"], "security_protocol": "SASL_SSL"}
LOGIN = NoConnection("wrong password", "correct the password", answered=True)
AWAY = NoConnection("Connection refused", "start Kafka there", answered=False)


def of(failures: dict[str, NoConnection], error: KafkaError | None = None) -> KafkaError:
    """A client's error, with what lies behind it."""
    error = KafkaTimeoutError("Unable to bootstrap") if error is None else error
    error.__cause__ = ConnectionsFailed(failures)
    return error


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL"])
def test_a_connection_that_ends_without_a_word_names_the_setting(protocol: str) -> None:
    for error in (KafkaConnectionError("socket disconnected"), KafkaConnectionError(ssl.SSLEOFError(8, "EOF"))):
        why = why_no_connection(error, protocol)
        assert why.answered
        assert "UIC_KAFKA__SECURITY_PROTOCOL" in why.fix


def test_brokers_that_fail_are_named_each_with_its_cause() -> None:
    told = unreachable(CLIENT, of({"a:1": LOGIN, "b:1": AWAY})).detail
    assert "a:1 (wrong password" in told
    assert "b:1 (Connection refused" in told


@pytest.mark.parametrize("error", [KafkaTimeoutError("Timed out after 3000 ms"), NodeNotReadyError(1)])
def test_a_broker_that_is_away_is_named_and_no_other(error: KafkaError) -> None:
    told = unreachable(CLIENT, of({"b:1": AWAY}, error)).detail
    assert "b:1 (Connection refused" in told
    assert "a:1" not in told


def test_no_broker_answers_is_said_only_where_all_are_silent() -> None:
    hangs = NoConnection("no answer for 3 s", "see whether it hangs", answered=False, telling=False)
    for silent, all_are in (({"a.internal:9"}, False), ({"a.internal:9", "b.internal:9"}, True)):
        error = KafkaTimeoutError("Timed out after 3000 ms")
        failures = dict.fromkeys(silent, hangs)
        error.__cause__ = ConnectionsFailed(failures, brokers={"a.internal:9", "b.internal:9"})
        told = unreachable(CLIENT, error).detail
        assert ("no broker answers" in told) is all_are


TLS_ALERT = bytes.fromhex("15030300020246")
REFUSED = {
    "the mechanism": (
        UnsupportedSaslMechanismError.errno,
        b"",
        "the broker does not know this SASL mechanism",
        "SASL_MECHANISM",
    ),
    "any login": (IllegalSaslStateError.errno, b"", "the broker asks for no login at this port", "SECURITY_PROTOCOL"),
    "plain text": (0, TLS_ALERT, "the broker answers with TLS", "SECURITY_PROTOCOL"),
}


@pytest.mark.parametrize(("login", "noise", "said", "setting"), REFUSED.values(), ids=REFUSED)
def test_what_one_of_several_brokers_refuses_names_the_setting(
    login: int, noise: bytes, said: str, setting: str
) -> None:
    with choosy_brokers(3) as brokers:
        client = {
            "bootstrap_servers": [brokers[0].address],
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": MECHANISM,
            "sasl_plain_username": "uic",
            "sasl_plain_password": "any",
        }
        consumer = open_kafka_client(KafkaConsumer, **client, bootstrap_timeout_ms=5000)
        try:
            consumer.end_offsets([TopicPartition(TOPIC, 0)], timeout_ms=5000)
            brokers[1].login, brokers[1].noise = login, noise
            with pytest.raises(KafkaError) as raised, explained(consumer):
                consumer.end_offsets([TopicPartition(TOPIC, 1)], timeout_ms=5000)
            assert consumer.end_offsets([TopicPartition(TOPIC, 2)], timeout_ms=5000), "the others answer"
        finally:
            consumer.close()
        where, fix = brokers[1].address, f"correct UIC_KAFKA__{setting}"
    error = raised.value
    assert seen_and_fix(error, client) == (f"{where} ({said})", fix)
    for told in (described(error, client), unreachable(client, error).detail, stopped(error).detail):
        assert where in told
        assert fix in told


def test_a_refusal_names_the_right_and_what_it_is_for() -> None:
    topic = described(TopicAuthorizationFailedError({"t"}), CLIENT, "t", TO_WRITE)
    assert "topic t" in topic
    assert "needs WRITE" in topic
    group = described(GroupAuthorizationFailedError("g"), CLIENT | {"sasl_plain_username": "uic"}, "t")
    assert "group g" in group
    assert "user uic needs READ" in group


def test_only_what_is_certain_is_called_something_to_correct() -> None:
    reset = why_no_connection(KafkaConnectionError("socket disconnected"), "SSL")
    assert to_correct(of({"a:1": AWAY, "b:1": reset})) == ""
    assert to_correct(of({"a:1": LOGIN, "b:1": AWAY})) == "a:1 (wrong password; correct the password)"


def test_a_refused_login_is_told_though_another_broker_is_silent() -> None:
    with choosy_brokers(1) as [broker], socket.create_server((LOOPBACK, 0)) as silent:
        broker.login = SaslAuthenticationFailedError.errno
        servers = [f"{LOOPBACK}:{silent.getsockname()[1]}", broker.address]
        login = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": MECHANISM}
        user = {"sasl_plain_username": "uic", "sasl_plain_password": "any"}
        with pytest.raises(KafkaError) as raised:
            open_kafka_client(KafkaConsumer, bootstrap_servers=servers, bootstrap_timeout_ms=2000, **login, **user)
    assert broker.address in str(raised.value.__cause__)


def test_the_cause_is_found_behind_a_real_clients_error(tmp_path: Path) -> None:
    ours, foreign = Certificates.issue(tmp_path / "ours"), Certificates.issue(tmp_path / "foreign")
    with TlsFront(ours, free_port()) as front:
        client = {
            "bootstrap_servers": [f"{LOOPBACK}:{front.port}"],
            "security_protocol": "SSL",
            "ssl_cafile": str(foreign.ca),
        }
        with pytest.raises(LogUnavailable, match=r"certificate verify failed: .*UIC_KAFKA__SSL_CAFILE"):
            list(read_to_end(client, "events", idle_s=0.5))


def test_files_that_cannot_be_used_are_named_with_their_settings(tmp_path: Path) -> None:
    ours, foreign = Certificates.issue(tmp_path / "ours"), Certificates.issue(tmp_path / "foreign")
    right = {"ssl_cafile": str(ours.ca), "ssl_certfile": str(ours.client), "ssl_keyfile": str(ours.client_key)}
    KafkaSettings(security_protocol="SSL", **right).check_files()  # type: ignore[arg-type]  # they are strings
    KafkaSettings().check_files()
    for changed, words in (
        ({"ssl_cafile": "/no/ca"}, "UIC_KAFKA__SSL_CAFILE=/no/ca: No such file"),
        ({"ssl_keyfile": "/no/key"}, "UIC_KAFKA__SSL_KEYFILE=/no/key: No such file"),
        ({"ssl_keyfile": str(foreign.client_key)}, "UIC_KAFKA__SSL_KEYFILE=.*KEY_VALUES_MISMATCH"),
    ):
        with pytest.raises(BadTlsFiles, match=words):
            KafkaSettings(security_protocol="SSL", **right | changed).check_files()  # type: ignore[arg-type]
