"""What callers will notice of a rollout is said before it begins."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mimn.baselines import model_config
from mimn.bundle import Manifest, MemberIndex, load_bundle, read_manifest
from mimn.bundle.fields import FieldSpec
from mimn.bundle.manifest import HEAD
from mimn.calibration import Calibration, Piecewise, Platt, Prior
from mimn.export.parts import RunFacts
from mimn.export.run import export_any
from mimn.export.untrained import untrained_model
from support.bundles import FIXTURES, TINY
from uic.rollout.changes import changes
from uic.rollout.planning import read_release, told_changes
from uic.settings import BundleSettings, ClientSettings

pytestmark = pytest.mark.torch

FIELDS = FIXTURES / "bundle_tiny_fields/tiny-fields/1"
PLAIN, WITH_FIELDS = read_manifest(TINY)[0], read_manifest(FIELDS)[0]


def of(*fields: FieldSpec) -> Manifest:
    return msgspec.structs.replace(PLAIN, fields=fields)


def test_the_same_model_again_is_no_change() -> None:
    for manifest in (PLAIN, WITH_FIELDS):
        assert list(changes(manifest, manifest)) == []


def calibrated(calibration: Calibration) -> Manifest:
    return msgspec.structs.replace(WITH_FIELDS, calibration=calibration)


def test_another_calibrator_is_told_with_the_score_at_which_it_differs_most() -> None:
    low, high = calibrated(Platt(1.0, -1.5)), calibrated(Platt(1.0, 0.5))
    [told] = changes(low, high)
    assert all(score in told for score in ("1.1e-07", "1.855e-07", "2.511e-08"))
    # A curve through the same points, and the correction that a shift by its logarithm is.
    assert list(changes(low, calibrated(Piecewise((0.0,), (-1.5,))))) == []
    assert list(changes(calibrated(Prior(0.25)), calibrated(Platt(1.0, math.log(0.25))))) == []


def test_a_calibrator_that_differs_only_at_scores_below_a_hundredth_is_told() -> None:
    old, new = (calibrated(Piecewise((-9.0, -7.0, -4.6), (-9.0, at, -4.6))) for at in (-7.0, -5.0))
    [told] = changes(old, new)
    assert "0.00091: 0.006693" in told


def test_a_calibrator_that_moves_no_answer_by_a_hundredth_is_not_told() -> None:
    for intercept in (-1.49999, -1.495):
        assert list(changes(calibrated(Platt(1.0, -1.5)), calibrated(Platt(1.0, intercept)))) == []


def test_calibrators_of_different_heads_are_not_compared() -> None:
    other = calibrated(Platt(1.0, 0.5))
    other = msgspec.structs.replace(other, files={**other.files, HEAD: "0" * 64})
    assert list(changes(calibrated(Platt(1.0, -1.5)), other)) == []


def test_fields_that_come_go_and_change_are_told() -> None:
    age, hour = (
        FieldSpec(name="age", source="user", kind="numeric"),
        FieldSpec(name="hour", source="context", kind="numeric"),
    )
    [told] = changes(of(age), of(age, hour))
    assert "may send context.hour" in told
    [told] = changes(of(age, hour), of(age))
    assert "need not send context.hour" in told
    [told] = changes(of(age), of(msgspec.structs.replace(age, kind="categorical", rows=9)))
    assert "must send user.age" in told
    unseen = FieldSpec(name="place", source="context", kind="categorical", rows=9, training_only=True)
    assert list(changes(of(age), of(age, unseen, msgspec.structs.replace(age, name="price", source="item")))) == []


@pytest.mark.parametrize("beside", [True, False])
def test_the_bundle_in_service_is_found_beside_the_new_one_or_at_its_setting(beside: bool, tmp_path: Path) -> None:
    replaces, _ = read_release(FIELDS, 0)
    new = tmp_path / "tiny/1"
    shutil.copytree(TINY, new)
    if beside:
        shutil.copytree(FIELDS, tmp_path / "tiny-fields/1")
    settings = ClientSettings(bundle=None if beside else BundleSettings(path=FIELDS))
    told = told_changes(settings, new, load_bundle(new), replaces)
    assert "lose `calibrated: true`" in told[0]
    assert "need not send" in told[1]


@pytest.mark.parametrize("other", [True, False])
def test_a_bundle_in_service_that_is_not_at_hand_is_asked_for(other: bool, tmp_path: Path) -> None:
    replaces, _ = read_release(FIELDS, 0)
    new = tmp_path / "tiny/1"
    shutil.copytree(TINY, new)
    settings = ClientSettings(bundle=BundleSettings(path=TINY) if other else None)
    [told] = told_changes(settings, new, load_bundle(new), replaces)
    assert f"copy it to {tmp_path / 'tiny-fields/1'}" in told


@pytest.fixture(scope="module")
def with_members(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, list[int]], Path]:
    """Writes a version of a bundle in which these candidates have members."""
    root = tmp_path_factory.mktemp("members")
    own = {"memory_induction": False, "utilization": False, "auxiliary_loss": False}
    config = model_config({"variant": "ledger", "ledger_buckets": 2, "member_reads": True, **own})
    ids = np.arange(1, 4, dtype=np.uint64)

    def written(version: str, candidates: list[int]) -> Path:
        of = np.array(candidates, np.uint64)
        assert config.ledger is not None
        facts = RunFacts(members=MemberIndex.of(config.ledger, of, np.ones_like(of)))
        model = untrained_model(config, 3, 3, 0)
        return export_any(
            model, ids, ids, root, name="shop", version=version, state_dtype="float32", events=9, facts=facts
        )

    return written


def test_candidates_that_lose_their_members_are_counted_if_they_are_most(
    with_members: Callable[[str, list[int]], Path],
) -> None:
    served, same, other = (with_members(str(n), of) for n, of in enumerate(([1, 2, 3, 4], [3, 4, 8, 9], [4, 5])))
    replaces, _ = read_release(served, 0)
    settings = ClientSettings()
    assert told_changes(settings, same, load_bundle(same), replaces) == ()
    [told] = told_changes(settings, other, load_bundle(other), replaces)
    assert told.startswith("3 of 4 candidates")
