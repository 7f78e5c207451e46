"""docs/settings.md and docs/metrics.md are made from the code, and no metric is left out."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from prometheus_client import CollectorRegistry

import rtp.metrics
import uic.metrics
from localstack.checks.reference import ENDINGS, PAGES, metrics_of

ROOT = Path(__file__).parents[2]
SERVICES = [(uic.metrics, uic.metrics.Metrics().registry), (rtp.metrics, rtp.metrics.Metrics().registry)]


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_a_page_is_what_the_code_makes(path: Path) -> None:
    assert (ROOT / path).read_text() == PAGES[path](), (
        f"{path} differs from the code: run `make reference` and commit it"
    )


@pytest.mark.parametrize(("module", "registry"), SERVICES, ids=["uic", "rtp"])
def test_every_metric_is_found_with_its_kind_text_and_labels(module: ModuleType, registry: CollectorRegistry) -> None:
    found = {one.name: one for one in metrics_of(module)}
    families = [family for family in registry.collect() if not family.name.startswith("process_")]
    assert {(name, one.kind, one.about) for name, one in found.items()} == {
        (family.name + ENDINGS.get(family.type, ""), family.type, family.documentation) for family in families
    }
    for family in families:
        for sample in family.samples:
            if family.type != "info":
                assert sample.labels.keys() - {"le"} == set(found[family.name + ENDINGS.get(family.type, "")].labels)
