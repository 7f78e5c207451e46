"""Settings, the command line, log lines and fault points: what stands around the fold."""

from __future__ import annotations

import json
import logging
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest
from kafka.cluster import collect_hosts
from pydantic import ValidationError
from structlog.contextvars import bound_contextvars

from process.setting_names import UnknownSetting
from support.store_urls import QUERIES, UNREADABLE
from uic.__main__ import COMMANDS, main
from uic.app import crash_after
from uic.core.topics import erased_topic
from uic.logs import ORDER, formatter, say
from uic.settings import (
    FaultSettings,
    KafkaSettings,
    RedisSettings,
    UicSettings,
    read_client_settings,
    read_settings,
)

BUNDLE = Path(__file__).parents[1] / "fixtures" / "bundle_tiny" / "tiny" / "1"


@pytest.fixture(autouse=True)
def only_a_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UIC_BUNDLE__PATH", str(BUNDLE))


def test_the_defaults_listen_on_loopback_and_read_the_designed_topics() -> None:
    settings = read_settings()
    assert (settings.grpc.host, settings.grpc.port) == ("127.0.0.1", 8001)
    assert (settings.admin.host, settings.admin.port) == ("127.0.0.1", 8003)
    kafka = settings.kafka
    assert (kafka.topic, kafka.partitions, kafka.start) == ("behavior-events", 64, "earliest")
    assert (kafka.dead_letter_topic, erased_topic(kafka.topic)) == ("behavior-events.dlq", "behavior-events.erased")
    assert not settings.fault.crash_after


def test_every_setting_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UIC_KAFKA__PARTITIONS", "8")
    monkeypatch.setenv("UIC_REDIS__URL", "rediss://:secret@host:1/2")
    monkeypatch.setenv("UIC_FOLD__MISROUTED_SHARE", "1")
    settings = read_settings()
    assert (settings.kafka.partitions, settings.redis.url) == (8, "rediss://:secret@host:1/2")
    assert settings.fold.misrouted_share == 1


@pytest.mark.parametrize("url", UNREADABLE)
@pytest.mark.parametrize("command", ["serve", "doctor"])
def test_a_url_that_cannot_be_read_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, url: str
) -> None:
    monkeypatch.setenv("UIC_REDIS__URL", url)
    assert main([command]) == 2
    said = capsys.readouterr().err
    assert "UIC_REDIS__URL " in said
    assert said.count("\n") == 1
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("UIC_KAFKA__PARTITIONS", "0"),
        ("UIC_KAFKA__TOPIC", "no spaces"),
        ("UIC_REDIS__URL", "host:6379"),
        ("UIC_REDIS__MODE", "sentinel"),
        ("UIC_REDIS__TIMEOUT_S", "0"),
        ("UIC_FOLD__MISROUTED_SHARE", "1.1"),
        ("UIC_FAULT__CRASH_AFTER", "lunch"),
        ("UIC_KAFKA__HEARTBEAT_INTERVAL_MS", "9000"),
        ("UIC_KAFKA__SECURITY_PROTOCOL", "SASL_SSL"),
        ("UIC_GRPC__PORT", "70000"),
    ],
)
def test_a_value_out_of_bounds_ends_the_start_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        read_settings()
    assert main(["serve"]) == 2
    group = name.split("__", maxsplit=1)[0]
    assert group in capsys.readouterr().err


