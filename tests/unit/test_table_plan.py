"""Which cells a plan has, in which order, and which of them are done."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mimn.config import ConfigError
from mimn.data.split import FOLDS, PARTS, parts_of
from mimn.run_config import decode_config
from mimn.table.plan import PLAN, Plan, cells, open_cells, read_plan, record_of, remaining

CONFIGS = Path(__file__).parents[2] / "models/configs"

PLAN_TEXT = """
configs = "{configs}"
records = "{records}"
runs = "unused"
training = {{ epochs = 3 }}
windows = {{ per_user = 2 }}

[[stages]]
dataset = "online_retail"
rows = ["floors", "pooling"]
folds = [0, 1]
lengths = [50, 200]

[[stages]]
dataset = "online_retail"
rows = ["wide"]
folds = [1]

[variations.wide]
config = "mimn"
name = "MIMN, 8 slots"
model = {{ slots = 8 }}
data = {{ min_users = 9 }}
windows = {{ without = ["2011-11-17", "2011-11-24"] }}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN_TEXT.format(configs=CONFIGS, records=tmp_path / "records"))
    return read_plan(path)


def test_every_user_is_tested_in_one_fold_and_validated_in_another() -> None:
    users = np.arange(1, 3001)
    parts = np.stack([parts_of(users, fold) for fold in range(FOLDS)])
    for part, times in (("test", 1), ("train", 3)):
        counts = (parts == PARTS.index(part)).sum(0)
        assert counts.min() >= times
    assert ((parts == PARTS.index("test")).sum(0) == 1).all()
    for fold in range(FOLDS):
        shares = [float((parts[fold] == place).mean()) for place in range(3)]
        np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.03)


def test_a_stage_runs_all_rows_of_a_fold_before_the_next_fold(plan: Plan) -> None:
    found = [(cell.key, cell.fold, cell.lengths) for cell in cells(plan)]
    lengths = (50, 200)
    assert found == [
        ("floors", 0, lengths), ("pooling", 0, lengths), ("floors", 1, lengths), ("pooling", 1, lengths),
        ("wide", 1, (200,)),
    ]  # fmt: skip


def test_rows_share_the_plans_settings_and_keep_their_model(plan: Plan) -> None:
    *_, pooling, wide = cells(plan)
    for cell in (pooling, wide):
        training = cell.config.training
        assert (training.epochs, training.seed, cell.config.windows.per_user) == (3, cell.fold, 2)
        assert cell.config.data.fold == cell.fold
    assert (wide.config.name, wide.config.model["slots"]) == ("MIMN, 8 slots", 8)
    assert (wide.config.data.min_users, pooling.config.data.min_users) == (9, 5)
    assert wide.config.windows.without == (date(2011, 11, 17), date(2011, 11, 24))
    assert decode_config(wide.config.to_toml(), "written") == wide.config
    assert pooling.config.model["variant"] == "pooling"


def test_a_stage_trains_its_rows_again_with_other_seeds_after_all_folds(plan: Plan) -> None:
    stage = msgspec.structs.replace(plan.stages[0], trainings=3)
    found = [
        (cell.key, cell.fold, cell.config.training.seed)
        for cell in cells(msgspec.structs.replace(plan, stages=(stage,)))
    ]
    assert found == [
        ("floors", 0, 0), ("pooling", 0, 0), ("floors", 1, 1), ("pooling", 1, 1),
        ("pooling_10", 0, 10), ("pooling_10", 1, 11), ("pooling_20", 0, 20), ("pooling_20", 1, 21),
    ]  # fmt: skip


