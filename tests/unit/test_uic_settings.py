"""Settings, the command line, log lines and fault points: what stands around the fold."""

from __future__ import annotations

import json
import logging
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError
from structlog.contextvars import bound_contextvars

from uic.__main__ import main
from uic.app import crash_after
from uic.core.topics import erased_topic
from uic.logs import ORDER, formatter, say
from uic.settings import (
    FaultSettings,
    KafkaSettings,
    RedisSettings,
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


def test_settings_are_read_in_either_case_and_by_whole_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("uic_kafka__topic", "a")
    monkeypatch.setenv("UIC_REDIS", '{"prefix": "b"}')
    settings = read_settings()
    assert (settings.kafka.topic, settings.redis.prefix) == ("a", "b")


def test_calls_have_time_to_end_after_the_announcement(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UIC_BUNDLE__PATH", str(BUNDLE))
    monkeypatch.setenv("UIC_GRPC__ANNOUNCE_S", "4.5")
    assert main([]) == 2
    assert "UIC_GRPC__ANNOUNCE_S is 4.5 s, more than half of UIC_FOLD__DRAIN_TIMEOUT_S (8 s)" in capsys.readouterr().err
    monkeypatch.setenv("UIC_FOLD__DRAIN_TIMEOUT_S", "9")
    assert read_settings().grpc.announce_s == 4.5


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


def test_tls_of_clients_is_whole_or_refused() -> None:
    with pytest.raises(ValidationError, match="SSL or SASL_SSL"):
        KafkaSettings(ssl_cafile="ca.pem")
    with pytest.raises(ValidationError, match="set both"):
        KafkaSettings(security_protocol="SSL", ssl_certfile="c.pem")
    options = KafkaSettings(security_protocol="SSL", ssl_cafile="a", ssl_certfile="b", ssl_keyfile="c").client_options()
    assert (options["ssl_cafile"], options["ssl_certfile"], options["ssl_keyfile"]) == ("a", "b", "c")
    assert "hush" not in repr(RedisSettings(url="rediss://:hush@h:1/0"))
