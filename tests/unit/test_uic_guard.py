"""Every method of UIC's gRPC port and every path of its admin port × every kind of credential, over real sockets."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from access import Door, KeyRing, Rule, Scope, check_rules, make_key
from mimn.state import Progress
from support.uic_doors import open_loop, uic_service
from uic.core.status import Status
from uic.doors.admin import admin_app
from uic.doors.admin_server import AdminServer
from uic.doors.grpc import MAX_METADATA_BYTES, GrpcServer, methods
from uic.doors.guard import ADMIN_RULES, GRPC_RULES, Guard
from uic.metrics import Metrics
from uic.settings import AdminSettings, GrpcSettings

DENIED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


class Empty:
    """A store without states, and a worker without partitions."""

    status = Status(True, (), ())

    def stored_values(self, partition: int, users: Sequence[str]) -> list[bytes | None]:
        return [None for _ in users]

    def resolve(self, partition: int, action: str, from_offset: int | None = None) -> Progress:
        return Progress(partitions=64, next_offset=7, lineage=1, writer=1, base=2, era=4, as_of_ms=0)


class Rig:
    """Both ports behind one ring of keys."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keys"
        self._lines: dict[str, str] = {}
        self.good_for = {scope: self.make({scope}) for scope in Scope}
        self.all_but = {scope: self.make(set(Scope) - {scope}) for scope in Scope}
        self.revoked = self.make(set(Scope))
        self.bad = f"Bearer {make_key(set(Scope), 'elsewhere')[0]}"
        self.ring = KeyRing(self.file)
        self.metrics = Metrics()
        guard = Guard(self.ring, self.metrics)
        settings = GrpcSettings(port=0)
        service = uic_service(settings, Empty(), metrics=self.metrics)
        self.loop = open_loop()
        self.grpc = GrpcServer(service, settings, lambda: True, guard)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.loop.run(self.grpc.start())}")
        self.admin = AdminServer(admin_app(Empty(), self.metrics, lambda: True, guard=guard), AdminSettings(port=0))
        self.loop.run(self.admin.start())

    def make(self, scopes: set[Scope]) -> str:
        secret, key = make_key(scopes, "k")
        self._lines[f"Bearer {secret}"] = key.line()
        self.file.write_text("\n".join(self._lines.values()))
        return f"Bearer {secret}"

    def revoke(self, authorization: str) -> None:
        del self._lines[authorization]
        self.file.write_text("\n".join(self._lines.values()))
        assert self.ring.look()

    def call(self, method: str, authorization: str | None) -> grpc.StatusCode:
        """How a call of `method` with an empty message ends; OK as soon as it is answered."""
        told = () if authorization is None else (("authorization", authorization),)
        call: Any = self.channel.stream_stream(method, None, None)(iter([b""]), metadata=told, timeout=10)
        try:
            next(iter(call), None)
            call.cancel()
            return grpc.StatusCode.OK
        except grpc.RpcError as error:
            failed: Any = error
            code: grpc.StatusCode = failed.code()
            return code

    def ask(self, method: str, path: str, authorization: str | None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin.port, timeout=10)
        connection.request(method, path, headers={} if authorization is None else {"authorization": authorization})
        response = connection.getresponse()
        response.read()
        connection.close()
        return response

    def close(self) -> None:
        self.channel.close()
        self.loop.run(self.grpc.drain(0))
        self.loop.run(self.admin.stop())
        self.loop.close()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("guard"))
    assert rig.call(f"{UIC}GetUserState", rig.revoked) not in DENIED
    rig.revoke(rig.revoked)
    yield rig
    rig.close()


UIC = "/ctr.uic.v1.UserInterestCenter/"


def good(rig: Rig, rule: Rule) -> str:
    return rig.good_for[rule if isinstance(rule, Scope) else Scope.METRICS]


