"""The public door in process: statuses, problems, limits, health, and an OpenAPI document that tells the truth."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message
from structlog.testing import capture_logs

from mimn.bundle import load_bundle
from mimn.rows.library import library
from rtp import errors
from rtp.app import create_service
from rtp.doors.problems import HTTP_CODES, STATUS_TABLE
from rtp.doors.schemas import PredictResponse, Problem
from rtp.errors import RtpError
from rtp.reload import Reloader
from rtp.rollout_follower import RolloutFollower
from rtp.runtime import OnnxModel
from rtp.settings import RtpSettings
from support.fake_state_reader import FakeStateReader
from support.stored import Stored, now_ms
from support.waiting import until

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
TINY = FIXTURES / "bundle_tiny/tiny/1"
CONTEXT = FIXTURES / "bundle_tiny_context/tiny-context/1"
ONE = {"item_id": 3, "category_id": 2}
USUAL = {"user_id": "u", "candidates": [ONE, {"item_id": "10", "category_id": "5"}]}
T = TypeVar("T")


@cache
def model(path: Path = TINY) -> OnnxModel:
    return OnnxModel(load_bundle(path))


def settings(**groups: Any) -> RtpSettings:
    # So that a busy machine misses none.
    return RtpSettings(**{"deadline": {"default_ms": 10_000, "max_ms": 10_000}, **groups})


def serve(test: Callable[[httpx.AsyncClient], Awaitable[T]], app: FastAPI) -> T:
    async def served() -> T:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://rtp") as client:
                return await test(client)

    return asyncio.run(served())


def app_on(store: FakeStateReader | None = None, path: Path = TINY, **groups: Any) -> FastAPI:
    return create_service(settings(**groups), store=store or FakeStateReader(), runtime=model(path)).app


def stored_user(user_id: str = "u") -> FakeStateReader:
    store = FakeStateReader()
    stored = Stored(load_bundle(TINY))
    stored.state(user_id, events=5)
    store.values = stored.values
    return store


def post(app: FastAPI, content: bytes | None = None, headers: dict[str, str] | None = None) -> httpx.Response:
    told = {"content-type": "application/json", **(headers or {})}
    body = json.dumps(USUAL).encode() if content is None else content
    return serve(lambda client: client.post("/predict", content=body, headers=told), app)


def problem(response: httpx.Response) -> Problem:
    assert response.headers["content-type"] == "application/problem+json"
    said = Problem.model_validate_json(response.content)
    assert said.status == response.status_code
    assert said.detail
    return said


def test_an_answer() -> None:
    response = post(app_on(stored_user()))
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = PredictResponse.model_validate_json(response.content)
    assert len(answer.scores) == 2
    assert (answer.model.name, answer.model.version) == ("tiny", "1")
    assert (answer.state.status, answer.state.events) == ("warm", 5)


HOUR_MS = 3_600_000


@pytest.mark.parametrize("wrong_ms", [HOUR_MS, -HOUR_MS], ids=["fast", "slow"])
def test_states_are_as_old_as_the_stores_clock_says(wrong_ms: int) -> None:
    """Everything else here goes by the other clock, that of the store and of UIC."""
    store, stored = FakeStateReader(), Stored(load_bundle(TINY))
    store.clock_ms = lambda: now_ms() - wrong_ms
    stored.state("u")
    for partition in range(stored.partitions):
        stored.progress(partition, as_of_ms=store.clock_ms() - 10_000)
    store.values = stored.values
    said = post(app_on(store)).json()["state"]
    assert said["status"] == "warm"
    assert 10_000 <= said["age_ms"] < 60_000


def test_a_store_that_does_not_tell_its_time_is_named_by_readyz() -> None:
    store = stored_user()
    store.keeps_its_time = True

    async def test(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        return await client.get("/readyz"), await client.post("/predict", json=USUAL)

    ready, answer = serve(test, app_on(store))
    assert (ready.status_code, answer.json()["state"]["status"]) == (200, "warm")
    assert ready.json()["detail"].endswith("NOPERM")


def test_a_process_that_a_full_store_refuses_says_so() -> None:
    store = stored_user()
    store.full = True

    async def test(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        async with asyncio.timeout(30):
            while "detail" not in (ready := await client.get("/readyz")).json():
                await asyncio.sleep(0.001)
        return ready, await client.post("/predict", json=USUAL)

    ready, answer = serve(test, app_on(store))
    assert (ready.status_code, answer.json()["state"]["status"]) == (200, "warm")
    assert ready.json()["detail"].endswith("OutOfMemoryError")


@pytest.mark.parametrize(("stale", "said"), [(1, "1 of 4"), (4, "4 of 4")])
def test_stale_states_are_named_by_readyz(stale: int, said: str) -> None:
    """The store gives them, and /predict answers by them."""
    store, stored = FakeStateReader(), Stored(load_bundle(TINY))
    for partition in range(stale):
        stored.progress(partition, as_of_ms=now_ms() - 61_000)
    store.values = stored.values

    async def readyz(client: httpx.AsyncClient) -> httpx.Response:
        return await client.get("/readyz")

    ready = serve(readyz, app_on(store))
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    detail = ready.json()["detail"]
    assert said in detail
    assert stored.keys.namespace in detail


@pytest.mark.parametrize(("wrong_ms", "said"), [(HOUR_MS, "behind"), (-HOUR_MS, "ahead of")])
def test_a_wrong_clock_of_the_store_is_named_by_readyz(wrong_ms: int, said: str) -> None:
    store, stored = FakeStateReader(), Stored(load_bundle(TINY))
    store.clock_ms = lambda: now_ms() - wrong_ms
    for partition in range(stored.partitions):
        stored.progress(partition, as_of_ms=store.clock_ms() - 61_000)
    store.values = stored.values

    async def readyz(client: httpx.AsyncClient) -> Any:
        return (await client.get("/readyz")).json()["detail"]

    detail = serve(readyz, app_on(store))
    seconds = re.search(rf"(\d+) s {said} .*docs/runbooks/clocks\.md", detail)
    assert seconds is not None, detail
    assert abs(int(seconds[1]) - HOUR_MS // 1000) < 60, "a question that the machine delays moves it by half the delay"


def test_trouble_on_the_way_to_the_store_is_named_by_readyz() -> None:
    store = stored_user()
    store.troubles = ["no Sentinel answers"]

    async def readyz(client: httpx.AsyncClient) -> Any:
        return (await client.get("/readyz")).json()["detail"]

    assert serve(readyz, app_on(store)) == "no Sentinel answers"
    store.values = {}
    assert serve(readyz, app_on(store)).endswith("; no Sentinel answers")


def test_both_paths_answer_alike() -> None:
    async def both(client: httpx.AsyncClient) -> list[Any]:
        asked = {**USUAL, "request_id": "r"}
        answers = [(await client.post(path, json=asked)).json() for path in ("/predict", "/v1/predict")]
        for answer in answers:
            answer["state"].pop("age_ms")
        return answers

    first, second = serve(both, app_on(stored_user()))
    assert first == second
    assert first["request_id"] == "r"


def test_a_store_that_is_away_is_a_degraded_answer() -> None:
    store = stored_user()
    store.away = True
    response = post(app_on(store))
    assert response.status_code == 200
    assert response.json()["state"] == {"status": "unavailable", "events": None, "age_ms": None, "partial": True}


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"{", {}, 400, "malformed_body"),
        (b"", {}, 400, "malformed_body"),
        (b"{}", {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {"content-type": "application/json; charset=latin-1"}, 415, "unsupported_media_type"),
        (b"{}", {"content-encoding": "gzip"}, 415, "unsupported_media_type"),
        (b" " * 65537, {}, 413, "body_too_large"),
        (b"{}", {}, 422, "invalid_request"),
        (None, {"x-request-deadline-ms": "soon"}, 422, "invalid_request"),
        (None, {"x-request-deadline-ms": "0"}, 422, "invalid_request"),
    ],
)
def test_a_mistake_of_the_caller(content: bytes | None, headers: dict[str, str], status: int, code: str) -> None:
    response = post(app_on(), content, headers)
    assert (response.status_code, problem(response).code) == (status, code)


def test_a_body_of_just_the_limit_is_read() -> None:
    body = json.dumps(USUAL).encode()
    assert post(app_on(), body + b" " * (65536 - len(body))).status_code == 200


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", 'application/json;charset="UTF-8"']
)
def test_json_by_any_of_its_names(kind: str) -> None:
    assert post(app_on(), headers={"content-type": kind}).status_code == 200


def test_a_body_in_chunks_without_a_length_is_cut_off_at_the_limit() -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b" " * 1000

    response = serve(lambda client: client.post("/predict", content=chunks()), app_on())
    assert (response.status_code, problem(response).code) == (413, "body_too_large")


def test_a_fault_in_the_body_is_named_with_its_field() -> None:
    body = json.dumps({"user_id": "u", "candidates": [ONE, {"item_id": -1, "category_id": 0}], "y": 1}).encode()
    said = problem(post(app_on(), body))
    assert said.errors is not None
    assert {fault.field for fault in said.errors} == {"candidates[1].item_id", "y"}


def test_context_is_checked_against_the_bundle_and_changes_the_scores() -> None:
    async def ask(client: httpx.AsyncClient) -> list[Any]:
        contexts = [{}, {"hour": 0, "price": 0}, {"hour": 1.5}, {"hours": 1}]
        return [(await client.post("/predict", json={**USUAL, "context": context})).json() for context in contexts]

    without, zero, other, unknown = serve(ask, app_on(path=CONTEXT))
    assert without["scores"] == zero["scores"] != other["scores"]
    assert unknown["errors"][0]["field"] == "context.hours"


def test_a_deadline_header_bounds_the_wait_for_the_store() -> None:
    async def ask(client: httpx.AsyncClient) -> None:
        for asked in ("500", "99999999999999999999999"):
            response = await client.post("/predict", json=USUAL, headers={"X-Request-Deadline-Ms": asked})
            assert response.status_code == 200

    store = stored_user()
    serve(ask, app_on(store, deadline={"default_ms": 1000, "max_ms": 4000}))
    short, long = store.budgets_s
    assert 0 < short < 0.5
    assert 0.5 < long < 4.0


def test_a_required_state_that_cannot_be_had_is_503_with_retry_after() -> None:
    response = post(app_on(), json.dumps({**USUAL, "require_state": True}).encode())
    assert (response.status_code, problem(response).code) == (503, "state_unavailable")
    assert response.headers["retry-after"] == "1"


def test_more_requests_than_are_let_in_are_503_with_retry_after() -> None:
    async def many(client: httpx.AsyncClient) -> list[httpx.Response]:
        store.frozen = True
        return await asyncio.gather(*(client.post("/predict", json=USUAL) for _ in range(4)))

    store = stored_user()
    responses = serve(many, app_on(store, load={"max_in_flight": 2}))
    assert sorted(response.status_code for response in responses) == [200, 200, 503, 503]
    refused = next(response for response in responses if response.status_code == 503)
    assert problem(refused).code == "overloaded"
    assert refused.headers["retry-after"] == "1"


def test_a_body_that_never_ends_is_408_at_the_deadline() -> None:
    async def asked() -> list[Message]:
        """httpx's transport reads the body itself, so this one speaks ASGI."""
        sent: list[Message] = []
        first = True

        async def receive() -> Message:
            nonlocal first
            if first:
                first = False
                return {"type": "http.request", "body": b"{", "more_body": True}
            await asyncio.Event().wait()
            raise AssertionError("nothing ends the wait")

        async def send(message: Message) -> None:
            sent.append(message)

        await asyncio.wait_for(app_on()(scope([(b"x-request-deadline-ms", b"30")]), receive, send), 60)
        return sent

    start, body = asyncio.run(asked())
    assert start["status"] == 408
    assert json.loads(body["body"])["code"] == "slow_body"


