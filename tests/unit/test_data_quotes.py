"""Quotes of CSV that are left open are refused with their line, and messages about rows name the right lines."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pcsv
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mimn.data import csv_lines, quotes
from mimn.data.check import check
from mimn.data.csv_lines import CsvLines, line_at
from mimn.data.events import DataError
from mimn.data.preparation import prepare
from mimn.data.quotes import NEVER, TOO_LATE, WITHIN_A_FIELD, ClosedQuotes, OpenQuote
from uic.bulk.described_history import DescribedHistory

T = 1_700_000_000


def described(folder: Path, text: bytes, layout: str = "", name: str = "e.csv") -> Path:
    (folder / name).write_bytes(text)
    path = folder / "dataset.toml"
    path.write_text(
        f'name = "x"\n[events]\nfiles = ["{name}"]\nuser = "u"\nitem = "i"\ntime = "t"\n{layout}\n', encoding="utf-8"
    )
    return path


def with_rows(n: int, changed: dict[int, str]) -> bytes:
    """A CSV with a column that is not read; `changed` rows, from 1 on, have another text there."""
    rows = (f"{row % 50 + 1},{row % 70 + 1},{T + row},{changed.get(row, 'ok')}" for row in range(1, n + 1))
    return "\n".join(["u,i,t,comment", *rows, ""]).encode()


def imported(path: Path) -> int:
    history = DescribedHistory(path)
    records = history.records
    history.close()
    return records


def checked(path: Path) -> int:
    rows: int = check(path).values["rows of [events]"]
    return rows


def trained(path: Path) -> int:
    return len(prepare(path, path.parent / "cache").events)


READERS = [checked, trained, imported]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        (with_rows(500, {11: '"unterminated'}), 12, TOO_LATE),
        (with_rows(500, {500: '"unterminated'}), 501, NEVER),
        (with_rows(500, {11: '"17 inch', 400: '19" wide'}), 12, TOO_LATE),
        (with_rows(500, {11: '"17 inch', 14: '19" wide'}), 12, WITHIN_A_FIELD),
        (with_rows(500, {11: '"' + "x" * (9 << 20)}), 12, TOO_LATE),
        (with_rows(350_000, {349_990: '"unterminated'}), 349_991, NEVER),
        (with_rows(500, {}).replace(b"comment", b'"comment'), 1, TOO_LATE),
    ],
)
def test_a_quote_that_is_left_open_is_refused_with_its_line_by_all_readers(
    tmp_path: Path, read: Callable[[Path], int], text: bytes, line: int, fault: str
) -> None:
    with pytest.raises(DataError) as refused:
        read(described(tmp_path, text))
    assert f"{tmp_path / 'e.csv'}: the quote that opens a value in line {line} {fault}" in str(refused.value)
    assert not list(tmp_path.glob("cache/*"))


def test_it_is_found_in_compressed_text_and_in_other_encodings(tmp_path: Path) -> None:
    text = with_rows(500, {490: '"ä'})
    with pytest.raises(DataError, match="in line 491 is never closed"):
        checked(described(tmp_path, gzip.compress(text, mtime=0), name="e.gz"))
    with pytest.raises(DataError, match="in line 491 is never closed"):
        checked(described(tmp_path, text.decode().encode("utf-16"), 'encoding = "utf-16"'))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_values_of_some_lines_are_read(tmp_path: Path, end: str) -> None:
    values = {3: '"one\n""two"",\nthree"', 5: '""', 7: '""""', 9: '"' + "x\n" * 100 + '"', 11: '19" wide', 12: 'a"b""c'}
    text = with_rows(500, values).replace(b"\n", end.encode())
    for read in READERS:
        assert read(described(tmp_path, text)) == 500
    with pytest.raises(DataError, match="in line 12 is not closed within 100 lines"):
        checked(described(tmp_path, with_rows(500, values | {9: '"' + "x\n" * 101 + '"'})))


def test_a_row_that_is_too_long_is_told_with_a_place_and_a_fix(tmp_path: Path) -> None:
    text = with_rows(50, {11: "x" * (18 << 20)})
    with pytest.raises(DataError, match=r"a row behind line 11 is longer than 8 MiB: correct it, or write Parquet$"):
        checked(described(tmp_path, text))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("block", [1 << 20, 50], ids=["at once", "in parts"])
