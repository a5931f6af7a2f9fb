"""The commands `jelly backup FILE`, which copies the database, also while a server writes to it,
and `jelly restore FILE`, which puts such a copy into its place.

SQLite copies what is committed at one moment (`VACUUM INTO`), and commits go on meanwhile.
(SQLite's other way, `.backup`, begins anew after each commit of another process. While people write
it may never end.)
"""

import contextlib
import os
import shlex
import shutil
import sqlite3
import stat
import tempfile
import time
import urllib.parse
from pathlib import Path

from jelly.database import DatabaseConnection
from jelly.engines import open_engine
from jelly.errors import StartError, StoreError
from jelly.file_claim import OTHER_PATH, FileClaim, InUse, is_used_by_other_path
from jelly.live_nodes import describe_all, live_nodes, longest_lease
from jelly.migrations import ROWS_OF_META, SCHEMA_VERSION
from jelly.sqlite_engine import SqliteEngine
from jelly.trusted_clock import FIRST_DATED, IDS_PER_MS, MAX_ID, MS

TIMEOUT = 10.0
"""Seconds to wait for another process that has locked the database."""
UNREADABLE = frozenset({0, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
"""SQLite's errors for a file that is damaged, or that has other tables than ours. After any other
error, the file may be good."""
LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
FORBIDDEN = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)
AS_USER = "run this as the user that the server runs as, or change the permissions."
NO_COPY = "There is no file {}: name a copy that `jelly backup` has made."
SQLITE_FILE = b"SQLite format 3\0"
"""How each file of SQLite begins."""
OLDEST_TABLES = ("users", "messages", "inbox")
"""Tables that every version has."""


class OtherProgram(StartError):
    """Another program does it. `command` is how to start it."""

    def __init__(self, sentence: str, command: str) -> None:
        super().__init__(sentence)
        self.command = command


def back_up(url: str, target: Path) -> int:
    """Copy the database that a URL names into a new file, for its owner only; return its size in
    bytes.

    When the file is there, it is complete and synced. Raises StartError.
    """
    if url.startswith("mysql:"):
        raise OtherProgram(
            "A MySQL or MariaDB database is copied by its own program, which asks for the password (MariaDB also "
            "calls it mariadb-dump, and warns of an unknown variable, which may be ignored). Run this:",
            dump_command(url, target),
        )
    if url == "memory:":
        raise StartError("The database memory: is in no file, and nobody but its server can read it.")
    source = Path(urllib.parse.unquote(url.removeprefix("sqlite:///")))
    _check_file(source, f"There is no database {url}: check --database.")
    if os.path.isdir(target):  # noqa: PTH112 - False also where nobody may look
        raise StartError(f"{target} is a directory: name a new file in it.")
    if os.path.lexists(target):
        raise StartError(f"The file {target} exists already: name a new file.")
    if is_used_by_other_path(source):
        raise StartError(OTHER_PATH)
    try:
        descriptor, name = tempfile.mkstemp(".partial", f"{target.name}.", target.absolute().parent)
    except OSError as error:
        raise StartError(f"Cannot write {target}: {error.strerror}. Name a file elsewhere.") from error
    partial = Path(name)
    try:
        _copy(source, partial)
        os.fsync(descriptor)  # SQLite does not do it for this copy
        partial.rename(target)
        _sync_directory(target.absolute().parent)
        return target.stat().st_size
    except sqlite3.Error as error:
        raise StartError(_why_not_copied(source, target, error)) from error
    except OSError as error:
        raise StartError(f"Cannot write {target}: {error.strerror}. Name a file elsewhere.") from error
    finally:
        os.close(descriptor)
        partial.unlink(missing_ok=True)


def _check_file(path: Path, missing: str) -> None:
    """Raise StartError if a path leads to no file, or to one that this user cannot read.

    `missing`: the sentence if there is nothing.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise StartError(missing) from error
    except PermissionError as error:
        raise StartError(f"This user may not look into the directory of {path}: {AS_USER}") from error
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}. Name another file.") from error
    if stat.S_ISDIR(mode):
        raise StartError(f"{path} is a directory: name a file in it.")
    if not stat.S_ISREG(mode):
        raise StartError(f"{path} is not a file that holds data: name another one.")
    if not os.access(path, os.R_OK):
        raise StartError(f"This user may not read {path}: {AS_USER}")


def _why_not_copied(source: Path, target: Path, error: sqlite3.Error) -> str:
    """Why SQLite could not copy a database, and what to do, in one sentence."""
    code = _code(error)
    if code in FORBIDDEN:
        return f"SQLite has to write beside {source}, and this user may not ({error}): {AS_USER}"
    if code in LOCKED:
        return f"Another program has locked {source}: end that program, or try again later."
    if code == sqlite3.SQLITE_FULL:
        return f"The disk with {target} is full: make room, or name a file on another disk."
    if code == sqlite3.SQLITE_CORRUPT:
        return f"{source} is damaged ({error}): stop its server, and restore an earlier copy with `jelly restore`."
    if code in UNREADABLE:
        return f"{source} is no database of Jelly ({error}): check --database."
    return f"Cannot copy {source} to {target}: {error}. Check the disks of both."


def restore(url: str, source: Path) -> Path | None:
    """Put a copy of the database into the place of the file that a URL names.

    Ids go on above those of the file that is replaced. That file stays beside it, under the name
    that is returned (None if there was none). The server must be stopped. Raises StartError; then
    nothing has changed.
    """
    if url.startswith("mysql:"):
        _check_dump(source)
        _check_not_in_use(url)
        raise OtherProgram(
            "A MySQL or MariaDB database is restored by its own program, which asks for the password (MariaDB also "
            "calls it mariadb). Stop the server, or all nodes, run this, and start them:",
            load_command(url, source),
        )
    if url == "memory:":
        raise StartError("The database memory: keeps nothing, so there is nothing to restore.")
    target = Path(urllib.parse.unquote(url.removeprefix("sqlite:///"))).resolve()  # a symlink stays one
    _check_copy(source, target)
    claim, was_there = FileClaim(target), os.path.lexists(target)
    is_done = False
    try:
        claim.take()
        kept = _replace(target, source)
        is_done = True
        return kept
    except InUse as error:
        raise StartError(f"The database {url} cannot be replaced: {error}.") from error
    except StoreError as error:
        advice = SqliteEngine(str(target)).advice
        raise StartError(f"The database {url} cannot be replaced: {error}. {advice}") from error
    except sqlite3.Error as error:
        raise StartError(f"{source} cannot be restored: {error}. Check the file, and the room on the disk.") from error
    except OSError as error:
        raise StartError(f"Cannot write {target}: {error.strerror}. Check its directory, and the disk.") from error
    finally:
        if not (is_done or was_there):
            with contextlib.suppress(OSError):  # the claim has made it, if it could
                target.unlink(missing_ok=True)
        claim.release()


def _check_dump(source: Path) -> None:
    """Raise StartError if a file cannot be a dump for MySQL or MariaDB."""
    _check_file(source, NO_COPY.format(source))
    try:
        with source.open("rb") as file:
            start = file.read(len(SQLITE_FILE))
    except OSError as error:
        raise StartError(f"{source} cannot be read: {error.strerror}. Name another file.") from error
    if start == SQLITE_FILE:
        raise StartError(
            f"{source} is a copy of an SQLite database, which MySQL and MariaDB cannot read, and Jelly cannot convert: "
            "name a file that mysqldump has written."
        )


def _check_not_in_use(url: str) -> None:
    """Raise StartError if a server or nodes use a MySQL or MariaDB database.

    If nobody can tell, for example because the database does not run, it passes.
    """
    try:
        engine = open_engine(url)
        engine.claim_timeout = 0
        with contextlib.closing(DatabaseConnection(engine, writes=True)) as connection:
            connection.open()
            nodes = live_nodes(connection)
    except InUse as error:
        raise StartError(f"A server uses the database {engine.describe()}: stop it, and run this again.") from error
    except (StartError, StoreError):
        return
    if nodes:
        raise StartError(
            f"Nodes of a cluster use the database {engine.describe()} ({describe_all(nodes)}): stop all of them, or "
            f"wait for {longest_lease(nodes)} s if they were killed, and run this again."
        )


def _check_copy(source: Path, target: Path) -> None:
    """Raise StartError if a file cannot take the place of the database `target`."""
    _check_file(source, NO_COPY.format(source))
    if os.path.exists(target) and target.samefile(source):  # noqa: PTH110 - False also where nobody may look
        raise StartError(f"{source} is the database itself: name a copy of it.")
    if is_used_by_other_path(source):
        raise StartError(f"A server uses {source} by another path: make a copy with `jelly backup`.")
    meta, condition = _look_into(source)
    version = meta.get("schema_version")
    if not isinstance(version, int) or version < 1:
        raise StartError(f"{source} is no database of Jelly.")
    if version > SCHEMA_VERSION:
        raise StartError(
            f"{source} has schema version {version}, this program knows {SCHEMA_VERSION}: use a newer Jelly."
        )
    for name in ROWS_OF_META if version == SCHEMA_VERSION else ("next_id",):
        if not isinstance(meta.get(name), int):
            raise StartError(f"{source} is damaged: its table meta has lost the row {name}. Name another copy.")
    if condition != "ok":
        raise StartError(f"{source} is damaged: {condition}.")


def _look_into(source: Path) -> tuple[dict[str, object], str]:
    """What the table meta of a copy holds, and "ok" or the damage that SQLite finds.

    Raises StartError.
    """
    try:
        with contextlib.closing(_open(source)) as raw:
            meta = dict(raw.execute("SELECT name, value FROM meta"))
            for table in OLDEST_TABLES:
                raw.execute(f"SELECT 1 FROM {table} LIMIT 1")
            [(condition,)] = raw.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.Error as error:
        if _code(error) == sqlite3.SQLITE_CORRUPT:
            raise StartError(f"{source} is damaged: {error}. Name another copy.") from error
        if _is_unreadable(error):
            raise StartError(f"{source} is no database of Jelly: {error}.") from error
        raise StartError(
            f"{source} cannot be opened: {error}. SQLite may have to write beside it: copy the file (with "
            f"{source.name}-wal, if there is one) into a directory of your own."
        ) from error
    return meta, condition


def _is_unreadable(error: sqlite3.Error) -> bool:
    """Whether an error says that a file is no database of ours, or a damaged one."""
    return _code(error) in UNREADABLE


def _code(error: sqlite3.Error) -> int:
    """SQLite's number for the kind of an error; 0 if it is not one of SQLite."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _replace(target: Path, source: Path) -> Path | None:
    """Put a copy of `source` into the place of `target`, which is claimed."""
    descriptor, name = tempfile.mkstemp(".partial", f"{target.name}.", target.parent)
    partial, log, shared = Path(name), Path(f"{target}-wal"), Path(f"{target}-shm")
    kept, kept_log = _names_for(target)
    is_done = False
    try:
        _copy(source, partial)
        is_empty = target.stat().st_size == 0  # the claim has made it
        if not is_empty:
            _give_owner(descriptor, target)
            if log.exists():  # SQLite drops it together with a file that it cannot read
                _copy_bytes(log, kept_log)
            next_id, is_log_written = _next_id(target)
            if is_log_written:
                kept_log.unlink(missing_ok=True)
            _raise_ids(partial, next_id)
            _give_second_name(target, kept)
        os.fsync(descriptor)
        for old in (log, shared):  # beside another file the log would destroy it
            old.unlink(missing_ok=True)
        _sync_directory(target.parent)
        partial.replace(target)
        is_done = True
        _sync_directory(target.parent)
        return None if is_empty else kept
    finally:
        os.close(descriptor)
        partial.unlink(missing_ok=True)
        if not is_done:
            kept.unlink(missing_ok=True)
            if kept_log.exists() and not log.exists():
                kept_log.replace(log)
            kept_log.unlink(missing_ok=True)


def _give_owner(descriptor: int, path: Path) -> None:
    """Give an open file the owner and the mode of another one. Raises StartError if it may not."""
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    try:
        os.fchown(descriptor, status.st_uid, status.st_gid)
    except PermissionError as error:
        if status.st_uid != os.geteuid():
            raise StartError(
                f"{path} belongs to another user, who could not use the restored file: run this as that user, or "
                "as root."
            ) from error
        mode &= ~stat.S_IRWXG  # it has another group now
    os.fchmod(descriptor, mode)


def _copy_bytes(path: Path, copy: Path) -> None:
    """Copy a file into a new one that has the same owner and mode."""
    copy.touch(0o600, exist_ok=False)
    with copy.open("wb") as target, path.open("rb") as source:
        shutil.copyfileobj(source, target)
        _give_owner(target.fileno(), path)


def _names_for(target: Path) -> tuple[Path, Path]:
    """Names beside a file that is replaced: for itself, and for its log."""
    stem = f"{target}.replaced-{time.strftime('%Y-%m-%d-%H%M%S')}"
    names = (Path(stem), *(Path(f"{stem}-{number}") for number in range(2, 100)))
    kept = next(name for name in names if not name.exists())
    return kept, Path(f"{kept}-wal")


def _give_second_name(path: Path, name: Path) -> None:
    try:
        os.link(path, name)
    except OSError:  # not every file system can do that
        _copy_bytes(path, name)


def _next_id(path: Path) -> tuple[int, bool]:
    """The next id of a database, and whether the file has what is in the log beside it.

    A file that is damaged or foreign may be replaced for that reason: its next id is 0 if it cannot
    be read. Raises StartError if another program uses the file, sqlite3.Error after another failure
    that may pass.
    """
    next_id = 0
    try:
        with contextlib.closing(_open(path)) as raw:
            raw.execute("PRAGMA locking_mode = EXCLUSIVE")
            raw.execute("BEGIN EXCLUSIVE")  # not even a reader may have the file open
            raw.execute("ROLLBACK")
            rows = raw.execute("SELECT value FROM meta WHERE name = 'next_id'").fetchall()
            if rows and isinstance(rows[0][0], int) and rows[0][0] < MAX_ID:
                next_id = rows[0][0]
            [(is_busy, *_)] = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if is_busy:
                raise StartError(_in_use(path))
    except sqlite3.Error as error:
        if _is_unreadable(error):
            return next_id, False
        if _code(error) in LOCKED:
            raise StartError(_in_use(path)) from error
        raise
    return next_id, True


def _in_use(path: Path) -> str:
    return f"Another program uses the database {path}: end that program, and try again."


def _raise_ids(path: Path, next_id: int) -> None:
    """Have a database go on at an id, if its own next one is smaller."""
    with contextlib.closing(_open(path)) as raw:
        raw.execute("PRAGMA synchronous = FULL")
        raw.execute("BEGIN IMMEDIATE")
        [(own,)] = raw.execute("SELECT value FROM meta WHERE name = 'next_id'").fetchall()
        raw.execute("UPDATE meta SET value = ? WHERE name = 'next_id'", (max(own, next_id),))
        if own < FIRST_DATED <= next_id:  # its ids were counted, and the next ones carry the time
            # What was counted gets its age from this id. The replaced database may not have been
            # used for a long time.
            first_dated = max(next_id, int(time.time() * MS) * IDS_PER_MS)
            changed = raw.execute("UPDATE meta SET value = ? WHERE name = 'first_dated'", (first_dated,)).rowcount
            if changed == 0:  # an older version has no such row
                raw.execute("INSERT INTO meta (name, value) VALUES ('first_dated', ?)", (first_dated,))
        raw.execute("COMMIT")


def load_command(url: str, source: Path) -> str:
    """The command that replaces a MySQL or MariaDB database by a copy of it."""
    parts = urllib.parse.urlsplit(url)
    command = [
        "mysql",
        "--default-character-set=utf8mb4",
        f"--host={parts.hostname or '127.0.0.1'}",
        f"--port={parts.port or 3306}",
        f"--user={urllib.parse.unquote(parts.username or '')}",
        "--password",
        urllib.parse.unquote(parts.path.lstrip("/")),
    ]
    return f"{shlex.join(command)} < {shlex.quote(str(source))}"


def dump_command(url: str, target: Path) -> str:
    """The command that copies a MySQL or MariaDB database while a server uses it, into a file for
    its owner only.
    """
    parts = urllib.parse.urlsplit(url)
    dump = shlex.join(
        [
            "mysqldump",
            "--single-transaction",  # all of it as of one moment, and nobody waits for it
            "--no-tablespaces",  # which would take a right that the account does not need otherwise
            # Otherwise MySQL's own program writes the ids of transactions into the dump, and the
            # server that has them refuses it. MariaDB's program does not know this ("loose").
            "--loose-set-gtid-purged=OFF",
            "--default-character-set=utf8mb4",
            f"--host={parts.hostname or '127.0.0.1'}",
            f"--port={parts.port or 3306}",
            f"--user={urllib.parse.unquote(parts.username or '')}",
            "--password",
            f"--result-file={target}",
            urllib.parse.unquote(parts.path.lstrip("/")),
        ]
    )
    return f"(umask 077 && {dump})"


def _copy(source: Path, target: Path) -> None:
    """Copy a database of Jelly into an empty file. Raises sqlite3.Error."""
    with contextlib.closing(_open(source)) as raw:
        if not raw.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchall():
            raise sqlite3.DatabaseError("it was not made by Jelly")
        raw.execute("VACUUM INTO ?", (str(target),))


def _open(path: Path) -> sqlite3.Connection:
    """Open a database that exists.

    The mode is rw even where nothing is written: SQLite leaves a log beside a file that it has
    opened with ro.
    """
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, timeout=TIMEOUT, isolation_level=None, uri=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
