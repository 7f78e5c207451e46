"""What refuses work in bulk. Each message says what is wrong and the way out; nothing was written when it is raised,
unless the class says otherwise."""

from __future__ import annotations

import errno


class BulkRefused(Exception):
    """The job cannot be done on this input or this deployment."""


class FolderUnavailable(BulkRefused):
    """A folder that cannot be read or written: no space, no right, no such place. What is whole in it stays so, and the
    same command goes on once that is corrected."""


class FolderFull(FolderUnavailable):
    """A folder whose disk or quota has no space."""


class DamagedFile(BulkRefused):
    """A file is not what its manifest says: flipped bytes, cut short, missing, or of something else."""


class BadArchive(BulkRefused):
    """An archive that does not hold exactly the log that it claims: a hole, a file twice, records of another topic."""


def is_full(error: OSError) -> bool:
    """Whether a disk or a quota has no space."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
