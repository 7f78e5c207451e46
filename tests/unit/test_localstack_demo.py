"""What the demo asks and says: real users, strictly their past, honest ranks, and a refusal when counts differ."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localstack import demo
from localstack.__main__ import how_to_use, main
from localstack.catalogue import OtherCatalogue, check_catalogue
from localstack.contents import contents
from localstack.demo import Answer, DemoFailed
from localstack.example import of_shopper
from localstack.replay import Folded, PartitionsBroken, expect, moved_to_now, wait_folded
from localstack.shoppers import DATA, Shopper, read_events, shoppers
from localstack.stack import BUNDLE, CHEAPER_BUNDLE, Addresses, Options, command
from localstack.wait import NotReady
from mimn.bundle import load_bundle
from mimn.data.events import Events
from mimn.data.split import part_of
from mimn.state import EMPTY_DIGEST, StateHeader, UserState, extend_digest
from mimn.state.actions import Actions
from rtp.app import create_service
from rtp.runtime import OnnxModel
from rtp.settings import RtpSettings
from support.bundles import FIXTURES, write_manifest
from support.fake_state_reader import FakeStateReader

ROOT = Path(__file__).parents[2]
SKETCH_BUNDLE = ROOT / "models/bundles/online-retail-sketch/1"
TINY = ROOT / "tests" / "fixtures" / "bundle_tiny" / "tiny" / "1"


@pytest.fixture(scope="module")
def events() -> Events:
    return read_events(ROOT / DATA)


@pytest.fixture(scope="module")
def people(events: Events) -> list[Shopper]:
    return shoppers(events, candidates=100)


def shopper(user_id: str = "17", length: int = 3) -> Shopper:
    return Shopper(user_id, range(length), 5, 2, ((6, 1), (7, 1), (8, 2)))


def answering(body: Callable[[dict[str, object]], object], status: int = 200) -> httpx.Client:
    def handle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json=body(json.loads(request.content)))

    return httpx.Client(base_url="http://rtp", transport=httpx.MockTransport(handle))


def test_shoppers_are_test_users_with_their_past_alone(events: Events, people: list[Shopper]) -> None:
    assert len(people) > 100
    lengths = [len(one.rows) for one in people]
    assert lengths == sorted(lengths)
    assert lengths[0] < 30
    assert lengths[-1] > 500
    for one in people:
        user = int(one.user_id)
        assert part_of(user) == "test"
        rows = np.arange(one.rows.start, one.rows.stop)
        assert set(events.user_id[rows]) == {user}
        bought = np.flatnonzero((events.user_id == user) & (np.arange(len(events)) >= one.rows.stop))
        asked_at = events.timestamp[bought[0]]
        assert events.timestamp[rows].max() < asked_at
        basket = events.item_id[bought][events.timestamp[bought] == asked_at]
        assert one.item_id in basket
        assert not {item for item, _ in one.others} & set(basket.tolist())


@given(
    gaps=st.lists(st.integers(0, 10**6), min_size=1, max_size=20),
    begin=st.integers(0, 1_500_000_000),
    end=st.integers(1, 20),
    now_s=st.floats(1_600_000_000, 2_000_000_000),
)
def test_moved_behaviors_keep_order_and_gaps_and_end_just_before_now(
    gaps: list[int], begin: int, end: int, now_s: float
) -> None:
    times, same = begin + np.cumsum(gaps), np.ones(len(gaps), np.int64)
    end = min(end, len(gaps))
    known = Shopper("1", range(end), 1, 1, ())
    moved = moved_to_now(Events(same, same, same, times, same), [known], now_s=now_s).timestamp
    assert np.array_equal(np.diff(moved), np.diff(times))
    assert now_s - 61 < moved[end - 1] <= now_s - 60


def test_moved_behaviors_of_the_demo_have_times_that_uic_takes(events: Events, people: list[Shopper]) -> None:
    year_2000, now_s = 946_684_800, 1_790_000_000
    moved = moved_to_now(events, people, now_s=now_s)
    replayed = np.concatenate([moved.timestamp[one.rows.start : one.rows.stop] for one in people])
    assert year_2000 <= replayed.min()
    assert replayed.max() <= now_s


def test_candidates_are_distinct_known_and_the_same_each_time(events: Events, people: list[Shopper]) -> None:
    category = dict(zip(events.item_id.tolist(), events.category_id.tolist(), strict=True))
    for one in people:
        assert len({item for item, _ in one.others}) == 99
        assert all(category[item] == kind for item, kind in one.others)
    assert shoppers(events, candidates=100) == people


def test_a_rank_counts_ties_against_the_real_item() -> None:
    scores = {"scores": [0.5, 0.9, 0.5, 0.1], "state": {"events": 3, "status": "warm"}}
    answer = demo.ask(answering(lambda _: scores), shopper())
    assert (answer.rank, answer.score, answer.events, answer.status) == (3, 0.5, 3, "warm")


def test_the_real_item_is_asked_for_among_the_others() -> None:
    asked: list[dict[str, object]] = []

    def body(request: dict[str, object]) -> object:
        asked.append(request)
        return {"scores": [1, 0, 0, 0], "state": {"events": 3, "status": "warm"}}

    demo.ask(answering(body), shopper("42"))
    assert asked == [
        {
            "user_id": "42",
            "candidates": [
                {"item_id": 5, "category_id": 2},
                {"item_id": 6, "category_id": 1},
                {"item_id": 7, "category_id": 1},
                {"item_id": 8, "category_id": 2},
            ],
        }
    ]


def test_an_answer_other_than_200_ends_the_demo_with_its_text() -> None:
    with pytest.raises(DemoFailed, match=r"503: .*draining"):
        demo.ask(answering(lambda _: {"code": "draining"}, status=503), shopper())


def test_stale_states_are_asked_for_again_until_none_is_stale() -> None:
    statuses = iter(["warm", "stale", "warm", "warm"])

    def body(_: dict[str, object]) -> object:
        return {"scores": [1, 0, 0, 0], "state": {"events": 3, "status": next(statuses)}}

    answers = demo.ask_when_warm(answering(body), [shopper("a"), shopper("b")])
    assert [answer.shopper.user_id for answer in answers] == ["a", "b"]
    assert next(statuses, None) is None
    forever = answering(lambda _: {"scores": [1, 0, 0, 0], "state": {"events": 3, "status": "stale"}})
    with pytest.raises(NotReady, match="no state is stale"):
        demo.ask_when_warm(forever, [shopper()], within_s=0.1)


@pytest.mark.parametrize(("events_said", "status"), [(2, "warm"), (4, "warm"), (3, "unavailable"), (0, "cold")])
def test_a_count_or_status_that_differs_from_what_was_produced_fails(events_said: int, status: str) -> None:
    good = Answer(shopper(), 3, "warm", 1, 0.9)
    demo.check([good])
    with pytest.raises(DemoFailed, match=status):
        demo.check([good, Answer(shopper(), events_said, status, 1, 0.9)])


def test_short_and_long_histories_are_timed_in_turn() -> None:
    order: list[str] = []

    def body(request: dict[str, object]) -> object:
        order.append(str(request["user_id"]))
        return {}

    short, long = demo.probe(answering(body), [shopper("s")], [shopper("l")])
    assert order == ["s", "l"] * demo.PROBES
    assert len(short) == len(long) == demo.PROBES


def test_the_table_and_summary_show_the_figures() -> None:
    answers = [Answer(shopper(str(1000 + i), i + 1), i + 1, "warm", 1 + i % 4, 0.25) for i in range(20)]
    lines = demo.table(answers)
    assert len(lines) == 2 + demo.ROWS_SHOWN
    assert re.search(r"1019\s+20\s+warm\s+4 of\s+4\s+0\.250", lines[-1])
    assert len({len(line) for line in lines}) == 1
    bundle = load_bundle(ROOT / BUNDLE)
    seen = demo.figures(bundle, answers, [shopper()], [shopper(length=500)], ([0.001] * 3, [0.002] * 3), fold_s=1.5)
    assert (seen.bundle, seen.events, seen.fold_s) == ("online-retail-ledger/2", sum(range(1, 21)), 1.5)
    text = " ".join(demo.summary(seen))
    for figure in ("20 users", "2.5", "1.00 ms", "2.00 ms"):
        assert figure in text


def test_the_expected_digest_is_the_fold_of_where_the_records_landed() -> None:
    folded = expect([(7, b"a"), (9, b"b")])
    assert folded.events == 2
    assert folded.digest == extend_digest(extend_digest(EMPTY_DIGEST, 7, b"a"), 9, b"b")
    assert folded != expect([(9, b"b"), (7, b"a")])


AT = Addresses(
    predict="http://127.0.0.1:8000",
    rtp_admin=["http://127.0.0.1:8002"],
    uic=["127.0.0.1:8001"],
    uic_admin=["http://127.0.0.1:8003"],
    bootstrap="127.0.0.1:9092",
    redis_url="redis://127.0.0.1:6379/0",
    topic="behavior-events",
    prefix="uic",
    bundle="models/bundles/online-retail/1",
)


def test_the_printed_commands_can_be_pasted(tmp_path: Path) -> None:
    text = how_to_use(AT, of_shopper(shopper("12")), tmp_path)
    curl = next(line for line in text.splitlines() if line.startswith("curl "))
    body = re.search(r"-d '(.*)'$", curl)
    assert body
    assert json.loads(body.group(1)) == demo.request(shopper("12"))
    program = re.search(r"<<'EOF'\n(.*?)\nEOF\n", text, re.S)
    assert program
    compile(program.group(1), "producer", "exec")
    assert all(line == line.lstrip() for line in text.splitlines())
    assert text.splitlines()[-1] == f"# stop     {command('down', tmp_path)}"


@pytest.mark.parametrize(
    ("name", "actions", "action"),
    [
        ("bundle_tiny_fields/tiny-fields/1", None, "ACTION_PURCHASE"),
        ("bundle_tiny_actions/tiny-actions/1", Actions.of({"click": 2.0, "purchase": 0.0}), "ACTION_CLICK"),
    ],
)
def test_an_own_model_starts_without_the_demos_data(
    name: str,
    actions: Actions | None,
    action: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = FIXTURES / name
    bundle = replace(load_bundle(path), actions=actions)
    monkeypatch.setattr("localstack.__main__.load_bundle", lambda of: bundle)
    document = create_service(RtpSettings(), store=FakeStateReader(), runtime=OnnxModel(bundle)).app.openapi()
    answers = {f"{AT.predict}/openapi.json": httpx.Response(200, json=document)}
    client = httpx.Client(transport=httpx.MockTransport(lambda request: answers[str(request.url)]))
    monkeypatch.setattr("localstack.example.web", lambda: client)
    monkeypatch.setattr("localstack.__main__.Stack", StartedStack)
    monkeypatch.chdir(tmp_path)  # where the demo's data set is not
    assert main(["up", "--empty", "--bundle", str(path)]) == 0
    text = capsys.readouterr().out
    curl = next(line for line in text.splitlines() if line.startswith("curl "))
    body = json.loads(shlex.split(curl)[-1])
    assert all(np.uint64(asked["item_id"]) in bundle.items.ids for asked in body["candidates"])
    given = bundle.request.vector(body.get("user", {}), body.get("context", {}))
    assert (given.unknown, given.missing) == ([], [])
    assert f"import {action}, BehaviorEvent" in text
    assert f"item_id={body['candidates'][0]['item_id']}," in text


class StartedStack:
    """A stack that runs already."""

    created_topics = ("behavior-events",)

    def __init__(self, options: Options, say: object) -> None:
        assert options.bundle.exists()

    def start(self) -> Addresses:
        return AT

    def stop(self) -> None:
        raise AssertionError("nothing failed")


def test_a_missing_bundle_is_one_line_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--folder", str(tmp_path), "demo", "--bundle", str(tmp_path / "none")]) == 1
    out = capsys.readouterr()
    assert str(tmp_path / "none") in out.err
    assert len(out.err.splitlines()) == 1


def test_a_bundle_of_another_catalogue_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for verb in ("demo", "up"):
        assert main([verb, "--folder", str(tmp_path / "stack"), "--bundle", str(TINY)]) == 1
        out = capsys.readouterr()
        assert "1%" in out.err
        assert not out.out
        assert not (tmp_path / "stack").exists()


def test_equal_ids_do_not_make_another_data_set_the_demos(
    tmp_path: Path, events: Events, people: list[Shopper]
) -> None:
    """Data sets number their items from 1 on, so a film catalogue shares ids with a shop's."""
    copy = tmp_path / "films" / Path(BUNDLE).parent.name / Path(BUNDLE).name
    shutil.copytree(ROOT / BUNDLE, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["training"]["dataset"] = "movielens"
    write_manifest(copy, manifest)
    with pytest.raises(OtherCatalogue, match="movielens"):
        check_catalogue(copy, events, people)


def test_every_shipped_bundle_knows_the_demos_shop(events: Events, people: list[Shopper]) -> None:
    for bundle in sorted((ROOT / "models" / "bundles").glob("*/*")):
        assert check_catalogue(bundle, events, people) > 0.99, bundle


def test_what_a_state_holds_is_shown_as_it_is_stored() -> None:
    """Slots, channels and counters of a state made by hand: one item bought twice now, another one a half-life ago."""
    bundle = load_bundle(SKETCH_BUNDLE)
    assert bundle.sketch
    blocks = bundle.layout.view(bundle.initial_state.copy())
    blocks["shares"][:] = [0.7, 0.2, 0.1, 0]
    blocks["channels"][1] = 0.5
    now_ms = 1_790_000_000_000
    half_life_ms = bundle.sketch.sketch.half_lives[0] * 86_400_000
    items, categories = np.array([17, 29], np.uint64), np.array([3, 4], np.uint64)
    tensors = bundle.layout.flatten(blocks)[np.newaxis]
    for item, times in ((1, [now_ms - half_life_ms]), (0, [now_ms, now_ms])):
        for time_ms in times:
            where = bundle.sketch.addresses(items[[item]], categories[[item]])
            bundle.sketch.sketch.add(tensors, where, bundle.sketch.sketch.moments(np.array([time_ms])))
    header = StateHeader(1, 0, 0, 2, 3, now_ms, EMPTY_DIGEST)
    text = "\n".join(contents(bundle, UserState(header, tensors[0]), items=items, categories=categories, now_ms=now_ms))
    for figures in ("70 %, 20 %, 10 %, 0 %", f"{0.5 * 32**0.5:.2f}", "17: 2.0, 29: 0.5", "3: 2.0, 4: 0.5"):
        assert figures in text


@pytest.mark.parametrize(
    ("bundle", "parts"),
    [
        (BUNDLE, ["memory", "channels", "ledger"]),
        (CHEAPER_BUNDLE, ["history_mean", "counters"]),
        (Path("models/bundles/online-retail-dien/1"), ["events"]),
    ],
)
def test_other_models_states_are_described_by_what_they_have(bundle: Path, parts: list[str]) -> None:
    loaded = load_bundle(ROOT / bundle)
    header = StateHeader(1, 0, 0, 2, 3, 0, EMPTY_DIGEST)
    none = np.array([1], np.uint64)
    lines = contents(loaded, UserState(header, loaded.initial_state), items=none, categories=none, now_ms=0)
    named = [line.split()[0] for line in lines]
    assert set(parts) <= set(named)
    assert ("memory" in named) == ("memory" in parts)


def test_down_as_json_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down", "--folder", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(tmp_path), "ended": 0}


def test_broken_partitions_end_the_wait_for_the_fold_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unfolded:
        def folded(self, user_id: str) -> Folded:
            return Folded()

    def partitions(request: httpx.Request) -> httpx.Response:
        if request.url.port == 1:
            raise httpx.ConnectError("it starts again")
        each = [{"partition": p, "phase": phase, "reason": "broken_log: new_log"} for p, phase in enumerate(phases)]
        return httpx.Response(200, json={"partitions": each})

    client = httpx.Client(transport=httpx.MockTransport(partitions))
    monkeypatch.setattr("localstack.replay.open_client", lambda **_: client)
    phases = ["folding", "broken", "broken"]
    workers = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    with pytest.raises(PartitionsBroken, match="new_log"):
        wait_folded(Unfolded(), {"u": Folded(3)}, workers, within_s=600)  # type: ignore[arg-type]  # what it uses of it
