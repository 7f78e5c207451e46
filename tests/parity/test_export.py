"""Export: what is written equals PyTorch and the equations at every batch size, and what would not is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import torch
from numpy.typing import NDArray

from mimn.bundle import Bundle, BundleError, GoldenMismatch, load_bundle
from mimn.bundle.graph import HeadGraph, StepGraph
from mimn.config import MimnConfig
from mimn.export import ExportError, export_bundle
from mimn.export.__main__ import main
from mimn.impressions.__main__ import main as impressions
from mimn.nn.checkpoint import save_model
from mimn.nn.graphs import StepModule
from mimn.nn.model import MimnModel
from mimn.parity import BATCHES, ParityError, check_parity
from mimn.reference import Reference
from mimn.state import LayoutError, StateHeader, UserState, decode_state, encode_state
from mimn.state.layout import BlockType
from parity.paper_models import CATEGORIES, CONFIGS, ITEMS, small_model

pytestmark = pytest.mark.torch

ITEM_IDS = np.array([5 * k + 2 for k in range(ITEMS - 1)] + [2**63 + 11], np.uint64)
CATEGORY_IDS = np.array([1, 4, 9, 16, 2**55 + 1], np.uint64)


def export(model: MimnModel, root: Path, dtype: BlockType = "float32", version: str = "1") -> Bundle:
    path = export_bundle(model, ITEM_IDS, CATEGORY_IDS, root, name="small", version=version, state_dtype=dtype)
    assert path == root / "small" / version
    return load_bundle(path)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with everything on."""
    return export(small_model(CONFIGS["both"]), tmp_path_factory.mktemp("both"))


@pytest.mark.parametrize(
    "name",
    [
        *("context", "batch norm and dropout", "pooling"),
        *(pytest.param(name, marks=pytest.mark.full) for name in ("bounded writes", "shift", "neither", "one slot")),
    ],
)
def test_a_bundle_folds_and_scores_as_the_model_does(name: str, tmp_path: Path) -> None:
    model = small_model(CONFIGS[name]).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    bundle = export(model, tmp_path)
    assert all(module.training for module in model.modules()), "the model is given back as it was"
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    assert_same(bundle, model.eval())


def test_a_bundle_with_everything_on_folds_and_scores_as_the_model_does(both: Bundle) -> None:
    assert_same(both, small_model(CONFIGS["both"]))


def assert_same(bundle: Bundle, model: MimnModel) -> None:
    step, head = StepGraph(bundle), HeadGraph(bundle)
    bundle.golden.verify_step(step, bundle.vectors, bundle.initial_state)
    bundle.golden.verify_head(head, bundle.vectors, bundle.initial_state)
    random = torch.Generator().manual_seed(8)
    for batch in BATCHES:
        items = torch.randint(ITEMS + 1, (batch, 6), generator=random)
        categories = torch.randint(CATEGORIES + 1, (batch, 6), generator=random)
        item_ids = np.append(np.uint64(999), ITEM_IDS)[items.numpy()]
        category_ids = np.append(np.uint64(999), CATEGORY_IDS)[categories.numpy()]
        state = np.tile(bundle.initial_state, (batch, 1))
        for t in range(6):
            state = step(bundle.vectors(item_ids[:, t], category_ids[:, t]), state)
        context = torch.randn(1, len(model.config.context_features), generator=random)
        with torch.no_grad():
            unrolled = model.unroll(items, categories)[:, -1]
            scores = model.score(unrolled[:1], items[:, :1].T, categories[:, :1].T, context)[0]
        np.testing.assert_allclose(state, unrolled.numpy(), atol=1e-5, rtol=1e-5)
        got = head(bundle.vectors(item_ids[:, 0], category_ids[:, 0]), state[0], context[0].numpy())
        assert got.shape == (batch,)
        np.testing.assert_allclose(got, scores.numpy(), atol=1e-5)


def test_states_of_1000_events_equal_the_unrolled_sequence(both: Bundle) -> None:
    model, step = small_model(CONFIGS["both"]), StepGraph(both)
    random = torch.Generator().manual_seed(8)
    items = torch.randint(ITEMS + 1, (8, 1000), generator=random)
    categories = torch.randint(CATEGORIES + 1, (8, 1000), generator=random)
    with torch.no_grad():
        events = model.vectors(items, categories).numpy()
        unrolled = model.unroll(items, categories)[:, -1].numpy()
    state = np.tile(both.initial_state, (8, 1))
    for t in range(1000):
        state = step(np.ascontiguousarray(events[:, t]), state)
    got, want = both.layout.view(state), both.layout.view(unrolled)
    for name in got:
        np.testing.assert_allclose(got[name], want[name], atol=1e-5, rtol=1e-5, err_msg=name)


