"""Whatever bytes a decoder gets, it answers or raises its own errors, soon, and takes memory in proportion.

`make fuzz` looks for longer. What was found once is in `corpus/`, or below where it is large, under a name that says
what it was.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

import fuzz.__main__ as command
from fuzz.targets import CORPUS, SOME_RECORDS, TARGETS, Target, a_letter, record_bytes
from fuzz.trial import CPU_S, SPARE_BYTES, Failure, attempt, fuzz
from uic.core.records import BatchRecord

BY_NAME = {target.name: target for target in TARGETS}
CPU_IN_CI_S = 1.0
ONE = b'{"item_id":1,"category_id":1}'


def members(n: int) -> bytes:
    """The inside of an object with so many unknown members."""
    return b",".join(b'"%d":1' % i for i in range(n))


def predict(candidates: bytes, more: bytes = b"") -> bytes:
    return b'{"user_id":"u","candidates":[' + candidates + b"]" + more + b"}"


def with_context(members: bytes) -> bytes:
    return predict(ONE, b',"context":{' + members + b"}")


def headed(record: BatchRecord, count: int, name: str) -> bytes:
    """The record with so many empty headers of a name in front of its own."""
    return record_bytes([record._replace(headers=[*[(name, b"")] * count, *record.headers])])


def no_text(data: bytes) -> bytes:
    return data.replace(b"@@", b"\xff\xfe")


LARGE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "6800 unknown fields": ("predict", lambda: predict(ONE, b"," + members(6800))),
    "a candidate of 6800 unknown fields": ("predict", lambda: predict(b"{" + members(6800) + b"}")),
    "512 candidates with ten faults each": ("predict", lambda: predict(b",".join([b"{" + members(10) + b"}"] * 512))),
    "512 candidates with ids out of range": (
        "predict",
        lambda: predict(b",".join([b'{"item_id":0,"category_id":-1}'] * 512)),
    ),
    "511 empty candidates": ("predict", lambda: predict(b",".join([b"{}"] * 511))),
    "21000 empty candidates": ("predict", lambda: predict(b",".join([b"{}"] * 21_000))),
    "5800 features that are no numbers": (
        "predict",
        lambda: predict(ONE, b',"context":{' + b",".join(b'"%d":"x"' % i for i in range(5800)) + b"}"),
    ),
    "10900 numbers that are slow to read": (
        "predict",
        lambda: b'{"user_id":"u","candidates":[' + b"1e308," * 10_900 + b"1]}",
    ),
    "5800 features": ("predict", lambda: predict(ONE, b',"context":{' + members(5800) + b"}")),
    "a feature that is a list of 10000 numbers that are slow to read": (
        "predict",
        lambda: predict(ONE, b',"context":{"a":[' + b"1e308," * 10_000 + b"1]}"),
    ),
    "6500 features that are slow to read": (
        "predict",
        lambda: predict(ONE, b',"context":{' + b",".join(b'"":1e308' for _ in range(7000)) + b"}"),
    ),
    "64 features with long names": (
        "predict",
        lambda: predict(ONE, b',"context":{' + b",".join(b'"%d%s":1' % (i, b"x" * 980) for i in range(64)) + b"}"),
    ),
    "a text that is nearly a whole number": ("predict", lambda: with_context(b'"day":"%s"' % (b"0" * 8_000 + b"x"))),
    "a text of zeros that is nearly a whole number": (
        "predict",
        lambda: with_context(b'"day":"%s"' % (b"0" * 4_000 + b"." + b"0" * 4_000 + b"x")),
    ),
    "one text of 4000 values": ("predict", lambda: with_context(b'"tags":"%s"' % (b"a|" * 4_000))),
    "one text of 8000 empty values": ("predict", lambda: with_context(b'"tags":"%s"' % (b"|" * 8_000))),
    "a list of 2700 empty values": ("predict", lambda: with_context(b'"tags":[%s]' % b",".join([b'""'] * 2_700))),
    "64 long values": (
        "predict",
        lambda: with_context(b'"tags":[%s]' % b",".join(b'"%d%s"' % (i, b"x" * 120) for i in range(64))),
    ),
    "a place whose number has 5000 digits": ("header-place", lambda: b"0011223344556677/0/" + b"9" * 5_000),
    "as many headers as fit": ("record-batch", lambda: headed(SOME_RECORDS[0], 5_000, "h")),
    "4000 headers whose names are no text": ("record-batch", lambda: no_text(headed(SOME_RECORDS[0], 4_000, "@@"))),
    "a letter with as many headers as fit": ("dead-letter", lambda: headed(a_letter(b"ann", b"v"), 20_000, "h")),
    "a letter with 13000 headers whose names are no text": (
        "dead-letter",
        lambda: no_text(headed(a_letter(b"ann", b"v"), 13_000, "@@")),
    ),
    "as many empty events as fit": ("grpc", lambda: b"\0" + b"\x0a\x00" * (BY_NAME["grpc"].max_bytes // 2)),
    "nothing but comments": ("keys", lambda: b"#\n" * (BY_NAME["keys"].max_bytes // 2)),
    "blank lines": ("keys", lambda: b"\n" * BY_NAME["keys"].max_bytes),
    "as many keys as fit": (
        "keys",
        lambda: b"\n".join(b"%012x %064x predict a" % (i, i) for i in range(BY_NAME["keys"].max_bytes // 88)),
    ),
    "a shape of 60000 axes": (
        "manifest",
        lambda: BY_NAME["manifest"].seeds[2].replace(b'"shape": [', b'"shape": [' + b"9, " * 60_000, 1),
    ),
    "sizes of 4000 digits": (
        "manifest",
        lambda: BY_NAME["manifest"].seeds[2].replace(b'"shape": [', b'"shape": [' + (b"9" * 4000 + b", ") * 3, 1),
    ),
    "cells whose number has 4300 digits": (
        "manifest",
        lambda: re.sub(rb'"item_cells": \d+', b'"item_cells": ' + b"9" * 4300, BY_NAME["manifest"].seeds[2]),
    ),
    "a model of empty objects": (
        "manifest",
        lambda: BY_NAME["manifest"].seeds[0].replace(b'"model": {', b'"model": {"x":[' + b"{}," * 80_000 + b"{}],"),
    ),
}


def cases() -> list[ParameterSet]:
    small = [pytest.param(t, data, id=f"{t.name}/{name}") for t in TARGETS for name, data in t.corpus.items()]
    return small + [pytest.param(BY_NAME[name], make(), id=f"{name}: {what}") for what, (name, make) in LARGE.items()]


@pytest.mark.parametrize(("target", "data"), cases())
def test_what_was_found_once_is_still_mended(target: Target, data: bytes) -> None:
    assert len(data) <= target.max_bytes
    attempt(target, data, memory=True)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_bytes_that_are_nearly_right_raise_only_named_errors_soon_and_in_little_memory(target: Target) -> None:
    outcome = fuzz(target, CPU_IN_CI_S, seed=1)
    if outcome.found is not None:
        kept = Path(os.environ.get("TMPDIR", "/tmp")) / f"found-{target.name}"  # noqa: S108  # for whoever reads the failure
        kept.write_bytes(outcome.found)
        pytest.fail(f"{outcome.what}, after {outcome.inputs} inputs; the input is in {kept}")
    assert not outcome.what
    assert outcome.inputs > 100


def test_a_seed_of_every_target_is_understood() -> None:
    for target in TARGETS:
        understood = 0
        for seed in target.seeds:
            try:
                target.decode(seed)
                understood += 1
            except target.errors:
                continue
        assert understood, f"nothing that {target.name} is fuzzed from gets past its first check"


def test_corpus_folders_belong_to_targets_and_files_are_small() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} <= BY_NAME.keys()
    assert all(path.stat().st_size <= 16 << 10 for path in CORPUS.rglob("*") if path.is_file())


def burn(data: bytes) -> None:
    total = 0
    for i in range(int(CPU_S * 2e8) if data.startswith(b"slow") else 0):
        total += i


def hoard(data: bytes) -> None:
    [bytes(1 << 20) for _ in range(SPARE_BYTES >> 18 if data.startswith(b"large") else 0)]


def break_down(data: bytes) -> None:
    if data.startswith(b"break"):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("decode", "data", "error"),
    [(burn, b"slow", Failure), (hoard, b"large", Failure), (break_down, b"break", ZeroDivisionError)],
)
def test_a_decoder_that_is_slow_hoards_or_breaks_down_is_found(
    decode: Callable[[bytes], object], data: bytes, error: type[Exception]
) -> None:
    target = Target("bad", decode, (ValueError,), (data, b"good"), 64)
    attempt(target, b"good", memory=True)
    with pytest.raises(error):
        attempt(target, data, memory=True)
    if decode is not hoard:  # which is looked at now and then
        assert fuzz(target, 5, seed=1).found


@pytest.mark.full
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no wheel for this Python or machine")
def test_a_guided_run_keeps_what_held_and_does_not_run_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "tree", lambda: ("c0ffee", False))
    monkeypatch.setenv("PYTHONPATH", "tests", prepend=os.pathsep)
    told = ["--seconds", "2", "--only", "progress", "--results", str(tmp_path)]
    assert command.main(told) == 0
    first = capsys.readouterr().out
    assert int(first.split()[1]) > 100
    monkeypatch.setattr(command, "run", None)
    assert command.main(told) == 0
    assert capsys.readouterr().out == first