def scope(headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/predict",
        "raw_path": b"/predict", "query_string": b"", "root_path": "", "scheme": "http", "headers": headers,
        "client": None, "server": None,
    }  # fmt: skip


def test_a_client_that_goes_away_in_mid_body_raises_nothing() -> None:
    async def asked() -> list[Message]:
        messages: Iterator[Message] = iter(
            [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
        )
        sent: list[Message] = []

        async def receive() -> Message:
            return next(messages)

        async def send(message: Message) -> None:
            sent.append(message)

        await app_on()(scope([]), receive, send)
        return sent

    assert asyncio.run(asked()) == []


class Surprised(OnnxModel):
    """A model that raises an unforeseen error."""

    def __init__(self) -> None:
        super().__init__(load_bundle(TINY))

    def score(self, *_: object) -> Any:
        raise ZeroDivisionError


class Broken(OnnxModel):
    """A model whose scores cannot be used."""

    def __init__(self) -> None:
        super().__init__(load_bundle(TINY))

    def score(self, *_: object) -> Any:
        raise errors.ScoringFailed("the head graph returned a non-finite score")


@pytest.mark.parametrize(("broken", "code"), [(Surprised, "internal"), (Broken, "scoring_failed")])
def test_an_internal_error_is_logged_and_hides_its_text(broken: Callable[[], OnnxModel], code: str) -> None:
    with capture_logs() as logs:
        response = post(
            create_service(settings(), store=FakeStateReader(), runtime=broken()).app,
            headers={"x-request-id": "trace-7"},
        )
    assert (response.status_code, problem(response).code) == (500, code)
    assert b"ZeroDivision" not in response.content
    assert response.headers["x-request-id"] == "trace-7"
    [line] = [line for line in logs if line["event"] == "request failed"]
    assert (line["request_id"], line["log_level"]) == ("trace-7", "error")
    assert line["exc_info"]


def test_each_failed_request_has_a_line_and_one_a_second_the_traceback() -> None:
    async def many(client: httpx.AsyncClient) -> None:
        for i in range(20):
            await client.post("/predict", json={**USUAL, "request_id": f"r{i}"})

    with capture_logs() as logs:
        serve(many, create_service(settings(), store=FakeStateReader(), runtime=Surprised()).app)
    lines = [line for line in logs if line["event"] == "request failed"]
    assert [line["request_id"] for line in lines] == [f"r{i}" for i in range(20)]
    assert lines[0]["exc_info"]
    assert sum(line["exc_info"] is None for line in lines) >= 10


@pytest.mark.parametrize(
    ("header", "field", "answered", "known_as"),
    [
        (None, "body-id", "body-id", "body-id"),
        ("head-id", None, "head-id", "head-id"),
        ("head-id", "body-id", "body-id", "head-id"),
        ("x" * 129, "body-id", "body-id", "body-id"),
        ("x" * 128, None, "x" * 128, "x" * 128),
        (None, "naïve", "naïve", None),
        ("tab\tbed", None, None, None),
    ],
)
def test_by_which_id_a_request_is_known(
    header: str | None, field: str | None, answered: str | None, known_as: str | None
) -> None:
    """None: made up."""
    told = {} if header is None else {"x-request-id": header}
    response = post(app_on(), json.dumps({**USUAL, **({} if field is None else {"request_id": field})}).encode(), told)
    assert response.status_code == 200
    made_up = response.headers["x-request-id"]
    assert made_up == known_as or (known_as is None and re.fullmatch(r"[0-9a-f]{12}-1", made_up))
    assert response.json()["request_id"] == (answered or made_up)


def test_refusals_of_every_kind_carry_the_requests_id() -> None:
    for content, headers in ((b"{", {}), (b"{}", {}), (None, {"x-request-deadline-ms": "soon"})):
        response = post(app_on(), content, {**headers, "x-request-id": "trace-7"})
        assert 400 <= response.status_code < 500
        assert response.headers["x-request-id"] == "trace-7"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/predict", 405), ("POST", "/predict/", 404)]
)
def test_errors_of_the_framework_are_problems_too(method: str, path: str, status: int) -> None:
    response = serve(lambda client: client.request(method, path), app_on())
    assert (response.status_code, problem(response).code) == (status, HTTP_CODES[status])
    assert response.headers.get("allow") == ("POST" if status == 405 else None)