def test_golden_histories_choose_their_channels_clearly(both: Bundle) -> None:
    model = small_model(CONFIGS["both"])
    reference = Reference(model.config, {name: value.numpy() for name, value in model.state_dict().items()})
    for items, categories in zip(both.golden.items, both.golden.categories, strict=True):
        _, gap = reference.fold(both.vectors(items, categories).astype(np.float64), reference.initial())
        assert gap > 1e-4


def test_parity_counts_what_it_compared(both: Bundle) -> None:
    step, head = graphs(both)
    report = check_parity(small_model(CONFIGS["both"]), both.layout, step, head)
    assert report.steps >= sum(BATCHES) - report.undecided
    assert report.scores >= sum(BATCHES)
    assert report.histories > max(BATCHES) // 2


def test_a_bundle_is_exported_again_from_its_weights(
    both: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "model.safetensors"
    save_model(small_model(CONFIGS["both"]), weights)
    asked = ["--again", str(both.path), "--output", str(tmp_path), "--name", "small", "--version", "1"]
    assert main([*asked, "--weights", str(weights)]) == 0
    again = load_bundle(tmp_path / "small" / "1")
    assert again.manifest == both.manifest, "the same bytes, ids and training record"
    with pytest.raises(SystemExit):
        main(asked)
    assert "--weights" in capsys.readouterr().err


def test_a_bundle_says_nothing_of_the_machine_that_wrote_it(both: Bundle) -> None:
    for file in both.path.iterdir():
        content = file.read_bytes()
        for word in (b"site-packages", b".py\n", b'.py"', str(Path.cwd()).encode(), str(both.path).encode()):
            assert word not in content, f"{word!r} in {file.name}"


@pytest.mark.parametrize(
    ("weight", "by", "what"),
    [
        ("controller.candidate.weight", 0.01, "block `controller` after folding"),
        ("channel.gates.weight", 0.01, "block `channels` after folding"),
        ("controls.weight", 0.01, "block `.*` after folding"),
        ("transfer.weight", 0.01, "block `.*` after folding"),
        ("head.bias", 0.01, "scores of .* candidates"),
        ("head.reads.attend_second.bias", 1.0, "scores of .* candidates"),
        ("head.by_read", 0.1, "scores of .* candidates"),
    ],
)
def test_a_graph_with_one_weight_moved_is_refused(weight: str, by: float, what: str, both: Bundle) -> None:
    given = graphs(both)
    step, head = (moved(data, weight, by) for data in given)
    assert (step, head) != given, "one of them has the weight"
    with pytest.raises(ParityError, match=rf"{what}.*differ by [\d.e-]+, allowed"):
        check_parity(small_model(CONFIGS["both"]), both.layout, step, head)


def test_a_graph_that_yields_nan_is_refused(both: Bundle) -> None:
    step, head = graphs(both)
    with pytest.raises(ParityError, match="differ by nan"):
        check_parity(small_model(CONFIGS["both"]), both.layout, step, moved(head, "head.bias", float("nan")))


def graphs(bundle: Bundle) -> tuple[bytes, bytes]:
    return (bundle.path / "step.onnx").read_bytes(), (bundle.path / "head.onnx").read_bytes()


def moved(data: bytes, weight: str, by: float) -> bytes:
    """The graph with `by` times a random direction added to one of its weights, where it has that weight."""
    proto = onnx.load_from_string(data)
    for tensor in proto.graph.initializer:
        if tensor.name == weight:
            value = onnx.numpy_helper.to_array(tensor)
            value = value + by * np.random.default_rng(0).normal(size=value.shape).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, weight))
    return bytes(proto.SerializeToString())


