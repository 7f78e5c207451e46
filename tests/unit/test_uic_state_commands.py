"""`ctr state` and `ctr erase` over a real gRPC port: what they show, ask, and say when they are refused."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from access import KeyRing, Scope, make_key
from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from mimn.bundle import Bundle, MemberIndex, Reads, load_bundle
from mimn.bundle.fields import code_of
from mimn.bundle.members import MemberReads
from mimn.state.ledger import Ledger
from support.bundles import TINY, again
from support.stored import Stored
from support.uic_doors import N, event_log, open_loop, uic_service
from uic.core.event import ERASE_ITEM
from uic.doors.grpc import GrpcServer
from uic.doors.guard import Guard
from uic.metrics import Metrics
from uic.settings import GrpcSettings
from uic.tools import erase, state

FIXTURES = Path(__file__).parents[1] / "fixtures"
T = 1_700_000_000_000
"""2023-11-14."""


class States:
    """A store's values."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored

    def stored_values(self, partition: int, users: Sequence[str]) -> list[bytes | None]:
        return [self._stored.values.get(self._stored.key(user)) for user in users]


class Rig:
    def __init__(self, bundle: Bundle, guard: Guard | None = None) -> None:
        settings = GrpcSettings(port=0)
        self.stored = Stored(bundle, partitions=N)
        self.log = event_log()
        service = uic_service(settings, States(self.stored), log=self.log, bundle=bundle)
        self.door = GrpcServer(service, settings, lambda: True, guard)
        self.loop = open_loop()
        self.address = f"127.0.0.1:{self.loop.run(self.door.start())}"

    def close(self) -> None:
        self.loop.run(self.door.drain(0))
        self.loop.close()


