"""`docs/formats/dataset.md` names every key and no other, and its examples are what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from mimn.data import description
from mimn.data.__main__ import parser
from mimn.data.description import read_description
from mimn.data.past_rates import PastRates
from mimn.data.preparation import prepare

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/formats/dataset.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", DOCUMENT, re.M))
STRUCTS = {
    "Top level": (description.Description,),
    "Tables of files": (description.EventsTable, description.ImpressionsTable, description.SideTable),
    "Fields": (description.Field,),
    "Actions": (description.Action,),
    "Split": (description.TimeSplit, description.UserSplit),
    "Protocol": (description.Protocol,),
}


@pytest.mark.parametrize("section", STRUCTS)
def test_a_sections_tables_have_every_key_and_no_other(section: str) -> None:
    rows = re.findall(r"^\| (`[a-z0-9_`, ]+`) \|", SECTIONS[section], re.M)
    documented = {key for row in rows for key in re.findall(r"`([a-z0-9_]+)`", row)}
    tag = {"by"} if section == "Split" else set()
    assert documented == {f.encode_name for struct in STRUCTS[section] for f in msgspec.structs.fields(struct)} | tag


def test_the_example_is_read(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", DOCUMENT, re.S)
    assert example is not None
    (tmp_path / "dataset.toml").write_text(example[1])
    assert read_description(tmp_path / "dataset.toml").name == "my-shop"


def test_the_example_of_past_rates_is_what_training_computes(tmp_path: Path) -> None:
    rows = re.findall(
        r"^\| ([abc]) \| (\d\d:\d\d) \| (?:(\d\d:\d\d) )?\| (\d), (\d) \| (\d), (\d) \| (0\.\d{7}) \| (0\.\d{7}) \|$",
        SECTIONS["Fields"],
        re.M,
    )
    assert len(rows) == 6
    day, user = "2024-05-01T", {name: number for number, name in enumerate("abc", 1)}
    shown = [
        f"{user[u]},7,{day}{at}:00Z,{int(bool(seen))},{day + seen + ':00Z' if seen else ''}" for u, at, seen, *_ in rows
    ]
    (tmp_path / "shown.csv").write_text("\n".join(["u,i,shown_at,clicked,clicked_at", *shown, ""]))
    (tmp_path / "events.csv").write_text("u,i,t\n1,7,2024-05-01T09:00:00Z\n")
    (tmp_path / "dataset.toml").write_text(
        'name = "x"\n[events]\nfiles = ["events.csv"]\nuser = "u"\nitem = "i"\ntime = "t"\ntime_unit = "iso"\n'
        '[impressions]\nfiles = ["shown.csv"]\nuser = "u"\nitem = "i"\ntime = "shown_at"\ntime_unit = "iso"\n'
        'label = "clicked"\nlabel_time = "clicked_at"\nwindow = "30m"\n'
        '[fields.user]\nredeems = { kind = "past_rate" }\n'
    )
    data = prepare(tmp_path / "dataset.toml", tmp_path / "cache")
    assert data.impressions is not None
    computed = PastRates(data, data.impressions).of_impressions()["redeems"]
    by_time = dict(zip(data.impressions.time_ms.tolist(), computed.tolist(), strict=True))
    for (_, _, _, shown_all, clicks_all, of_key, clicks, r, said), (_, rate) in zip(
        rows, sorted(by_time.items()), strict=True
    ):
        overall = (int(clicks_all) + 1) / (int(shown_all) + 100)
        assert float(r) == pytest.approx(overall, abs=1e-7)
        assert float(said) == pytest.approx((int(clicks) + 100 * overall) / (int(of_key) + 100), abs=1e-7)
        assert float(said) == pytest.approx(rate, abs=1e-7), "by what the page says, and by what training computes"


def test_every_public_data_set_and_conversion_is_named() -> None:
    table = SECTIONS["Public data sets"]
    assert set(re.findall(r"`([a-z0-9-]+)`", "".join(re.findall(r"^\| (`.+?) \|", table, re.M)))) == {
        path.stem for path in (ROOT / "models/datasets").glob("*.toml")
    }
    conversions = re.findall(r"python -m mimn.data convert ([\w-]+)", table)
    for name in conversions:
        with pytest.raises(SystemExit, match="0"):
            parser().parse_args(["convert", name, "--help"])
