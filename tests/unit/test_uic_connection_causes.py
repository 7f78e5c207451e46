"""Why a connection to a broker fails is found behind the client's errors, and said with the setting to correct."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import (
    CoordinatorNotAvailableError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    KafkaProtocolError,
    KafkaTimeoutError,
    NodeNotReadyError,
    NotLeaderForPartitionError,
    OffsetNotAvailableError,
    SaslAuthenticationFailedError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
)

from localstack.ports import LOOPBACK, free_port
from process.tls_causes import BadTlsFiles
from support.certificates import Certificates, TlsFront
from support.choosy_brokers import MECHANISM, TOPIC, choosy_brokers
from uic.errors import LogUnavailable
from uic.log.connection_causes import ConnectionsFailed, NoConnection, does_not_answer, why_no_connection
from uic.log.kafka_repairs.clients import explained, open_kafka_client
from uic.log.topic_answers import TO_WRITE
from uic.log.topic_reader import read_to_end
from uic.log.unreachable import described, seen_and_fix, stopped, to_correct, unreachable, was_answered
from uic.settings import KafkaSettings

CLIENT = {"bootstrap_servers": ["a:1", "b:1"], "security_protocol": "SASL_SSL"}
LOGIN = NoConnection("wrong password", "correct the password", answered=True)
AWAY = NoConnection("Connection refused", "start Kafka there", answered=False)


def of(failures: dict[str, NoConnection], error: KafkaError | None = None) -> KafkaError:
    """A client's error, with what lies behind it."""
    error = KafkaTimeoutError("Unable to bootstrap") if error is None else error
    error.__cause__ = ConnectionsFailed(failures)
    return error


def looking(failures: dict[str, NoConnection]) -> KafkaError:
    """The error of a client that found no broker."""
    error = of(failures)
    error.__cause__ = ConnectionsFailed(failures, found_none=True)
    return error


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("PLAINTEXT", "wants TLS or a login: correct UIC_KAFKA__SECURITY_PROTOCOL"),
        ("SASL_PLAINTEXT", "wants TLS: correct UIC_KAFKA__SECURITY_PROTOCOL"),
        ("SSL", "wants a login: correct UIC_KAFKA__SECURITY_PROTOCOL; or it refuses the certificate of"),
        ("SASL_SSL", "speaks no TLS: correct UIC_KAFKA__SECURITY_PROTOCOL; or it refuses the certificate of"),
    ],
)
def test_a_broker_that_ends_connections_without_a_word_is_told_with_what_may_be_wrong(
    protocol: str, words: str
) -> None:
    for error in (
        KafkaConnectionError("socket disconnected"),
        KafkaConnectionError(ConnectionResetError(104, "Connection reset by peer")),
        KafkaConnectionError(ssl.SSLEOFError(8, "EOF")),
    ):
        why = why_no_connection(error, protocol)
        assert (why.said, why.answered) == ("Connection reset by peer", True)
        assert words in why.fix


def test_what_a_client_says_of_the_system_is_told_in_the_systems_words() -> None:
    assert why_no_connection(KafkaConnectionError("111 ECONNREFUSED"), "SSL").said == "Connection refused"
    for untelling in (KafkaConnectionError(), KafkaConnectionError("Connection timed out"), KafkaTimeoutError("a")):
        assert not why_no_connection(untelling, "SSL").telling
    assert why_no_connection(KafkaProtocolError("odd"), "SSL") == NoConnection("odd", "", answered=True)


def test_brokers_that_fail_alike_are_told_together_and_others_each_by_address() -> None:
    alike = unreachable(CLIENT, of({"a:1": LOGIN, "b:1": LOGIN}))
    assert alike.detail == "no connection to the brokers at a:1, b:1: wrong password; correct the password"
    away = unreachable(CLIENT, of({"a:1": AWAY, "b:1": AWAY}))
    assert away.detail == "no broker answers at a:1, b:1: Connection refused; start Kafka there"
    each = unreachable(CLIENT, of({"a:1": LOGIN, "b:1": AWAY}))
    assert each.detail.endswith(
        ": a:1 (wrong password; correct the password); b:1 (Connection refused; start Kafka there)"
    )
    assert unreachable(CLIENT, looking({})).detail == "no broker answers at a:1, b:1: KafkaTimeoutError"
    known = looking({"a:1": AWAY})
    assert unreachable(CLIENT, known).detail == "no broker answers at a:1, b:1: Connection refused; start Kafka there"


@pytest.mark.parametrize("error", [KafkaTimeoutError("Timed out after 3000 ms"), NodeNotReadyError(1)])
def test_a_broker_that_is_needed_and_away_is_named_and_nothing_is_said_of_those_that_answer(error: KafkaError) -> None:
    for failures in ({"b:1": AWAY}, {"elsewhere:1": AWAY}):
        [address] = failures
        said = f"a broker that is needed does not answer: {address} (Connection refused; start Kafka there)"
        failed = of(failures, error)
        assert said == unreachable(CLIENT, failed).detail == described(failed, CLIENT) == stopped(failed).detail
    unnamed = "a broker that is needed does not answer in time"
    assert described(type(error)("x"), CLIENT).startswith(f"{unnamed} ({type(error).__name__}): `ctr doctor` says")
    hangs = does_not_answer(3, connected=True)
    told = unreachable(CLIENT, of({"a:1": hangs, "b:1": AWAY}, error)).detail
    assert told.startswith("a broker that is needed does not answer: a:1 (no answer for 3 s; "), "another one may be"
    told = unreachable(CLIENT, of({"a:1": hangs}, error), all_silent=True).detail
    assert told.startswith("a broker that is needed does not answer: a:1 (no answer for 3 s; "), "b:1 may not be asked"
    login = unreachable(CLIENT, of({"b:1": LOGIN}, error)).detail
    assert login == "no connection to the brokers: b:1 (wrong password; correct the password)"


