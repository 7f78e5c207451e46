"""What the commands have in common: the erasures of the log, and the loading of saved states."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from mimn.options import positive
from mimn.state import Keys
from uic.bulk.folder import Folder
from uic.bulk.loading import Loaded, Loader
from uic.bulk.namespaces import refuse_aborted
from uic.bulk.politeness import Politeness
from uic.bulk.progress_line import ProgressLine
from uic.bulk.saved_states import SavedStates
from uic.errors import StoreUnavailable
from uic.log.erasures import KafkaErasures
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
    erased: Mapping[int, Mapping[bytes, int]],
    said: str,
    after: Callable[[str], None],
) -> Loaded:
    """Load the partitions that are not there yet, and hand each over to UIC; what was done.

    Args:
        folder: where the states are; their hashes were checked.
        manifest: of the states.
        options: those of `add_loading`.
        store: where to.
        keys: of the namespace.
        erased: partition → key → offset up to which events are erased; such states are left out.
        said: what was done to a state, for the line of progress.
        after: called after each step.

    Raises:
        BulkRefused: as `Loader`, or the rollout that the states are of was aborted, also when all are loaded.
        EvictingStore, StoreUnavailable: as `Loader`.
    """
    politeness = Politeness(options.bytes_per_s, options.latency_ms / 1000)
    loader = Loader(store, keys, politeness, take_over=options.take_over, after=after)
    refuse_aborted(store, keys)
    missing = loader.refuse(manifest, memory_share=options.memory_share)
    store.claim_namespace(manifest.n, manifest.topic)
    line = ProgressLine(said, sum(p.users for p in missing), "states")
    for saved in missing:
        loader.load(folder, saved, erased.get(saved.partition, {}))
        line.add(saved.users)
        refuse_aborted(store, keys)
    store.claim_namespace(manifest.n, manifest.topic)  # again, before it counts: the store may have been emptied
    loader.confirm(manifest)
    return loader.done
