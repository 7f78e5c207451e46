"""`ctr snapshot`: save the states of a namespace, list, verify and restore what was saved, and let old ones expire."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TextIO
from uuid import UUID

from mimn.bundle import Bundle, BundleError, load_bundle
from mimn.options import whole_number
from mimn.state import Keys, namespace
from uic.bulk import snapshots
from uic.bulk.commands.servers import add_loading, erasures_of, load, says_run_again
from uic.bulk.errors import BulkRefused, FolderFull, FolderUnavailable
from uic.bulk.folder import Folder
from uic.bulk.progress_line import ProgressLine
from uic.bulk.saved_states import SavedStates, refuse_others
from uic.core.start_position import BrokenReason, contradiction
from uic.errors import LogUnavailable, StartRefused, StoreUnavailable
from uic.log.partition_reader import TopicBounds, log_reader
from uic.redis_client import FAILURES
from uic.settings import UicSettings, read_settings
from uic.store import RedisStore
from uic.store_failures import describe
from uic.tools.interrupted import says_if_interrupted
from uic.tools.table import table

DAYS = 7
"""As in the paper."""
NONE_TAKEN: Final = "a snapshot that is not whole is removed; run it again, and it takes a new one"
UNREMOVED: Final = "no old snapshot is removed: what is old is told by the store's clock"
FIXES: Final = {
    "fingerprint": "choose the bundle that the snapshot was made with (UIC_BUNDLE__PATH)",
    "topic": "correct UIC_KAFKA__TOPIC",
    "partitions": "correct UIC_KAFKA__PARTITIONS",
    "prefix": "correct UIC_REDIS__PREFIX, or say --other-prefix",
}
"""What to do if the settings are of another snapshot in this."""


def main(
    arguments: Sequence[str] | None = None, out: TextIO | None = None, after: Callable[[str], None] = lambda step: None
) -> int:
    """Run the command. 0: done; 1: refused, damaged, none there, or no answer; 2: called wrongly.

    `after` is called after each step: "partition", "seal"; "claim", "states", "hand_over"; "remove".
    """
    options = _parser().parse_args(arguments)
    settings = read_settings()
    settings.kafka.check_files()
    try:
        command = Snapshot(settings, options, out, after)
        run: dict[str, Callable[[], int]] = {
            "create": command.create,
            "list": command.show,
            "verify": command.verify,
            "restore": command.restore,
            "expire": command.expire,
        }
        return run[options.verb]()
    except FolderFull as error:
        fewer = f"ctr snapshot expire --from {options.to} --days N"
        print(f"ctr snapshot: {error}. Free space there, or keep fewer snapshots: {fewer}", file=sys.stderr)
        return 1
    except (BundleError, BulkRefused, StartRefused, StoreUnavailable, LogUnavailable) as error:
        print(f"ctr snapshot: {error}", file=sys.stderr)
        return 1


class Snapshot:
    """One run of the command."""

    def __init__(
        self, settings: UicSettings, options: argparse.Namespace, out: TextIO | None, after: Callable[[str], None]
    ) -> None:
        """Loads the bundle; connects to nothing."""
        self._settings = settings
        self._options = options
        self._out = out
        self._after = after
        self._bundle: Bundle = load_bundle(settings.bundle.path)
        self._namespace = namespace(self._bundle.manifest.fingerprint, settings.bundle.generation)
        self._keys = Keys(self._namespace, settings.redis.prefix)
        self._store = RedisStore(settings.redis, self._keys)
        self._root = Folder(options.to)
        self._of: str = getattr(options, "of_namespace", None) or self._namespace

    @says_run_again()
    def create(self) -> int:
        """Take a snapshot, and remove expired ones if asked to: before it, so that a full disk has room, and after it
        those that it replaces. What goes before it is needed no more, whether or not this one is taken."""
        kafka = self._settings.kafka
        source = snapshots.Source(
            self._namespace, self._bundle.fingerprint.hex(), self._settings.redis.prefix, kafka.topic, kafka.partitions
        )
        self._store.find_namespace(kafka.partitions, kafka.topic)  # with another topic nothing would restore it
        now = self._stores_time()
        apart = _apart(now)
        if apart:
            _warn(f"the snapshot is named by the store's clock, {apart}")
        if self._options.expire:
            snapshots.refuse_without_progress(self._store, kafka.partitions)
            if apart:
                _warn(f"{UNREMOVED}, {apart}")
            else:
                self._expire(now)
        line = ProgressLine("saved", self._users(), "users")
        with says_if_interrupted("ctr snapshot create", NONE_TAKEN):
            identity = snapshots.create(
                self._store, source, self._root, now=now, after=self._after, done=line.add, warn=_warn
            )
        folder, manifest = snapshots.choose(self._root, self._namespace, identity, now)
        if self._options.verify:
            snapshots.note_verified(folder, snapshots.verify(folder, manifest, self._bundle.layout), now)
        if self._options.expire and not apart:
            self._expire(now)
        report = {"id": identity, "users": manifest.users, "bytes": sum(p.bytes for p in manifest.partitions)}
        self._say(report, f"{identity}: {report['users']} users, {report['bytes']:,} bytes in {folder.url}")
        return 0

    def show(self) -> int:
        """Print all snapshots. None at all is a failure, as for the other verbs: the folder may be the wrong one."""
        rows = [
            {
                "id": one.id,
                "users": one.manifest.users if one.manifest else None,
                "bytes": sum(p.bytes for p in one.manifest.partitions) if one.manifest else None,
                "verified": one.verified,
                "complete": one.manifest is not None,
                "lineages": one.manifest.lineages if one.manifest else None,
                "partitions": one.manifest.n if one.manifest else None,
                "partial": one.manifest.partial if one.manifest else None,
            }
            for one in snapshots.listed(self._root, self._of)
        ]
        if self._options.json:
            print(json.dumps(rows), file=self._out)
        else:
            names = ("id", "users", "bytes", "verified", "complete", "lineages", "partitions", "partial")
            for line in table(names, (list(row.values()) for row in rows)):
                print(line, file=self._out)
        if not rows:
            print(f"ctr snapshot: {self._root.below(self._of).url} holds no snapshot", file=sys.stderr)
        return 0 if rows else 1

    def verify(self) -> int:
        """Read all of a snapshot. The store may be lost, so the time in the note is by this machine's clock. Where the
        note cannot be written, the snapshot is right all the same."""
        folder, manifest = snapshots.choose(self._root, self._of, self._options.id, datetime.now(UTC))
        fingerprint = self._bundle.fingerprint.hex()
        refuse_others({"fingerprint": manifest.fingerprint}, {"fingerprint": fingerprint}, FIXES)
        users = snapshots.verify(folder, manifest, self._bundle.layout)
        self._say({"users": users}, f"{folder.url}: {users} users, every hash and checksum is right")
        try:
            snapshots.note_verified(folder, users, datetime.now(UTC))
        except FolderUnavailable as error:
            print(f"warning: that it was verified is not noted, and `list` does not say so: {error}", file=sys.stderr)
        return 0

    @says_run_again()
    def expire(self) -> int:
        """Remove expired snapshots."""
        now = self._stores_time()
        if apart := _apart(now):
            raise BulkRefused(f"{UNREMOVED}, {apart}")
        gone = self._expire(now)
        self._say({"removed": gone}, f"removed: {', '.join(gone) or 'none'}")
        return 0

    @says_run_again()
    def restore(self) -> int:
        """Load a snapshot into the namespace of the settings, and hand it over to UIC."""
        options = self._options
        now = self._stores_time()
        folder, manifest = snapshots.choose(self._root, self._of, options.id, now)
        identity = folder.url.rpartition("/")[2]
        age_s = now.timestamp() - manifest.created_ms / 1000
        age = f"{age_s / 3600:.1f} hours old" if age_s >= 0 else f"named {-age_s / 3600:.1f} hours ahead of now"
        print(f"snapshot {identity}, {age} by the store's clock", file=sys.stderr)
        if apart := _apart(now):
            _warn(f"ages are told, and the newest is chosen, by the store's clock, {apart}")
        if options.id is None:
            for line in snapshots.doubts(snapshots.listed(self._root, self._of), identity, now):
                _warn(line)
        self._refuse_another_bundle(manifest)
        self._refuse_another_log(manifest, now)
        notes = erasures_of(self._settings.kafka)
        erased = notes.read(range(manifest.n), UUID(manifest.topic_id).bytes)
        again = f"whole partitions stay; run it again with --id {identity}, and it loads the rest"
        with says_if_interrupted("ctr snapshot restore", again):
            done = load(
                folder,
                manifest,
                options,
                self._store,
                self._keys,
                kafka=self._settings.kafka,
                erased=erased,
                said="restored",
                after=self._after,
            )
        report = {
            "id": identity,
            "age_s": round(age_s),
            "namespace": self._namespace,
            "states": done.states,
            "erased": done.erased,
            "partitions": done.partitions + done.already_there,
            "already_there": done.already_there,
        }
        kept = (
            f"; {done.already_there} partitions were left as they are, because they go on from there already, by "
            "another run of this, or were never lost"
        )
        self._say(
            report,
            f"{done.states} states of {done.partitions} partitions of snapshot {identity} are restored into "
            f"{self._namespace}, "
            f"{done.erased} of users who were erased since are left out; UIC goes on from there"
            f"{kept if done.already_there else ''}",
        )
        return 0

    def _expire(self, now: datetime) -> list[str]:
        gone = snapshots.expired(snapshots.listed(self._root, self._of), now, self._options.days)
        for identity in gone:
            snapshots.remove(self._root, self._of, identity)
            self._after("remove")
        return gone

    def _stores_time(self) -> datetime:
        """The time, UTC, by the one clock that all machines share: snapshots are named, and expire, by it."""
        return datetime.fromtimestamp(self._store.time_ms() / 1000, UTC)

    def _users(self) -> int:
        client = self._store.client
        try:
            return sum(int(client.scard(self._keys.users(p))) for p in range(self._settings.kafka.partitions))
        except FAILURES as error:
            raise StoreUnavailable(f"cannot count the users: {describe(error)}") from error

    def _refuse_another_bundle(self, manifest: SavedStates) -> None:
        kafka, redis = self._settings.kafka, self._settings.redis
        wanted = {
            "fingerprint": self._bundle.fingerprint.hex(),
            "topic": kafka.topic,
            "partitions": kafka.partitions,
            "prefix": redis.prefix,
        }
        there = {
            "fingerprint": manifest.fingerprint,
            "topic": manifest.topic,
            "partitions": manifest.n,
            "prefix": manifest.prefix,
        }
        if self._options.other_prefix:
            del wanted["prefix"]
        refuse_others(there, wanted, FIXES)

    def _refuse_another_log(self, manifest: SavedStates, now: datetime) -> None:
        with log_reader(self._settings.kafka) as reader:
            bounds: TopicBounds = reader.bounds()
        if len(bounds.partitions) != manifest.n:
            raise BulkRefused(f"topic {manifest.topic} has {len(bounds.partitions)} partitions, not {manifest.n}")
        for saved, bound in zip(manifest.partitions, bounds.partitions, strict=True):
            progress = saved.decoded
            if (reason := contradiction(progress, bound)) is not None:
                page = "docs/runbooks/broken-log.md"
                if reason is BrokenReason.TOPIC_ID:
                    page = "docs/runbooks/restore.md#the-topic-is-lost-as-well"
                raise BulkRefused(
                    f"partition {saved.partition} of topic {manifest.topic} is not the log that was folded "
                    f"({reason.value}): check UIC_KAFKA__BOOTSTRAP_SERVERS; see {page}"
                )
            if bound.start > progress.next_offset and not self._options.accept_gap:
                raise BulkRefused(
                    f"partition {saved.partition} begins at {bound.start}, and the snapshot ends at "
                    f"{progress.next_offset}: the events between are in no log. {self._newer(manifest, now)}, fold the "
                    "archive (ctr backfill), or accept partial states by --accept-gap and repeat the erasures of "
                    "single items since then"
                )

    def _newer(self, manifest: SavedStates, now: datetime) -> str:
        """What to restore in place of a snapshot that ends below the log."""
        newest = snapshots.newest(snapshots.listed(self._root, self._of), now)
        if newest is None or newest.manifest is None or newest.manifest == manifest:
            return "No other snapshot here was taken later: restore one of another folder that was"
        return f"Restore the one that was taken last (--id {newest.id})"

    def _say(self, report: object, words: str) -> None:
        print(json.dumps(report) if self._options.json else words, file=self._out)


def _apart(stores: datetime) -> str:
    """By how much the store's clock differs from this machine's, to be said behind the former; empty if they agree."""
    ahead = stores - datetime.now(UTC)
    if abs(ahead) <= snapshots.CLOCKS_APART:
        return ""
    apart = f"{abs(ahead).total_seconds() / 3600:.1f} hours {'ahead of' if ahead > timedelta() else 'behind'}"
    return f"which is {apart} this machine's: set the one that is wrong (docs/runbooks/clocks.md)"


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ctr snapshot",
        description="Save and restore the states of UIC's namespace (UIC_BUNDLE__PATH and UIC_BUNDLE__GENERATION). A "
        "snapshot is taken while UIC folds; run `create --verify --expire` once a day.",
        epilog="Exit status: 0 done; 1 refused, damaged, no snapshot there, or no answer; 2 called wrongly.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    made = {
        "create": verbs.add_parser("create", help="take one"),
        "list": verbs.add_parser("list", help="all of this namespace"),
        "verify": verbs.add_parser("verify", help="read all of one, and note that it is right"),
        "restore": verbs.add_parser("restore", help="load one into a namespace that no worker has folded"),
        "expire": verbs.add_parser("expire", help="remove old ones; the newest and a verified one always stay"),
    }
    for verb, one in made.items():
        one.add_argument("--to" if verb == "create" else "--from", dest="to", required=True, metavar="FOLDER")
        one.add_argument("--json", action="store_true")
        if verb in ("create", "expire"):
            one.add_argument(
                "--days",
                type=whole_number(0),
                default=DAYS,
                help="days of which one is kept (default %(default)s)",
            )
        if verb in ("verify", "restore"):
            one.add_argument("--id", help="which (default: the newest)")
        if verb != "create":
            one.add_argument("--of-namespace", help="(default: that of the settings)")
    made["create"].add_argument("--verify", action="store_true", help="read it all once it is taken")
    made["create"].add_argument("--expire", action="store_true", help="remove old ones, before and afterwards")
    restore = made["restore"]
    add_loading(restore)
    restore.add_argument("--other-prefix", action="store_true", help="the snapshot may be of another key prefix")
    missing = "events and erasures of items that no log has any more may be missing"
    restore.add_argument("--accept-gap", action="store_true", help=missing)
    return parser
