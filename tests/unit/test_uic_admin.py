"""The admin port over real HTTP, and the commands that talk to it, with a worker in memory."""

from __future__ import annotations

import http.client
import io
import json
import logging
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from mimn.state import Progress
from support.uic_doors import open_loop
from uic.core.status import STARTING, Action, PartitionStatus, Phase, Status
from uic.doors.admin import PROBLEM_JSON, TABLE, admin_app, row_of
from uic.doors.admin_server import AdminServer
from uic.errors import InvalidField, NotBroken, NotOurs, StartRefused, StoreUnavailable, UicError
from uic.metrics import Metrics
from uic.settings import AdminSettings
from uic.tools import partitions

NOW_MS = 1_700_000_000_000
FOLDING = PartitionStatus(
    partition=3,
    phase=Phase.FOLDING,
    reason="",
    next_offset=40,
    end_offset=45,
    as_of_ms=NOW_MS - 2500,
    lineage=2**64 - 1,
    era=1,
    base=0,
    gaps=0,
    unfolded_from=40,
)
BROKEN = PartitionStatus(
    partition=5,
    phase=Phase.BROKEN,
    reason="broken_log: witness",
    next_offset=None,
    end_offset=None,
    as_of_ms=None,
    lineage=None,
    era=None,
    base=None,
    gaps=None,
    unfolded_from=None,
)


class Worker:
    """Has a status, and remembers what it was asked."""

    def __init__(self) -> None:
        self.status = Status(True, (), (FOLDING,))
        self.asked: list[tuple[int, Action, int | None]] = []
        self.failure: Exception | None = None

    def resolve(self, partition: int, action: Action, from_offset: int | None = None) -> Progress:
        self.asked.append((partition, action, from_offset))
        if self.failure:
            raise self.failure
        return Progress(partitions=64, next_offset=7, lineage=2**63, writer=1, base=2, era=4, as_of_ms=0)


class Rig:
    def __init__(self) -> None:
        self.worker = Worker()
        self.metrics = Metrics()
        self.alive = True
        app = admin_app(self.worker, self.metrics, lambda: self.alive, lambda: NOW_MS)
        self.door = AdminServer(app, AdminSettings(port=0))
        self.loop = open_loop()
        self.loop.run(self.door.start())
        self.url = f"http://127.0.0.1:{self.door.port}"

    def close(self) -> None:
        self.loop.run(self.door.stop())
        self.loop.close()

    def ask(self, target: str, method: str = "GET", **headers: str) -> tuple[int, str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.door.port, timeout=10)
        connection.request(method, target, headers={k.replace("_", "-"): v for k, v in headers.items()})
        response = connection.getresponse()
        body = response.read()
        connection.close()
        content_type = response.getheader("Content-Type", "")
        return response.status, content_type, json.loads(body) if "json" in content_type else body.decode()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def test_alive_until_a_folding_thread_dies(rig: Rig) -> None:
    assert rig.ask("/livez")[0] == 200
    rig.alive = False
    status, content_type, body = rig.ask("/livez")
    assert (status, content_type, body["code"]) == (503, PROBLEM_JSON, "dead")


def test_ready_follows_the_status_and_names_reasons(rig: Rig) -> None:
    rig.worker.status = STARTING
    status, content_type, body = rig.ask("/readyz")
    assert (status, content_type, body["code"], body["detail"]) == (503, PROBLEM_JSON, "not_serving", "starting")
    rig.worker.status = Status(True, ("store_unavailable: x",), ())
    assert rig.ask("/readyz") == (200, "application/json", {"status": "ready", "degraded": ["store_unavailable: x"]})


def test_each_scrape_says_whether_readyz_answers_200(rig: Rig) -> None:
    broken = Status(False, ("broken_log: witness (partition 5)",), (FOLDING, BROKEN))
    for status in (STARTING, Status(True, ("store_unavailable: x",), ()), broken, Status(True, (), (FOLDING,))):
        rig.worker.status = status
        ready = rig.ask("/readyz")[0] == 200
        assert f"uic_ready {float(ready)}\n" in rig.ask("/metrics")[2]


