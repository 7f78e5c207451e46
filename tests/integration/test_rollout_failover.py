"""A cluster loses a master while a rollout is on its way: with a replica it goes on, without one a snapshot helps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from kafka import KafkaAdminClient, TopicPartition

from localstack.ports import LOOPBACK
from localstack.wait import until
from mimn.release import record_key
from mimn.state import StateHeader, decode_progress
from support.bulk_running import done
from support.for_test import MakeTopics, RedisForTest, TopicsForTest
from support.one_node_cluster import ClusterNode, connect, form, replicated
from support.rollouts import QUICK, Deployment, deployed
from support.world import World
from torture.watching import metric, sees_store, wait_well

pytestmark = [pytest.mark.servers, pytest.mark.timeout(400)]
USERS = [f"user-{i}" for i in range(60)]
QUIET, BUSY = USERS[:30], USERS[30:]
N = 12
REFUSED, CLOSED = 1, 3


@pytest.mark.full
def test_a_master_that_fails_over_during_a_rollout_loses_nothing_and_mixes_nothing(
    kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = make_topics(kafka, N)
    # The address in the settings is a replica's, and no other is named: a new process needs that one node.
    with replicated(tmp_path) as nodes, cluster_of(nodes[3]) as store, running_in(tmp_path, store, topics) as running:
        with running.traffic(QUIET, 50) as traffic, running.events(BUSY, 50):
            identity = running.ready()
            running.wait_loaded("tiny-sketch/1")
            running.done("canary", identity, "--percent", "30", *QUICK)
            holder = store.client.get_node_from_key(record_key(store.prefix))  # type: ignore[attr-defined]
            [master] = [node for node in nodes[:3] if node.port == holder.port]
            revision = running.record().revision
            master.kill()

            # Whoever promotes now is told why not, or has promoted; the same command works once the replica has taken
            # over. The workers may have to catch up first.
            said: list[tuple[int, str | set[str]]] = []

            def promoted() -> bool:
                status, view = running.rollout("promote", identity, *QUICK)
                said.append((status, str(view.get("error", "")) or {one["gate"] for one in view.get("gates", ())}))
                return status == 0

            until(promoted, "promoted", within_s=120, every_s=0.5)
            for status, why in said[:-1]:
                if isinstance(why, str):
                    told = why.startswith(("the store does not answer", "the store refuses"))
                    assert (status, told) == (REFUSED, True), why
                else:
                    assert (status, why <= {"lag", "steady", "loaded", "built", "digest"}) == (CLOSED, True), why
            running.wait_revision()
            until(lambda: sees_store(running.rtp, up=True), "RTP says that the store is there", within_s=60)
            assert metric(running.rtp, "rtp_rollout_revision") == running.record().revision
            assert running.record().revision > revision
            until(lambda: traffic.answers[-1].model == "tiny-sketch/1", "the new release answers", within_s=60)
            until(lambda: traffic.answers[-1].state in ("warm", "stale"), "states are read again", within_s=60)
            running.done("rollback", identity)
            until(lambda: traffic.answers[-1].model == "tiny/1", "the old release answers", within_s=60)
        running.old.wait_folded()  # nothing lost, nothing doubled
        log = running.new.log()
        until(lambda: running.new.covered(log), "the new namespace has folded the log", within_s=60)
        for world in (running.old, running.new):
            wait_well(world.workers, N)
        for user in USERS:
            old, new = running.old.state(user), running.new.state(user)
            assert old is not None
            assert new is not None
            assert history(new.header) == history(old.header)
        assert traffic.failed() == []
        assert {one.state for one in traffic.answers} <= {"warm", "stale", "unavailable"}, "a user turned cold"
        paths = {"tiny/1": running.old_bundle, "tiny-sketch/1": running.new_bundle}
        expected = {(model, user): running.expected(path, user) for model, path in paths.items() for user in QUIET}
        for one in traffic.answers:
            if one.state != "unavailable":
                assert np.allclose(one.scores, expected[one.model, one.user], atol=2e-3), one
        assert {one.model for one in traffic.answers} == set(paths)


@pytest.mark.full
def test_with_several_nodes_in_the_settings_everything_starts_although_the_first_is_dead(
    kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = make_topics(kafka, N)
    with replicated(tmp_path) as nodes, cluster_of(nodes[1]) as store:
        nodes[0].kill()
        dead = replace(store, url=nodes[0].address)

        def taken_over() -> bool:
            with connect(nodes[3]) as heir:
                return bool(heir.info("replication")["role"] == "master")

        until(taken_over, "its replica has taken over", within_s=60)
        others = ",".join(f"{LOOPBACK}:{node.port}" for node in nodes[1:3])
        with deployed(tmp_path, dead, topics, USERS, patient=True, MODE="cluster", NODES=others) as running:
            with running.traffic(QUIET, 50) as traffic:
                identity = running.ready()
                running.wait_loaded("tiny-sketch/1")
                running.done("promote", identity, *QUICK)
                until(lambda: traffic.answers[-1].model == "tiny-sketch/1", "the new release answers", within_s=60)
            assert {one.state for one in traffic.answers} <= {"warm", "stale"}
            told = dict(running.old.new_worker().environment())
            listed = json.loads(done(told, "namespaces", "list", "--json"))
            assert {one["namespace"] for one in listed} == {
                running.old.keys.namespace,
                running.new.keys.namespace,
            }


@pytest.mark.full
@pytest.mark.parametrize("lost", ["flushed_with_its_replicas", "a_master_without_a_replica"])
def test_what_a_cluster_lost_comes_back_from_a_snapshot_although_the_log_was_cut(
    lost: str, real_kafka: str, make_topics: MakeTopics, tmp_path: Path
) -> None:
    topics = make_topics(real_kafka, N)
    with nodes_of(tmp_path, with_replicas=lost.startswith("flushed")) as nodes:
        world = World(tmp_path / "world", topics, nodes[0].address, "lost", {"UIC_REDIS__MODE": "cluster"})
        with closing(world):
            world.produce(800, 60)
            worker = world.worker()
            world.wait_folded()
            world.log()  # the judge remembers what is cut
            told = dict(world.new_worker().environment())
            folder = str(tmp_path / "snapshots")
            done(told, "snapshot", "create", "--to", folder, "--verify")
            upto = {p: decode_progress(r).next_offset for p, r in world.progress_records().items()}
            with closing(KafkaAdminClient(bootstrap_servers=real_kafka)) as admin:
                admin.delete_records({TopicPartition(topics.events, p): offset for p, offset in upto.items()})
            world.produce(200, 80)
            world.wait_folded()
            worker.stop()

            if lost.startswith("flushed"):
                for node in nodes[:3]:
                    with connect(node) as client:
                        client.flushall()
                gone = N
            else:
                with connect(nodes[1]) as client:
                    gone = len([key for key in client.scan_iter() if key.endswith(b":progress")])
                nodes[1].kill()
                nodes[1].start()  # it keeps its place in the cluster, and has no file of its data

                def whole() -> bool:
                    with connect(nodes[0]) as client:
                        return bool(client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")

                until(whole, "the cluster is whole", within_s=60)
            assert 0 < gone == N - len(world.progress_records())
            said = json.loads(done(told, "snapshot", "restore", "--from", folder, "--json"))
            assert said["partitions"] == N
            world.worker()
            world.wait_folded()  # golden states; the judge finds one that is `partial` wrong


def history(header: StateHeader) -> tuple[int, int, bytes]:
    """What a state was made of, whatever its model."""
    return header.event_count, header.last_offset, header.digest


@contextmanager
def nodes_of(folder: Path, *, with_replicas: bool) -> Iterator[list[ClusterNode]]:
    """Three masters, with a replica each or without."""
    if with_replicas:
        with replicated(folder) as nodes:
            yield nodes
        return
    with ClusterNode(folder / "a") as a, ClusterNode(folder / "b") as b, ClusterNode(folder / "c") as c:
        form([a, b, c])
        yield [a, b, c]


@contextmanager
def cluster_of(node: ClusterNode) -> Iterator[RedisForTest]:
    """A client of the cluster."""
    with closing(redis.RedisCluster.from_url(node.address, protocol=2, socket_timeout=10)) as client:
        yield RedisForTest(node.address, "shop", client)  # type: ignore[arg-type] # the cluster's client


@contextmanager
def running_in(
    folder: Path, store: RedisForTest, topics: TopicsForTest, *, new: bool = True, rtp: bool = True
) -> Iterator[Deployment]:
    """A deployment in a cluster."""
    with deployed(folder, store, topics, USERS, new=new, rtp=rtp, patient=True, MODE="cluster") as running:
        yield running