def leaves(base: type[Exception]) -> set[type[Exception]]:
    below = base.__subclasses__()
    return {base} if not below else set().union(*(leaves(child) for child in below))


def test_the_status_table_is_total() -> None:
    assert set(STATUS_TABLE) == leaves(RtpError)
    codes = [row.code for row in STATUS_TABLE.values()]
    assert len(codes) == len(set(codes))


# Health


def test_alive_whatever_the_store_does_and_ready_once_it_was_seen() -> None:
    async def ask(client: httpx.AsyncClient) -> list[int]:
        return [(await client.get(path)).status_code for path in ("/livez", "/readyz")]

    assert serve(ask, app_on(stored_user())) == [200, 200]
    away = FakeStateReader()
    away.away = True
    assert serve(ask, app_on(away)) == [200, 503]
    assert serve(ask, app_on(FakeStateReader())) == [200, 503]


@pytest.mark.parametrize("app", [app_on(stored_user()), app_on()], ids=["ready", "not ready"])
def test_health_says_to_head_what_it_says_to_get(app: FastAPI) -> None:
    async def ask(client: httpx.AsyncClient) -> None:
        for path in ("/livez", "/readyz"):
            asked, got = await client.head(path), await client.get(path)
            assert (asked.status_code, asked.headers["content-type"]) == (got.status_code, got.headers["content-type"])
            assert got.status_code in (200, 503)

    serve(ask, app)