def test_lines_are_right_behind_blank_broken_and_multi_line_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, block: int
) -> None:
    monkeypatch.setattr(csv_lines, "BLOCK_BYTES", block)
    wide = "wide " * 20
    lines = ["u,i,t,c", f"1,1,{T},a", "", f'2,2,{T},"two', 'lines"', f"3,{wide}", "4,4", f"-5,5,{T},e", f"6,6,1,{wide}"]
    path = described(tmp_path, end.join(lines).encode())
    said = check(path).findings
    file = tmp_path / "e.csv"
    shown = repr(f"3,{wide}"[:60])
    assert said[:3] == [
        f"`events`: 2 rows refused, broken line; the first is {file}, line 6, 2 fields in place of 4: {shown}",
        f"`events`: 1 rows refused, u: negative id; the first is {file}, line 8",
        f"`events`: 1 rows refused, t: not between 2000 and 2100; the first is {file}, line 9",
    ]
    history = DescribedHistory(path)
    assert history.left_out.first["broken line"] == f"{file}, line 6, 2 fields in place of 4: {shown}"
    assert history.left_out.first["t: not between 2000 and 2100"] == f"{file}, line 9"
    history.close()
    bad = described(tmp_path, end.join([*lines, f"x,7,{T},"]).encode())
    with pytest.raises(DataError, match="holds 'x' in line 10, not whole numbers"):
        checked(bad)


def test_lines_of_a_file_without_header_begin_with_its_first(tmp_path: Path) -> None:
    path = described(tmp_path, f"1,1,{T}\n2\n-3,3,{T}\n".encode(), 'columns = ["u", "i", "t"]')
    assert [said.rpartition(", line ")[2] for said in check(path).findings[:2]] == [
        "2, 1 fields in place of 3: '2'",
        "3",
    ]


TEXTS = st.lists(st.sampled_from(['"', '"', '""', ",", ",", "\n", "\n", "\r", "\r\n", "a", ',"', '",', '"\n'])).map(
    lambda parts: "".join(parts).encode()
)


def left_open(text: bytes, most_lines: int) -> tuple[int, str] | None:
    """The line and fault of the first open quote, read byte by byte."""
    at, fields, line = 0, True, 1
    while at < len(text):
        if not (fields and text[at : at + 1] == b'"'):
            fields = text[at : at + 1] in (b",", b"\n", b"\r")
            line += text[at : at + 1] == b"\n" or (text[at : at + 1] == b"\r" and text[at + 1 : at + 2] != b"\n")
            at += 1
            continue
        end = at + 1
        while end < len(text) and (text[end : end + 1] != b'"' or text[end : end + 2] == b'""'):
            end += 2 if text[end : end + 1] == b'"' else 1
        value = text[at:end]
        lines = value.count(b"\n") + value.count(b"\r") - value.count(b"\r\n")
        if lines > most_lines:
            return line, TOO_LATE
        if end >= len(text):
            return line, NEVER
        if lines and text[end + 1 : end + 2] not in (b"", b",", b"\n", b"\r"):
            return line, WITHIN_A_FIELD
        line, at, fields = line + lines, end + 1, False
    return None


@given(text=TEXTS, size=st.integers(4, 30), part=st.integers(1, 12), most=st.integers(0, 4))
@example(text=b'"a\r\n"b', size=4, part=1, most=1)
def test_open_quotes_are_those_that_a_plain_reader_finds_however_the_text_is_cut(
    text: bytes, size: int, part: int, most: int
) -> None:
    found = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quotes, "MOST_LINES", most)
        patch.setattr(quotes, "_PART", part)
        stream, read = ClosedQuotes(pa.BufferReader(b"\xef\xbb\xbf" + text), ","), b""
        try:
            while block := stream.read(size):
                read += block
            assert read == b"\xef\xbb\xbf" + text
        except OpenQuote as error:
            found = line_at(pa.BufferReader(text), error.at - 3), str(error)
    wanted = left_open(text, most)
    assert found == wanted


@given(text=TEXTS, block=st.integers(4, 30))
def test_rows_are_those_that_arrow_reads(text: bytes, block: int) -> None:
    text = b"x,y\n" + text
    broken: list[tuple[str, int]] = []

    def skip(row: pcsv.InvalidRow) -> str:
        broken.append((row.text, row.actual_columns))
        return "skip"

    rows = pcsv.read_csv(
        pa.BufferReader(text),
        read_options=pcsv.ReadOptions(use_threads=False),
        parse_options=pcsv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
    ).num_rows

    def lines() -> CsvLines:
        return CsvLines(pa.BufferReader(text), ",", quote=True, columns=None)

    if left_open(text, 1000) is not None:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_lines, "BLOCK_BYTES", block)
        found = [lines().of_row(row) for row in range(rows)]
        assert found == sorted(set(found))
        with pytest.raises(ValueError, match="rows less"):
            lines().of_row(rows)
        if broken:
            first = lines().first_broken()
            assert (first.text, first.fields, first.expected) == (broken[0][0][:60], broken[0][1], 2)
        else:
            with pytest.raises(ValueError, match="there is none"):
                lines().first_broken()
