"""Settings: defaults that are safe, names that say their unit, and a typo that fails at start."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from redis.connection import URL_QUERY_ARGUMENT_PARSERS as PARSERS

from process.store_url import OTHERS, SECONDS, WHOLE
from rtp.__main__ import main
from rtp.settings import MAX_DRAIN_S, RtpSettings, read_settings

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


def test_groups_that_contradict_themselves_say_what_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="lower the one or raise the other"):
        settings(monkeypatch, RTP_DEADLINE__DEFAULT_MS="50", RTP_DEADLINE__MAX_MS="20")
    monkeypatch.delenv("RTP_DEADLINE__MAX_MS")
    with pytest.raises(ValueError, match="lower one"):
        settings(monkeypatch, RTP_DRAIN__FINISH_S="9", RTP_DRAIN__LINGER_S="1")
    monkeypatch.delenv("RTP_DRAIN__FINISH_S")
    with pytest.raises(ValueError, match="give each its own"):
        settings(monkeypatch, RTP_HTTP__PORT="8002")


def test_the_options_of_urls_are_those_of_the_client() -> None:
    readers: dict[str, Any] = dict(PARSERS)
    assert readers.keys() <= WHOLE | SECONDS | OTHERS
    assert {name: type(readers[name]("1")) for name in WHOLE | SECONDS} == dict.fromkeys(WHOLE, int) | dict.fromkeys(
        SECONDS, float
    )


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