def test_not_ready_says_why_and_becomes_ready_by_itself() -> None:
    store = FakeStateReader()

    async def ask(client: httpx.AsyncClient) -> None:
        async def ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        said = problem(await client.get("/readyz"))
        assert said.code == "not_ready"
        assert "RTP_REDIS__PREFIX" in said.detail
        store.values = stored_user().values
        await until(ready, "it is ready", within_s=60)

    serve(ask, app_on(store, state={"refresh_every_s": 0.1}))


def test_once_seen_it_stays_ready_while_the_store_is_away() -> None:
    store = stored_user()

    async def ask(client: httpx.AsyncClient) -> int:
        asked = len(store.asked)
        store.away = True
        response = await client.post("/predict", json=USUAL)
        assert response.json()["state"]["status"] == "unavailable"
        assert len(store.asked) == asked + 1
        return (await client.get("/readyz")).status_code

    assert serve(ask, app_on(store, state={"refresh_every_s": 0.01})) == 200


@pytest.mark.parametrize("meta", [b"\xff", b'{"partitions": 8, "topic": "events"}'], ids=["no JSON", "another count"])
def test_a_meta_that_is_damaged_is_a_detail_of_both_doors(meta: bytes) -> None:
    store = stored_user()
    service = create_service(settings(state={"refresh_every_s": 0.01}), store=store, runtime=model())
    key = Stored(load_bundle(TINY)).keys.meta

    async def ask(client: httpx.AsyncClient) -> None:
        whole, store.values[key] = store.values[key], meta
        transport = httpx.ASGITransport(app=service.admin)
        async with httpx.AsyncClient(transport=transport, base_url="http://admin") as admin, asyncio.timeout(60):
            for door in (client, admin):
                while "detail" not in (said := (await door.get("/readyz")).json()):
                    await asyncio.sleep(0.001)
                assert said["status"] == "ready"
                assert "progress" in said["detail"]
            assert (await client.post("/predict", json=USUAL)).json()["state"]["events"] == 5
            assert (await admin.get("/bundle")).json()["partitions"] == 4
            store.values[key] = whole
            while (await client.get("/readyz")).json() != {"status": "ready"}:
                await asyncio.sleep(0.001)

    serve(ask, service.app)


