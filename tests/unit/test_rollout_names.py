"""What the rollout record cannot hold is refused where it is given, with words that say what is allowed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mimn.bundle import BundleError, check_name
from mimn.release import Gate, NotAllowed, other_topic
from support.bundles import TINY, write_manifest
from uic.rollout.gates import made_of
from uic.rollout.namespaces import Reading
from uic.rollout.origins import origin_of
from uic.rollout.planning import read_release

NAMES = ["my shop", "", "größer", "a/b", "x" * 129, "shop\n", "..", ".hidden", "-x"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_not_allowed_is_refused(name: str) -> None:
    with pytest.raises(BundleError, match="must not begin with"):
        check_name("name", name)


def renamed(root: Path, name: str, version: str) -> Path:
    """A copy of a bundle under another name, as one that was exported by an earlier version may have it."""
    copy = root / name / version
    shutil.copytree(TINY, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    write_manifest(copy, {**manifest, "name": name, "version": version})
    return copy


@pytest.mark.parametrize(("name", "version"), [("my shop", "1"), ("shop", "1 rc"), ("größer", "1")])
def test_a_bundle_that_the_record_cannot_hold_is_not_rolled_out(name: str, version: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json"):
        read_release(renamed(tmp_path, name, version), 0)


@pytest.mark.parametrize("text", [
    *("snapshot:my snapshot", "snapshot:", "snapshot:" + "x" * 129, "log:x", "none"),
    *("topic:", "topic:a b", "topic:" + "x" * 250, "topic"),
])  # fmt: skip
def test_an_origin_that_the_record_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(NotAllowed, match="log, backfill, snapshot:ID"):
        origin_of(text)


def test_another_topic_must_be_the_log_that_the_origin_names() -> None:
    release, _ = read_release(TINY, 0)
    told = origin_of("topic:events-8")[0].instruction(release, release, TINY, "events-8")
    assert "UIC_KAFKA__TOPIC=events-8" in told
    old, new = (Reading(n, topic, ()) for n, topic in ((4, "events"), (8, "events-8")))
    named = other_topic("topic:events-8")
    assert made_of(old, new, named) is None
    for wrong in (made_of(old, old, named), made_of(old, new, other_topic("log"))):
        assert wrong is not None
        assert (wrong.gate, wrong.passes) == (Gate.LOG, False)
