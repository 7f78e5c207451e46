"""A shop whose users have few events: what is said before a model is chosen by too few targets, and what helps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mimn import evaluate, run, train, tune
from mimn.data.events import DataError
from mimn.data.instances import DEFAULT_RULE, MIN_HISTORY, build_instances, source
from mimn.data.split import PARTS
from mimn.data_set import load_data
from mimn.enough_targets import FEW_TARGETS, shortage, standard_error, too_few_to_choose
from mimn.metrics import auc
from mimn.run_config import RunConfig, decode_config, read_config
from mimn.training.search import SEEN

pytestmark = pytest.mark.torch

LONG = 7
"""Every so many users one has more than 20 events."""


def shop(folder: Path, users: int = 290, long_each: int = LONG) -> list[str]:
    """Arguments of a training from the first event on, on users with 12 events and a few with 24."""
    rng = np.random.default_rng(0)
    lines = ["u,i,c,t"]
    for user in range(users):
        for day in range(24 if user % long_each == 0 else 12):
            item = int(rng.integers(1, 40))
            lines.append(f"{user},{item},{item % 4},{1_600_000_000 + 86_400 * day + user}")
    folder.mkdir(exist_ok=True)
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    (folder / "dataset.toml").write_text(
        'name = "shop"\n[events]\nfiles = ["events.csv"]\nuser = "u"\nitem = "i"\ncategory = "c"\ntime = "t"\n'
    )
    (folder / "model.toml").write_text(
        f'name = "x"\n[data]\ndescription = "{folder / "dataset.toml"}"\nmin_users = 1\n'
        '[model]\nvariant = "pooling"\nmemory_induction = false\nutilization = false\nembedding_dim = 4\n'
        "[windows]\nmin_history = 0\n[training]\nepochs = 1\n"
    )
    (folder / "space.toml").write_text('trials = 1\n[parameters."training.learning_rate"]\nlow = 1e-3\nhigh = 1e-1\n')
    return ["--config", str(folder / "model.toml")]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTR_CACHE", str(tmp_path / "cache"))


def config_of(folder: Path, **data: object) -> RunConfig:
    text = (folder / "model.toml").read_text()
    return decode_config(text.replace("[model]", "".join(f"{k} = {v}\n" for k, v in data.items()) + "[model]"), "test")


def test_training_warns_in_one_line_that_the_epoch_is_chosen_by_chance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = shop(tmp_path / "shop")
    assert train.main([*arguments, "--output", str(tmp_path / "run")]) == 0
    [warning] = [line for line in capsys.readouterr().err.splitlines() if "too few targets" in line]
    data = load_data(read_config(tmp_path / "run" / run.CONFIG).data)
    targets, tested = (len(data.instances.of(part)) for part in SEEN[1:] + PARTS[2:])
    users, long = data.long_enough["validation"]
    assert 0 < targets < FEW_TARGETS
    assert f"validation {targets} ({long} of {users} users), test {tested} (" in warning
    assert f"{standard_error(targets):.2f}" in warning
    assert "min_history" in warning


def test_a_search_by_too_few_targets_is_refused_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*shop(tmp_path / "shop"), "--space", str(tmp_path / "shop/space.toml")]
    assert tune.main([*arguments, "--output", str(tmp_path / "search")]) == 1
    said = capsys.readouterr().err
    assert "too few targets" in said
    assert "test" not in said, "it is not loaded"
    assert not (tmp_path / "search").exists()


def test_targets_after_fewer_events_are_enough(tmp_path: Path) -> None:
    shop(tmp_path / "shop")
    config = config_of(tmp_path / "shop", min_history=3)
    data = load_data(config.data)
    assert too_few_to_choose(data, PARTS, "the epoch") is None
    for part in PARTS:
        instances = data.instances.of(part)
        assert len(instances) > 200
        assert 3 <= (instances.end - instances.begin).min() < MIN_HISTORY
    record = train.train(config, tmp_path / "run")
    assert record["instances_sha256"] == data.instances.sha256
    assert data.instances.sha256 != load_data(config_of(tmp_path / "shop").data).instances.sha256
    assert set(evaluate.evaluate(tmp_path / "run", 50)["test"]) == set(DEFAULT_RULE.samplings)


def test_evaluation_without_a_test_target_says_that_histories_are_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = shop(tmp_path / "shop")
    assert train.main([*arguments, "--output", str(tmp_path / "run")]) == 0
    text = (tmp_path / "shop/dataset.toml").read_text()
    lines = (tmp_path / "shop/events.csv").read_text().splitlines()
    data = load_data(read_config(tmp_path / "run" / run.CONFIG).data)
    tested = set(data.instances.of("test").user_id.tolist())
    rows = [[int(value) for value in line.split(",")] for line in lines[1:]]
    kept = [",".join(map(str, row)) for row in rows if row[0] not in tested or row[3] < 1_600_900_000]
    (tmp_path / "shorter").mkdir()
    (tmp_path / "shorter/events.csv").write_text("\n".join([lines[0], *kept]) + "\n")
    (tmp_path / "shorter/dataset.toml").write_text(text)
    capsys.readouterr()
    description = ["--description", str(tmp_path / "shorter/dataset.toml")]
    assert evaluate.main(["--run", str(tmp_path / "run"), *description]) == 1
    assert f"0 of {data.long_enough['test'][0]} test users" in capsys.readouterr().err


def test_a_shop_without_any_long_history_says_how_long_the_longest_is(tmp_path: Path) -> None:
    shop(tmp_path / "shop", long_each=1000)
    (tmp_path / "shop/events.csv").write_text(
        "\n".join(
            line
            for line in (tmp_path / "shop/events.csv").read_text().splitlines()
            if line[:2] != "0,"  # the one long history
        )
    )
    with pytest.raises(DataError, match=r"no target has 20 events before it, and no user more than 11 before .*lower"):
        load_data(config_of(tmp_path / "shop").data)


def test_a_part_with_few_users_needs_users(tmp_path: Path) -> None:
    shop(tmp_path / "shop", users=12, long_each=1)
    data = load_data(config_of(tmp_path / "shop").data)
    users, long = data.long_enough["validation"]
    assert users == long
    assert shortage(data, "validation").endswith("add users" if users else "too few users")


def test_the_standard_error_is_that_of_an_auc_by_chance() -> None:
    rng = np.random.default_rng(0)
    labels = np.tile([1, 0, 0, 0, 0], FEW_TARGETS)
    found = np.std([auc(labels, rng.random(len(labels))) for _ in range(2000)])
    assert found == pytest.approx(standard_error(FEW_TARGETS), rel=0.05)
    assert standard_error(FEW_TARGETS + 2) < 0.05 < standard_error(FEW_TARGETS)


def test_the_default_history_changes_no_origin_and_another_does(tmp_path: Path) -> None:
    shop(tmp_path / "shop")
    events = load_data(config_of(tmp_path / "shop").data).events
    assert source(events) == source(events, None, DEFAULT_RULE, MIN_HISTORY) == f"instances-v1 of {events.sha256}"
    assert source(events, min_history=3) != source(events)
    assert build_instances(events).sha256 == build_instances(events, min_history=20).sha256


def test_a_target_needs_an_event_before_it(tmp_path: Path) -> None:
    shop(tmp_path / "shop")
    with pytest.raises(Exception, match="min_history must be at least 1, not 0"):
        config_of(tmp_path / "shop", min_history=0)
