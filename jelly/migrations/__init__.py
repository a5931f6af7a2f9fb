"""The tables: made in an empty database, and migrated in an older one, one version at a time.

Each version has a module with the steps that lead to it. MySQL commits each definition by
itself, so a start may be cut off between any two statements. That is why each step must be
repeatable: what a definition makes may be there already (`DatabaseConnection.define`).
"""

import logging
import re
from pathlib import Path

from jelly.database import DatabaseConnection
from jelly.errors import StartError
from jelly.live_nodes import describe_all, forget_nodes, live_nodes, longest_lease
from jelly.migrations import to_2, to_3
from jelly.migrations.step import Step

log = logging.getLogger("jelly.database")

SCHEMA_VERSION = 3
"""The version of the tables in schema.sql."""
STEPS: dict[int, tuple[Step, ...]] = {2: to_2.STATEMENTS, 3: to_3.STATEMENTS}
"""What leads to a version from the one before."""
ROWS_OF_META = {"next_id": 1, "indexed": 0, "first_dated": 0, "certain_time": 0, "trusted_time": 0}
"""The rows that the table meta has in an empty database, besides the schema version."""

TABLES_OF_EVERY_VERSION = {"users", "chat_groups", "members", "messages", "inbox"}
"""By these a database of Jelly is known that has lost its table meta."""


def migrate(connection: DatabaseConnection) -> None:
    """Make or migrate the tables, and claim the database for this process.

    Raises StartError if the tables are another program's or a newer Jelly's, if a part of them has
    been lost, or if nodes use tables that must be migrated; StoreError if the database fails, if
    this user may not write to all tables, or if another server is using it.
    """
    connection.open()
    if not (is_ours(connection) or _is_empty(connection)):
        connection.disown()
        raise StartError(
            f"{connection.describe()} is not a database of Jelly, but has tables of another program: name another "
            "one with --database."
        )
    connection.prepare()
    version = _version(connection)
    if version > SCHEMA_VERSION:
        raise StartError(
            f"The database has schema version {version}, this program knows {SCHEMA_VERSION}: use a newer Jelly."
        )
    if version == 0 and _is_used(connection):
        raise StartError(
            "The database has users or messages, but its table meta does not say their schema version: "
            "restore a backup, or start with an empty database."
        )
    if 0 < version < SCHEMA_VERSION:
        _refuse_beside_nodes(connection, version)
    with connection.transaction():
        if version == 0:
            _create(connection)
        for newer in range((version or SCHEMA_VERSION) + 1, SCHEMA_VERSION + 1):
            log.info("migrating the database from schema version %d to %d", newer - 1, newer)
            for step in STEPS[newer]:
                if isinstance(step, str):
                    connection.define(step)
                else:
                    step(connection)
            connection.execute("UPDATE meta SET value = ? WHERE name = 'schema_version'", (newer,))
    missing = ROWS_OF_META.keys() - _names_in_meta(connection)
    if missing:
        raise StartError(f"The database's table meta has lost its row {min(missing)}: restore a backup.")
    _check_rights(connection)


def _refuse_beside_nodes(connection: DatabaseConnection, version: int) -> None:
    """Raise StartError if nodes use the database, which know only this version. Those that are dead
    learn of the newer one when they wake up.
    """
    if nodes := live_nodes(connection):
        raise StartError(
            f"The database has schema version {version}, this program needs {SCHEMA_VERSION}, and nodes of a cluster "
            f"use it ({describe_all(nodes)}): "
            f"stop all of them first, or wait for {longest_lease(nodes)} s if they were killed."
        )
    forget_nodes(connection)


def is_ours(connection: DatabaseConnection) -> bool:
    """Whether the tables are Jelly's, perhaps of an older version, damaged, or of a first start
    that was cut off.

    Other tables beside complete ones of Jelly do no harm.
    """
    tables = connection.tables()
    if not {"name", "value"} <= connection.columns("meta"):
        return tables >= TABLES_OF_EVERY_VERSION  # it has lost its meta
    return _version(connection) > 0 or tables <= first_columns().keys()


def _is_empty(connection: DatabaseConnection) -> bool:
    return not connection.tables()


def _check_rights(connection: DatabaseConnection) -> None:
    """Try on each table, without a change, what the server does to its rows.

    On MySQL, an account may be allowed to read only, or have rights for some tables only. Then the
    first request would fail, not the start.
    """
    with connection.transaction():
        for table, column in first_columns().items():
            connection.execute(f"INSERT INTO {table} SELECT * FROM {table} WHERE 1 = 0")
            connection.execute(f"UPDATE {table} SET {column} = {column} WHERE 1 = 0")
            connection.execute(f"DELETE FROM {table} WHERE 1 = 0")


def _create(connection: DatabaseConnection) -> None:
    for statement in split_statements(schema()):
        connection.define(statement)
    # A first start that was cut off here may have left some rows. They stay: nothing deletes from
    # meta, because ids that were given must never be given again. The version comes last: it says
    # that everything is there.
    present = _names_in_meta(connection)
    for name, value in (*ROWS_OF_META.items(), ("schema_version", SCHEMA_VERSION)):
        if name not in present:
            connection.execute("INSERT INTO meta (name, value) VALUES (?, ?)", (name, value))


def _names_in_meta(connection: DatabaseConnection) -> set[str]:
    return {name for (name,) in connection.query("SELECT name FROM meta")}


def _version(connection: DatabaseConnection) -> int:
    """The schema version of the database, 0 if it has no tables of ours, or not all of them."""
    rows = connection.query_if_exists("SELECT value FROM meta WHERE name = 'schema_version'")
    return int(rows[0][0]) if rows else 0


def _is_used(connection: DatabaseConnection) -> bool:
    """Whether the database holds what a first start that was cut off cannot have left."""
    return any(connection.query_if_exists(f"SELECT 1 FROM {table} LIMIT 1") for table in ("users", "messages"))


def schema() -> str:
    """The text of schema.sql: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).parent.parent
    for path in (package / "schema.sql", package.parent / "schema.sql"):
        if path.exists():
            return path.read_text(encoding="utf-8")
    raise StartError("The file schema.sql is missing beside the package jelly: install Jelly again.")


def first_columns() -> dict[str, str]:
    """Each table of schema.sql, with its first column."""
    return dict(re.findall(r"CREATE TABLE IF NOT EXISTS (\w+) \(\s*(\w+)", schema()))


def split_statements(script: str) -> list[str]:
    """The statements of an SQL script, without comments. (executescript() would commit first.)"""
    lines = [line for line in script.splitlines() if not line.lstrip().startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]
