"""TOML that cannot be read is named with its file and place, whichever file it is in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mimn.config import ConfigError
from mimn.data.description import read_description
from mimn.data.events import DataError
from mimn.run_config import read_config


@pytest.mark.parametrize("read", [read_config, read_description])
@pytest.mark.parametrize(("text", "place"), [("x = [", "end of document"), ("x y\n", "line 1")])
def test_what_is_no_toml_is_named_with_its_place(
    read: Callable[[Path], Any], text: str, place: str, tmp_path: Path
) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises((ConfigError, DataError), match=rf"a\.toml: .*{place}"):
        read(tmp_path / "a.toml")
