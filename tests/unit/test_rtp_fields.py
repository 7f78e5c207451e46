"""A bundle with fields behind the public door: what a request may say, and what is refused, counted and documented."""

from __future__ import annotations

import asyncio
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest

from mimn.bundle import load_bundle
from mimn.bundle.fields import FieldSpec
from mimn.bundle.request_fields import RequestFields
from rtp.app import create_service
from rtp.core.admission import Admission
from rtp.core.request import ScoreRequest
from rtp.doors.fields_schema import example
from rtp.doors.schemas import PredictResponse
from rtp.metrics import Metrics
from rtp.release import InService, Release
from rtp.runtime import OnnxModel
from rtp.scorer import Scorer
from rtp.settings import RtpSettings
from support.bundles import write_manifest
from support.fake_state_reader import FakeStateReader, progress_reader
from support.stored import Stored

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
PLAIN = FIXTURES / "bundle_tiny_sketch/tiny-sketch/1"
FIELDS = FIXTURES / "bundle_tiny_fields/tiny-fields/1"
DIN = FIXTURES / "bundle_tiny_din_fields/tiny-din-fields/1"
CANDIDATES = [{"item_id": 3, "category_id": 2}, {"item_id": 10, "category_id": 5}]
USER: dict[str, Any] = {"city": "Oslo", "income": 32_000.5, "age": 41}
CONTEXT: dict[str, Any] = {"hour": 20, "tags": ["sale", "new"], "page": "p/1", "battery": 55}
SETTINGS = RtpSettings(deadline={"default_ms": 10_000, "max_ms": 10_000})  # type: ignore[arg-type]  # as from the environment


@cache
def model(path: Path = FIELDS) -> OnnxModel:
    return OnnxModel(load_bundle(path))


def ask(*bodies: dict[str, Any], path: Path = FIELDS) -> list[httpx.Response]:
    app = create_service(SETTINGS, store=FakeStateReader(), runtime=model(path)).app

    async def served() -> list[httpx.Response]:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://rtp") as client:
                whole = [{"user_id": "u", "candidates": CANDIDATES, **body} for body in bodies]
                return [await client.post("/predict", json=body) for body in whole]

    return asyncio.run(served())


@pytest.mark.parametrize("path", [FIELDS, DIN], ids=["recurrent", "sequence"])
def test_each_field_changes_the_scores_and_the_answer_is_calibrated(path: Path) -> None:
    whole = {"user": USER, "context": CONTEXT}
    others = [
        {"user": {**USER, "city": "Rome"}},
        {"user": {**USER, "income": 5}},
        {"user": {**USER, "age": 12}},
        {"context": {**CONTEXT, "hour": 3}},
        {"context": {**CONTEXT, "tags": ["7"]}},
        {"context": {**CONTEXT, "page": "p/2"}},
        {"context": {**CONTEXT, "battery": 0}},
    ]
    first, *rest = ask(whole, *(whole | other for other in others), path=path)
    answer = PredictResponse.model_validate_json(first.content)
    assert answer.calibrated
    scores = [tuple(response.json()["scores"]) for response in (first, *rest)]
    assert len(set(scores)) == len(scores)


def test_a_value_may_be_a_string_or_a_number_and_a_list_may_be_one_value() -> None:
    texts = {"user": USER, "context": {**CONTEXT, "hour": "20", "tags": ["sale", "new"]}}
    numbers = {"user": USER, "context": {**CONTEXT, "hour": 20.0, "tags": ["new", "sale"]}}
    one = {"user": USER, "context": {**CONTEXT, "tags": "7"}}
    listed = {"user": USER, "context": {**CONTEXT, "tags": [7]}}
    scores = [response.json()["scores"] for response in ask(texts, numbers, one, listed)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)
    assert scores[2] == scores[3]


def test_a_text_that_is_longer_than_most_is_a_value_and_not_a_fault() -> None:
    url, tags = "https://example.org/?q=" + "w" * 300, [f"value-{n:03d}" for n in range(40)]
    long, longer, listed, text, empty = ask(
        {"context": {**CONTEXT, "page": url}},
        {"context": {**CONTEXT, "page": url * 20}},
        {"context": {**CONTEXT, "tags": [*tags, url]}},
        {"context": {**CONTEXT, "tags": "|".join([*tags, url])}},
        {"context": {**CONTEXT, "tags": [*tags, url, *[""] * 30]}},
    )
    assert long.json()["scores"] != longer.json()["scores"]
    assert listed.json()["scores"] == text.json()["scores"] == empty.json()["scores"]