@pytest.mark.parametrize("value", ["nan", "inf", "1e999"])
@pytest.mark.parametrize("name", ["UIC_FOLD__DRAIN_TIMEOUT_S", "UIC_FOLD__MISROUTED_SHARE", "UIC_GRPC__ANNOUNCE_S"])
def test_a_number_that_is_not_finite_stops_the_start_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["serve"]) == 2
    assert capsys.readouterr().err == f"uic: {name}: Input should be a finite number\n"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("UIC_KAFKA__PARTITONS", "UIC_KAFKA__PARTITIONS"),
        ("UIC_KAFAK__TOPIC", "UIC_KAFKA__TOPIC"),
        ("UIC_KAFKA_TOPIC", "UIC_KAFKA__TOPIC"),
        ("uic_redis__ulr", "UIC_REDIS__URL"),
        ("UIC_BUNDLE_PATH", "UIC_BUNDLE__PATH"),
        ("UIC_", "UIC_LOG"),
    ],
)
def test_a_variable_that_is_not_a_setting_stops_every_command_and_the_nearest_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, nearest: str
) -> None:
    monkeypatch.setenv(name, "hush")
    with pytest.raises(UnknownSetting):
        read_client_settings()
    for command in (["serve"], ["doctor"], ["partitions"], ["dead-letters", "list"], ["rebuild", "--partition", "1"]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert f"{name} is not a setting of UIC; did you mean {nearest}?" in said
        assert "hush" not in said


@pytest.mark.parametrize("name", ["UIC_PORT", "UIC_GRPC_PORT_8001_TCP"])
def test_a_service_link_of_kubernetes_stops_the_start_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv(name, "tcp://10.96.0.7:8001")
    monkeypatch.setenv("UIC_SERVICE_HOST", "10.96.0.7")
    assert main(["serve"]) == 2
    said = capsys.readouterr().err
    assert f"{name} is not a setting of UIC, but a service link of Kubernetes: set enableServiceLinks: false" in said
    assert "10.96" not in said


def test_settings_are_read_in_either_case_and_by_whole_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("uic_kafka__topic", "a")
    monkeypatch.setenv("UIC_REDIS", '{"prefix": "b"}')
    settings = read_settings()
    assert (settings.kafka.topic, settings.redis.prefix) == ("a", "b")


def test_a_missing_bundle_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("UIC_BUNDLE__PATH")
    assert main([]) == 2
    assert "UIC_BUNDLE__PATH" in capsys.readouterr().err


def test_calls_have_time_to_end_after_the_announcement(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UIC_BUNDLE__PATH", str(BUNDLE))
    monkeypatch.setenv("UIC_GRPC__ANNOUNCE_S", "4.5")
    assert main([]) == 2
    assert "UIC_GRPC__ANNOUNCE_S is 4.5 s, more than half of UIC_FOLD__DRAIN_TIMEOUT_S (8 s)" in capsys.readouterr().err
    monkeypatch.setenv("UIC_FOLD__DRAIN_TIMEOUT_S", "9")
    assert read_settings().grpc.announce_s == 4.5


def test_settings_cannot_be_changed() -> None:
    settings = UicSettings(bundle={"path": BUNDLE})  # type: ignore[arg-type]  # as pydantic takes it
    with pytest.raises(ValidationError):
        settings.fold.max_states = 3


def test_client_options_carry_security_and_no_secret_is_printed() -> None:
    kafka = KafkaSettings(
        bootstrap_servers="a:1,b:2",
        security_protocol="SASL_SSL",
        sasl_mechanism="PLAIN",
        sasl_username="u",
        sasl_password="hush",  # type: ignore[arg-type]  # as pydantic takes it
    )
    options = kafka.client_options()
    assert options["bootstrap_servers"] == ["a:1", "b:2"]
    assert options["sasl_plain_password"] == "hush"
    assert "hush" not in repr(kafka)


def test_sentinels_and_their_service() -> None:
    settings = RedisSettings(mode="sentinel", sentinels="a:26379, b:26379")
    assert settings.sentinel_service == "mymaster"
    with pytest.raises(ValueError, match="sentinel_username has no sentinel_password"):
        RedisSettings(mode="sentinel", sentinels="a:26379", sentinel_username="u")
    login = {"sentinel_username": "u", "sentinel_password": "hush"}
    settings = RedisSettings.model_validate({"mode": "sentinel", "sentinels": "a:26379"} | login)
    assert "hush" not in repr(settings)


@pytest.mark.parametrize("query", QUERIES)
def test_a_url_may_have_the_options_of_the_client(monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    monkeypatch.setenv("UIC_REDIS__URL", f"rediss://user:secret@host:1/2{query}")
    assert read_settings().redis.url.endswith(f"/2{query}")


def test_nodes_are_those_of_a_cluster() -> None:
    assert RedisSettings(mode="cluster", nodes="a:6379, b:6379").nodes == "a:6379, b:6379"
    with pytest.raises(ValueError, match="set UIC_REDIS__MODE=cluster, or unset UIC_REDIS__NODES"):
        RedisSettings(nodes="a:6379")


@pytest.mark.parametrize("addresses", ["a", "a:6379,,b:6379", "a:6379 b:6379", "a:port", "a:6379,b:65536"])
def test_addresses_that_are_not_host_and_port_are_refused(addresses: str) -> None:
    with pytest.raises(ValueError, match="nodes"):
        RedisSettings(mode="cluster", nodes=addresses)
    with pytest.raises(ValueError, match="sentinels"):
        RedisSettings(mode="sentinel", sentinels=addresses)


@pytest.mark.parametrize("addresses", ["", "a", "a:1;b:2", "a:1 b:2", "a:1,,b:2", "a:1,", "a:port", "a:65536"])
def test_brokers_that_are_not_host_and_port_stop_the_start_and_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], addresses: str
) -> None:
    monkeypatch.setenv("UIC_KAFKA__BOOTSTRAP_SERVERS", addresses)
    assert main(["serve"]) == 2
    said = capsys.readouterr().err
    assert "UIC_KAFKA__BOOTSTRAP_SERVERS: " in said
    assert f"{addresses!r} is not host:port, or several of them separated by commas" in said


@pytest.mark.parametrize("addresses", ["a:1", "a:1,b:2", "a:1, b:2", "[::1]:9092", "SSL://broker-1.example:9093"])
def test_brokers_are_named_as_kafka_clients_take_them(addresses: str) -> None:
    servers = KafkaSettings(bootstrap_servers=addresses).client_options()["bootstrap_servers"]
    assert len(collect_hosts(servers)) == len(addresses.split(","))


@pytest.mark.parametrize("arguments", [["lunch"], ["serve", "now"], ["--fast"]])
def test_an_unknown_command_shows_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "usage: uic" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(command in said for command in COMMANDS)


def test_a_fault_point_kills_at_its_step_after_the_batches_that_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, sig: killed.append(sig))
    after = crash_after(FaultSettings(crash_after="fold", batches=2))
    for step in ("fold", "commit", "fold"):
        after(step)
    assert killed == []
    after("fold")
    assert killed == [signal.SIGKILL]
    off = crash_after(FaultSettings())
    off("fold")
    assert killed == [signal.SIGKILL]


