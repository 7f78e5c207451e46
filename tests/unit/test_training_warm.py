"""Warm starts: yesterday's scores before the first step, vocabularies that grow, FNN from an FM, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mimn import run
from mimn import train as drawn
from mimn.bundle import load_bundle
from mimn.config import ConfigError
from mimn.data.fields import FittedFields
from mimn.data.vocabulary import EmbeddingIds
from mimn.export.run import export_run
from mimn.impressions.__main__ import main
from mimn.impressions.config import ImpressionConfig, OccasionPlan
from mimn.impressions.data import ImpressionData, ImpressionReader
from mimn.impressions.scoring import predict
from mimn.impressions.train import train
from mimn.nn.checkpoint import load_model
from mimn.run_config import RunConfig, decode_config
from mimn.training import loop
from mimn.training.folder import TrainingFailed
from mimn.training.schedule import Epoch
from mimn.training.settings import TrainingSettings
from mimn.training.warm import FROM, Origin, Start
from support import datasets

pytestmark = pytest.mark.torch

DAY, T = 86_400, 1_600_000_000 // 86_400 * 86_400
N, USERS = 1200, 60
MODEL: dict[str, Any] = {
    "variant": "pooling", "memory_induction": False, "utilization": False, "embedding_dim": 4, "head_units": [8, 4],
    "head": "deepfm",
}  # fmt: skip
FIELDS = (
    '[fields.context.place]\nkind = "categorical"\n[fields.context.tags]\nkind = "multi"\n'
    '[fields.context.hour]\nkind = "categorical"\nvocabulary = 24\n'
    '[fields.context.price]\nkind = "numeric"\n[fields.context.depth]\nkind = "numeric"\nbuckets = 4\n'
    '[fields.context.device]\nkind = "categorical"\nbuckets = 16\n[fields.item.brand]\nkind = "categorical"\n'
)


def described(folder: Path, *, later: bool, fields: str = FIELDS) -> Path:
    """A data set; `later` it has other users, more items, more values, other numbers and more clicks."""
    rng = np.random.default_rng(int(later))
    folder.mkdir(parents=True, exist_ok=True)
    low, high = (8, 40) if later else (1, 25)
    item, shown = rng.integers(low, high, N), rng.integers(low, high, N)
    events = {"u": rng.integers(1, USERS, N), "i": item, "c": item % 7, "t": T + rng.integers(0, 20 * DAY, N)}
    impressions = {
        "u": rng.integers(1, USERS, N), "i": shown, "c": shown % 7, "t": T + rng.integers(0, 20 * DAY, N),
        "y": (rng.random(N) < (0.6 if later else 0.3)).astype(int),
        "place": [f"p{value}" for value in rng.integers(low, high, N)],
        "tags": [f"t{a}|t{b}" for a, b in rng.integers(low, high, (N, 2))],
        "hour": rng.integers(0, 24, N),
        "price": rng.random(N) * (50 if later else 10),
        "depth": rng.random(N) * (50 if later else 10),
        "device": [f"d{value}" for value in rng.integers(low, high, N)],
    }  # fmt: skip
    pq.write_table(pa.table(events), folder / "events.parquet")
    pq.write_table(pa.table(impressions), folder / "shown.parquet")
    known = np.arange(1, 50 if later else 30)
    pq.write_table(
        pa.table({"i": known, "brand": [f"b{key % (9 if later else 5)}" for key in known]}), folder / "i.parquet"
    )
    path = folder / "dataset.toml"
    path.write_text(
        'name = "x"\n[events]\nfiles = ["events.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\ncategory = "c"\n'
        '[impressions]\nfiles = ["shown.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\nlabel = "y"\ncategory = "c"\n'
        f'window = "1h"\n[items]\nfiles = ["i.parquet"]\nkey = "i"\n{fields}'
        '[split]\nby = "time"\ntrain_until = 2020-09-23\nvalidate_until = 2020-09-28\n'
    )
    return path


def configured(epochs: int = 1, **model: Any) -> ImpressionConfig:
    return ImpressionConfig(
        name="x",
        min_count=1,
        model=MODEL | model,
        windows=OccasionPlan(length=16, occasions=8),
        training=TrainingSettings(epochs=epochs, learning_rate=1e-2, validation_length=16, embeddings="sparse"),
    )


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("yesterday")
    train(described(folder, later=False), configured(2), folder / "run", cache=folder / "cache")
    return folder / "run"


def stopped_before_the_first_step(patch: pytest.MonkeyPatch, start: Callable[[], Any]) -> Any:
    """The model that a training begins with."""
    found: list[Any] = []

    def stops(epochs: loop.Epochs) -> Epoch:
        found.append(epochs.model)
        raise KeyboardInterrupt

    with patch.context() as patched:
        patched.setattr(loop.Epochs, "run", stops)
        with pytest.raises(KeyboardInterrupt):
            start()
    return found[0]


def test_a_warm_model_scores_as_the_old_one_before_its_first_step(
    yesterday: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = described(tmp_path, later=True)
    output, cache = tmp_path / "run", tmp_path / "cache"
    model = stopped_before_the_first_step(
        monkeypatch, lambda: train(path, configured(), output, cache=cache, start=Start(yesterday))
    )
    data = ImpressionData.load(path, cache)
    occasions = data.labelled.occasions("test")
    scores = []
    for folder, of_folder in ((yesterday, load_model(yesterday / run.MODEL)), (output, model)):
        ids, fitted = EmbeddingIds.load(folder), FittedFields.load(folder)
        reader = ImpressionReader(data, ids, fitted, configured())
        fields = of_folder.fields
        assert fields is not None
        if folder == yesterday:
            # Yesterday's model knows the fields of yesterday's items only; today it would be served with today's.
            kept, items = ids, EmbeddingIds.load(output)
            values = ImpressionReader(data, items, fitted, configured()).item_values()
            rows = np.concatenate([[0], kept.item_rows(items.items)])
            own = fields.get_buffer("embedding_rows")[torch.from_numpy(rows)]
            for name, value in (("item_rows", values.rows), ("item_numbers", values.numbers), ("embedding_rows", own)):
                setattr(fields, name, value)
            reader = ImpressionReader(data, EmbeddingIds(items.items, ids.categories), fitted, configured())
        scores.append(predict(of_folder, reader, occasions, 16))
    new = ~np.isin(data.labelled.impressions.item_id[occasions.rows], np.arange(30))
    assert 50 < new.sum() < len(new) - 50
    assert len(np.unique(scores[0])) > 100
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-6)


def test_no_known_id_or_value_is_dropped(yesterday: Path, tmp_path: Path) -> None:
    record = train(
        described(tmp_path, later=True),
        configured(),
        tmp_path / "run",
        cache=tmp_path / "cache",
        start=Start(yesterday),
    )
    old, new = (EmbeddingIds.load(folder) for folder in (yesterday, tmp_path / "run"))
    assert set(old.items.tolist()) < set(new.items.tolist())
    before, after = (FittedFields.load(folder) for folder in (yesterday, tmp_path / "run"))
    for name in ("place", "tags", "brand"):
        assert set(before.codes[name].tolist()) < set(after.codes[name].tolist())
    for name in ("price", "depth", "device", "hour"):
        assert {s.name: s for s in before.specs}[name] == {s.name: s for s in after.specs}[name]
    assert record["from"]["run"] == str(yesterday)
    # An item that today's data never shows keeps its vector: its row was not touched.
    models = [load_model(folder / run.MODEL) for folder in (yesterday, tmp_path / "run")]
    at = [int(ids.item_rows(np.array([2]))[0]) for ids in (old, new)]
    assert torch.equal(models[0].items.weight[at[0]], models[1].items.weight[at[1]])


def test_a_cross_whose_parts_grew_begins_anew_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fields = FIELDS + '[fields.context.both]\nkind = "cross"\nof = ["place", "device"]\nbuckets = 32\n'
    first = described(tmp_path / "a", later=False, fields=fields)
    train(first, configured(), tmp_path / "a/run", cache=tmp_path / "cache")
    caplog.clear()
    for later, expected in ((False, False), (True, True)):
        path = described(tmp_path / f"b{later}", later=later, fields=fields)
        stopped_before_the_first_step(
            monkeypatch,
            lambda path=path: train(  # type: ignore[misc]  # bound at once
                path, configured(), path.parent / "run", cache=tmp_path / "cache", start=Start(tmp_path / "a/run")
            ),
        )
        assert ("crosses of fields whose vocabulary grew start over: both" in caplog.text) == expected


def test_fnn_begins_with_the_tables_of_an_fm(yesterday: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = described(tmp_path, later=False), tmp_path / "cache"
    train(path, configured(2, head="fm"), tmp_path / "fm", cache=cache)
    fnn = configured(1, head="fnn", head_units=[12, 6])
    model = stopped_before_the_first_step(
        monkeypatch, lambda: train(path, fnn, tmp_path / "fnn", cache=cache, start=Start(tmp_path / "fm"))
    )
    fm = load_model(tmp_path / "fm" / run.MODEL).state_dict()
    own = {name: value for name, value in model.state_dict().items() if name not in fm}
    assert own
    assert all(".over.head." in name for name in own)
    read = model.fields.id_rows(torch.arange(len(model.items.weight)))  # the other rows are never looked up
    for name, value in fm.items():
        same = model.state_dict()[name]
        assert torch.equal(value[read], same[read]) if name == "items.weight" else torch.equal(value, same), name
    with pytest.raises(ConfigError, match=r"head = 'fnn' \(there 'deepfm'\)"):
        train(path, configured(head="fnn"), tmp_path / "other", cache=cache, start=Start(yesterday))


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        ({"embedding_dim": 8}, FIELDS, r"\[model\] embedding_dim = 8 \(there 4\)"),
        ({}, FIELDS.replace("place", "town"), "has the fields town, tags, .* was trained with place, tags"),
        ({}, FIELDS.replace("buckets = 16", "buckets = 8"), "fields.context.device is described otherwise"),
        ({}, FIELDS.replace("buckets = 4\n", ""), "fields.context.depth is described otherwise"),
    ],
)
def test_another_architecture_is_refused_before_anything_is_written(
    model: dict[str, Any], fields: str, message: str, yesterday: Path, tmp_path: Path
) -> None:
    path = described(tmp_path, later=True, fields=fields)
    if "town" in fields:
        table = pq.read_table(tmp_path / "shown.parquet")
        pq.write_table(
            table.rename_columns([n.replace("place", "town") for n in table.column_names]), tmp_path / "shown.parquet"
        )
    with pytest.raises(ConfigError, match=message):
        train(path, configured(**model), tmp_path / "run", cache=tmp_path / "cache", start=Start(yesterday))
    assert not (tmp_path / "run").exists()


def test_the_command_starts_from_the_run_that_it_names(
    yesterday: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "model.toml"
    config.write_text(configured().to_toml())
    arguments = [
        "train", "--description", str(described(tmp_path, later=True)), "--config", str(config),
        "--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "run"),
    ]  # fmt: skip
    assert main([*arguments, "--from", str(tmp_path)]) == 1
    assert "holds no finished run to start from" in capsys.readouterr().err
    assert main([*arguments, "--keep-state"]) == 1
    assert "--keep-state needs --from" in capsys.readouterr().err
    assert main([*arguments, "--from", str(yesterday), "--keep-state"]) == 0
    begun = json.loads((tmp_path / "run" / run.METRICS).read_text())["from"]
    assert (begun["run"], begun["keep_state"]) == (str(yesterday), True)


def test_a_field_may_have_any_name_that_a_description_takes(tmp_path: Path) -> None:
    """torch keeps tables as modules, whose names may have no point and may not be those of its own attributes."""
    fields = (
        '[fields.context.type]\nkind = "categorical"\ncolumn = "place"\n[fields.context.items]\nkind = "multi"\n'
        'column = "tags"\n[fields.context."a.b"]\nkind = "categorical"\ncolumn = "device"\nbuckets = 16\n'
        '[fields.item.training]\nkind = "categorical"\ncolumn = "brand"\n'
    )
    path, cache = described(tmp_path, later=False, fields=fields), tmp_path / "cache"
    train(path, configured(), tmp_path / "run", cache=cache)
    train(path, configured(), tmp_path / "warm", cache=cache, start=Start(tmp_path / "run"))
    bundle = load_bundle(export_run(tmp_path / "run", tmp_path / "bundles", "x", "1", "float32"))
    assert bundle.request.vector({}, {"type": "p3", "items": ["t3", "t4"], "a.b": "d3"}).unknown == []


def test_a_warm_run_resumes_from_its_start_and_from_no_other(
    yesterday: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = described(tmp_path, later=True), tmp_path / "cache"
    whole = train(path, configured(2), tmp_path / "whole", cache=cache, start=Start(yesterday))
    stopped_before_the_first_step(
        monkeypatch, lambda: train(path, configured(2), tmp_path / "run", cache=cache, start=Start(yesterday))
    )
    assert json.loads((tmp_path / "run" / FROM).read_text())["run"] == str(yesterday)
    with pytest.raises(TrainingFailed, match=r"was started from .*: resume without --from"):
        train(path, configured(2), tmp_path / "run", cache=cache, resume=True, start=Start(tmp_path / "whole"))
    resumed = train(path, configured(2), tmp_path / "run", cache=cache, resume=True)
    assert resumed["from"] == whole["from"]
    assert (tmp_path / "run" / run.MODEL).read_bytes() == (tmp_path / "whole" / run.MODEL).read_bytes()


def test_a_warm_run_resumes_from_its_start_in_another_place(
    yesterday: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache, output = described(tmp_path, later=True), tmp_path / "cache", tmp_path / "run"
    start, moved = tmp_path / "start", tmp_path / "moved"
    shutil.copytree(yesterday, start)
    keeping = Start(start, keep_state=True)
    stopped_before_the_first_step(monkeypatch, lambda: train(path, configured(), output, cache=cache, start=keeping))
    start.rename(moved)
    with pytest.raises(TrainingFailed, match=r"put it back, or name the place .* by --from and --keep-state"):
        train(path, configured(), output, cache=cache, resume=True)
    resumed = train(path, configured(), output, cache=cache, resume=True, start=Start(moved, keep_state=True))
    sha256 = json.loads((output / FROM).read_text())["model_sha256"]
    assert [resumed["from"][key] for key in ("run", "model_sha256", "keep_state")] == [str(moved), sha256, True]


def test_a_warm_run_in_which_no_epoch_is_better_keeps_its_start_and_says_so(
    yesterday: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, cache, begin = described(tmp_path, later=False), tmp_path / "cache", Start(yesterday)
    worse = msgspec.structs.replace(configured(3), training=TrainingSettings(epochs=9, patience=2, learning_rate=0.3))
    record = train(path, worse, tmp_path / "whole", cache=cache, start=begin)
    assert (record["best_epoch"], record["epochs"]) == (0, 2), "patience counts from the start on"
    assert record["from"]["validation_logloss"] == record["validation_logloss"]
    assert record["validation_logloss"] < min(epoch["validation_logloss"] for epoch in record["curve"])
    assert f"no epoch is better than {yesterday}" in caplog.text
    assert "train_from" in caplog.text
    old, new = (load_model(folder / run.MODEL) for folder in (yesterday, tmp_path / "whole"))
    for name, value in old.state_dict().items():  # rows of items without an embedding are never looked up
        assert name == "items.weight" or torch.equal(value, new.state_dict()[name]), name

    real = loop.Epochs.run

    def dies(epochs: loop.Epochs) -> Epoch:
        if len(epochs.schedule.curve) == 1:
            raise KeyboardInterrupt
        return real(epochs)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Epochs, "run", dies)
        with pytest.raises(KeyboardInterrupt):
            train(path, worse, tmp_path / "run", cache=cache, start=begin)
    resumed = train(path, worse, tmp_path / "run", cache=cache, resume=True)
    assert (resumed["from"], resumed["best_epoch"]) == (record["from"], 0)
    assert (tmp_path / "run" / run.MODEL).read_bytes() == (tmp_path / "whole" / run.MODEL).read_bytes()


def test_a_start_that_is_better_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = smoke(tmp_path, {}, min_users=1)
    first = drawn.train(config, tmp_path / "a")
    training = msgspec.structs.replace(config.training, epochs="auto", patience=1, teachers=1, learning_rate=3.0)
    again = msgspec.structs.replace(config, training=training)
    record = drawn.train(again, tmp_path / "b", start=Start(tmp_path / "a"))
    assert (record["best_epoch"], record["validation_auc"]) == (0, first["validation_auc"])
    assert record["teachers"] == [{"seed": record["seed"] + 100, "validation_auc": first["validation_auc"]}]
    assert caplog.text.count("no epoch is better than") == 2


def test_a_run_that_died_before_its_start_is_not_resumed(
    yesterday: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = described(tmp_path, later=True), tmp_path / "cache"

    def dies(origin: Origin, output: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Origin, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            train(path, configured(), tmp_path / "run", cache=cache, start=Start(yesterday))
    with pytest.raises(TrainingFailed, match="holds no run to resume: start without --resume"):
        train(path, configured(), tmp_path / "run", cache=cache, resume=True)


def test_drawn_negatives_start_warm_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = decode_config(datasets.smoke_text(tmp_path), "test")
    data = msgspec.structs.replace(config.data, min_users=200)
    training = msgspec.structs.replace(config.training, epochs=1)
    config = msgspec.structs.replace(config, data=data, training=training)
    named = msgspec.structs.replace(config, model=config.model | {"count_limit": 50.0})
    drawn.train(named, tmp_path / "a")
    more = msgspec.structs.replace(config, data=msgspec.structs.replace(data, min_users=1))
    model = stopped_before_the_first_step(
        monkeypatch, lambda: drawn.train(more, tmp_path / "b", start=Start(tmp_path / "a"))
    )
    old, new = (EmbeddingIds.load(tmp_path / name) for name in "ab")
    assert len(old.items) < len(new.items)
    weights = load_model(tmp_path / "a" / run.MODEL).items.weight
    expected = weights[np.concatenate([[0], old.item_rows(new.items)])]
    assert torch.equal(model.items.weight, expected)
    assert model.config.count_limit == 50.0, "its weights were learned within it"


def test_a_run_that_keeps_the_state_is_a_new_head(yesterday: Path, tmp_path: Path) -> None:
    path = described(tmp_path, later=True)
    train(path, configured(), tmp_path / "run", cache=tmp_path / "cache", start=Start(yesterday, keep_state=True))
    old, new = (
        load_bundle(exported(folder, tmp_path / folder.parent.name)) for folder in (yesterday, tmp_path / "run")
    )
    assert new.fingerprint == old.fingerprint
    files = old.manifest.files, new.manifest.files
    assert {name for name in files[0] if files[0][name] != files[1][name]} >= {"head.onnx", "fields.vectors.npy"}
    values, grown = (FittedFields.load(folder).codes["place"] for folder in (yesterday, tmp_path / "run"))
    assert len(values) < len(grown), "values of the request are learned although no item is"


@pytest.mark.parametrize(
    ("model", "moves"),
    [
        pytest.param({}, False, marks=pytest.mark.full),
        ({"ledger_buckets": 9}, False),
        pytest.param({"variant": "gru4rec", "embedding_dim": 4, "units": 8}, False, marks=pytest.mark.full),
        pytest.param(
            {"variant": "ledger", "ledger_buckets": 9, "memory_induction": False, "utilization": False},
            True,
            marks=pytest.mark.full,
        ),
        pytest.param({"variant": "din", "embedding_dim": 4}, True, marks=pytest.mark.full),
    ],
    ids=["MIMN", "MIMN + ledger", "GRU4REC", "ledger alone", "DIN"],
)
def test_whatever_writes_a_state_stays_and_the_rest_learns(model: dict[str, Any], moves: bool, tmp_path: Path) -> None:
    """`moves`: whether the embeddings learn as well, because no state is made of them."""
    first, second = smoke(tmp_path, model, min_users=200), smoke(tmp_path, model, min_users=1)
    drawn.train(first, tmp_path / "a/run")
    drawn.train(second, tmp_path / "b/run", start=Start(tmp_path / "a/run", keep_state=True))
    old, new = (load_bundle(exported(tmp_path / name / "run", tmp_path / name / "bundles")) for name in "ab")
    assert new.fingerprint == old.fingerprint
    assert new.manifest.files["head.onnx"] != old.manifest.files["head.onnx"]
    before, after = (load_model(tmp_path / name / "run" / run.MODEL).items.weight for name in "ab")
    assert torch.equal(before, after) is not moves


def test_a_run_that_keeps_the_state_resumes_as_one_and_not_as_another(
    yesterday: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache, output = described(tmp_path, later=True), tmp_path / "cache", tmp_path / "run"
    keeping = Start(yesterday, keep_state=True)
    stopped_before_the_first_step(monkeypatch, lambda: train(path, configured(), output, cache=cache, start=keeping))
    with pytest.raises(TrainingFailed, match="with --keep-state: resume without --from"):
        train(path, configured(), output, cache=cache, resume=True, start=Start(yesterday))
    assert train(path, configured(), output, cache=cache, resume=True)["from"]["keep_state"]


def test_states_are_not_kept_if_items_stand_for_others(tmp_path: Path) -> None:
    paths = [described(tmp_path / name, later=False) for name in "abc"]
    for path, member in zip(paths, (3, 4), strict=False):
        pq.write_table(pa.table({"i": [5, 6], "m": [member, 7]}), path.parent / "members.parquet")
        path.write_text(path.read_text() + '[members]\nfiles = ["members.parquet"]\nkey = "i"\nitem = "m"\n')
    train(paths[0], configured(), tmp_path / "run", cache=tmp_path / "cache")
    keeping = Start(tmp_path / "run", keep_state=True)
    train(paths[0], configured(), tmp_path / "same", cache=tmp_path / "cache", start=keeping)
    for path in paths[1:]:  # another member, and none
        with pytest.raises(TrainingFailed, match="stand for other items"):
            train(path, configured(), path.parent / "run", cache=tmp_path / "cache", start=keeping)
        assert not (path.parent / "run").exists()
    # The command that the message asks for begins where the refused one was to.
    train(paths[1], configured(), paths[1].parent / "run", cache=tmp_path / "cache", start=Start(keeping.run))


def exported(folder: Path, bundles: Path) -> Path:
    return export_run(folder, bundles, "x", "1", "float32")


def smoke(folder: Path, model: dict[str, Any], *, min_users: int) -> RunConfig:
    """Drawn negatives on made-up events; with more users needed for an embedding, fewer items have one."""
    folder = folder / str(min_users)
    folder.mkdir()
    config = decode_config(datasets.smoke_text(folder), "test")
    return msgspec.structs.replace(
        config,
        data=msgspec.structs.replace(config.data, min_users=min_users),
        training=msgspec.structs.replace(config.training, epochs=1),
        model=model if model.get("variant") in ("gru4rec", "din") else config.model | model,
    )
