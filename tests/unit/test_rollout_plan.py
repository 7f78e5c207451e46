"""What would keep RTP or UIC from loading a bundle is found before its rollout begins, and by `ctr doctor`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from mimn.bundle import BundleError, GoldenMismatch, load_bundle
from mimn.bundle.specs import FIELD_VECTORS
from mimn.state import Progress
from rtp.runtime import load_model
from support.bundles import FIXTURES, TINY, again, with_scaled_head, write_manifest
from uic.core.start_position import LogBounds
from uic.rollout import planning
from uic.rollout.namespaces import Reading
from uic.rollout.origins import origin_of
from uic.rollout.planning import read_release
from uic.settings import BundleSettings, ClientSettings, KafkaSettings, RedisSettings, UicSettings
from uic.tools.doctor.installation import gather_model


def with_other_tables(tmp_path: Path) -> Path:
    """A bundle that encodes requests in another way than its golden cases say."""
    copy = tmp_path / "tiny-fields/1"
    shutil.copytree(FIXTURES / "bundle_tiny_fields/tiny-fields/1", copy)
    tables, manifest = copy / FIELD_VECTORS, json.loads((copy / "manifest.json").read_text())
    np.save(tables, -np.load(tables))
    manifest["files"][FIELD_VECTORS] = sha256(tables.read_bytes()).hexdigest()
    write_manifest(copy, manifest)
    load_bundle(copy)
    return copy


def with_other_states(tmp_path: Path) -> Path:
    """A bundle that folds its golden histories to other states than it says. The initial state's scores stay."""
    golden = load_bundle(TINY).golden
    return again(tmp_path, TINY, golden=replace(golden, items=golden.items[:, ::-1].copy()))


def doctor_says(path: Path) -> str:
    settings = UicSettings(
        kafka=KafkaSettings(), redis=RedisSettings(url="redis://127.0.0.1:6379/0"), bundle=BundleSettings(path=path)
    )
    return str(gather_model(settings).error)


def test_tables_of_fields_that_encode_other_requests_are_found(tmp_path: Path) -> None:
    copy = with_other_tables(tmp_path)
    for read in (lambda: read_release(copy, 0), lambda: load_model(copy)):
        with pytest.raises(GoldenMismatch, match="golden request differs"):
            read()
    assert "golden request differs" in doctor_says(copy)


def test_a_step_that_folds_to_other_states_is_found(tmp_path: Path) -> None:
    path = with_other_states(tmp_path)
    load_model(path)  # the head alone gives the golden scores
    with pytest.raises(GoldenMismatch, match="golden state differs"):
        read_release(path, 0)
    assert "golden state differs" in doctor_says(path)


@pytest.mark.parametrize("scale", [3.0, -1.0])
def test_a_head_whose_scores_are_no_probabilities_is_refused(scale: float, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="scores are from 0 to 1"):
        read_release(with_scaled_head(tmp_path, TINY, "2", scale), 0)


@pytest.mark.parametrize(("folded", "records"), [(None, 40), (20, 40), (60, 40), (75, 25)])
def test_records_that_the_log_no_longer_has_are_not_counted(
    folded: int | None, records: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Progress(partitions=1, next_offset=100, lineage=1, writer=1, base=60, as_of_ms=0)
    before = Reading(1, "events", (served,))
    after = None if folded is None else Reading(1, "events", (served._replace(next_offset=folded, base=0),))
    monkeypatch.setattr(planning, "_bounds", lambda settings, topic: [LogBounds(60, 100, bytes(16))])
    assert planning._log(ClientSettings(), before, after, origin_of("log")[0])[0] == records
