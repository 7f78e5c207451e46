"""docs/settings.md and docs/metrics.md say what the code says: they are made from it, and nothing is left out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, Field, SecretStr

import rtp.metrics
import uic.metrics
from localstack.checks import reference
from localstack.checks.reference import ENDINGS, PAGES, NothingSaid, default, metrics_of, said_of, values
from rtp.settings import RtpSettings
from uic.settings import UicSettings

ROOT = Path(__file__).parents[2]
SERVICES = [(uic.metrics, uic.metrics.Metrics().registry), (rtp.metrics, rtp.metrics.Metrics().registry)]


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_a_page_is_what_the_code_makes(path: Path) -> None:
    assert (ROOT / path).read_text() == PAGES[path](), (
        f"{path} differs from the code: run `make reference` and commit it"
    )


def test_every_setting_has_a_row() -> None:
    rows = re.findall(r"^\| `((?:UIC|RTP)_\w+)` \|", (ROOT / "docs/settings.md").read_text(), re.M)
    expected = []
    for settings in (UicSettings, RtpSettings):
        for group, field in settings.model_fields.items():
            assert isinstance(field.annotation, type)
            assert issubclass(field.annotation, BaseModel)
            names = field.annotation.model_fields
            expected += [f"{settings.model_config['env_prefix']}{group}__{name}".upper() for name in names]
    assert rows == expected


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


@pytest.mark.parametrize(("module", "registry"), SERVICES, ids=["uic", "rtp"])
def test_the_metrics_of_a_process_are_named(module: ModuleType, registry: CollectorRegistry) -> None:
    families = [family for family in registry.collect() if family.name.startswith("process_")]
    named = set(re.findall(r"`(process_\w+)`", (ROOT / "docs/metrics.md").read_text()))
    assert named == {family.name + ENDINGS.get(family.type, "") for family in families}


def test_the_pages_need_no_torch_no_store_and_no_log() -> None:
    """A client that is not imported connects to nothing."""
    code = (
        "import sys; from localstack.checks.reference import PAGES; [page() for page in PAGES.values()]; "
        "print(sorted({'torch', 'redis', 'kafka', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


class Listener(BaseModel):
    port: Annotated[int, Field(ge=0, le=65535)] = 8001
    """Where it
    listens."""


class Door(Listener):
    keys_file: Path | None = None
    """Who may enter."""
    folder: Path | None = None
    """Of things."""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """How long."""
    body_bytes: int = Field(default=1 << 20, ge=1024)
    """How much."""
    mode: Literal["", "open"] = ""
    """Which."""
    password: SecretStr = SecretStr("a")
    """Word."""


@pytest.mark.parametrize(
    ("name", "value", "given"),
    [
        ("port", "integer, 0 to 65,535", "`8001`"),
        ("keys_file", "path of a file", "unset"),
        ("folder", "path of a folder", "unset"),
        ("timeout_s", "number, seconds, above 0, at most 60", "`1`"),
        ("body_bytes", "integer, bytes, at least 1,024", "`1048576`"),
        ("mode", "empty, `open`", "empty"),
        ("password", "text, secret", "`a`"),
    ],
)
def test_a_setting_is_described_by_its_kind_unit_and_bounds(name: str, value: str, given: str) -> None:
    schema: dict[str, Any] = Door.model_json_schema()["properties"]
    assert values(name, schema[name]) == value
    assert default(Door.model_fields[name].default) == given


def test_docstrings_are_read_with_inherited_ones_on_one_line() -> None:
    assert said_of(Door)["port"] == "Where it listens."
    assert list(said_of(Door)) == list(Door.model_fields)


class Silent(BaseModel):
    port: int = 0


class Strict(BaseModel):
    name: Annotated[str, Field(pattern="^[a-z]$")] = "a"
    """What it is called."""


def test_a_setting_without_a_text_or_a_pattern_without_words_is_named() -> None:
    with pytest.raises(NothingSaid, match=r"Silent\.port has no docstring"):
        said_of(Silent)
    with pytest.raises(NothingSaid, match=r"name: PATTERNS has no words for \^\[a-z\]\$"):
        values("name", Strict.model_json_schema()["properties"]["name"])


def test_the_command_writes_both_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    assert reference.main([]) == 0
    assert capsys.readouterr().out.split() == [str(path) for path in PAGES]
    assert all((tmp_path / path).read_text() == page() for path, page in PAGES.items())


def test_the_command_ends_with_what_has_no_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> str:
        raise NothingSaid("rtp.settings.HttpSettings.port has no docstring")

    monkeypatch.setitem(reference.PAGES, Path("docs/settings.md"), fails)
    assert reference.main([]) == 1
    assert capsys.readouterr().err == "reference: rtp.settings.HttpSettings.port has no docstring\n"