def test_partitions_are_shown_with_lag_and_age(rig: Rig) -> None:
    rig.worker.status = Status(False, ("broken_log: witness (partition 5)",), (FOLDING, BROKEN))
    status, _, body = rig.ask("/partitions")
    assert status == 200
    assert body["serving"] is False
    assert body["reasons"] == ["broken_log: witness (partition 5)"]
    assert body["partitions"][0] == {
        "partition": 3,
        "phase": "folding",
        "reason": "",
        "next_offset": 40,
        "end_offset": 45,
        "lag": 5,
        "as_of_age_s": 2.5,
        "lineage": "ffffffffffffffff",
        "era": 1,
        "base": 0,
        "gaps": 0,
    }
    assert body["partitions"][1]["as_of_age_s"] is None
    assert body["partitions"][1]["reason"] == "broken_log: witness"


def test_an_age_is_by_the_stores_clock_whatever_the_workers_clock_says(rig: Rig) -> None:
    for ahead_ms, age_s in ((0, 2.5), (-7_200_000, 7202.5), (2000, 0.5), (7_200_000, 0)):
        rig.worker.status = Status(True, (), (FOLDING,), ahead_ms)
        assert rig.ask("/partitions")[2]["partitions"][0]["as_of_age_s"] == age_s, ahead_ms


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ("/partitions/5/continue", (5, "continue", None)),
        ("/partitions/5/continue?offset=0", (5, "continue", 0)),
        ("/partitions/63/rebuild", (63, "rebuild", None)),
    ],
)
def test_an_operators_word_reaches_the_worker(rig: Rig, target: str, asked: tuple[int, Action, int | None]) -> None:
    status, _, body = rig.ask(target, "POST")
    assert status == 200
    assert body == {"partition": asked[0], "next_offset": 7, "base": 2, "era": 4, "lineage": "8000000000000000"}
    assert rig.worker.asked == [asked]


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (NotOurs("x"), 421, "not_ours"),
        (NotBroken("x"), 409, "not_broken"),
        (InvalidField("x"), 400, "invalid_field"),
        (StoreUnavailable("x"), 503, "store_unavailable"),
        (TimeoutError(), 504, "timeout"),
        (ZeroDivisionError("secret"), 500, "internal"),
    ],
)
def test_refusals_are_problems_with_a_code(rig: Rig, failure: Exception, status: int, code: str) -> None:
    rig.worker.failure = failure
    got, content_type, body = rig.ask("/partitions/5/rebuild", "POST")
    assert (got, content_type, body["status"], body["code"]) == (status, PROBLEM_JSON, status, code)
    assert "secret" not in body["detail"]


def test_a_decision_that_was_not_carried_out_in_time_says_what_it_waits_for(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.worker.failure = TimeoutError()
    waits = replace(BROKEN, phase=Phase.TAKING_UP, reason="the log does not answer: Connection refused")
    for partition in (waits, BROKEN, FOLDING):
        rig.worker.status = Status(True, (), (partition,))
        told = rig.ask("/partitions/5/continue", "POST")[2]["detail"]
        assert "/partitions" in told
        assert (waits.reason in told) is (partition is waits)
        assert partitions.main("continue", ["--partition", "5", "--admin", rig.url]) == 1
        assert capsys.readouterr().err == f"ctr continue: {told} (timeout)\n", "the address is right: it has answered"


def test_only_an_admin_port_that_does_not_answer_is_a_reason_to_look_at_its_address(
    closed_port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert partitions.main("continue", ["--partition", "5", "--admin", f"http://{closed_port}"]) == 1
    assert "Set UIC_ADMIN__HOST and UIC_ADMIN__PORT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "method", "status"),
    [
        ("/partitions/5/rebuild", "GET", 405),
        ("/partitions", "POST", 405),
        ("/partitions/x/rebuild", "POST", 404),
        ("/partitions/5/forget", "POST", 404),
        ("/", "GET", 404),
        ("/partitions/5/continue?offset=-1", "POST", 400),
        ("/partitions/5/continue?ofset=3", "POST", 400),
        ("/partitions/5/continue?offset=1&offset=2", "POST", 400),
        ("/partitions/5/rebuild?force=true", "POST", 400),
        ("/partitions?partition=5", "GET", 400),
    ],
)
def test_what_is_not_offered_decides_nothing(rig: Rig, target: str, method: str, status: int) -> None:
    got, content_type, body = rig.ask(target, method)
    assert (got, content_type, body["status"]) == (status, PROBLEM_JSON, status)
    assert rig.worker.asked == []


@pytest.mark.parametrize(
    ("target", "method", "allowed"),
    [("/readyz", "POST", "GET, HEAD"), ("/metrics", "DELETE", "GET, HEAD"), ("/partitions/5/rebuild", "GET", "POST")],
)
def test_another_method_is_told_which_one_to_send(rig: Rig, target: str, method: str, allowed: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", rig.door.port, timeout=10)
    connection.request(method, target)
    response = connection.getresponse()
    assert (response.status, response.getheader("Allow")) == (405, allowed)
    connection.close()


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"sec_fetch_site": "cross-site"}])
def test_a_web_page_decides_nothing(rig: Rig, headers: dict[str, str]) -> None:
    assert rig.ask("/partitions/5/rebuild", "POST", **headers)[0] == 403
    assert rig.worker.asked == []


