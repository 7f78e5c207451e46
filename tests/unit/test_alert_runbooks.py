"""Each alert leads to a page that names it and says what it means, what is at risk and when it clears, and the index of
runbooks lists it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from support.headings import anchors

ROOT: Final = Path(__file__).parents[2]
RULES: Final[list[dict[str, Any]]] = [
    rule for group in yaml.safe_load((ROOT / "deploy/alerts.yml").read_text())["groups"] for rule in group["rules"]
]
INDEX: Final = "docs/runbooks/README.md"
COLUMNS: Final = "| alert | what it means | what is at risk | it clears |"


def fault(rule: dict[str, Any], root: Path = ROOT) -> str | None:
    """Why whoever gets this alert is not led to an explanation of it; None if they are."""
    runbook = rule["annotations"].get("runbook")
    if not runbook:
        return "no runbook annotation"
    name, _, anchor = runbook.partition("#")
    if not re.fullmatch(r"docs/runbooks/[a-z0-9-]+\.md", name) or not (root / name).is_file():
        return f"{name} is not a page of docs/runbooks"
    page = (root / name).read_text()
    if anchor and anchor not in anchors(page):
        return f"{name} has no heading #{anchor}"
    if f"`{rule['alert']}`" not in page:
        return f"{name} does not name the alert"
    rows = [row for table in tables(page) for row in table if row[0] == f"`{rule['alert']}`"]
    if len(rows) != 1 or len(rows[0]) != 4 or not all(rows[0]):
        return f"{name} does not say, in a table `{COLUMNS}`, what the alert means, what is at risk and when it clears"
    return None


def tables(page: str) -> list[list[list[str]]]:
    """The rows of the page's tables of alerts, by cell."""
    found = re.findall(rf"^{re.escape(COLUMNS)}\n\|[-| ]+\|\n((?:\|.*\n)+)", page, re.M)
    return [[cells(line) for line in rows.splitlines()] for rows in found]


def cells(line: str) -> list[str]:
    """Of a row of a table."""
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_leads_to_a_page_that_explains_it(rule: dict[str, Any]) -> None:
    assert fault(rule) is None


def test_the_index_lists_every_alert_with_its_page() -> None:
    index = (ROOT / INDEX).read_text()
    (listed,) = re.findall(r"^\| alert \| meaning \| page \|\n\|[-| ]+\|\n((?:\|.*\n)+)", index, re.M)
    rows = [cells(line) for line in listed.splitlines()]
    assert all(meaning for _, meaning, _ in rows)
    links = {alert: re.search(r"\]\((\S+)\)$", page) for alert, _, page in rows}
    assert len(links) == len(rows)
    assert {alert: link and f"docs/runbooks/{link[1]}" for alert, link in links.items()} == {
        f"`{rule['alert']}`": rule["annotations"]["runbook"] for rule in RULES
    }


def test_a_page_speaks_of_no_alert_that_leads_elsewhere() -> None:
    leads = {rule["alert"]: rule["annotations"]["runbook"].partition("#")[0] for rule in RULES}
    for path in sorted((ROOT / "docs/runbooks").glob("*.md")):
        told = [row[0].strip("`") for table in tables(path.read_text()) for row in table]
        assert [alert for alert in told if leads.get(alert) != f"docs/runbooks/{path.name}"] == [], path.name


PAGE = f"# Down\n\n{COLUMNS}\n| --- | --- | --- | --- |\n| `Down` | it is down | nothing | by itself |\n\n## Start it\n"


@pytest.mark.parametrize(
    ("runbook", "page", "why"),
    [
        (None, PAGE, "no runbook annotation"),
        ("", PAGE, "no runbook annotation"),
        ("docs/runbooks/up.md", PAGE, "docs/runbooks/up.md is not a page"),
        ("docs/down.md", PAGE, "docs/down.md is not a page"),
        ("docs/runbooks/down.md#stop-it", PAGE, "has no heading #stop-it"),
        ("docs/runbooks/down.md", PAGE.replace("`Down`", "`Up`"), "does not name the alert"),
        ("docs/runbooks/down.md", "# Down\n\nThe alert `Down`.\n", "does not say"),
        ("docs/runbooks/down.md", PAGE.replace("by itself", ""), "does not say"),
    ],
)
def test_an_alert_that_leads_nowhere_is_found(runbook: str | None, page: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "docs/runbooks").mkdir(parents=True)
    for name in ("docs/runbooks/down.md", "docs/down.md"):
        (tmp_path / name).write_text(page)
    found = fault({"alert": "Down", "annotations": {} if runbook is None else {"runbook": runbook}}, tmp_path)
    assert found is not None
    assert why in found


@pytest.mark.parametrize("runbook", ["docs/runbooks/down.md", "docs/runbooks/down.md#start-it"])
def test_an_alert_that_leads_to_its_page_passes(runbook: str, tmp_path: Path) -> None:
    (tmp_path / "docs/runbooks").mkdir(parents=True)
    (tmp_path / "docs/runbooks/down.md").write_text(PAGE)
    assert fault({"alert": "Down", "annotations": {"runbook": runbook}}, tmp_path) is None