def test_a_process_that_drains_is_not_ready_and_then_refuses() -> None:
    service = create_service(settings(), store=stored_user(), runtime=model())

    async def ask(client: httpx.AsyncClient) -> list[tuple[int, int]]:
        seen = []
        steps: list[Callable[[], None]] = [service.lifecycle.announce_drain, service.lifecycle.refuse_requests]
        for step in (None, *steps):
            if step:
                step()
            ready, predict = await client.get("/readyz"), await client.post("/predict", json=USUAL)
            seen.append((ready.status_code, predict.status_code))
        assert problem(predict).code == "draining"
        return seen

    assert serve(ask, service.app) == [(200, 200), (503, 200), (503, 503)]


def test_the_store_is_closed_at_the_end() -> None:
    store = stored_user()
    post(app_on(store))
    assert store.closed


# The admin door


HEAD_RUNS = "onnxruntime" if library() is None else "compiled"
"""How, on this machine."""


def test_metrics_count_what_was_answered_and_name_no_user() -> None:
    service = create_service(settings(), store=stored_user("secret-user"), runtime=model())

    async def ask(client: httpx.AsyncClient) -> str:
        await client.post("/predict", json={**USUAL, "user_id": "secret-user"})
        await client.post("/predict", content=b"{")
        transport = httpx.ASGITransport(app=service.admin)
        async with httpx.AsyncClient(transport=transport, base_url="http://admin") as admin:
            served = (await admin.get("/bundle")).json()
            assert (served["name"], served["partitions"], len(served["fingerprint"])) == ("tiny", 4, 64)
            assert served["head"] == (await admin.get("/releases")).json()["arms"][0]["head"] == HEAD_RUNS
            assert (await admin.get("/readyz")).status_code == 200
            return (await admin.get("/metrics")).text

    text = serve(ask, service.app)
    assert 'rtp_answers_total{code="",status="200"} 1.0' in text
    assert 'rtp_answers_total{code="malformed_body",status="400"} 1.0' in text
    for kind, count in (("2xx", 1), ("4xx", 1), ("5xx", 0)):
        assert f'rtp_request_seconds_count{{status="{kind}"}} {count}.0' in text
    assert 'rtp_states_total{status="warm"} 1.0' in text
    assert "rtp_store_up 1.0" in text
    assert f'rtp_compiled_head{{bundle="tiny/1"}} {float(HEAD_RUNS == "compiled")}' in text
    assert "secret-user" not in text
    assert text.endswith("# EOF\n")


