"""What would keep RTP from loading a bundle is found before its rollout begins."""

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
from support.bundles import FIXTURES, TINY, again, with_scaled_head
from uic.rollout.planning import read_release


def test_tables_of_fields_that_encode_other_requests_are_found(tmp_path: Path) -> None:
    copy = tmp_path / "tiny-fields/1"
    shutil.copytree(FIXTURES / "bundle_tiny_fields/tiny-fields/1", copy)
    tables, manifest = copy / FIELD_VECTORS, json.loads((copy / "manifest.json").read_text())
    np.save(tables, -np.load(tables))
    manifest["files"][FIELD_VECTORS] = sha256(tables.read_bytes()).hexdigest()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    load_bundle(copy)
    with pytest.raises(GoldenMismatch, match="golden request differs"):
        read_release(copy, 0)


def test_golden_cases_of_no_user_are_refused_in_words(tmp_path: Path) -> None:
    known = load_bundle(TINY).golden
    none = {name: getattr(known, name)[:0] for name in ("items", "categories", "states", "context", "scores")}
    with pytest.raises(BundleError, match=r"golden\.npz cannot be read: it has no users"):
        read_release(again(tmp_path, TINY, golden=replace(known, **none)), 0)


@pytest.mark.parametrize("scale", [3.0, -1.0])
def test_a_head_whose_scores_are_no_probabilities_is_refused(scale: float, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="scores are from 0 to 1"):
        read_release(with_scaled_head(tmp_path, TINY, "2", scale), 0)
