"""A folder of files that appear whole or not at all, on this machine or behind any fsspec URL.

On a local disk a file is written under another name, synced and renamed. An object store makes an object visible when
its upload is committed. In both, a reader never sees half a file, and a job that was killed leaves nothing that counts.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from mimn.file_lock import has_locks, hold
from mimn.whole_file import sync_folder
from uic.bulk.errors import DamagedFile, FolderFull, FolderUnavailable, is_full

UNFINISHED: Final = ".unfinished"
"""Suffix of a file that is being written."""
BLOCK: Final = 1 << 20
LEFT_AFTER_S: Final = 86_400
"""Where there are no locks, an unfinished file that was not written for this long was left by a killed job."""


@dataclass(slots=True)
class Written:
    """What became of a file, once it is whole."""

    bytes: int = 0
    sha256: str = ""


class Folder:
    """One folder."""

    def __init__(self, url: str) -> None:
        """`url`: a path, or a URL that fsspec knows (its driver must be installed).

        `self.url` is the absolute path, because jobs write it down and may go on in another working directory. A URL
        stays as it is.

        Raises:
            FolderUnavailable: it is neither. So does every method if the folder cannot be read or written.
        """
        import fsspec  # so that a command says what it needs where this is not installed, and helps all the same

        self.url = url.rstrip("/")
        try:
            self._fs, root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError, OSError) as error:
            raise FolderUnavailable(f"{self.url} is no folder that can be opened: {error}") from error
        self._root = root.rstrip("/")
        self._local = isinstance(self._fs, fsspec.implementations.local.LocalFileSystem)
        if self._local and "://" not in self.url:
            self.url = self._root = str(Path(self._root).resolve())

    def below(self, name: str) -> Folder:
        """A folder in this one."""
        return Folder(f"{self.url}/{name}")

    def made(self) -> bool:
        """Make this folder; False if it is there. Where folders are parts of names, it is there once it has a file."""
        with self._answering():
            if self.names():
                return False
            try:
                self._fs.makedirs(self._root, exist_ok=False)
            except FileExistsError:
                return False
            return True

    def exists(self, name: str) -> bool:
        """Whether there is such a file, whole."""
        with self._answering():
            return bool(self._fs.exists(self._path(name)))

    def names(self) -> list[str]:
        """Files and folders directly in this one, sorted; none if it does not exist. Unfinished files do not count."""
        return sorted(self.sizes())

    def sizes(self) -> dict[str, int]:
        """The bytes of each of `names`; of a folder, a number without meaning."""
        return {name: size for name, size in self._listed().items() if not name.endswith(UNFINISHED)}

    def remove_others(self, keep: Collection[str]) -> None:
        """Remove all files and folders of other names, and unfinished files, which a killed job left. For the one job
        that writes here."""
        for name in self._listed():
            if name not in keep:
                self.remove(name)

    def remove_unfinished(self) -> None:
        """Remove unfinished files, which a killed job left. For the one job that writes here. Where there are no locks,
        another may write here all the same: files of the last day stay. Behind a URL there are no such files."""
        if not self._local:
            return
        for name in self._listed():
            if name.endswith(UNFINISHED) and self._was_left(name):
                self.remove(name)

    def _was_left(self, name: str) -> bool:
        with self._answering(), suppress(FileNotFoundError), Path(self._path(name)).open("rb") as file:
            return has_locks(file) or time.time() - os.fstat(file.fileno()).st_mtime > LEFT_AFTER_S
        return False

    def _listed(self) -> dict[str, int]:
        with self._answering():
            self._fs.invalidate_cache()
            if not self._fs.isdir(self._root):
                return {}
            return {
                entry["name"].rstrip("/").rpartition("/")[2]: int(entry["size"] or 0)
                for entry in self._fs.ls(self._root, detail=True)
            }

    @contextmanager
    def locked(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Hold a lock, a file of that name in this folder, while the body runs; False, and not held, if another process
        holds it and this one shall not `wait`. It goes with its process, however that ends. Where there are no locks
        (behind a URL, on some network disks) this is True for everyone."""
        if not self._local:
            yield True
            return
        with self._answering():
            self._fs.makedirs(self._root, exist_ok=True)
            opened = os.open(self._path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            yield hold(opened, wait=wait)
        finally:
            os.close(opened)

    def read(self, name: str, sha256: str | None = None) -> bytes:
        """A whole file.

        Raises:
            DamagedFile: it does not exist, or its hash is not `sha256`.
        """
        with self._answering(name):
            data = bytes(self._fs.cat_file(self._path(name)))
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise _damaged(self, name)
        return data

    def open(self, name: str) -> BinaryIO:
        """A file to read, with seek.

        Raises:
            DamagedFile: it does not exist.
        """
        with self._answering(name):
            return cast("BinaryIO", self._fs.open(self._path(name), "rb"))

    def check(self, name: str, sha256: str) -> None:
        """Read a file and compare its hash, block by block.

        Raises:
            DamagedFile: it does not exist, or its hash is another one.
        """
        for _ in self._blocks(name, sha256):
            pass

    def copy(self, name: str, sha256: str, to: Folder) -> None:
        """Copy a file into another folder, block by block.

        Raises:
            DamagedFile: it does not exist, or its hash is another one; `to` does not get it.
        """
        with to.writing(name) as (out, _):
            for block in self._blocks(name, sha256):
                out.write(block)

    def _blocks(self, name: str, sha256: str) -> Iterator[bytes]:
        seen = hashlib.sha256()
        with self._answering(name), self.open(name) as file:
            while block := file.read(BLOCK):
                seen.update(block)
                yield block
        if seen.hexdigest() != sha256:
            raise _damaged(self, name)

    @contextmanager
    def writing(self, name: str) -> Iterator[tuple[Any, Written]]:
        """A file that appears under `name` when the body ends without an exception, replacing one of that name; and its
        size and hash, valid from then on."""
        with self._answering(), self._writing(self._path(name)) as file:
            written = Written()
            yield file, written
        written.bytes, written.sha256 = file.bytes, file.hash.hexdigest()

    @contextmanager
    def _writing(self, path: str) -> Iterator[_Hashing]:
        self._fs.makedirs(self._root, exist_ok=True)
        if self._local:
            # Each writer has an unfinished file of its own: where there are no locks, two may write the same file.
            unfinished = Path(f"{path}.{secrets.token_hex(4)}{UNFINISHED}")
            try:
                with unfinished.open("wb") as file:
                    yield _Hashing(file)
                    file.flush()
                    os.fsync(file.fileno())
                unfinished.replace(path)
                sync_folder(Path(path).parent)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
        else:
            # What is written in a transaction appears when it ends, and not if it fails.
            with self._fs.transaction, self._fs.open(path, "wb") as file:
                yield _Hashing(file)

    def write(self, name: str, data: bytes) -> Written:
        """Write or replace a whole file."""
        with self.writing(name) as (file, written):
            file.write(data)
        return written

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all in it; what does not exist is fine."""
        with self._answering(), suppress(FileNotFoundError):
            self._fs.rm(self._path(name), recursive=True)

    @contextmanager
    def _answering(self, wanted: str | None = None) -> Iterator[None]:
        """Say of which folder an error is; of a file that is `wanted`, that it does not exist."""
        try:
            yield
        except OSError as error:
            if wanted is not None and isinstance(error, FileNotFoundError):
                raise DamagedFile(f"{self.url}/{wanted} does not exist") from error
            kind = FolderFull if is_full(error) else FolderUnavailable
            raise kind(f"{self.url} cannot be read or written: {error}") from error

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


class _Hashing:
    """Passes writes on, and knows their hash. What pyarrow needs of a file that it writes to."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.bytes += len(data)
        self._file.write(data)
        return len(data)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        """The context manager flushes."""

    def close(self) -> None:
        self.closed = True

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


def _damaged(folder: Folder, name: str) -> DamagedFile:
    return DamagedFile(f"{folder.url}/{name} is not the file that was written (its sha256 differs): take another copy")
