"""Settings: defaults that are safe, names that say their unit, and a typo that fails at start."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from redis.connection import URL_QUERY_ARGUMENT_PARSERS as PARSERS

from process.store_url import OTHERS, SECONDS, WHOLE
from rtp.__main__ import main
from rtp.settings import MAX_DRAIN_S, RedisSettings, RtpSettings, read_settings
from support.store_urls import QUERIES, UNREADABLE

TINY = Path(__file__).resolve().parent.parent / "fixtures/bundle_tiny/tiny/1"


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> RtpSettings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return read_settings()


def test_the_defaults_listen_on_loopback_and_read_what_uic_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    got = settings(monkeypatch)
    assert (got.http.host, got.http.port, got.admin.host, got.admin.port) == ("127.0.0.1", 8000, "127.0.0.1", 8002)
    assert (got.redis.prefix, got.bundle.generation, got.state.stale_after_s) == ("uic", 0, 60.0)
    assert got.drain.announce_s + got.drain.linger_s + got.drain.finish_s <= MAX_DRAIN_S


def test_variables_set_fields_of_groups_and_leave_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    got = settings(monkeypatch, RTP_REDIS__URL="redis://h:1/0", RTP_REDIS__POOL_SIZE="3", RTP_STATE__STALE_AFTER_S="5")
    assert (got.redis.url.get_secret_value(), got.redis.pool_size, got.state.stale_after_s) == ("redis://h:1/0", 3, 5.0)
    assert got.redis.prefix == "uic"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RTP_REDIS__POOLSIZE", "3"),
        ("RTP_REDIS__POOL_SIZE", "0"),
        ("RTP_REDIS__MODE", "replica"),
        ("RTP_HTTP__PORT", "70000"),
        ("RTP_STATE__STALE_AFTER_S", "-1"),
        ("RTP_CACHE__SIZE", "3"),
        ("RTP_REDIS_URL", "redis://h"),
    ],
)
def test_a_typo_or_a_bad_value_fails_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name):
        settings(monkeypatch, **{name: value})


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize(
    "name", ["RTP_STATE__REFRESH_EVERY_S", "RTP_HTTP__ARRIVAL_S", "RTP_BUNDLE__LOAD_TIMEOUT_S", "RTP_DRAIN__LINGER_S"]
)
def test_a_number_that_is_not_finite_stops_the_start_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert main([]) == 2
    assert capsys.readouterr().err == f"rtp: {name}: Input should be a finite number\n"


def test_groups_that_contradict_themselves_say_what_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="lower the one or raise the other"):
        settings(monkeypatch, RTP_DEADLINE__DEFAULT_MS="50", RTP_DEADLINE__MAX_MS="20")
    monkeypatch.delenv("RTP_DEADLINE__MAX_MS")
    with pytest.raises(ValueError, match="lower one"):
        settings(monkeypatch, RTP_DRAIN__FINISH_S="9", RTP_DRAIN__LINGER_S="1")
    monkeypatch.delenv("RTP_DRAIN__FINISH_S")
    with pytest.raises(ValueError, match="give each its own"):
        settings(monkeypatch, RTP_HTTP__PORT="8002")


def test_an_unknown_name_is_refused_with_the_nearest_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, nearest in [("RTP_REDIS__URLL", "RTP_REDIS__URL"), ("RTP_HTTP_PORT", "RTP_HTTP__PORT")]:
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            assert main([]) == 2
        assert capsys.readouterr().err == f"rtp: {name} is not a setting of RTP; did you mean {nearest}?\n"


def test_a_service_link_of_kubernetes_stops_the_start_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RTP_PORT", "tcp://10.96.0.7:8000")
    monkeypatch.setenv("RTP_SERVICE_HOST", "10.96.0.7")
    assert main([]) == 2
    said = capsys.readouterr().err
    assert "RTP_PORT is not a setting of RTP, but a service link of Kubernetes: set enableServiceLinks: false" in said
    assert "10.96" not in said


def test_groups_that_contradict_each_other_are_named_by_the_message_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RTP_HTTP__PORT", "8002")
    assert main([]) == 2
    assert capsys.readouterr().err == "rtp: RTP_HTTP__PORT and RTP_ADMIN__PORT are the same: give each its own\n"


@pytest.mark.parametrize("url", UNREADABLE)
def test_a_url_that_cannot_be_read_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    monkeypatch.setenv("RTP_REDIS__URL", url)
    assert main([]) == 2
    said = capsys.readouterr().err
    assert said.startswith("rtp: RTP_REDIS: RTP_REDIS__URL ")
    assert said.count("\n") == 1
    assert "hunter2" not in said


@pytest.mark.parametrize("query", QUERIES)
def test_a_url_may_have_the_options_of_the_client(monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    got = settings(monkeypatch, RTP_REDIS__URL=f"rediss://user:secret@host:1/2{query}")
    assert got.redis.url.get_secret_value().endswith(f"/2{query}")


def test_the_options_of_urls_are_those_of_the_client() -> None:
    readers: dict[str, Any] = dict(PARSERS)
    assert readers.keys() <= WHOLE | SECONDS | OTHERS
    assert {name: type(readers[name]("1")) for name in WHOLE | SECONDS} == dict.fromkeys(WHOLE, int) | dict.fromkeys(
        SECONDS, float
    )


def test_nodes_are_those_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTP_REDIS__NODES", "a:6379, b:6379")
    with pytest.raises(ValueError, match="set RTP_REDIS__MODE=cluster, or unset RTP_REDIS__NODES"):
        RtpSettings()
    monkeypatch.setenv("RTP_REDIS__MODE", "cluster")
    assert RtpSettings().redis.nodes == "a:6379, b:6379"


def test_an_address_that_is_none_stops_the_start_and_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RTP_REDIS__MODE", "sentinel")
    for address in ("127.0.0.1:99999", "a:\u0661"):
        monkeypatch.setenv("RTP_REDIS__SENTINELS", address)
        assert main([]) == 2
        assert capsys.readouterr().err.startswith(f"rtp: RTP_REDIS__SENTINELS: {address!r} is not host:port, ")


def test_a_user_of_the_sentinels_has_a_password_which_is_not_shown() -> None:
    told = {"mode": "sentinel", "sentinels": "a:26379", "sentinel_username": "u"}
    with pytest.raises(ValueError, match="sentinel_username has no sentinel_password"):
        RedisSettings.model_validate(told)
    assert "hush" not in repr(RedisSettings.model_validate(told | {"sentinel_password": "hush"}))


def test_settings_are_frozen_and_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    got = settings(monkeypatch, RTP_REDIS__URL="redis://:hunter2@h:1/0")
    assert "hunter2" not in repr(got)
    with pytest.raises(ValidationError):
        got.http.port = 1


def test_a_program_that_cannot_start_says_why_and_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RTP_BUNDLE__PATH", "/nowhere")
    monkeypatch.setenv("RTP_HTTP__PORT", "0")
    monkeypatch.setenv("RTP_ADMIN__PORT", "0")
    assert main([]) == 2
    assert "no bundle at /nowhere" in capsys.readouterr().err
    monkeypatch.setenv("RTP_REDIS__POOL_SIZE", "none")
    assert main([]) == 2
    assert "RTP_REDIS__POOL_SIZE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("taken", "free"), [("RTP_HTTP__PORT", "RTP_ADMIN__PORT"), ("RTP_ADMIN__PORT", "RTP_HTTP__PORT")]
)
def test_only_the_port_that_is_taken_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], closed_port: str, taken: str, free: str
) -> None:
    monkeypatch.setenv(taken, closed_port.rpartition(":")[2])
    monkeypatch.setenv(free, "0")
    assert main([]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"rtp: cannot listen on {closed_port}: ")
    assert said.endswith(f"Set {taken} to a free port\n")


@pytest.mark.parametrize("name", ["RTP_HTTP__HOST", "RTP_ADMIN__HOST"])
def test_a_door_beyond_loopback_needs_keys_and_the_refusal_says_which_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for variable in ("RTP_HTTP__PORT", "RTP_ADMIN__PORT"):
        monkeypatch.setenv(variable, "0")
    monkeypatch.setenv(name, "0.0.0.0")  # noqa: S104 (refused)
    assert main([]) == 2
    said = capsys.readouterr().err
    assert "RTP_ACCESS__KEYS_FILE" in said
    assert "ctr keys make" in said


@pytest.mark.parametrize("name", ["RTP_HTTP", "RTP_ADMIN"])
def test_a_port_that_is_taken_on_an_ipv6_address_is_named_with_brackets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for variable in ("RTP_HTTP__PORT", "RTP_ADMIN__PORT"):
        monkeypatch.setenv(variable, "0")
    monkeypatch.setenv(f"{name}__HOST", "[::1]")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv(f"{name}__PORT", str(port))
        assert main([]) == 2
    assert f"cannot listen on [::1]:{port}: Address already in use" in capsys.readouterr().err


def test_a_socket_that_was_handed_down_counts_by_where_it_is_bound(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RTP_ADMIN__PORT", "0")
    with socket.create_server(("0.0.0.0", 0)) as listener:  # noqa: S104 (refused)
        assert main(["--fd", str(os.dup(listener.fileno()))]) == 2
    assert "RTP_ACCESS__KEYS_FILE" in capsys.readouterr().err


def test_keys_or_certificates_that_cannot_be_used_stop_the_start_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for variable in ("RTP_HTTP__PORT", "RTP_ADMIN__PORT"):
        monkeypatch.setenv(variable, "0")
    monkeypatch.setenv("RTP_BUNDLE__PATH", str(TINY))
    monkeypatch.setenv("RTP_ACCESS__KEYS_FILE", str(tmp_path / "absent"))
    assert main([]) == 2
    said = capsys.readouterr().err
    assert "RTP_ACCESS__KEYS_FILE" in said
    assert "absent" in said
    monkeypatch.delenv("RTP_ACCESS__KEYS_FILE")
    monkeypatch.setenv("RTP_HTTP__TLS_CERT_FILE", str(tmp_path / "absent"))
    assert main([]) == 2
    assert "RTP_HTTP__TLS_" in capsys.readouterr().err


def test_tls_files_for_a_store_without_tls_are_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="rediss://"):
        settings(monkeypatch, RTP_REDIS__TLS_CA_FILE="ca.pem")