@pytest.fixture(params=["tiny", "tiny_sketch"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    folder = FIXTURES / ("bundle_" + request.param)
    rig = Rig(load_bundle(next(folder.rglob("manifest.json")).parent))
    yield rig
    rig.close()


def show(rig: Rig, *arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    return state.main([*arguments, "--grpc", rig.address], out), out.getvalue()


def test_a_state_is_shown_with_its_memory_and_counters(rig: Rig) -> None:
    tensors = rig.stored.state("ann", events=7, last_offset=41, partial=True)
    bundle = rig.stored.bundle
    code, text = show(rig, "ann", "--json", "--bundle", str(bundle.path))
    assert code == 0
    view = json.loads(text)
    assert (view["events"], view["last_offset"], view["partial"], view["digest"]) == (7, 41, True, "00" * 8)
    named = bundle.layout.view(tensors)
    assert view["blocks"] == {name: list(values.shape) for name, values in named.items()}
    if "memory" in named:
        assert view["memory"]["slots"] == len(named["memory"])
        assert sum(view["memory"]["utilization"]) == pytest.approx(1, abs=0.01)
    if "channels" in named:
        assert view["channels"] == len(named["channels"])
    assert ("counters" in view) == (bundle.sketch is not None)
    lines = show(rig, "ann")[1].splitlines()
    assert any(line.split() == ["events", "7"] for line in lines)


def test_counters_are_named_by_the_items_and_categories_that_the_bundle_knows() -> None:
    bundle = load_bundle(next((FIXTURES / "bundle_tiny_sketch").rglob("manifest.json")).parent)
    assert bundle.sketch is not None
    sketch = bundle.sketch.sketch
    rig = Rig(bundle)
    try:
        tensors = rig.stored.state("ann")
        states = np.array([tensors])
        states[:, : sketch.values] = 0
        item, category = bundle.items.ids[:1], bundle.categories.ids[:1]
        for _ in range(3):
            sketch.add(states, bundle.sketch.addresses(item, category), sketch.moments(np.array([0])))
        response = show(rig, "ann", "--bundle", str(bundle.path), "--json")[1]
        assert json.loads(response)["counters"]
        top = state._top_counters(bundle.layout.view(states[0])["counters"][0], bundle, 1)
    finally:
        rig.close()
    assert [one["id"] for one in top["items"]] == [int(item[0])]
    assert [one["id"] for one in top["categories"]] == [int(category[0])]


def test_the_items_of_a_ledger_that_is_read_by_members_are_named() -> None:
    """Such a bundle has no table of items: what it knows of ids are its embeddings."""
    ledger = Ledger(buckets=8)
    index = MemberIndex.of(ledger, np.array([70, 70, 71], np.uint64), np.array([5, 6, 99], np.uint64))
    reads = Reads(ledger, members=MemberReads(ledger, index, (30,)))
    words = np.zeros((1, ledger.words), np.float32)
    bought = [5, 6, 6, 99, 99, 99]  # 99 has no embedding, so its id is nowhere
    for day, item in enumerate(bought):
        ledger.add(words, ledger.keys(np.array([item], np.uint64)), np.array([T + day * 86_400_000]))
    found = state._top_entries(ledger.of(words)[0], reads, np.array([3, 5, 6, 70, 71], np.uint64), 5)
    assert (found["entries"], found["baskets"]) == (3, 6)
    assert [(one["id"], one["baskets"]) for one in found["items"]] == [(6, 2), (5, 1)]
    assert found["items"][0]["last"] == "2023-11-16"


def test_a_user_without_a_state_and_an_address_without_uic_are_said(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(rig, "bob")[0] == 1
    assert "no state is stored" in capsys.readouterr().err
    rig.loop.run(rig.door.drain(0))
    assert show(rig, "bob")[0] == 1
    assert f"is UIC running at {rig.address}, without TLS? Set --tls, --grpc or UIC_GRPC__…" in capsys.readouterr().err
    assert show(rig, "bob", "--tls")[0] == 1
    assert f"is UIC running at {rig.address}, with TLS? Set --grpc or UIC_GRPC__…" in capsys.readouterr().err


@pytest.mark.parametrize("command", [erase.main, state.main])
def test_an_argument_and_a_secret_that_are_not_utf_8_are_said(
    command: Callable[[list[str]], int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    yes = ["--yes"] if command is erase.main else []
    with pytest.raises(SystemExit, match="2"):
        command([os.fsdecode(b"\xff"), *yes])
    assert "the id of a user is UTF-8" in capsys.readouterr().err
    (tmp_path / "secret").write_bytes(b"\xff")
    monkeypatch.setenv("UIC_ACCESS__SECRET_FILE", str(tmp_path / "secret"))
    assert command(["ann", *yes]) == 1
    assert "UIC_ACCESS__SECRET_FILE" in capsys.readouterr().err


def test_a_broker_that_is_away_is_not_said_to_be_uic(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    rig.log.away = True
    assert erase.main(["ann", "--yes", "--grpc", rig.address]) == 1
    said = capsys.readouterr().err
    assert "no broker answers (UNAVAILABLE)" in said
    assert "is UIC running" not in said


def test_an_erasure_asks_unless_told_and_says_where_it_is(
    rig: Rig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert erase.main(["ann", "--grpc", rig.address]) == 2
    assert "--yes" in capsys.readouterr().err
    assert not any(rig.log.records["events"])
    out = io.StringIO()
    assert erase.main(["ann", "--yes", "--json", "--grpc", rig.address], out) == 0
    where = json.loads(out.getvalue())
    assert where == {"partition": rig.stored.partition("ann"), "offset": 0}
    [record] = rig.log.records["events"][where["partition"]]
    assert record == (b"ann", None)


@pytest.mark.parametrize("rig", ["tiny"], indirect=True)
@pytest.mark.parametrize("front", ["ctr_cli", "uic"])
def test_the_end_of_input_at_the_question_is_no(rig: Rig, front: str) -> None:
    ours, theirs = os.openpty()
    try:
        os.write(ours, b"\x04")  # Ctrl-D
        asked = subprocess.run(
            [sys.executable, "-m", front, "erase", "ann", "--grpc", rig.address],
            env={**os.environ, "UIC_GRPC__PORT": "1"},
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert (asked.returncode, asked.stderr) == (2, "\n"), asked
    assert asked.stdout.endswith("Erase? [y/N] ")
    assert not any(rig.log.records["events"])


def test_an_item_is_erased_by_its_number_and_everything_else_is_refused(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert erase.main(["ann", "--item", "7", "--grpc", rig.address]) == 2
    assert "--yes" in capsys.readouterr().err
    for wrong in ("0", "-1", "seven", str(2**64)):
        with pytest.raises(SystemExit):
            erase.main(["ann", "--item", wrong, "--yes", "--grpc", rig.address])
        assert "not the number of an item" in capsys.readouterr().err
    assert not any(rig.log.records["events"])
    out = io.StringIO()
    assert erase.main(["ann", "--item", "7", "--yes", "--grpc", rig.address], out) == 0
    assert out.getvalue().startswith(f"partition {rig.stored.partition('ann')}, offset 0: the item is gone once")
    [(key, value)] = rig.log.records["events"][rig.stored.partition("ann")]
    assert value is not None
    event = BehaviorEvent.FromString(value)
    assert (key, event.user_id, event.item_id, event.action) == (b"ann", "ann", 7, ERASE_ITEM)


def test_an_item_is_erased_by_its_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--item-text", ""], ["--item-text", "sku-1", "--item", "7"]):
        with pytest.raises(SystemExit):
            erase.main(["ann", *wrong, "--yes"])
    rig = Rig(load_bundle(again(tmp_path, TINY, ids="string")))
    out = io.StringIO()
    assert erase.main(["ann", "--item-text", "sku-1", "--yes", "--grpc", rig.address], out) == 0
    assert "the item is gone once" in out.getvalue()
    [(_, value)] = rig.log.records["events"][rig.stored.partition("ann")]
    assert value is not None
    assert BehaviorEvent.FromString(value).item_id == code_of("sku-1")
    rig.close()


def test_the_key_of_the_settings_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret, key = make_key({Scope.READ}, "k")
    (tmp_path / "keys").write_text(key.line())
    (tmp_path / "secret").write_text(secret + "\n")
    bundle = load_bundle(next((FIXTURES / "bundle_tiny").rglob("manifest.json")).parent)
    rig = Rig(bundle, Guard(KeyRing(tmp_path / "keys"), Metrics()))
    try:
        rig.stored.state("ann")
        assert show(rig, "ann")[0] == 1
        assert "set UIC_ACCESS__SECRET_FILE" in capsys.readouterr().err
        monkeypatch.setenv("UIC_ACCESS__SECRET_FILE", str(tmp_path / "secret"))
        assert show(rig, "ann")[0] == 0
        assert erase.main(["ann", "--yes", "--grpc", rig.address]) == 1
        assert "PERMISSION_DENIED" in capsys.readouterr().err
    finally:
        rig.close()