def test_no_broker_is_said_to_answer_only_where_all_that_the_client_knows_are_silent() -> None:
    hangs = does_not_answer(3, connected=True)
    for known, silent in (({"a.internal:9", "b.internal:9"}, {"a.internal:9"}), (set(), {"a:1"})):
        error = KafkaTimeoutError("Timed out after 3000 ms")
        error.__cause__ = ConnectionsFailed(dict.fromkeys(silent, hangs), brokers=known)
        told = unreachable(CLIENT, error, all_silent=True).detail
        assert told.startswith(f"a broker that is needed does not answer: {min(silent)} (no answer for 3 s; see ")
        error.__cause__ = ConnectionsFailed(dict.fromkeys(known or {"a:1", "b:1"}, hangs), brokers=known)
        told = unreachable(CLIENT, error, all_silent=True).detail
        assert told.startswith("no broker answers at a:1, b:1: ")
        told = unreachable(CLIENT, error).detail
        assert told.startswith("a broker that is needed does not answer: "), "it may be only this question"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OffsetNotAvailableError(f"failed for {TopicPartition('t', 7)}"), "partition 7 has a new leader"),
        (OffsetNotAvailableError(), "a partition has a new leader"),
        (NotLeaderForPartitionError(), "a partition is changing its leader"),
        (CoordinatorNotAvailableError("group"), "the group is changing its coordinator"),
    ],
)
def test_what_brokers_say_of_a_change_among_them_is_told_in_words_and_with_what_to_do(
    error: KafkaError, words: str
) -> None:
    for told in (described(error, CLIENT, "t"), unreachable(CLIENT, error).detail, stopped(error).detail):
        assert words in told
        assert "if this stays, bring " in told
        assert "`ctr doctor` says which are away" in told
        assert type(error).__name__ not in told


def test_only_an_error_that_says_no_more_than_that_there_is_no_answer_is_explained() -> None:
    assert "wrong password" in described(of({"a:1": LOGIN}, NodeNotReadyError("1")), CLIENT)
    assert described(of({"a:1": LOGIN}, UnknownTopicOrPartitionError("t")), CLIENT) == "UnknownTopicOrPartitionError: t"
    assert described(ValueError("odd"), CLIENT) == "ValueError: odd"
    assert described(ValueError(), CLIENT) == "ValueError"
    refused = SaslAuthenticationFailedError("SaslAuthenticationFailedError: Authentication failed: no")
    assert described(refused, CLIENT) == (
        "no connection to the brokers: Authentication failed: no; correct UIC_KAFKA__SASL_USERNAME or "
        "UIC_KAFKA__SASL_PASSWORD"
    )


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
def test_what_one_broker_of_several_refuses_while_a_client_runs_is_told_with_its_address_and_the_setting(
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
    why = f"{where} ({said}; {fix})"
    assert described(error, client) == unreachable(client, error).detail == f"no connection to the brokers: {why}"
    assert stopped(error).detail.endswith(f": {why}")
    assert to_correct(error) == why
    assert seen_and_fix(error, client) == (f"{where} ({said})", fix)
    assert was_answered(error) is False, "no question of it was"
    error.__cause__ = None
    assert f"{said}; {fix}" in described(error, client), "also if it is not known where"


def test_a_refusal_names_the_right_and_what_it_is_for() -> None:
    page = "docs/runbooks/kafka-users.md"
    topic = described(TopicAuthorizationFailedError({"t"}), CLIENT, "t", TO_WRITE)
    assert topic == f"topic t is refused: this user needs WRITE on it (TopicAuthorizationFailedError; see {page})"
    group = described(GroupAuthorizationFailedError("g"), CLIENT | {"sasl_plain_username": "uic"}, "t")
    assert group == f"group g is refused: user uic needs READ on it (GroupAuthorizationFailedError; see {page})"


def test_a_broker_that_stops_answering_is_told_with_the_cause() -> None:
    said = stopped(of({"a:1": LOGIN}), "it ended").detail
    assert said == "it ended: a:1 (wrong password; correct the password)"
    assert stopped(KafkaTimeoutError("x")).detail == "a broker that is needed does not answer: KafkaTimeoutError"


def test_only_what_is_certain_is_called_something_to_correct() -> None:
    reset = why_no_connection(KafkaConnectionError("socket disconnected"), "SSL")
    assert to_correct(of({"a:1": AWAY, "b:1": reset})) == ""
    assert to_correct(of({"a:1": LOGIN, "b:1": AWAY})) == "a:1 (wrong password; correct the password)"
    assert seen_and_fix(of({"a:1": LOGIN, "b:1": AWAY}), CLIENT) == (
        "a:1 (wrong password); b:1 (Connection refused)",
        "correct the password; start Kafka there",
    )


def test_the_cause_is_found_behind_a_real_clients_error(tmp_path: Path) -> None:
    ours, foreign = Certificates.issue(tmp_path / "ours"), Certificates.issue(tmp_path / "foreign")
    with TlsFront(ours, free_port()) as front:
        client = {
            "bootstrap_servers": [f"{LOOPBACK}:{front.port}"],
            "security_protocol": "SSL",
            "ssl_cafile": str(foreign.ca),
        }
        with pytest.raises(
            LogUnavailable, match=r"certificate verify failed: .*; UIC_KAFKA__SSL_CAFILE must name the CA"
        ):
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