def test_a_fingerprint_is_of_what_decides_the_figures(plan: Plan, tmp_path: Path) -> None:
    *_, pooling, wide = cells(plan)
    assert pooling.fingerprint != wide.fingerprint

    def changed(**tables: dict[str, object]) -> str:
        config = pooling.config
        for name, values in tables.items():
            config = msgspec.structs.replace(config, **{name: msgspec.structs.replace(getattr(config, name), **values)})
        return replace(pooling, config=config).fingerprint

    described = (CONFIGS.parent / "datasets/online-retail.toml").read_text("utf-8")
    (tmp_path / "moved.toml").write_text(described, "utf-8")
    side = '\n[items]\nfiles = ["i"]\nkey = "k"\n[fields.item.brand]\nkind = "categorical"\n'
    (tmp_path / "fields.toml").write_text(described + side, "utf-8")
    moved: dict[str, object] = {"description": str(tmp_path / "moved.toml")}
    assert changed(training={"compile": True}, data=moved) == pooling.fingerprint
    assert changed(data={"description": str(tmp_path / "fields.toml")}) != pooling.fingerprint
    assert changed(training={"epochs": 4}) != pooling.fingerprint
    assert changed(data={"fold": 0}) != pooling.fingerprint
    assert changed(windows={"length": 128}) != pooling.fingerprint


def test_what_a_record_has_is_not_run_again(plan: Plan) -> None:
    first = next(cell for cell in cells(plan) if cell.key == "pooling")
    record = record_of(plan, first)
    assert record.name == first.config.name
    one = {"config_sha256": first.fingerprint, "evaluation": {"50": {}, "200": {}}, "ranks_sha256": _NOTHING}
    record.put(0, one, {})
    record.save(Path(plan.records))
    assert ("pooling", 0) not in {(cell.key, cell.fold) for cell in open_cells(plan)}
    assert list(remaining(plan)) == [
        "online_retail floors: folds 0, 1", "online_retail pooling: fold 1", "online_retail wide: fold 1",
    ]  # fmt: skip

    record.put(0, one | {"evaluation": {"200": {}}}, {})
    record.save(Path(plan.records))
    assert "online_retail pooling: folds 0, 1" in list(remaining(plan)), "a length is missing"
    record.put(0, one | {"config_sha256": "another"}, {})
    record.save(Path(plan.records))
    assert "online_retail pooling: folds 0, 1" in list(remaining(plan)), "another configuration"


_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_rows_on_different_data_are_refused(plan: Plan, tmp_path: Path) -> None:
    for path in CONFIGS.glob("online_retail_*.toml"):
        shutil.copy(path, tmp_path)
    text = (tmp_path / "online_retail_mimn.toml").read_text()
    (tmp_path / "online_retail_mimn.toml").write_text(re.sub("min_users = .*", "min_users = 77", text))
    stage = msgspec.structs.replace(plan.stages[0], rows=("pooling", "wide"))
    mixed = msgspec.structs.replace(plan, stages=(stage,), configs=str(tmp_path))
    with pytest.raises(ConfigError, match="differ in"):
        cells(mixed)


def test_a_wrong_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN_TEXT.format(configs=CONFIGS, records="x") + "colour = 1\n")
    with pytest.raises(ConfigError, match="colour"):
        read_plan(path)
    path.write_text(PLAN_TEXT.format(configs=CONFIGS, records="x").replace("epochs = 3", "epochs = 0"))
    with pytest.raises(ConfigError, match="epochs must be at least 1"):
        cells(read_plan(path))


def test_the_committed_plans_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parents[1])
    for path in sorted(PLAN.parent.glob("*.toml")):
        plan = read_plan(path)
        assert all(stage.rows for stage in plan.stages)
        assert cells(plan)


def test_a_rows_own_seed_is_added_to_the_folds(plan: Plan) -> None:
    wide = plan.variations["wide"]
    other = msgspec.structs.replace(wide, training=wide.training | {"seed": 10})
    *_, before = cells(plan)
    *_, after = cells(msgspec.structs.replace(plan, variations={**plan.variations, "wide": other}))
    assert (before.config.training.seed, after.config.training.seed) == (1, 11)
    assert before.fingerprint != after.fingerprint
