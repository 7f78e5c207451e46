"""Peers do RTP's work: the same scores from the same stored state, in each engine's protocol; and what to install."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from loadtest.comparison import MODELS, main
from loadtest.engines import names
from loadtest.peers.catalog import PEERS, TRITON_BATCHING, NotInstalled, require
from loadtest.peers.wire import LISTED, PLAIN, TENSORS, TENSORS_HEAD_BYTES, tensor_scores
from loadtest.peers.work import Request, Work
from loadtest.population import Population
from mimn.bundle import BundleError, load_bundle
from rtp.runtime import OnnxModel
from support.stored import Stored

FIXTURES = Path(__file__).parents[1] / "fixtures"
KINDS = ("", "_sketch", "_din", "_fields", "_ledger")
TINY, SKETCH, DIN, FIELDS, LEDGER = (FIXTURES / f"bundle_tiny{kind}/tiny{kind.replace('_', '-')}/1" for kind in KINDS)
NOW = 1_700_000_000_000


@pytest.mark.parametrize("path", [TINY, SKETCH, LEDGER, DIN], ids=lambda path: path.parent.name)
def test_a_peer_gives_the_scores_that_rtp_gives(path: Path) -> None:
    bundle = load_bundle(path)
    model, stored = OnnxModel(bundle), Stored(bundle)
    tensors = stored.state("user-0")
    work = Work(bundle, stored.keys, stored.partitions, wall_ms=lambda: NOW)
    context = np.zeros(bundle.request.width, np.float32)
    for body in Population(path, users=2, candidates=7).bodies(10):
        asked = work.read(body)
        value = stored.values.get(asked.key)
        answer = work.answer(asked, value)
        state = bundle.initial_state if value is None else tensors
        expected = model.score(asked.items, asked.categories, state, context, NOW)
        assert answer.scores == pytest.approx(expected.tolist(), abs=1e-5)
        assert (answer.state.status, answer.state.events) == (("cold", 0) if value is None else ("warm", 3))


def test_a_bundle_that_peers_cannot_serve_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = load_bundle(FIELDS)
    with pytest.raises(BundleError, match="has none"):
        Work(bundle, Stored(bundle).keys, 4)
    installed("ray", tmp_path)
    told = ["--compare", "rtp,ray", "--peers", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main([*told, "--model", f"fields={FIELDS}"]) == 2
    assert "has none" in capsys.readouterr().err


def test_the_bundle_that_is_compared_by_default_is_one_that_peers_can_serve() -> None:
    bundle = load_bundle(Path(__file__).parents[2] / next(iter(MODELS.values())))
    Work(bundle, Stored(bundle).keys, 4)


def test_each_protocol_asks_the_same() -> None:
    (body,) = Population(TINY, users=2, candidates=3).bodies(1)
    request = msgspec.json.decode(body, type=Request)
    (listed,) = msgspec.json.decode(LISTED.body(body), type=list[Request])
    assert (PLAIN.body(body), listed) == (body, request)

    tensors = TENSORS.body(body)
    data = tensors[TENSORS_HEAD_BYTES:]
    read = {}
    for one in json.loads(tensors[:TENSORS_HEAD_BYTES])["inputs"]:
        size = one["parameters"]["binary_data_size"]
        read[one["name"]], data = data[:size], data[size:]
    assert data == b""
    assert read["user_id"][4:].decode() == request.user_id
    assert np.frombuffer(read["item_id"], "<u8").tolist() == [one.item_id for one in request.candidates]
    assert np.frombuffer(read["category_id"], "<u8").tolist() == [one.category_id for one in request.candidates]


def test_scores_are_read_behind_the_head_of_an_answer_of_tensors() -> None:
    scores = np.array([0.25, 0.5], np.float32)
    head = {"outputs": [{"name": "scores", "parameters": {"binary_data_size": scores.nbytes}}]}
    assert tensor_scores(json.dumps(head).encode() + scores.tobytes()).tolist() == scores.tolist()


def test_a_file_of_requests_has_path_headers_and_bodies() -> None:
    bodies = Population(TINY, users=2, candidates=3).bodies(2)
    stored = json.loads(TENSORS.requests(bodies))
    assert stored["path"] == TENSORS.path
    assert stored["headers"]["Inference-Header-Content-Length"] == str(TENSORS_HEAD_BYTES)
    assert [base64.b64decode(body) for body in stored["bodies"]] == [TENSORS.body(body) for body in bodies]


def installed(peer: str, environments: Path) -> Path:
    """The folder of packages of an environment that has a peer's pinned version."""
    found = PEERS[peer]
    site = environments / peer / "lib/python3.11/site-packages"
    (site / f"{found.package.replace('-', '_')}-{found.version}.dist-info").mkdir(parents=True)
    return site


def test_the_command_says_what_to_install(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    installed("ray", tmp_path)
    assert main(["--compare", "rtp,ray,bentoml", "--peers", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "BentoML: not installed" in told
    assert f"-m venv {tmp_path}/bentoml && {tmp_path}/bentoml/bin/pip install -r " in told
    assert "loadtest/peers/requirements/bentoml.txt" in told
    assert "Ray" not in told
    assert not (tmp_path / "out").exists()


def test_another_version_than_the_pinned_one_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "bentoml/lib/python3.11/site-packages/bentoml-0.1.dist-info").mkdir(parents=True)
    with pytest.raises(NotInstalled, match="BentoML"):
        require(["bentoml"], tmp_path)


def test_a_name_that_is_no_engine_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for given, told in (("rtp,torchserve", "there are rtp, ray, bentoml, triton"), ("rtp", "name an engine")):
        with pytest.raises(SystemExit) as ended:
            main(["--compare", given])
        assert ended.value.code == 2
        assert told in capsys.readouterr().err
    assert names("triton, rtp,ray") == ("ray", "triton")


def test_triton_batches_only_where_it_is_asked_to(tmp_path: Path) -> None:
    server = installed("triton", tmp_path) / "pytriton/tritonserver"
    for file in ("backends/python/libtriton_python.so", "python_backend_stubs/3.11/triton_python_backend_stub"):
        (server / file).parent.mkdir(parents=True)
        (server / file).touch()
    for number, setup in enumerate(PEERS["triton"].setups):
        folder = tmp_path / f"folder-{number}"
        start = PEERS["triton"].start(tmp_path / "triton", setup, 1234, folder)
        assert start.command[0] == str(server / "bin/tritonserver")
        assert (TRITON_BATCHING in (folder / "models/predict/config.pbtxt").read_text()) == setup.batch
        assert (folder / "models/predict/1/model.py").is_file()
        assert {file.name for file in (folder / "backends/python").iterdir()} == {
            "libtriton_python.so",
            "triton_python_backend_stub",
        }