@pytest.mark.full
def test_a_model_whose_slots_are_alike_is_refused(tmp_path: Path) -> None:
    model = small_model(CONFIGS["both"])
    with torch.no_grad():
        model.cell.state_dict()["slot_keys"].copy_(torch.ones(3, 4))
        model.cell.state_dict()["initial_memory"].copy_(torch.ones(3, 4))
        model.cell.state_dict()["transfer.weight"].zero_()
        model.cell.state_dict()["transfer.bias"].zero_()
    with pytest.raises(ParityError, match="no history could be compared"):
        export(model, tmp_path)
    assert not any(tmp_path.iterdir()), "nothing is written"


def test_float16_states_stored_cached_and_replayed_are_one(tmp_path: Path) -> None:
    """Folding through the stored bytes at every event, from memory, and again from the start: the same bits."""
    bundle = export(small_model(CONFIGS["both"]), tmp_path, "float16")
    step, layout = StepGraph(bundle), bundle.layout
    assert layout.half_floats == 6 + 4 + 12 + 12
    random = np.random.default_rng(0)
    items, categories = random.choice(ITEM_IDS, 60), random.choice(CATEGORY_IDS, 60)
    events = bundle.vectors(items, categories)

    def stored(state: NDArray[np.float32]) -> NDArray[np.float32]:
        header = StateHeader(1, 2, 3, 4, 5, 6, bytes(8))
        value = encode_state(UserState(header, state[0]), bundle.fingerprint, layout)
        return decode_state(value, bundle.fingerprint, layout).tensors[np.newaxis]

    # PyTorch stands for a processor that rounds otherwise.
    rounds_otherwise = StepModule(small_model(CONFIGS["both"]), layout)
    with torch.no_grad():
        bundle.golden.verify_step(
            lambda events, states: rounds_otherwise(torch.from_numpy(events), torch.from_numpy(states)).numpy(),
            bundle.vectors,
            bundle.initial_state,
        )
    with pytest.raises(GoldenMismatch):
        bundle.golden.verify_step(lambda e, s: step(e, s) * np.float32(1.01), bundle.vectors, bundle.initial_state)

    cached = through_storage = bundle.initial_state[np.newaxis]
    for event in events:
        cached = step(event[np.newaxis], cached)
        through_storage = step(event[np.newaxis], stored(through_storage))
    np.testing.assert_array_equal(stored(through_storage), cached)
    replayed = bundle.initial_state[np.newaxis]
    for event in events:
        replayed = step(event[np.newaxis], replayed)
    np.testing.assert_array_equal(replayed, cached)
    with torch.no_grad():
        model = small_model(CONFIGS["both"])
        full = model.cell.initial(1)
        for event in events:
            full = model.cell(torch.from_numpy(event[np.newaxis]), full)
    np.testing.assert_allclose(cached, full.numpy(), atol=0.03, rtol=0.03)
    assert not np.array_equal(cached, full.numpy())


def test_float16_needs_an_even_number_of_recurrent_values(tmp_path: Path) -> None:
    model = small_model(replace(CONFIGS["both"], controller_units=5))
    with pytest.raises(LayoutError, match="odd number"):
        export(model, tmp_path, "float16")


def test_the_official_variant_is_refused_by_name(tmp_path: Path) -> None:
    model = MimnModel(MimnConfig.official(embedding_dim=2), ITEMS + 1, CATEGORIES + 1)
    with pytest.raises(ExportError, match=r"'official' cannot be served.*train variant 'paper'"):
        export(model, tmp_path)


def test_ids_that_do_not_fit_the_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="12 item ids do not fit a table of 14 rows"):
        export_bundle(small_model(CONFIGS["both"]), ITEM_IDS[1:], CATEGORY_IDS, tmp_path, name="x", version="1")


