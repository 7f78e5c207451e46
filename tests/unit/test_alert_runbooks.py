"""Each alert leads to a page that explains it, and the index of runbooks lists it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from support.headings import anchors

RUNBOOKS: Final = Path(__file__).parents[2] / "docs/runbooks"
RULES: Final[list[dict[str, Any]]] = [
    rule
    for group in yaml.safe_load((RUNBOOKS.parents[1] / "deploy/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_leads_to_a_page_that_explains_it(rule: dict[str, Any]) -> None:
    path, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert path.startswith("docs/runbooks/")
    page = (RUNBOOKS.parents[1] / path).read_text()
    assert not anchor or anchor in anchors(page)
    assert f"`{rule['alert']}`" in page
    assert f"`{rule['alert']}`" in (RUNBOOKS / "README.md").read_text()
