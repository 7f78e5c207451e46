"""What is found behind an error of the store's client, and which TLS files are refused."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from process.store_tls import cause_of, check_store_tls
from process.tls_causes import MOST, BadTlsFiles, Cause, KeyHasPassphrase, by_cause, no_passphrase
from rtp.settings import RedisSettings as RtpRedis
from rtp.store import _commands
from support.certificates import Certificates
from uic.redis_client import open_client
from uic.settings import RedisSettings as UicRedis
from uic.store_failures import MOST_OF_REPLY, describe


def wrapped(error: Exception, times: int) -> Exception:
    """As a client raises it that says it in its own words, `times` deep."""
    for i in range(times):
        outer = redis.ConnectionError(f"Error {i} connecting to h:1")
        outer.__context__ = error
        error = outer
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (OSError("Multiple exceptions: " + "x" * 999), ("Multiple exceptions: " + "x" * 999)[:MOST]),
        (OSError("\x1b[31mred"), "[31mred"),
        (TimeoutError(), "timed out"),
    ],
)
def test_the_systems_words_are_found_behind_the_clients_and_bounded(error: Exception, said: str) -> None:
    assert cause_of(wrapped(error, 3), "RTP_REDIS") == Cause(said, "")


def test_without_words_of_the_system_there_is_no_cause() -> None:
    assert cause_of(wrapped(ValueError("a user's key"), 2), "RTP_REDIS") is None
    endless = redis.ConnectionError("a")
    endless.__cause__ = endless
    assert cause_of(endless, "RTP_REDIS") is None


def test_a_server_that_ends_connections_without_a_word_is_told_with_what_may_be_wrong() -> None:
    for error in (
        ConnectionResetError("Connection lost"),
        BrokenPipeError(32, "Broken pipe"),
        ssl.SSLEOFError(8, "EOF"),
    ):
        cause = cause_of(wrapped(error, 1), "UIC_REDIS")
        assert cause is not None
        assert cause.said == "Connection reset by peer"
        assert cause.fix.startswith("if each try ends so, only one side speaks TLS, or, with rediss://, that server")
        assert "UIC_REDIS__TLS_CERT_FILE" in cause.fix


def test_servers_that_fail_alike_are_told_together() -> None:
    failed = [("a:1", "Connection refused"), ("b:1", "timed out"), ("c:1", "Connection refused")]
    assert by_cause(failed) == ["a:1, c:1 (Connection refused)", "b:1 (timed out)"]


def test_an_error_reply_is_cut_as_ever_though_a_failure_lies_behind_it() -> None:
    reply = redis.ResponseError("NOPERM " + "k" * 999)
    reply.__context__ = ConnectionRefusedError(111, "x")
    assert describe(reply) == f"ResponseError: {str(reply)[: MOST_OF_REPLY - 1]}…"


def test_a_key_with_a_passphrase_is_refused_and_asks_no_terminal_unless_the_url_has_it(tmp_path: Path) -> None:
    issued = Certificates.issue(tmp_path)
    key = load_pem_private_key(issued.client_key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open")))
    with pytest.raises(BadTlsFiles, match=r"RTP_REDIS__TLS_KEY_FILE=.*locked\.key: .*passphrase"):
        check_store_tls("RTP_REDIS", "rediss://h", issued.ca, issued.client, locked)
    check_store_tls("RTP_REDIS", "rediss://h?ssl_password=open", issued.ca, issued.client, locked)
    with pytest.raises(BadTlsFiles, match="is the passphrase right"):
        check_store_tls("RTP_REDIS", "rediss://h?ssl_password=wrong", issued.ca, issued.client, locked)


@pytest.mark.parametrize(("query", "password"), [("", None), ("?ssl_password=a%20b", "a b")])
def test_connections_to_the_store_have_a_passphrase_in_every_mode_or_ask_no_terminal(
    query: str, password: str | None, tmp_path: Path
) -> None:
    issued = Certificates.issue(tmp_path)
    files = {"tls_ca_file": issued.ca, "tls_cert_file": issued.client, "tls_key_file": issued.client_key}
    url = f"rediss://h:1{query}"
    sentinels = {"mode": "sentinel", "sentinels": "h:2"}
    of_uic = [open_client(UicRedis(url=url, **files, **mode)) for mode in ({}, sentinels)]  # type: ignore[arg-type]
    given = [client.connection_pool.connection_kwargs for client in of_uic]
    of_rtp: Any = [_commands(RtpRedis(url=url, **files, **mode)) for mode in ({}, sentinels)]  # type: ignore[arg-type]
    given += [commands._pool.connection_kwargs for commands in of_rtp]
    in_cluster: Any = _commands(RtpRedis(url=url, **files, mode="cluster", nodes="h:3"))  # type: ignore[arg-type]
    nodes = in_cluster._cluster.nodes_manager
    given += [nodes.connection_kwargs, *(node.connection_kwargs for node in nodes.startup_nodes.values())]
    assert [one["ssl_password"] for one in given] == [password or no_passphrase] * 7


def test_a_key_with_a_passphrase_is_told_with_the_settings_at_a_later_connection() -> None:
    with pytest.raises(KeyHasPassphrase) as raised:
        no_passphrase()
    cause = cause_of(wrapped(raised.value, 2), "UIC_REDIS")
    assert cause is not None
    assert cause.said == "the key has a passphrase"
    assert "UIC_REDIS__TLS_KEY_FILE" in cause.fix
    assert "ssl_password in the query of UIC_REDIS__URL" in cause.fix


def test_a_key_that_the_passphrase_does_not_open_is_told_with_the_settings_at_a_later_connection(
    tmp_path: Path,
) -> None:
    issued = Certificates.issue(tmp_path)
    key = load_pem_private_key(issued.client_key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open")))
    with pytest.raises(ssl.SSLError) as raised:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(issued.client, locked, password="wrong")
    cause = cause_of(wrapped(raised.value, 2), "UIC_REDIS")
    assert cause is not None
    assert cause.said == "a key or certificate cannot be read (PEM lib)"
    assert "UIC_REDIS__TLS_KEY_FILE" in cause.fix
    assert cause.fix.endswith("and whether ssl_password in the query of UIC_REDIS__URL opens the key")