def test_a_port_that_is_taken_is_refused_by_name(rig: Rig) -> None:
    app = admin_app(rig.worker, rig.metrics, lambda: True)
    with pytest.raises(StartRefused, match=r"\(Address already in use\): free the port, or set .* UIC_ADMIN__PORT"):
        AdminServer(app, AdminSettings(port=rig.door.port))


@pytest.mark.parametrize("host", ["::1", "[::1]", "::", "[::]"])
def test_the_admin_door_listens_on_ipv6(rig: Rig, host: str) -> None:
    door = AdminServer(admin_app(rig.worker, rig.metrics, lambda: True), AdminSettings(host=host, port=0))
    rig.loop.run(door.start())
    try:
        connection = http.client.HTTPConnection("::1", door.port, timeout=10)
        connection.request("GET", "/livez")
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        rig.loop.run(door.stop())


def test_a_host_without_an_address_is_told_as_that(rig: Rig) -> None:
    app = admin_app(rig.worker, rig.metrics, lambda: True)
    with pytest.raises(StartRefused, match=r"cannot listen on no\.such\.invalid:0 \(.+\): correct UIC_ADMIN__HOST"):
        AdminServer(app, AdminSettings(host="no.such.invalid", port=0))


def subclasses(kind: type[UicError]) -> Iterator[type[UicError]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_error_class_has_a_row() -> None:
    assert UicError not in TABLE
    for kind in subclasses(UicError):
        row = row_of(kind.__new__(kind))
        assert row.status >= 400
        assert (row.status == 503) == kind.retriable


# The commands


def run(rig: Rig, verb: str, *arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    return partitions.main(verb, [*arguments, "--admin", rig.url], out), out.getvalue()


def test_the_partitions_command_shows_a_table_and_exits_by_health(rig: Rig) -> None:
    code, text = run(rig, "partitions")
    assert code == 0
    heading, row = text.splitlines()
    assert heading.split() == list(partitions.COLUMNS)
    assert row.split() == ["3", "folding", "40", "45", "5", "2.5", "ffffffffffffffff", "1"]
    for status in (
        Status(False, ("broken",), (BROKEN,)),
        Status(True, ("store_unavailable: no",), (replace(FOLDING, phase=Phase.UNSURE),)),
    ):
        rig.worker.status = status
        code, text = run(rig, "partitions")
        assert (code, text.startswith(f"! {status.reasons[0]}\n")) == (1, True)
        assert run(rig, "partitions", "--json")[0] == 1
    rig.worker.status = Status(False, ("broken",), (BROKEN,))
    assert json.loads(run(rig, "partitions", "--json")[1])["serving"] is False


def test_continue_and_rebuild_say_where_it_goes_on(rig: Rig) -> None:
    assert run(rig, "continue", "--partition", "5", "--offset", "12") == (
        0,
        "partition 5 goes on at offset 7, lineage 8000000000000000, era 4\n",
    )
    assert run(rig, "rebuild", "--partition", "6")[0] == 0
    assert rig.worker.asked == [(5, "continue", 12), (6, "rebuild", None)]


def test_a_refusal_is_printed_with_its_code(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    rig.worker.failure = NotOurs("partition 5 is not assigned to this process")
    assert run(rig, "rebuild", "--partition", "5")[0] == 1
    assert "not assigned to this process (not_ours)" in capsys.readouterr().err


# Several workers


@pytest.fixture
def fleet() -> Iterator[tuple[Rig, Rig]]:
    rigs = Rig(), Rig()
    yield rigs
    for rig in rigs:
        rig.close()


def of(partition: int, phase: Phase = Phase.FOLDING) -> PartitionStatus:
    return replace(FOLDING, partition=partition, phase=phase)


def run_fleet(rigs: tuple[Rig, Rig], *arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    code = partitions.main("partitions", [*arguments, "--admin", ",".join(rig.url for rig in rigs)], out)
    return code, out.getvalue()


def test_the_views_of_all_workers_are_one_table_and_each_partition_has_its_worker(fleet: tuple[Rig, Rig]) -> None:
    fleet[0].worker.status = Status(True, (), (of(0), of(3)))
    fleet[1].worker.status = Status(True, (), (of(1), of(2)))
    code, text = run_fleet(fleet, "--total", "4")
    assert code == 0
    heading, *rows = text.splitlines()
    assert heading.split() == [*partitions.COLUMNS[:-1], "worker", "reason"]
    assert [(row.split()[0], row.split()[-1]) for row in rows] == [
        ("0", fleet[0].url), ("1", fleet[1].url), ("2", fleet[1].url), ("3", fleet[0].url)
    ]  # fmt: skip


def test_partitions_without_an_owner_or_with_two_are_findings(fleet: tuple[Rig, Rig]) -> None:
    fleet[0].worker.status = Status(True, (), (of(0), of(1)))
    fleet[1].worker.status = Status(True, (), (of(1),))
    code, text = run_fleet(fleet, "--total", "4")
    assert code == 1
    assert text.splitlines()[:2] == ["! no worker owns partition 2, 3", "! more than one worker owns partition 1"]
    view = json.loads(run_fleet(fleet, "--total", "4", "--json")[1])
    assert (view["unowned"], view["owned_twice"], view["serving"]) == ([2, 3], [1], True)


def test_a_worker_that_does_not_serve_or_answer_is_a_finding_and_the_others_are_shown(fleet: tuple[Rig, Rig]) -> None:
    fleet[0].worker.status = Status(True, (), (of(0), of(1)))
    fleet[1].worker.status = Status(False, ("broken_log: witness",), ())
    code, text = run_fleet(fleet, "--total", "2")
    assert code == 1
    assert f"! {fleet[1].url}: broken_log: witness" in text
    fleet[1].worker.status = Status(True, ("store_unavailable: no",), ())
    code, text = run_fleet(fleet, "--total", "2")
    assert (code, f"! {fleet[1].url}: store_unavailable: no" in text) == (1, True)
    fleet[1].loop.run(fleet[1].door.stop())
    code, text = run_fleet(fleet, "--total", "2")
    assert code == 1
    assert f"! {fleet[1].url}: no answer" in text
    assert len([line for line in text.splitlines() if line.startswith(("0 ", "1 "))]) == 2


def test_a_decision_goes_to_one_worker(fleet: tuple[Rig, Rig], capsys: pytest.CaptureFixture[str]) -> None:
    urls = ",".join(rig.url for rig in fleet)
    assert partitions.main("rebuild", ["--partition", "1", "--admin", urls]) == 2
    assert "give one --admin" in capsys.readouterr().err
    assert fleet[0].worker.asked == []


# Bytes that are not a request


def raw(rig: Rig, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", rig.door.port), timeout=10) as line:
        line.sendall(sent)
        return line.makefile("rb").read()


LIVE = b"GET /livez HTTP/1.1\r\nhost: a\r\n"
WRONG = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a10303") + bytes(160),
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": LIVE + b"host: b\r\n\r\n",
    "NUL": LIVE + b"x: a\0\r\n\r\n",
    "much": LIVE + b"x: " + b"y" * 17_000,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_not_http_is_refused_and_not_logged(rig: Rig, caplog: pytest.LogCaptureFixture, wrong: str) -> None:
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # as `uic.logs.configure` does
    assert raw(rig, WRONG[wrong]).startswith(b"HTTP/1.1 400 ")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert rig.ask("/livez")[0] == 200


def test_a_body_is_not_read_and_a_connection_has_one_request(rig: Rig) -> None:
    sent = b"GET /livez HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n" + b"x" * 100
    assert raw(rig, sent).startswith(b"HTTP/1.1 200 OK\r\n")
    twice = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n" * 2
    assert raw(rig, twice).count(b"HTTP/1.1") == 1


def test_metrics_tell_of_the_process_and_the_bundle(rig: Rig) -> None:
    told = {"name": "tiny", "version": "1", "fingerprint": "ab", "state_namespace": "ab-0", "prefix": "p", "topic": "t"}
    rig.metrics.bundle.info(told)
    body = rig.ask("/metrics")[2]
    assert "process_resident_memory_bytes" in body
    labels = 'fingerprint="ab",name="tiny",prefix="p",state_namespace="ab-0",topic="t",version="1"'
    assert f"uic_bundle_info{{{labels}}} 1.0" in body