def test_a_log_line_is_one_line_of_fields(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("uic.test")
    with caplog.at_level("INFO", "uic.test"):
        say(logger, logging.INFO, "taken up", partition=3, detail='a "b"\nc')
        say(logger, logging.DEBUG, "not this")
    [record] = caplog.records
    line = json.loads(formatter("json").format(record))
    assert list(line)[:4] == list(ORDER[:4])
    assert datetime.fromisoformat(line["timestamp"]).tzinfo is UTC
    assert (line["event"], line["partition"], line["detail"], line["level"]) == ("taken up", 3, 'a "b"\nc', "info")
    text = formatter("logfmt").format(record)
    assert "\n" not in text
    assert text.startswith("timestamp=")
    assert 'event="taken up" partition=3 detail="a \\"b\\"\\nc"' in text


@pytest.mark.parametrize("form", ["json", "logfmt"])
def test_a_line_within_a_call_has_its_request_id_and_an_exception_stays_on_the_line(
    caplog: pytest.LogCaptureFixture, form: Literal["json", "logfmt"]
) -> None:
    with bound_contextvars(request_id="abc"):
        try:
            raise ValueError("why")
        except ValueError:
            logging.getLogger("uic.test").exception("%s failed", "it")
        text = formatter(form).format(caplog.records[-1])
    assert "\n" not in text
    assert "abc" in text
    assert "ValueError: why" in text
    assert "abc" not in formatter(form).format(caplog.records[-1])


def test_a_librarys_log_line_has_its_text_as_event() -> None:
    record = logging.LogRecord("kafka.x", logging.WARNING, "f", 1, "lost %s", ("it",), None)
    assert json.loads(formatter("json").format(record))["event"] == "lost it"


@pytest.mark.parametrize("name", ["UIC_GRPC__HOST", "UIC_ADMIN__HOST"])
def test_a_door_beyond_loopback_needs_keys_and_the_refusal_says_which_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv(name, "0.0.0.0")  # noqa: S104 (refused)
    assert main(["serve"]) == 2
    said = capsys.readouterr().err
    assert f"{name}=0.0.0.0" in said
    assert "UIC_ACCESS__KEYS_FILE" in said
    monkeypatch.setenv("UIC_ACCESS__KEYS_FILE", "/nowhere/keys")
    assert main(["serve"]) == 2
    assert "/nowhere/keys" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["UIC_GRPC__HOST", "UIC_ADMIN__HOST"])
@pytest.mark.parametrize("host", ["::", "[::]"])
def test_ipv6_beyond_loopback_needs_keys_in_both_forms(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, host: str
) -> None:
    monkeypatch.setenv(name, host)
    assert main(["serve"]) == 2
    assert f"{name}=:: would listen without authentication" in capsys.readouterr().err


def test_brackets_around_what_is_no_ipv6_address_stop_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UIC_GRPC__HOST", "[127.0.0.1]")
    assert main(["serve"]) == 2
    said = capsys.readouterr().err
    assert "UIC_GRPC__HOST" in said
    assert "'[127.0.0.1]' is no IPv6 address in brackets" in said


def test_tls_of_clients_is_whole_or_refused() -> None:
    with pytest.raises(ValidationError, match="rediss://"):
        RedisSettings(tls_ca_file=Path("ca.pem"))
    with pytest.raises(ValidationError, match="set both"):
        RedisSettings(url="rediss://h:1/0", tls_cert_file=Path("c.pem"))
    with pytest.raises(ValidationError, match="SSL or SASL_SSL"):
        KafkaSettings(ssl_cafile="ca.pem")
    with pytest.raises(ValidationError, match="set both"):
        KafkaSettings(security_protocol="SSL", ssl_certfile="c.pem")
    options = KafkaSettings(security_protocol="SSL", ssl_cafile="a", ssl_certfile="b", ssl_keyfile="c").client_options()
    assert (options["ssl_cafile"], options["ssl_certfile"], options["ssl_keyfile"]) == ("a", "b", "c")
    assert "hush" not in repr(RedisSettings(url="rediss://:hush@h:1/0"))
