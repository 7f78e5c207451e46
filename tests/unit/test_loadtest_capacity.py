"""The capacity model: plans keep what they promise, and grow with what they are asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import capacity, scale
from loadtest.capacity import Costs, Demand, Limits, check, plan

COSTS = Costs(
    fold_us=40,
    drain_per_s=40_000,
    store_event_us=8,
    request_us=200,
    candidate_us=3,
    store_request_us=20,
    entry_bytes=260,
    written_bytes=120,
)
DEMAND = Demand(users=290e6, events_per_s=50e3, requests_per_s=20e3, state_bytes=1640)
demands = st.builds(
    Demand,
    users=st.floats(0, 1e10),
    events_per_s=st.floats(0, 1e7),
    requests_per_s=st.floats(0, 1e6),
    candidates=st.integers(1, 512),
    state_bytes=st.integers(100, 10_000),
)


@given(demands)
def test_nothing_is_planned_busier_or_fuller_than_the_limits_say(demand: Demand) -> None:
    limits = Limits()
    found = plan(demand, COSTS, limits)
    slack = 1 + 1e-9
    request_us = COSTS.request_us + demand.candidates * COSTS.candidate_us
    assert demand.events_per_s * COSTS.fold_us / 1e6 <= limits.busy * found.uic_workers * slack
    assert limits.catch_up * demand.events_per_s <= COSTS.drain_per_s * found.uic_workers * slack
    assert demand.requests_per_s * request_us / 1e6 <= limits.busy * found.rtp_processes * slack
    assert found.store_bytes <= found.masters * limits.node_gib * 2**30 * limits.fill * slack
    assert found.partitions >= max(32 * found.masters, 4 * found.uic_workers, 64)
    assert found.partitions.bit_count() == 1


@given(demands, st.sampled_from(["users", "events_per_s", "requests_per_s"]))
def test_twice_the_demand_never_needs_less(demand: Demand, what: str) -> None:
    more = replace(demand, **{what: 2 * getattr(demand, what)})
    before, after = plan(demand, COSTS, Limits()), plan(more, COSTS, Limits())
    assert after.uic_workers >= before.uic_workers
    assert after.rtp_processes >= before.rtp_processes
    assert after.masters >= before.masters
    assert after.partitions >= before.partitions


def test_the_papers_users_fit_in_a_fifth_of_what_their_histories_take() -> None:
    found = plan(DEMAND, COSTS, Limits())
    assert found.store_bytes == pytest.approx(290e6 * (1640 + 260))
    assert found.store_bytes < 290e6 * 1000 * 10 / 5


def test_costs_are_read_from_a_record_by_their_meaning() -> None:
    record = {
        "state_bytes": 1640,
        "fold": [{"uic_us": 25.0, "per_s": 30_000.0}],
        "steady": [
            {"rate_per_s": 500, "uic_us": 90.0, "store_us": 15.0},
            {"rate_per_s": 8000, "uic_us": 40.0, "store_us": 8.0},
        ],
        "persistence": [
            {"appendfsync": "off", "bytes_an_event": 0.0},
            {"appendfsync": "everysec", "bytes_an_event": 1760.0},
        ],
        "memory": {"store_bytes_a_user": 1900.0},
        "candidates": [{"candidates": c, "rtp_us": 200.0 + 3.0 * c, "store_us": 20.0} for c in (1, 100, 400)],
    }
    found = Costs.of(record)
    assert (found.fold_us, found.drain_per_s, found.store_event_us, found.store_request_us) == (40, 30_000, 8, 20)
    assert found.request_us == pytest.approx(200)
    assert found.candidate_us == pytest.approx(3)
    assert (found.entry_bytes, found.written_bytes) == (260, 120)


def test_a_value_grows_with_the_history_between_the_measured_ones() -> None:
    record = {"state_bytes": 6136, "memory": {"state_bytes_by_events": {"1000": 6000.0, "20": 1700.0, "100": 2500.0}}}
    found = [capacity.state_bytes(record, events) for events in (0, 20, 60, 100, 1000, 5000)]
    assert found == [1700, 1700, 2100, 2500, 6000, 6000]
    assert capacity.state_bytes({"state_bytes": 1640, "memory": {}}, 500) == 1640


def test_processes_share_the_cores_of_the_machine_that_was_measured() -> None:
    one = {"processes": 1, "per_s": 30_000.0, "uic_us": 25.0, "rtp_us": 500.0, "store_us": 10.0, "others_us": 5.0}
    runs = [one, {**one, "processes": 2}, {**one, "processes": 3, "elsewhere_cores": 0.5}]
    rows = check(
        {"machine": {"cores": 2}, "fold": runs, "predict": [{**one, "per_s": 1900.0}, {**one, "processes": 2}]}
    )
    assert [row.predicted for row in rows] == [
        30_000,
        pytest.approx(2e6 / 40),  # two share the cores with the store and the rest
        pytest.approx(1.5e6 / 40),  # of which other programs had a part
        1900,
        pytest.approx(min(2 * 1900, 2e6 / 515)),  # two wait as much as one
    ]
    assert rows[1].off == pytest.approx(50_000 / 30_000 - 1)
    assert (rows[1].least, rows[1].most) == (30_000, 30_000), "a record without rounds has one"


def test_one_slow_round_in_three_moves_no_figure_and_is_shown_by_the_check() -> None:
    one = {"processes": 1, "uic_us": 5.0, "rtp_us": 300.0, "store_us": 1.0, "others_us": 1.0, "shares_of_a_core": [1.0]}
    rounds = [
        {"fold": [{**one, "per_s": 90_000.0}], "predict": [{**one, "per_s": per_s, "rtp_us": rtp_us}]}
        for per_s, rtp_us in ((3500.0, 290.0), (1600.0, 600.0), (3400.0, 310.0))
    ]
    medians = scale.median_of(rounds)
    assert medians["predict"] == [{**one, "per_s": 3400.0, "rtp_us": 310.0}]
    folds, predicts = check({"machine": {"cores": 2}, "rounds": rounds, **medians})
    assert (predicts.measured, predicts.least, predicts.most) == (3400, 1600, 3500)
    assert (folds.least, folds.most) == (90_000, 90_000)


def test_the_newest_record_is_taken_and_without_one_the_command_says_how_to_make_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in ("2026-01-02", "2026-01-10"):
        (tmp_path / f"{day}_scale").mkdir()
        (tmp_path / f"{day}_scale" / "scale.json").write_text(json.dumps({}))
    assert capacity.newest(tmp_path).parent.name == "2026-01-10_scale"
    with pytest.raises(capacity.NoCosts, match=r"python -m loadtest\.scale"):
        capacity.newest(tmp_path / "empty")
    assert capacity.main(["--check", "--costs", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


def scale_json(folder: Path, **other: object) -> Path:
    """A record as `loadtest.scale` writes it, with other fields."""
    run = {"processes": 1, "per_s": 30_000.0, "uic_us": 25.0, "rtp_us": 500.0, "store_us": 10.0, "others_us": 5.0}
    record = {
        "machine": {"cpu": "x", "cores": 2},
        "commit": "x",
        "bundle": "x/1",
        "state_bytes": 1640,
        "fold": [run],
        "predict": [run],
        "steady": [{"rate_per_s": 8000, "uic_us": 40.0, "store_us": 8.0}],
        "persistence": [{"appendfsync": "everysec", "bytes_an_event": 1760.0}],
        "memory": {"store_bytes_a_user": 1900.0},
        "candidates": [{"candidates": c, "rtp_us": 200.0 + 3.0 * c, "store_us": 20.0} for c in (1, 100, 400)],
    }
    path = folder / "scale.json"
    path.write_text(json.dumps(record | other))
    return path


ASKED = ("--users", "1e6", "--events-per-s", "100", "--requests-per-s", "100")


def test_the_command_prints_a_plan_and_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    costs = str(scale_json(tmp_path))
    for arguments, words in ((ASKED, "UIC workers"), (["--check"], "(+0%)")):
        assert capacity.main([*arguments, "--costs", costs]) == 0
        assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", ["--users 0", "--users nan", "--requests-per-s inf", "--candidates 1.5", "--busy 1.5", "--replicas -1"]
)
def test_a_number_that_no_plan_can_be_made_of_is_wrong_usage(
    wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        capacity.main([*ASKED, *wrong.split(), "--costs", str(scale_json(tmp_path))])
    said = capsys.readouterr()
    assert (left.value.code, said.out) == (2, "")
    assert wrong.split(maxsplit=1)[0] in said.err


@pytest.mark.parametrize("wrong", ["--users 1e308", "--node-gib 1e-300 --users 1e30", "--busy 1e-320"])
def test_a_load_that_cannot_be_counted_is_wrong_usage(
    wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        capacity.main([*ASKED, *wrong.split(), "--costs", str(scale_json(tmp_path))])
    assert (left.value.code, "cannot be counted" in capsys.readouterr().err) == (2, True)


@pytest.mark.parametrize(
    "other",
    [
        {"machine": {"cpu": "x"}},
        {"steady": None},
        {"candidates": [{"candidates": "many", "rtp_us": 1.0}]},
        {"predict": []},
    ],
)
def test_a_file_without_costs_is_named(
    other: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = scale_json(tmp_path, **other)
    for content in (path.read_text(), "{}", "[1]", "no JSON", "\udcff"):
        path.write_bytes(content.encode(errors="surrogateescape"))
        for arguments in (ASKED, ["--check"]):
            assert capacity.main([*arguments, "--costs", str(path)]) == 2
            said = capsys.readouterr()
            assert said.out == ""
            assert str(path) in said.err
