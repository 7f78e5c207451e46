"""A backfill as it is written down before it begins, so that whoever goes on with it does the same: which records, into
which namespace, under which lineages.

    <work>/job.json        the job
    <work>/job.lock        empty; locked by the run that works on it
    <work>/archive/        the log's records, when the job reads the log itself
    <work>/kept/           the states whose ledgers are kept, when the job keeps some
    <work>/states/         the folded states (`saved_states`)
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec

from mimn.bundle import Bundle
from mimn.state import Progress
from uic.bulk.archive import Archive, PartitionManifest, open_archive
from uic.bulk.errors import BadArchive, BulkRefused
from uic.bulk.folder import Folder
from uic.bulk.kept_ledgers import KeptLedgers

JOB: Final = "job.json"
LOCK: Final = "job.lock"
STATES: Final = "states"
ARCHIVE: Final = "archive"
KEPT: Final = "kept"


class BackfillJob(msgspec.Struct, frozen=True, kw_only=True):
    """`job.json`."""

    version: int = 1
    bundle: str
    """Path of the bundle."""
    fingerprint: str
    namespace: str
    prefix: str
    topic: str
    topic_id: str
    n: int
    archive: str
    """Folder of the archive that is folded."""
    ends: tuple[int, ...]
    """By partition, where the fold stops and, without kept ledgers, UIC goes on: fixed when the job begins."""
    lineages: tuple[int, ...]
    """By partition, new for this job."""
    writer: int
    erased: tuple[dict[str, int], ...]
    """By partition, user → offset up to which the user's events are left out."""
    kept: KeptLedgers | None = None
    """The states in service whose ledgers are kept; None: states are made of what is folded alone."""

    def begin(self, manifest: PartitionManifest) -> Progress:
        """What a partition's fold begins from."""
        p = manifest.partition
        return Progress(
            partitions=self.n,
            next_offset=manifest.base,
            topic_id=UUID(self.topic_id).bytes,
            lineage=self.lineages[p],
            writer=self.writer,
            base=manifest.base,
            as_of_ms=0,
        )

    def reached(self, manifest: PartitionManifest) -> Progress:
        """Up to where a partition is folded when it is handed over.

        Raises:
            DamagedFile: the kept progress cannot be read.
        """
        p = manifest.partition
        if self.kept is not None:
            return self.kept.partitions[p].decoded
        return self.begin(manifest)._replace(next_offset=self.ends[p])

    def manifest(self, archive: Archive, partition: int) -> PartitionManifest:
        """The part of a partition's archive that this job folds, its files checked.

        Raises:
            BadArchive: see `Archive.checked`; or the archive lacks what the job began with.
        """
        manifest, end = archive.checked(partition), self.ends[partition]
        files = tuple(file for file in manifest.files if file.last < end)
        manifest = msgspec.structs.replace(manifest, files=files)
        if manifest.end != end:
            raise BadArchive(f"{archive.folder.url}/{partition} ends at {manifest.end}, and the job began with {end}")
        return manifest

    def open_archive(self) -> Archive:
        """The archive that the job folds."""
        return open_archive(Folder(self.archive), UUID(self.topic_id).bytes)

    def erased_keys(self, partition: int) -> dict[bytes, int]:
        """The partition's notes of erasures."""
        return {user.encode(): offset for user, offset in self.erased[partition].items()}


@dataclass(frozen=True, slots=True)
class Target:
    """The namespace that a job is for."""

    bundle: Bundle
    namespace: str
    prefix: str
    topic: str
    n: int


def new_job(
    target: Target,
    archive: Archive,
    erased: Mapping[int, Mapping[bytes, int]],
    lineages: Sequence[int] | None = None,
    kept: KeptLedgers | None = None,
) -> BackfillJob:
    """A job over all that is in the archive now.

    Args:
        target: into what.
        archive: of the target's topic.
        erased: by partition, key → offset up to which the user's events are left out.
        lineages: by partition, to compare with states that were folded elsewhere; new random ones by default.
        kept: the states in service whose ledgers are kept.

    Raises:
        BadArchive: the archive has a hole, or a doubled file.
        BulkRefused: it is of another topic or partition count, or of a topic that has grown.
    """
    if (archive.about.topic, archive.partitions) != (target.topic, target.n):
        raise BulkRefused(
            f"the archive is of topic {archive.about.topic} with {archive.partitions} partitions, the settings say "
            f"{target.topic} with {target.n}: correct UIC_KAFKA__TOPIC and UIC_KAFKA__PARTITIONS, or import the "
            "archive into the topic (ctr import)"
        )
    if archive.about.grew_from is not None:
        raise BulkRefused(
            f"the archive says that topic {target.topic} has grown from {archive.about.grew_from} to "
            f"{archive.partitions} partitions, so events of one user lie in two of them: import the archive into a new "
            "topic (docs/runbooks/grown-topic.md)"
        )
    manifests = [archive.checked(p) for p in range(archive.partitions)]
    return BackfillJob(
        bundle=str(target.bundle.path.resolve()),
        fingerprint=target.bundle.fingerprint.hex(),
        namespace=target.namespace,
        prefix=target.prefix,
        topic=target.topic,
        topic_id=archive.about.topic_id,
        n=target.n,
        archive=archive.folder.url.rpartition("/")[0],
        ends=tuple(manifest.end for manifest in manifests),
        lineages=tuple(lineages or (secrets.randbits(64) or 1 for _ in manifests)),
        writer=secrets.randbits(64) or 1,
        erased=tuple({k.decode(): v for k, v in erased.get(p, {}).items()} for p in range(target.n)),
        kept=kept,
    )


def read_job(work: Folder, target: Target) -> BackfillJob | None:
    """The job that was begun in this folder; None if there is none.

    Raises:
        BulkRefused: it is for another bundle, namespace, prefix or topic.
    """
    if not work.exists(JOB):
        return None
    try:
        job = msgspec.json.decode(work.read(JOB), type=BackfillJob)
    except (msgspec.DecodeError, ValueError) as error:
        raise BulkRefused(f"{work.url}/{JOB} cannot be read ({error}): choose another --work") from error
    begun = (job.fingerprint, job.namespace, job.prefix, job.topic, job.n)
    asked = (target.bundle.fingerprint.hex(), target.namespace, target.prefix, target.topic, target.n)
    for what, one, other in zip(
        ("fingerprint", "namespace", "prefix", "topic", "partitions"), begun, asked, strict=True
    ):
        if one != other:
            raise BulkRefused(
                f"{work.url} holds a backfill of {what} {one}, and the settings say {other}: choose another --work, or "
                "the settings that it was begun with"
            )
    return job
