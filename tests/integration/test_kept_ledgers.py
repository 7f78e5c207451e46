"""A new memory with a log that does not reach back: new states have complete ledgers, and memories of what is left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from conftest import MakeTopics, RedisForTest
from localstack.wait import until
from mimn.bundle.manifest import shared_blocks
from mimn.release import State
from support.bulk_running import KILLED, cut_log, done, killed, run
from support.bundles import LEDGER, RETRAINED
from support.rollouts import QUICK, Deployment, deployed
from uic.bulk.folder import Folder
from uic.bulk.loading import ENTRY_BYTES
from uic.bulk.saved_states import read_manifest

pytestmark = pytest.mark.servers

USERS = [f"user-{i}" for i in range(60)]
QUIET, BUSY = USERS[:20], USERS[20:]
N = 4


def snapshot_under_load(running: Deployment, to: Path) -> Path:
    """A snapshot of the states in service, taken while events come; its folder."""
    with running.events(BUSY, 200):
        said = json.loads(done(running.old.environment(), "snapshot", "create", "--to", str(to), "--json"))
    running.old.wait_folded()
    return to / running.old.keys.namespace / str(said["id"])


def test_ledgers_outlive_the_log_and_the_rollout_says_which_memories_lack_events(
    valkey: RedisForTest,
    real_kafka: str,
    make_topics: MakeTopics,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topics = make_topics(real_kafka, N)
    with (
        deployed(tmp_path, valkey, topics, USERS, new=False, bundles=(LEDGER, RETRAINED), patient=True) as running,
        running.traffic(QUIET, 40) as traffic,
    ):
        old, new = running.old, running.new
        begun = {p: known.next_offset for p in range(N) if (known := old.progress(p)) is not None}
        old.produce(200, BUSY)
        old.wait_folded()
        saved = snapshot_under_load(running, tmp_path / "snapshots")
        cut_log(real_kafka, topics.events, begun)  # all events of QUIET, and the first of BUSY
        old.erase(BUSY[0])
        old.produce(100, BUSY)
        old.wait_folded()

        plan = running.rollout("plan", str(running.new_bundle))[1]
        assert "--keep-ledgers" in json.dumps(plan), "what can be done about it is said"
        identity = running.done("start", str(running.new_bundle), "--from", "backfill")["id"]
        told = new.environment(UIC_BUNDLE__PATH=str(running.new_bundle))
        command = ("--work", str(tmp_path / "work"), "--workers", "1")
        keeping = ("--keep-ledgers", str(saved), "--of-bundle", str(running.old_bundle))
        snapshot = read_manifest(Folder(str(saved)))
        monkeypatch.chdir(saved.parent)
        relative = ("--keep-ledgers", saved.name, *keeping[2:])
        assert killed(told, "backfill", "fold", 0, *command, *relative) == KILLED
        assert run(told, "backfill", *command, "--verify")[0] == 1
        assert "is not finished: run it to its end first" in capsys.readouterr().err
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(saved)  # as the daily snapshot job does with `--expire`
        code, _ = run(told, "backfill", *command, "--keep-ledgers", str(tmp_path / "another"), *keeping[2:])
        assert code == 1
        assert "choose another --work" in capsys.readouterr().err
        said = json.loads(done(told, "backfill", *command, *keeping, "--json"))
        assert said["kept"]["partial"] >= len(QUIET)
        assert sum(said["kept"].values()) == snapshot.users
        checked = json.loads(done(told, "backfill", *command, "--verify", "--json"))
        assert (checked["wrong"], checked["users"] > 0) == (0, True)

        new.worker()
        end = new.log()
        until(lambda: new.covered(end), "the new release has folded what came since", within_s=60)
        waiting = ("wait", identity, "--timeout", "60s", *QUICK)
        assert running.closed(*waiting) - {"loaded"} == {"partial"}, "RTP loads what is ready"
        running.done(*waiting, "--accept-partial")
        running.done("promote", identity, *QUICK, "--accept-partial")
        assert running.record().rollouts[0].state is State.SERVING
        assert "--accept-partial" in running.record().log[-1].by

        erased = old.state(BUSY[0])
        assert erased is None or erased.header.event_count < 50
        shared = shared_blocks(new.bundle.manifest, old.bundle.manifest)
        for user in USERS:
            before, after = old.state(user), new.state(user)
            if before is None or after is None:
                assert (before, after) == (None, None)
                continue
            for name in ("event_count", "last_offset", "digest", "last_event_time"):
                assert getattr(after.header, name) == getattr(before.header, name), name
            then, now = old.bundle.layout.view(before.tensors), new.bundle.layout.view(after.tensors)
            for name in shared:
                assert now[name].tobytes() == then[name].tobytes(), name
            assert after.header.partial or user == BUSY[0], "it had events that the log has forgotten"
        until(lambda: traffic.answers[-1].model == "tiny-ledger-retrained/1", "the new release answers", within_s=60)

        saved = snapshot_under_load(running, tmp_path / "snapshots")
        snapshot = read_manifest(Folder(str(saved)))
        cut_log(real_kafka, topics.events, {p: known.next_offset for p in range(N) if (known := old.progress(p))})
        keeping = ("--keep-ledgers", str(saved), "--of-bundle", str(running.old_bundle))
        sized = json.loads(done(told, "backfill", *command, *keeping, "--dry-run", "--json"))
        assert (sized["records"], sized["users"], sized["kept_users"]) == (0, snapshot.users, snapshot.users)
        value = snapshot.value_bytes // snapshot.users
        assert sized["store_bytes"] == snapshot.users * (value + ENTRY_BYTES), "the log has none left, the ledgers stay"
    assert traffic.failed() == []
    assert {one.state for one in traffic.answers} <= {"warm", "stale"}
