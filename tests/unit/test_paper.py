"""Rows of the paper's tables: every command parses and names files that exist, and each kind of model trains and is
tested by the authors' protocol on a small file in the published format."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mimn import config_file, paper
from mimn.baselines import check_reads_fields
from mimn.config import ConfigError
from mimn.data import __main__ as data
from mimn.data.description import read_description
from mimn.data.events import Events
from mimn.data.preparation import prepare
from mimn.data.presets import PaperInstances
from mimn.data.vocabulary import EmbeddingIds
from mimn.impressions.config import ImpressionConfig
from mimn.run_config import read_config

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[2]
README = (ROOT / "models/reproduce/README.md").read_text()
COMMANDS = re.findall(r"^\| ([^|]+) \| ([^|]+) \| `python -m (mimn\.\w+) ([^`]+)` \|$", README, re.M)
CONFIGS = sorted((ROOT / "models/reproduce").glob("*.toml"))
T = 1_511_600_000


def test_every_configuration_has_a_row_for_each_data_set() -> None:
    rows = [(name, paper.parser().parse_args(shlex.split(options)).config.stem) for name, _, _, options in table_2()]
    assert sorted({stem for _, stem in rows}) == [path.stem for path in CONFIGS]
    assert len(rows) == 2 * len(CONFIGS)
    assert all(paper.read_config(ROOT / f"models/reproduce/{stem}.toml").name == name for name, stem in rows)


def table_2() -> list[tuple[str, str, str, str]]:
    return [command for command in COMMANDS if command[2] == "mimn.paper"]


PAPER = [command for command in COMMANDS if command[2] in ("mimn.paper", "mimn.data")]
CLEAN = [command for command in COMMANDS if command not in PAPER]


@pytest.mark.parametrize("command", CLEAN, ids=lambda command: command[0])
def test_a_command_of_the_clean_protocol_names_a_configuration_that_fits_its_description(
    command: tuple[str, str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can be told without the files: both are read, and the model can read what the data set has."""
    monkeypatch.chdir(ROOT)
    _, _, module, options = command
    given = dict(zip(*[iter(word for word in shlex.split(options) if word != "train")] * 2, strict=True))
    if module == "mimn.train":
        config = read_config(Path(given["--config"]))
        described = read_description(config.data.description)
        assert described.impressions is None
        assert described.protocol is None
        if described.fields:
            check_reads_fields(config.architecture)
        return
    assert module == "mimn.impressions"
    shown = read_description(given["--description"])
    assert shown.impressions is not None
    config_file.read(Path(given["--config"]), ImpressionConfig).check_against(shown)


@pytest.mark.parametrize("command", PAPER, ids=lambda command: f"{command[0]}, {command[1][:12]}")
def test_a_rows_command_parses_and_names_what_exists(command: tuple[str, str, str, str]) -> None:
    _, dataset, module, options = command
    if module == "mimn.data":
        assert data.parser().parse_args(shlex.split(options)).command == "convert"
        return
    parsed = paper.parser().parse_args(shlex.split(options))
    assert (ROOT / parsed.config).is_file()
    described = read_description(ROOT / parsed.description)
    assert described.protocol is not None
    assert described.name == {"Taobao": "taobao", "Amazon Books": "amazon-books"}[dataset]


@pytest.fixture
def taobao(tmp_path: Path) -> Path:
    """UserBehavior.csv of 150 users who keep to one category, and a description with the preset."""
    rng = np.random.default_rng(0)
    lines = []
    for user in range(1, 151):
        favorite = int(rng.integers(6))
        for i in range(int(rng.integers(2, 30))):
            category = favorite if rng.random() < 0.8 else int(rng.integers(6))
            item = category * 20 + int(rng.integers(20)) + 1
            time = T + user * 100 + i * 3600
            lines.append(f"{user},{item},{category},{rng.choice(['pv', 'buy'])},{time}")
    path = tmp_path / "data/taobao/UserBehavior.csv"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines) + "\n")
    description = tmp_path / "models/datasets/taobao-paper.toml"
    description.parent.mkdir(parents=True)
    description.write_bytes((ROOT / "models/datasets/taobao-paper.toml").read_bytes())
    return description