def test_a_missing_value_is_the_default_and_unknown_is_another() -> None:
    missing, null, unknown = ask({}, {"user": {"city": None}, "context": {"tags": []}}, {"user": {"city": "Paris"}})
    assert missing.json()["scores"] == null.json()["scores"] != unknown.json()["scores"]


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"user": {"town": "Oslo"}}, "user.town", "age, city, income"),
        ({"user": {"hour": 3}}, "user.hour", "`context`"),
        ({"context": {"position": 1}}, "context.position", "battery, hour, page, tags"),
        ({"user": {"income": "much"}}, "user.income", "number"),
        ({"context": {"hour": 3.5}}, "context.hour", "whole number"),
        ({"context": {"tags": ["a"] * 65}}, "context.tags", "64"),
    ],
)
def test_what_a_model_cannot_read_is_refused_by_name(body: dict[str, Any], field: str, says: str) -> None:
    (response,) = ask(body)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    (fault,) = response.json()["errors"]
    assert fault["field"] == field
    assert says in fault["message"]


class Scoring:
    """A scorer on a store that holds a state of user `u` for the bundle with fields."""

    def __init__(self, path: Path = FIELDS) -> None:
        self.store, self.metrics = FakeStateReader(), Metrics()
        stored = Stored(load_bundle(path))
        stored.state("u", events=5)
        self.store.values.update(stored.values)
        self.in_service = InService(Release.of(model(path), prefix="uic", generation=0))
        self.scorer = Scorer(
            self.in_service,
            self.store,
            Admission(100),
            self.metrics,
            stale_after_ms=60_000,
            clock=lambda: 100.0,
            wall_ms=lambda: 1_700_000_000_000,
        )

    async def look(self) -> None:
        keys = self.in_service.current.keys
        reader = progress_reader(self.store)
        self.in_service.learn(keys, await reader.read_whole(keys))

    async def score(self, user: dict[str, Any], context: dict[str, Any]) -> Any:
        ids = np.array([3, 10], np.uint64), np.array([2, 5], np.uint64)
        return await self.scorer.score(ScoreRequest("u", *ids, user=user, context=context), 101.0)


def counted(scoring: Scoring) -> dict[tuple[str, str], float]:
    """`rtp_request_fields_total` by field and value."""
    return {
        (sample.labels["field"], sample.labels["value"]): sample.value
        for family in scoring.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "rtp_request_fields_total"
    }


def test_unknown_and_missing_values_are_counted_by_field() -> None:
    scoring = Scoring()
    asyncio.run(scoring.score(USER, CONTEXT))
    asyncio.run(scoring.score({"city": "Paris", "income": 5}, {**CONTEXT, "tags": ["sale", "never seen"], "hour": 24}))
    assert counted(scoring) == {
        ("city", "unknown"): 1, ("tags", "unknown"): 1, ("hour", "unknown"): 1, ("age", "missing"): 1,
    }  # fmt: skip


def changed(folder: Path, **income: Any) -> Path:
    """The bundle with fields, with another reading of the income; all that is stored of it is as it was."""
    path = folder / "tiny-fields/1"
    shutil.copytree(FIELDS, path)
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    [spec] = [spec for spec in manifest["fields"] if spec["name"] == "income"]
    spec |= income
    write_manifest(path, manifest)
    return path


def test_a_huge_number_scores_as_the_bound_and_is_counted(
    tmp_path: Path,
) -> None:
    low, high = np.log1p(1_000.0), np.log1p(1e6)
    path = changed(tmp_path, bounds=[low, high])
    bodies = [{"user": {**USER, "income": income}, "context": CONTEXT} for income in (1e300, 1e6, 32_000.5, -5.0, 1e3)]
    huge, at_high, usual, negative, at_low = [answer.json()["scores"] for answer in ask(*bodies, path=path)]
    assert huge == at_high != usual
    assert negative == at_low != usual
    first, second, third, *_ = [answer.json()["scores"] for answer in ask(*bodies)]
    assert first != second
    assert (second, third) == (at_high, usual)

    scoring = Scoring(path)
    asyncio.run(scoring.score({**USER, "income": 1e300}, CONTEXT))
    asyncio.run(scoring.score(USER, CONTEXT))
    assert counted(scoring) == {("income", "beyond"): 1}


