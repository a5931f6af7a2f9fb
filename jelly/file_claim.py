"""The claim of a server on a database that is a file: one server at a time, whatever its path.

A file can have several paths: symlinks, hard links, bind mounts. Two servers that reach it by
different paths would each keep a log of their own beside it (jelly.db-wal), and destroy it. So the
lock is on the file itself. There is one on a file beside it, too: it keeps out servers that lock
only that one, and does the work alone where the other is not possible.

The claim also tells when the path leads to another file than the claimed one, or to none: then
what SQLite writes is not found by the next start.

SQLite has locks on the same file, of another kind (fcntl), and a process loses these when it closes
*any* descriptor of the file. That gives three rules. The claim opens the file before SQLite's first
connection. It closes it after the last one. Nothing else in the process opens the file.
"""

import contextlib
import errno
import os
from pathlib import Path

from jelly.errors import StoreError

IN_USE = "another server is using this database: stop that one, or name another database"
"""Why a second server does not start."""
OTHER_PATH = "A server uses this file by another path: name the file in --database as that server does."
"""Why a command does not open the file."""


def mode_of(path: Path) -> int:
    """The type and the permissions of a file; 0 if there is none.

    Raises OSError if this user may not look. (From Python 3.14 on, `Path.exists` does not.)
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


class InUse(StoreError):
    """Another server has claimed the database.

    `by_other_path`: it reaches the file by another path. Then even a mere connection by this path
    would destroy the file, because it would have another log beside it.
    """

    def __init__(self, by_other_path: bool = False) -> None:
        super().__init__(IN_USE)
        self.by_other_path = by_other_path


_claimed: set[tuple[int, int]] = set()
"""Device and inode of each file that this process has claimed. A second claim must not open it."""


class FileClaim:
    """A claim on the file at a path. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptors: list[int] = []  # while these are open, the locks are held
        self._identity: tuple[int, int] | None = None  # device and inode
        self._lock_file: Path | None = None  # if this claim has made it

    def take(self) -> None:
        """Claim the file; make it, for its owner only, if there is none.

        Call it before SQLite's first connection; later calls do nothing. Raises StoreError if
        another server has the file, or if it cannot be opened.
        """
        if self._identity is not None:
            return
        try:
            self._lock_both()
        except OSError as error:
            self._close()
            raise StoreError(f"the file cannot be opened: {error.strerror or error}") from error
        except StoreError:
            self._close()
            raise

    def release(self) -> None:
        """Give the file up. Call it after SQLite's last connection is closed."""
        if self._identity is not None:
            _claimed.discard(self._identity)
            self._identity = None
        self._close()

    def remove_lock_file(self) -> None:
        """Remove the file beside, if this claim has made it: the file is not Jelly's.

        (It must stay beside a database of Jelly: another server may be about to lock it.)
        """
        if self._lock_file is not None and self._identity is not None:
            self._lock_file.unlink(missing_ok=True)
            self._lock_file = None

    def problem(self) -> str:
        """Why the path does not lead to the claimed file any more; empty if it does.

        It only asks for the status of the file, and does not open it.
        """
        if self._identity is None:
            return ""
        try:
            status = os.stat(self._path)  # noqa: PTH116 - both kinds of stat look alike
        except OSError as error:
            is_gone = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
            return "its file was moved or deleted" if is_gone else ""  # after another error it may be there
        if _identity(status) != self._identity:
            return "another file is in the place of its file"
        return "" if status.st_nlink else "its file was deleted"  # a bind mount still leads to it

    def _lock_both(self) -> None:
        if self._path.is_dir():  # before a lock is made beside it
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        lock_file = _lock_beside(self._path)
        was_there = lock_file.exists()
        beside = self._open(lock_file)
        self._lock_file = None if was_there else lock_file
        if not _lock(beside):
            raise InUse
        with contextlib.suppress(FileNotFoundError):
            if _identity(os.stat(self._path)) in _claimed:  # noqa: PTH116 - both kinds of stat look alike
                raise InUse(by_other_path=True)
        file = self._open(self._path)
        if not _lock(file):
            raise InUse(by_other_path=True)
        status = os.fstat(file)
        self._identity = _identity(status)
        _claimed.add(self._identity)
        if os.geteuid() == 0:  # else a server that is not root could not open the lock later
            with contextlib.suppress(OSError):  # in a container, root may lack this right
                os.fchown(beside, status.st_uid, status.st_gid)
        if _meets_sqlite(file):
            self._descriptors.remove(file)
            os.close(file)

    def _open(self, path: Path) -> int:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._descriptors.append(descriptor)
        return descriptor

    def _close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


def is_used_by_other_path(path: Path) -> bool:
    """Whether a server uses a file, and reaches it by another path.

    Then even a mere connection by this path would destroy the file (see `InUse`). Call this before
    SQLite's first connection. It makes no file, and holds no lock afterwards.
    """
    with contextlib.suppress(OSError):  # SQLite says what is wrong with the file
        if _identity(os.stat(path)) in _claimed:  # noqa: PTH116 - both kinds of stat look alike
            return False
        with contextlib.suppress(FileNotFoundError):
            if _is_locked(_lock_beside(path)):
                return False  # by this path
        return _is_locked(path)
    return False


def _is_locked(path: Path) -> bool:
    """Whether another process has locked a file. Raises OSError if the file cannot be read."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return not _lock(descriptor, is_shared=True)  # on NFS, the other kind needs the right to write
    finally:
        os.close(descriptor)


def _lock_beside(path: Path) -> Path:
    """The file beside a database that is locked, too."""
    return Path(f"{path.resolve()}.lock")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _lock(descriptor: int, is_shared: bool = False) -> bool:
    """Lock a file until its descriptor is closed; False if another process has locked it."""
    import fcntl  # only servers need it, and only on POSIX

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _meets_sqlite(descriptor: int) -> bool:
    """Whether the lock that `_lock` took would keep SQLite's own locks out: on BSD and NFS.

    SQLite locks bytes far behind the first one, so only our own lock can be in the way here.
    """
    import fcntl

    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
    except OSError:
        return True
    fcntl.lockf(descriptor, fcntl.LOCK_UN, 1)
    return False