def run(taobao: Path, config: str, *more: str) -> int:
    root = taobao.parents[2]
    where = ["--description", str(taobao), "--cache", str(root / "cache"), "--output", str(root / "run")]
    return paper.main(["--config", str(ROOT / f"models/reproduce/{config}.toml"), *where, *more])


@pytest.mark.parametrize(
    "config",
    ["embedding_mlp", "mimn", *(pytest.param(name, marks=pytest.mark.full) for name in ("dien_auxiliary", "gru4rec"))],
)
def test_a_row_is_trained_tested_and_says_what_its_figure_is(
    taobao: Path, capsys: pytest.CaptureFixture[str], config: str
) -> None:
    assert run(taobao, config, "--rows-per-batch", "32") == 0
    told = json.loads(capsys.readouterr().out)
    record = json.loads((taobao.parents[2] / "run/metrics.json").read_text())
    assert told["protocol"] == "official: mimn-paper-taobao, checkpoint chosen on the test users"
    assert record["candidate_in_history"] is True
    assert record["rows"]["train"] + record["rows"]["test"] == 150
    assert 0.0 <= record["test_auc_last"] <= record["test_auc_best"] <= 1.0
    assert run(taobao, config) == 1
    assert "holds a run already" in capsys.readouterr().err


def test_every_item_has_a_row_where_ids_are_texts(taobao: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of their hashes are negative as int64, and tables are in the order of uint64."""
    taobao.write_text('ids = "string"\n' + taobao.read_text())
    given: list[EmbeddingIds] = []
    rows = paper._rows

    def noted(instances: PaperInstances, events: Events, ids: EmbeddingIds) -> Any:
        given.append(ids)
        return rows(instances, events, ids)

    monkeypatch.setattr(paper, "_rows", noted)
    assert run(taobao, "embedding_mlp") == 0
    events = prepare(taobao, taobao.parents[2] / "cache").events
    assert given[0].item_rows(events.item_id).min() == given[0].category_rows(events.category_id).min() == 1
    with pytest.raises(ValueError, match="items must rise strictly as uint64"):
        EmbeddingIds(np.unique(events.item_id), np.unique(events.category_id))


def test_the_same_seed_gives_the_same_figure(taobao: Path) -> None:
    config = paper.read_config(ROOT / "models/reproduce/embedding_mlp.toml")
    prepared = prepare(taobao, taobao.parents[2] / "cache")
    first, again = (paper.train(config, prepared, taobao.parents[2] / name, 19) for name in "ab")
    assert first["tests"] == again["tests"]
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.partition("[protocol]")[0], "the description has no `[protocol]`"),
        (lambda text: text.replace("mimn-paper-taobao", "din-paper"), "Invalid enum value 'din-paper'"),
    ],
)
def test_a_description_without_a_preset_is_refused(
    taobao: Path, capsys: pytest.CaptureFixture[str], change: object, message: str
) -> None:
    assert callable(change)
    taobao.write_text(change(taobao.read_text()))
    assert run(taobao, "mimn") == 1
    assert message in capsys.readouterr().err
    assert not (taobao.parents[2] / "run").exists()


def test_bad_options_and_configurations_are_named(
    taobao: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(taobao, "mimn", "--rows-per-batch", "0") == 1
    assert "rows_per_batch must be at least 1, not 0" in capsys.readouterr().err
    (tmp_path / "bad.toml").write_text('name = "x"\n[model]\nvariant = "official"\npading = "run"\n')
    with pytest.raises(ConfigError, match=r"bad\.toml: unknown field pading"):
        paper.read_config(tmp_path / "bad.toml")
