"""TOML that cannot be read is said with what to do, whichever file it is in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mimn.config import ConfigError
from mimn.data.description import read_description
from mimn.data.events import DataError
from mimn.run_config import read_config
from mimn.training.search import read_space

CUT = r"at end of document\): no TOML: the file may be cut short: complete its end$"
WRONG = r"at line 1, column \d+\): no TOML: correct it there$"


@pytest.mark.parametrize("read", [read_config, read_description, read_space])
@pytest.mark.parametrize(("text", "message"), [("x = [", CUT), ('x = "y', CUT), ("x y\n", WRONG)])
def test_what_is_no_toml_is_named_with_its_place_and_the_fix(
    read: Callable[[Path], Any], text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises((ConfigError, DataError), match=rf"a\.toml: .*{message}"):
        read(tmp_path / "a.toml")
