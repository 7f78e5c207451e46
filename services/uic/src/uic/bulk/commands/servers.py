"""What the commands have in common: the erasures of the log, and the loading of saved states."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from uuid import UUID

from mimn.options import positive
from mimn.state import Keys
from uic.bulk.errors import BulkRefused
from uic.bulk.folder import Folder
from uic.bulk.loading import Loaded, Loader
from uic.bulk.namespaces import refuse_aborted
from uic.bulk.politeness import Politeness
from uic.bulk.progress_line import ProgressLine
from uic.bulk.saved_states import SavedStates, check_files
from uic.core.same_topic import Identity, has_grown, made_again
from uic.errors import LogUnavailable, StoreUnavailable
from uic.log.erasures import KafkaErasures
from uic.log.partition_reader import log_reader
from uic.settings import KafkaSettings
from uic.store import RedisStore


def erasures_of(kafka: KafkaSettings) -> KafkaErasures:
    """The erasures of the event topic."""
    return erasures_of_topic(kafka, kafka.topic, kafka.partitions)


def erasures_of_topic(kafka: KafkaSettings, topic: str, partitions: int | None) -> KafkaErasures:
    """The erasures of `topic`, which has `partitions`; None where its topic of erasures may have another number."""
    return KafkaErasures(kafka.client_options(), topic, partitions, timeout_s=kafka.request_timeout_ms / 1000)


@contextmanager
def says_run_again() -> Iterator[None]:
    """Within, a store that does not answer ends a command that goes on where it ended when it is run again.

    Raises:
        StoreUnavailable: the body's, which says so.
    """
    try:
        yield
    except StoreUnavailable as error:
        raise StoreUnavailable(f"{error}; run it again", answered=error.answered) from error


@contextmanager
def says_it_goes_on() -> Iterator[None]:
    """Within, brokers that do not answer end a command that goes on where it ended when it is run again.

    Raises:
        LogUnavailable: the body's, which says so unless it stays as it is until something is corrected.
    """
    try:
        yield
    except LogUnavailable as error:
        if not error.retriable:
            raise
        raise LogUnavailable(f"{error}. What is written stays, and the same command goes on") from error


def add_loading(parser: argparse.ArgumentParser) -> None:
    """The options of `load`."""
    parser.add_argument("--bytes-per-s", type=positive, default=32e6, help="most bytes loaded a second (default 32e6)")
    parser.add_argument("--latency-ms", type=positive, default=5.0, help="slow down above this (default %(default)s)")
    parser.add_argument(
        "--memory-share", type=positive, default=0.7, help="of the store's memory (default %(default)s)"
    )
    parser.add_argument("--take-over", action="store_true", help="take partitions from a load that died")


def load(
    folder: Folder,
    manifest: SavedStates,
    options: argparse.Namespace,
    store: RedisStore,
    keys: Keys,
    *,
    kafka: KafkaSettings,
    erased: Mapping[int, Mapping[bytes, int]],
    said: str,
    after: Callable[[str], None],
) -> Loaded:
    """Load the partitions that are not there yet, and hand each over to UIC; what was done.

    Args:
        folder: where the states are. The hashes of those that are not there yet are checked before one is loaded.
        manifest: of the states.
        options: those of `add_loading`.
        store: where to.
        keys: of the namespace.
        kafka: where the log is from which the states were folded.
        erased: partition → key → offset up to which events are erased; such states are left out.
        said: what was done to a state, for the line of progress.
        after: called after each step.

    Raises:
        BulkRefused: as `Loader`, or the rollout that the states are of was aborted, also when all are loaded; or the
            log is no longer the one from which they were folded.
        DamagedFile: a file of states is not what was written.
        EvictingStore, StoreUnavailable: as `Loader`.
        LogUnavailable, UnsuitableTopic: what the topic is now cannot be found out, or it is gone.
    """
    politeness = Politeness(options.bytes_per_s, options.latency_ms / 1000)
    loader = Loader(store, keys, politeness, take_over=options.take_over, after=after)
    missing = loader.refuse(manifest, memory_share=options.memory_share)
    refuse_aborted(store, keys)
    check_files(folder, missing)
    store.claim_namespace(manifest.n, manifest.topic)
    line = ProgressLine(said, sum(p.users for p in missing), "states")
    for saved in missing:
        loader.load(folder, saved, erased.get(saved.partition, {}))
        line.add(saved.users)
        refuse_aborted(store, keys)
    store.claim_namespace(manifest.n, manifest.topic)  # again, before it counts: the store may have been emptied
    loader.confirm(manifest)
    with log_reader(kafka) as reader:
        _refuse_another_topic(manifest, reader.identity())
    return loader.done


def _refuse_another_topic(manifest: SavedStates, now: Identity) -> None:
    """Loading takes long, and UIC does not go on from states of another log.

    Raises:
        BulkRefused: the topic is not, or no longer as large as, the one from which the states were folded.
    """
    begun = Identity(manifest.topic, UUID(manifest.topic_id).bytes, manifest.n)
    if made_again(begun, now):
        raise BulkRefused(
            f"topic {manifest.topic} was deleted and created again while its states were loaded, and UIC does not go "
            "on from states of a log that is gone. Drop the namespace (ctr namespaces drop), and see "
            "docs/runbooks/restore.md#the-topic-is-lost-as-well"
        )
    if has_grown(begun, now):
        raise BulkRefused(
            f"topic {manifest.topic} was given more partitions while its states were loaded: it has {now.partitions}, "
            f"and they are of {manifest.n}, so UIC does not go on from them: see docs/runbooks/grown-topic.md"
        )