class TestCommand:
    def run_folder(self, folder: Path) -> Path:
        folder.mkdir()
        save_model(small_model(CONFIGS["both"]), folder / "model.safetensors")
        np.save(folder / "items.ids.npy", ITEM_IDS)
        np.save(folder / "categories.ids.npy", CATEGORY_IDS)
        (folder / "metrics.json").write_text('{"auc": 0.75}')
        return folder

    @pytest.mark.full
    def test_a_run_becomes_a_bundle(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = self.run_folder(tmp_path / "run")
        arguments = ["--run", str(run), "--output", str(tmp_path / "bundles"), "--name", "small", "--version", "3"]
        assert main(arguments) == 0
        bundle = load_bundle(capsys.readouterr().out.strip())
        assert bundle.name == "small/3"
        assert bundle.manifest.training == {"auc": 0.75}
        assert MimnConfig.from_mapping(bundle.manifest.model) == CONFIGS["both"]
        np.testing.assert_array_equal(bundle.items.ids, ITEM_IDS)

    def test_an_untrained_model_becomes_a_bundle(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        config = tmp_path / "c.toml"
        config.write_text("[model]\nembedding_dim = 3\nslots = 2\nhead_units = [9, 7]\n")
        arguments = ["--untrained", "--config", str(config), "--items", "20", "--categories", "4"]
        arguments += ["--output", str(tmp_path), "--name", "random", "--version", "1", "--state-dtype", "float16"]
        assert main(arguments) == 0
        bundle = load_bundle(capsys.readouterr().out.strip())
        assert (len(bundle.items.ids), len(bundle.categories.ids), bundle.width) == (20, 4, 6)
        assert bundle.layout.half_floats > 0
        assert bundle.manifest.training == {"untrained": True, "seed": 0}

    @pytest.mark.parametrize("command", [main, impressions])
    @pytest.mark.parametrize(("option", "text"), [("--name", "my shop"), ("--name", ".."), ("--version", "1 rc")])
    def test_a_name_that_no_rollout_could_hold_is_refused_before_anything_is_read(
        self,
        command: Callable[[list[str]], int],
        option: str,
        text: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        arguments = ["export"] if command is impressions else []
        arguments += ["--run", str(tmp_path / "none"), "--output", str(tmp_path)]
        arguments += ["--name", "shop", "--version", "1", option, text]
        with pytest.raises(SystemExit, match="2"):
            command(arguments)
        assert f"{option[2:]} '{text}': it may have 1 to 128 of the letters" in capsys.readouterr().err

    def test_no_other_way_writes_a_bundle_of_such_a_name(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="name 'my shop'"):
            export_bundle(
                small_model(CONFIGS["neither"]), ITEM_IDS, CATEGORY_IDS, tmp_path, name="my shop", version="1"
            )
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda run: (run / "model.safetensors").unlink(), "model.safetensors cannot be read"),
            (lambda run: (run / "model.safetensors").write_bytes(b"x" * 99), "model.safetensors cannot be read"),
            (lambda run: (run / "items.ids.npy").unlink(), "items.ids.npy cannot be read"),
            (lambda run: np.save(run / "items.ids.npy", ITEM_IDS[::-1]), "ids must rise strictly"),
            (lambda run: np.save(run / "items.ids.npy", ITEM_IDS[:3]), "3 item ids do not fit"),
            (lambda run: (run / "metrics.json").write_text("{"), "metrics.json is not JSON"),
        ],
    )
    def test_a_spoiled_run_is_refused(
        self, spoil: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert callable(spoil)
        run = self.run_folder(tmp_path / "run")
        spoil(run)
        arguments = ["--run", str(run), "--output", str(tmp_path / "bundles"), "--name", "small", "--version", "3"]
        assert main(arguments) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "bundles").exists()

    def test_a_folder_that_is_none_is_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["--run", str(tmp_path / "no"), "--output", str(tmp_path), "--name", "small", "--version", "3"]
        assert main(arguments) == 1
        assert f"--run: {tmp_path / 'no'}" in capsys.readouterr().err

    @pytest.mark.full
    def test_an_output_that_cannot_be_written_is_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = tmp_path / "a file"
        output.touch()
        config = tmp_path / "c.toml"
        config.write_text("[model]\nembedding_dim = 3\nslots = 2\nhead_units = [9, 7]\n")
        arguments = ["--untrained", "--config", str(config), "--items", "20", "--categories", "4"]
        assert main([*arguments, "--output", str(output), "--name", "random", "--version", "1"]) == 1
        assert f"{output / 'random/1'} cannot be written" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[model]\nslot = 3", "unknown field slot"),
            ("[model]\nslots = '3'", "slots must be like 4, not '3'"),
            ("[model]\nslots = 0", "slots must be at least 1"),
            ("[model", "cannot be read as TOML"),
        ],
    )
    def test_a_bad_configuration_is_named(
        self, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = tmp_path / "c.toml"
        config.write_text(text)
        arguments = ["--untrained", "--config", str(config), "--output", str(tmp_path), "--name", "x", "--version", "1"]
        assert main(arguments) == 1
        assert message in capsys.readouterr().err
