"""After a rollout users are answered from another namespace than the settings name: every command says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mimn.bundle import load_bundle
from mimn.release import Checked, Record, begin, canary, encode_record, observe, promote, record_key
from mimn.state import Keys
from support.bulk_running import run_main
from support.bundles import SKETCH, TINY
from support.for_test import MakeTopics, RedisForTest
from support.releases import NOW_MS, SALT
from support.stored import Stored, now_ms
from support.uic_running import RunningUic, click, running_uic
from uic.rollout.planning import read_release
from uic.tools import erase, state, verify
from uic.tools.doctor import command as doctor

pytestmark = pytest.mark.servers

N = 4
OLD, NEW = read_release(TINY, 0)[0], read_release(SKETCH, 3)[0]


def ready() -> Record:
    record = begin(None, NEW, serving=OLD, origin="log", salt=SALT, now_ms=NOW_MS)
    return observe(record, "r1", Checked(record.revision, ()), now_ms=NOW_MS)[0]


def tried() -> Record:
    record = ready()
    return canary(record, "r1", Checked(record.revision, ()), percent=5, now_ms=NOW_MS)


def promoted() -> Record:
    record = ready()
    return promote(record, "r1", Checked(record.revision, ()), keep_ms=0, now_ms=NOW_MS)


@dataclass
class World:
    """UIC folds the namespace of OLD, which the settings name."""

    uic: RunningUic
    valkey: RedisForTest
    topic: str

    @property
    def environment(self) -> dict[str, str]:
        return dict(self.uic.worker.environment())

    def record(self, value: bytes) -> None:
        self.valkey.client.set(record_key(self.valkey.prefix), value)

    def fold_new(self, ago_s: float, next_offset: int = 0) -> None:
        """The namespace of NEW, caught up so long ago."""
        stored = Stored(load_bundle(SKETCH), partitions=N, prefix=self.valkey.prefix, generation=NEW.generation)
        stored.values[stored.keys.meta] = json.dumps({"partitions": N, "topic": self.topic}).encode()
        for partition in range(N):
            stored.progress(partition, as_of_ms=now_ms() - round(ago_s * 1000), next_offset=next_offset)
        self.valkey.client.mset(stored.values)

    def doctor(self, **more: str) -> tuple[int, dict[str, dict[str, str]]]:
        """Exit status, and findings by check."""
        status, said = run_main(doctor.main, self.environment | more, "--json", "--timeout", "60")
        return status, {finding["check"]: finding for finding in json.loads(said)["findings"]}


@pytest.fixture
def world(tmp_path: Path, valkey: RedisForTest, kafka: str, make_topics: MakeTopics) -> Iterator[World]:
    topics = make_topics(kafka, N)
    with running_uic(tmp_path / "uic", valkey, topics, UIC_GRPC__TIMEOUT_S="60") as uic:
        uic.wait_folded(uic.publish(click("ann")))
        yield World(uic, valkey, topics.events)


def test_the_doctor_names_a_release_in_service_that_no_worker_folds(world: World) -> None:
    status, found = world.doctor()
    assert (status, found["rollout record"]["verdict"]) == (0, "OK")
    workers, variables = f"workers of {NEW.namespace}", "UIC_BUNDLE__PATH=FOLDER/tiny-sketch/1 UIC_BUNDLE__GENERATION=3"

    world.record(encode_record(promoted()))
    for hurt, seen in (
        (lambda: None, "does not have its namespace"),
        (lambda: world.fold_new(ago_s=65), "4 of 4 partitions lag"),
        (lambda: world.valkey.client.delete(Keys(NEW.namespace, world.valkey.prefix).progress(2)), "1 of 4 partitions"),
    ):
        hurt()
        status, found = world.doctor()
        assert (status, found[workers]["verdict"]) == (1, "FAIL")
        assert seen in found[workers]["seen"]
        assert variables in found[workers]["fix"]
        warned = found["rollout record"]
        assert warned["verdict"] == "WARN"
        assert f"tiny-sketch/1 serves, from namespace {NEW.namespace}" in warned["seen"]
        assert OLD.namespace in warned["seen"]
        assert variables in warned["fix"]

    world.fold_new(ago_s=1)
    status, found = world.doctor()
    assert (status, found[workers]["verdict"], found["rollout record"]["verdict"]) == (0, "OK", "WARN")
    found = world.doctor(UIC_BUNDLE__PATH=str(SKETCH), UIC_BUNDLE__GENERATION="3")[1]
    assert (found[workers]["verdict"], found["rollout record"]["verdict"]) == ("OK", "OK")

    world.record(encode_record(tried()))
    world.fold_new(ago_s=65)
    status, found = world.doctor()
    verdicts = [found[check]["verdict"] for check in ("rollout record", f"workers of {OLD.namespace}", workers)]
    assert (status, verdicts) == (1, ["OK", "OK", "FAIL"])

    world.record(b"?")
    status, found = world.doctor()
    assert (status, found["rollout record"]["verdict"]) == (1, "FAIL")
    assert "docs/runbooks/roll-back.md" in found["rollout record"]["fix"]


def test_state_erase_and_verify_say_that_users_are_answered_from_another_namespace(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(main: Callable[..., int], *arguments: str, code: int = 0) -> str:
        assert run_main(main, world.environment, *arguments)[0] == code
        return capsys.readouterr().err

    def every() -> list[str]:
        known, unknown = said(state.main, "ann"), said(state.main, "unknown", code=1).partition("\n")[2]
        return [known, unknown, said(erase.main, "bob", "--yes"), said(verify.main)]

    assert every() == [""] * 4
    world.record(encode_record(tried()))
    assert every() == [""] * 4

    world.record(encode_record(promoted()))
    world.fold_new(ago_s=65)
    for text in every():
        assert f"{NEW.namespace} (tiny-sketch/1)" in text
    erased = said(erase.main, "bob", "--yes")
    assert "4 of 4 partitions lag" in erased
    assert "start UIC workers with UIC_BUNDLE__PATH=FOLDER/tiny-sketch/1 UIC_BUNDLE__GENERATION=3" in erased
    world.fold_new(ago_s=1)
    assert "start UIC workers" not in said(erase.main, "bob", "--yes")
    away = {"UIC_REDIS__URL": "redis://127.0.0.1:1/0"}
    assert run_main(state.main, world.environment | away, "ann")[0] == 0


def kept() -> Record:
    back = begin(None, OLD, serving=NEW, origin="log", salt=SALT, now_ms=NOW_MS)
    back = observe(back, "r1", Checked(back.revision, ()), now_ms=NOW_MS)[0]
    return promote(back, "r1", Checked(back.revision, ()), keep_ms=3_600_000, now_ms=NOW_MS)


@pytest.mark.parametrize(
    ("record", "what", "follows"),
    [
        (kept, "which is kept for a way back", "a rollback would answer by it"),
        (tried, "by which a canary answers users", "the canary answers by it"),
    ],
)
def test_erase_names_a_namespace_beside_the_one_in_service_that_is_not_folded_up_to_it(
    world: World,
    capsys: pytest.CaptureFixture[str],
    record: Callable[[], Record],
    what: str,
    follows: str,
) -> None:
    def said() -> str:
        assert run_main(erase.main, world.environment, "bob", "--yes")[0] == 0
        return capsys.readouterr().err

    world.record(encode_record(record()))
    assert said() == "", "the store does not have it"
    named = f"namespace {NEW.namespace} (tiny-sketch/1), {what}, still has what it had: {follows}"
    for ago_s, why in ((1, "they had not after 5 s"), (65, "4 of 4 partitions lag")):
        world.fold_new(ago_s=ago_s)
        text = said()
        assert named in text
        assert why in text
        assert "UIC_BUNDLE__PATH=FOLDER/tiny-sketch/1 UIC_BUNDLE__GENERATION=3" in text
    world.fold_new(ago_s=1, next_offset=1000)
    assert said() == ""
    world.topic = "another"
    world.fold_new(ago_s=1, next_offset=1000)
    assert "It is made of topic another: erase the same by its own UIC" in said()
