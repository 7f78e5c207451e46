"""Brokers that are new to a client are looked up, and why a connection fails is known."""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kafka.errors import (
    KafkaConnectionError,
    KafkaTimeoutError,
    NodeNotReadyError,
    RequestTimedOutError,
    SaslAuthenticationFailedError,
    UnknownBrokerIdError,
)
from kafka.future import Future
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from support.certificates import Certificates
from support.fake_metadata import Metadata
from uic.log.connection_causes import NoConnection, why_no_connection
from uic.log.kafka_repairs import connections, transports
from uic.log.kafka_repairs.connections import UNANSWERED_S
from uic.log.unreachable import described, stopped


class Manager(connections.Manager):
    """A repaired manager that needs no loop, and whose brokers answer with their own number."""

    def __init__(self, cluster: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = cluster
        self.config = {"request_timeout_ms": 1000, "security_protocol": "PLAINTEXT"}
        self._auth_failures: dict[int, Exception] = {}
        self._backoff: dict[int, Any] = {}
        brokers = {n: SimpleNamespace(send_request=lambda *_, n=n, **__: Future().success(n)) for n in (1, 3)}

        def get_connection(manager: Any, node_id: int) -> Any:
            if manager.cluster.broker_metadata(node_id) is None:
                raise UnknownBrokerIdError(node_id)
            return brokers[node_id]

        monkeypatch.setattr(KafkaConnectionManager, "get_connection", get_connection)

    def call_soon(self, coro: Any, *given: Any) -> Future:
        try:
            return Future().success(asyncio.run(coro(*given)))
        except Exception as error:
            return Future().failure(error)

    async def wait_for(self, future: Future, timeout_ms: float | None) -> Any:
        return future.value


def test_a_broker_that_the_client_has_not_heard_of_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Metadata({}, {}, {1}, {3})
    manager = Manager(cluster, monkeypatch)
    with pytest.raises(UnknownBrokerIdError):
        KafkaConnectionManager.send(manager, "request", 3)
    assert (manager.send("request", 1).value, cluster.asked) == (1, 0)
    assert (manager.send("request", 3).value, cluster.asked) == (3, 1)
    assert (manager.send("request", 3).value, cluster.asked) == (3, 1), "it is known now"


def test_a_broker_that_no_broker_knows_stays_an_error_that_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Metadata({}, {}, {1}, set())
    manager = Manager(cluster, monkeypatch)
    failed = manager.send("request", 3).exception
    assert isinstance(failed, UnknownBrokerIdError)
    assert "the brokers name broker 3 as a leader or coordinator, and do not say where it is" in described(failed, {})
    assert described(failed, {}) in stopped(failed).detail
    asked = cluster.asked
    with pytest.raises(UnknownBrokerIdError) as none:
        manager.send("request", -1)
    assert cluster.asked == asked, "there is none to be looked up"
    assert described(none.value, {}) == "a partition has no leader: bring its replicas back"


def test_a_login_that_was_refused_once_is_tried_again() -> None:
    net: Any = NetworkSelector()
    manager = connections.Manager(net, bootstrap_servers="h:1")
    node = SimpleNamespace(node_id=1, host="h", port=1, rack=None)
    manager.cluster = SimpleNamespace(broker_metadata=lambda node_id: node, close=lambda: None)
    manager._auth_failures[1] = SaslAuthenticationFailedError("the backend is away")
    manager.update_backoff(1)
    with pytest.raises(NodeNotReadyError):
        manager.get_connection(1)
    manager.reset_backoff(1)
    manager.get_connection(1)
    assert 1 in manager._conns
    net.close()


@pytest.mark.parametrize("spoil", ["another key", "no file"])
def test_a_file_of_tls_that_cannot_be_used_is_told_as_other_reasons_for_no_connection(
    tmp_path: Path, spoil: str
) -> None:
    issued = Certificates.issue(tmp_path)
    shutil.copy(issued.server_key, issued.client_key)
    if spoil == "no file":
        issued.client_key.unlink()
    net: Any = NetworkSelector()
    with socket.create_server(("127.0.0.1", 0)) as broker:
        address = f"127.0.0.1:{broker.getsockname()[1]}"
        manager = connections.Manager(
            net, bootstrap_servers=address, security_protocol="SSL",
            ssl_certfile=str(issued.client), ssl_keyfile=str(issued.client_key),
        )  # fmt: skip
        (node,) = manager.cluster.bootstrap_brokers()
        conn = manager.get_connection(node.node_id)
        with pytest.raises(KafkaConnectionError):
            net.run(conn.init_future)
    why = manager.failures()[address]
    assert why.said == ("KEY_VALUES_MISMATCH" if spoil == "another key" else "No such file or directory")
    assert "UIC_KAFKA__SSL_CERTFILE and UIC_KAFKA__SSL_KEYFILE" in why.fix
    manager.close()
    net.close()


class Ending:
    """A library's transport that gets bytes and the end of the connection at one look, and at the next the end."""

    def __init__(self) -> None:
        self._received = b"refused"

    def _sock_recv(self) -> tuple[bytes, object]:
        received, self._received = self._received, b""
        return received, "the end"


def test_what_a_broker_says_before_it_ends_a_connection_is_read() -> None:
    class Repaired(transports._ReadsAll, Ending):
        pass

    transport = Repaired()
    assert transport._sock_recv() == (b"refused", None)
    assert transport._sock_recv() == (b"", "the end")


@pytest.fixture
def have_answered(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """The servers that have answered this process: none yet."""
    servers: set[tuple[str, str]] = set()
    monkeypatch.setattr(connections.Manager, "_have_answered", servers)
    return servers


@pytest.mark.usefixtures("have_answered")
def test_a_time_that_is_over_hides_no_reason_and_an_open_connection_ends_it() -> None:
    manager: Any = object.__new__(connections.Manager)
    conns: dict[str, Any] = {}
    nodes = {"node": SimpleNamespace(host="h", port=1)}
    vars(manager).update(
        _failed={}, _connecting={}, config={"security_protocol": "SASL_SSL"}, _conns=conns,
        cluster=SimpleNamespace(broker_metadata=nodes.get),
    )  # fmt: skip
    manager._note("h:1", KafkaTimeoutError("SASL Authentication timed out"))
    assert not manager.failures()["h:1"].answered
    manager._note("h:1", SaslAuthenticationFailedError("SaslAuthenticationFailedError: wrong"))
    manager._note("h:1", RequestTimedOutError("Request timed out after 4 ms"))
    assert manager.failures()["h:1"].said == "wrong"
    conns["node"] = SimpleNamespace(node_id="coordinator-node", connected=True, in_flight_requests=deque())
    nodes["coordinator-node"] = nodes["node"]
    assert manager.failures()["h:1"].said == "wrong", "what a member asks others fails all the same"
    conns["node"].node_id = "node"
    assert manager.failures() == {}


@pytest.mark.usefixtures("have_answered")
def test_a_broker_that_does_not_answer_is_named_unless_it_may_wait_for_others() -> None:
    manager: Any = object.__new__(connections.Manager)
    asked = time.monotonic() - UNANSWERED_S
    open_one = SimpleNamespace(node_id=3, connected=True, in_flight_requests=deque([(1, None, asked, asked + 9, None)]))
    vars(manager).update(
        _failed={}, _connecting={}, _conns={3: open_one}, answers_at_once=True, config={"security_protocol": "SSL"},
        cluster=SimpleNamespace(broker_metadata=lambda node_id: SimpleNamespace(host="h", port=1)),
    )  # fmt: skip
    assert str(manager.failures()["h:1"]).startswith("no answer for 2 s; see whether Kafka hangs there")
    manager.answers_at_once = False
    assert "h:1" in manager.failures(), "a member asks leaders, too"
    open_one.node_id = "coordinator-3"  # a join is answered when all members have joined
    assert manager.failures() == {}


@pytest.mark.usefixtures("have_answered")
def test_a_broker_that_accepts_a_connection_and_says_nothing_is_named_before_its_time_is_over() -> None:
    manager: Any = object.__new__(connections.Manager)
    connecting = {1: ("h:1", time.monotonic() - UNANSWERED_S), 2: ("h:2", time.monotonic())}
    vars(manager).update(
        _failed={}, _connecting=connecting, _conns={}, answers_at_once=False, config={"security_protocol": "SSL"}
    )
    assert [(at, why.said) for at, why in manager.failures().items()] == [("h:1", "no answer for 2 s")]
    assert manager.failures()["h:1"].fix.startswith("start Kafka there")
    manager._failed["h:1"] = time.monotonic(), why_no_connection(KafkaConnectionError("111 ECONNREFUSED"), "SSL")
    assert manager.failures()["h:1"].said == "Connection refused"


def test_an_address_that_has_answered_before_is_not_said_to_be_wrong_however_its_silence_is_seen(
    have_answered: set[tuple[str, str]],
) -> None:
    manager: Any = object.__new__(connections.Manager)
    connecting = {1: ("h:1", time.monotonic() - 3)}
    vars(manager).update(_failed={}, _connecting={}, _conns={}, config={"security_protocol": "SSL"})

    def told() -> set[str]:
        seen = set()
        for error in (
            RequestTimedOutError("Request timed out after 2999 ms"),
            KafkaTimeoutError("no answer for 3 s"),
            None,
        ):
            manager._failed, manager._connecting = {}, {} if error else connecting
            if error:
                manager._note("h:1", error)
            seen.add(str(manager.failures()["h:1"]))
        return seen

    assert told() == {"no answer for 3 s; start Kafka there, or correct UIC_KAFKA__BOOTSTRAP_SERVERS"}
    have_answered.add(("h:1", "SSL"))
    hangs = "see whether Kafka hangs there or is overloaded, or the network loses what is sent"
    assert told() == {f"no answer for 3 s; {hangs}"}
    manager._note("h:1", KafkaConnectionError("111 ECONNREFUSED"))
    assert str(manager.failures()["h:1"]).startswith("Connection refused; start Kafka there"), "it does not run"


@pytest.mark.usefixtures("have_answered")
def test_a_broker_that_has_answered_and_is_killed_is_not_said_to_want_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KafkaConnectionManager, "send", lambda *_: Future().success("answer"))

    def resets(port: int, *, after_an_answer: bool) -> NoConnection:
        manager: Any = object.__new__(connections.Manager)
        vars(manager).update(
            _failed={}, _connecting={}, _conns={}, config={"security_protocol": "PLAINTEXT"},
            cluster=SimpleNamespace(broker_metadata=lambda node_id: SimpleNamespace(host="h", port=port)),
        )  # fmt: skip
        if after_an_answer:
            assert manager.send("request", 1).value == "answer"
        manager._note(f"h:{port}", KafkaConnectionError("socket disconnected"))
        found: NoConnection = manager.failures()[f"h:{port}"]
        return found

    assert "wants TLS or a login" in resets(1, after_an_answer=False).fix
    gone = resets(1, after_an_answer=True)
    assert (gone.said, gone.answered) == ("Connection reset by peer", False)
    assert "see whether Kafka runs there" in gone.fix
    assert resets(1, after_an_answer=False) == gone, "another client of this process knows it, too"
    assert "wants TLS or a login" in resets(2, after_an_answer=False).fix
