"""`ctr partitions`, `ctr continue` and `ctr rebuild`: what they say of an invalid address or secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from uic.tools import partitions


@pytest.mark.parametrize("address", ["localhost", "ftp://h:1", "http://h:99999"])
def test_what_is_no_address_is_refused_by_name(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert partitions.main("continue", ["--partition", "1", "--admin", address]) == 1
    assert repr(address) in capsys.readouterr().err


def test_a_secret_that_is_not_utf_8_is_named_by_its_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes(b"\xff")
    monkeypatch.setenv("UIC_ACCESS__SECRET_FILE", str(tmp_path / "secret"))
    assert partitions.main("partitions", ["--admin", "http://127.0.0.1:1"]) == 1
    assert "UIC_ACCESS__SECRET_FILE" in capsys.readouterr().err