def test_a_rate_of_0_scores_as_the_lowest(tmp_path: Path) -> None:
    """Although golden cases of the bundle, as of older programs, have rates above 1."""
    path = changed(tmp_path, bounds=[np.log1p(0.01), 60.0], past_rate=True)
    rates = (0, 0.0, 0.001, 0.01, 0.1)
    bodies = [{"user": {**USER, "income": rate}, "context": CONTEXT} for rate in rates]
    zero, also_zero, below, lowest, usual = [answer.json()["scores"] for answer in ask(*bodies, path=path)]
    assert zero == also_zero == below == lowest != usual
    scoring = Scoring(path)
    for rate in rates:
        asyncio.run(scoring.score({**USER, "income": rate}, CONTEXT))
    assert counted(scoring) == {("income", "beyond"): 3}
    for wrong in (-0.3, 3.0):
        (response,) = ask({"user": {**USER, "income": wrong}, "context": CONTEXT}, path=path)
        assert response.status_code == 422
        (fault,) = response.json()["errors"]
        assert fault["field"] == "user.income"

    document = create_service(SETTINGS, store=FakeStateReader(), runtime=model(path)).app.openapi()
    told = document["components"]["schemas"]["PredictRequest"]["properties"]["user"]["properties"]["income"]
    assert told["anyOf"][0] == {"type": "number", "minimum": 0.0, "maximum": 1.0}
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    (response,) = ask({"user": body["user"], "context": body["context"]}, path=path)
    assert response.status_code == 200


def test_the_example_of_a_past_rate_is_one_of_training() -> None:
    spec = FieldSpec(name="rate", source="user", kind="numeric", transform="log", mean=-3.9, past_rate=True)
    read = RequestFields([spec], {}, np.empty((0, 1), np.float32))
    assert example(read, "user") == {"rate": 0.02}


def test_a_reload_while_the_state_is_read_mixes_no_two_models() -> None:
    """The old release's fields, state, head and calibrator go together, although another is in service meanwhile."""
    scoring, other = Scoring(), Release.of(model(PLAIN), prefix="uic", generation=0)
    read = scoring.store.read

    async def reading(key: str, timeout_s: float) -> bytes | None:
        scoring.in_service.replace(other)
        return await read(key, timeout_s)

    async def play() -> tuple[Any, Any]:
        await scoring.look()
        before = await scoring.score(USER, CONTEXT)
        scoring.store.read = reading  # type: ignore[method-assign]  # a reload at this very moment
        return before, await scoring.score(USER, CONTEXT)

    before, during = asyncio.run(play())
    assert scoring.in_service.current is other
    assert during.model is before.model is model(FIELDS)
    assert during.report.events == before.report.events == 5
    np.testing.assert_array_equal(during.scores, before.scores)


def test_the_document_names_the_fields_and_its_example_is_accepted() -> None:
    document = create_service(SETTINGS, store=FakeStateReader(), runtime=model()).app.openapi()
    asked = document["components"]["schemas"]["PredictRequest"]["properties"]
    assert list(asked["user"]["properties"]) == ["age", "city", "income"]
    assert list(asked["context"]["properties"]) == ["battery", "hour", "page", "tags"]
    assert asked["user"]["additionalProperties"] is False
    assert "`Oslo`" in asked["user"]["properties"]["city"]["description"]
    assert "0 to 23" in asked["context"]["properties"]["hour"]["description"]
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert body["user"].keys() == {"age", "city", "income"}
    for source in ("user", "context"):
        jsonschema.validate(body[source], asked[source])
    (response,) = ask({"user": body["user"], "context": body["context"]})
    assert response.status_code == 200


def test_the_admin_door_says_what_the_bundle_reads() -> None:
    service = create_service(SETTINGS, store=FakeStateReader(), runtime=model())

    async def served() -> dict[str, Any]:
        transport = httpx.ASGITransport(app=service.admin)
        async with httpx.AsyncClient(transport=transport, base_url="http://rtp") as client:
            told: dict[str, Any] = json.loads((await client.get("/bundle")).content)
            return told

    told = asyncio.run(served())
    assert (told["user"], told["calibrated"]) == (["age", "city", "income"], True)
