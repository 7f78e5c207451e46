"""A file that is written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimn.whole_file import writing


def test_what_is_written_takes_the_place_of_the_file_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with writing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("no space is left"), KeyboardInterrupt()], ids=repr)
def test_an_error_leaves_the_old_file_and_no_partial(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def fail() -> None:
        with writing(path) as partial:
            partial.write_text("half of the n")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_before_the_first_byte_is_told_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"), writing(tmp_path / "no folder" / "file") as partial:
        partial.write_text("text")