@pytest.mark.parametrize("method", methods())
def test_a_method_admits_only_the_callers_its_rule_names(rig: Rig, method: str) -> None:
    rule = GRPC_RULES[method]
    assert rig.call(method, good(rig, rule)) not in DENIED
    opened = rule is Door.OPEN
    for rejected in (None, rig.bad, rig.revoked, good(rig, rule)[:-1], good(rig, rule).replace("Bearer", "Basic")):
        assert (rig.call(method, rejected) is not grpc.StatusCode.UNAUTHENTICATED) is opened
    if isinstance(rule, Scope):
        assert rig.call(method, rig.all_but[rule]) is grpc.StatusCode.PERMISSION_DENIED


def test_a_method_that_does_not_exist_says_so_only_to_who_has_a_key(rig: Rig) -> None:
    assert rig.call(f"{UIC}Forget", None) is grpc.StatusCode.UNAUTHENTICATED
    assert rig.call(f"{UIC}Forget", rig.good_for[Scope.READ]) is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("route", ADMIN_RULES)
def test_an_admin_path_admits_only_the_callers_its_rule_names(rig: Rig, route: str) -> None:
    rule = ADMIN_RULES[route]
    path = route.replace("<p>", "5")
    for method in ("GET", "POST", "HEAD", "PUT", "DELETE"):

        def status(
            authorization: str | None, ask: Callable[..., http.client.HTTPResponse] = rig.ask, method: str = method
        ) -> int:
            return ask(method, path, authorization).status

        assert status(good(rig, rule)) not in (401, 403)
        opened = rule is Door.OPEN
        for rejected in (None, rig.bad, rig.revoked, good(rig, rule)[:-1]):
            assert (status(rejected) != 401) is opened
        if isinstance(rule, Scope):
            assert status(rig.all_but[rule]) == 403
    assert opened or rig.ask("GET", path, None).getheader("WWW-Authenticate") == "Bearer"


@pytest.mark.parametrize("path", ["/", "/partitions/", "/partitions/x/continue"])
def test_an_admin_path_that_does_not_exist_says_so_only_to_who_has_a_key(rig: Rig, path: str) -> None:
    assert rig.ask("GET", path, None).status == 401
    assert rig.ask("GET", path, rig.good_for[Scope.READ]).status == 404


def test_denials_are_counted_by_reasons_of_our_own(rig: Rig) -> None:
    def counted() -> list[float]:
        reasons = ("no_key", "bad_key", "wrong_scope")
        return [rig.metrics.registry.get_sample_value("uic_denied_total", {"reason": r}) or 0 for r in reasons]

    before = counted()
    rig.call(f"{UIC}EraseUser", None)
    rig.call(f"{UIC}EraseUser", "Bearer what the caller says")
    rig.ask("GET", "/metrics", rig.all_but[Scope.METRICS])
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [1, 1, 1]


def test_health_alone_is_open() -> None:
    assert {name for name, rule in ADMIN_RULES.items() if rule is Door.OPEN} == {"/livez", "/readyz"}
    assert {name for name, rule in GRPC_RULES.items() if rule is Door.OPEN} == {
        f"/grpc.health.v1.Health/{verb}" for verb in ("Check", "List", "Watch")
    }


def test_a_new_method_or_path_without_a_rule_stops_the_start() -> None:
    with pytest.raises(LookupError, match=r"Forget: say in uic\.doors\.guard"):
        check_rules([*methods(), f"{UIC}Forget"], GRPC_RULES, "uic.doors.guard")


def test_metadata_over_the_limit_is_refused(rig: Rig) -> None:
    assert (
        rig.call(f"{UIC}GetUserState", "Bearer " + "x" * 2 * MAX_METADATA_BYTES) is grpc.StatusCode.RESOURCE_EXHAUSTED
    )
    assert rig.call(f"{UIC}GetUserState", rig.good_for[Scope.READ]) not in DENIED


@pytest.mark.parametrize("host", ["a/livez?", "a/livez#", "a\\livez?", "user@a/livez?"])
def test_a_host_header_does_not_change_which_path_is_judged(rig: Rig, host: str) -> None:
    with socket.create_connection(("127.0.0.1", rig.admin.port), timeout=10) as line:
        line.sendall(f"GET /partitions HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        assert line.makefile("rb").readline().split()[1] in (b"400", b"401")