def test_the_admin_door_does_not_predict_and_the_public_one_has_no_metrics() -> None:
    async def ask(client: httpx.AsyncClient) -> int:
        return (await client.get("/metrics")).status_code

    async def predict(client: httpx.AsyncClient) -> int:
        return (await client.post("/predict", json=USUAL)).status_code

    service = create_service(settings(), store=FakeStateReader(), runtime=model())
    assert serve(ask, service.app) == 404
    assert serve(predict, service.admin) == 404


@pytest.mark.parametrize(
    ("method", "target", "errors"),
    [
        ("POST", "/bundle/reload?forse=true", {"query.forse"}),
        ("POST", "/bundle/reload?force=false&force=true", {"query.force"}),
        ("POST", "/releases/look?force=true", {"query.force"}),
        ("GET", "/releases?arm=a", {"query.arm"}),
    ],
)
def test_the_admin_door_refuses_parameters_that_would_be_ignored(
    method: str, target: str, errors: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(Reloader, "reload", lambda *_, **__: done.append("reload"))
    monkeypatch.setattr(RolloutFollower, "retry", lambda *_: done.append("look"))
    service = create_service(settings(), store=FakeStateReader(), runtime=model())

    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        return await client.request(method, target)

    response = serve(ask, service.admin)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert {fault["field"] for fault in response.json()["errors"]} == errors
    assert done == []
    documented = service.admin.openapi()["paths"][target.partition("?")[0]][method.lower()]["responses"]["422"]
    assert "application/problem+json" in documented["content"]


# OpenAPI


def test_every_answer_is_documented_with_its_codes() -> None:
    document = app_on().openapi()
    for path in ("/predict", "/v1/predict"):
        responses = document["paths"][path]["post"]["responses"]
        assert set(responses) == {"200"} | {str(row.status) for row in STATUS_TABLE.values()}
        for row in STATUS_TABLE.values():
            assert list(responses[str(row.status)]["content"]) == ["application/problem+json"]
            assert row.code == "not_ready" or f"`{row.code}`" in responses[str(row.status)]["description"]
        timed = {status for status, answer in responses.items() if "Server-Timing" in answer["headers"]}
        assert timed == set(responses) - {"401", "403"}
    assert set(document["paths"]["/readyz"]["get"]["responses"]) == {"200", "500", "503"}


def test_every_reference_of_the_document_resolves() -> None:
    document = app_on().openapi()

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*(references(inner) for inner in value.values()))
        return set().union(*(references(inner) for inner in value)) if isinstance(value, list) else set()

    assert references(document)
    for reference in references(document):
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def test_the_documented_example_is_accepted_and_answered_as_documented() -> None:
    app = app_on()
    operation = app.openapi()["paths"]["/predict"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    response = post(app, json.dumps(example).encode())
    assert response.status_code == 200
    documented = operation["responses"]["200"]["content"]["application/json"]["example"]
    assert response.json().keys() == documented.keys()
    assert response.json()["state"].keys() == documented["state"].keys()
    PredictResponse.model_validate(documented)
