"""From version 2 to 3: ids that carry the time instead of a calendar, a clearer name for a row of
the table meta, the NFKC form of each name, whether a user has had a modern client, the commands of
an operator, known addresses, what quotas and edits need, reports, invitations, accounts that are
disabled or deleted, devices, the tables of several nodes, roles in groups, consent to being a
friend, and how far everybody has read.
"""

from jelly.database import DatabaseConnection
from jelly.migrations.step import Step, add_to_meta
from jelly.names import nfkc

COUNT_AS_READ = (
    "INSERT INTO read_pointers (username, is_group, partner, message_id) "
    "SELECT c.username, c.is_group, c.partner, COALESCE((SELECT MAX(message_id) FROM history), 0) FROM "
    "({conversations}) AS c WHERE NOT EXISTS (SELECT 1 FROM read_pointers AS p WHERE p.username = c.username "
    "AND p.is_group = c.is_group AND p.partner = c.partner)"
)
"""What was delivered before there were read pointers counts as read."""
NAMES_AT_ONCE = 1000
"""How many names are read at a time."""


def fill_nfkc(connection: DatabaseConnection) -> None:
    """Compute the NFKC form of each name. SQL cannot do it, but it is nearly always the name."""
    for table, column in (("users", "username"), ("chat_groups", "name")):
        last = ""
        page = f"SELECT {column} FROM {table} WHERE {column} > ? ORDER BY {column} LIMIT ?"
        while names := [name for (name,) in connection.query(page, (last, NAMES_AT_ONCE))]:
            first, last = names[0], names[-1]
            connection.execute(
                f"UPDATE {table} SET nfkc = {column} WHERE {column} >= ? AND {column} <= ?", (first, last)
            )
            for name in names:
                if nfkc(name) != name:
                    connection.execute(f"UPDATE {table} SET nfkc = ? WHERE {column} = ?", (nfkc(name), name))


STATEMENTS: tuple[Step, ...] = (
    "UPDATE meta SET name = 'indexed' WHERE name = 'filed'",
    add_to_meta("first_dated", 0),
    add_to_meta("certain_time", 0),
    add_to_meta("trusted_time", 0),
    "DROP TABLE IF EXISTS calendar",
    "ALTER TABLE users ADD COLUMN nfkc VARCHAR(32)",
    "ALTER TABLE chat_groups ADD COLUMN nfkc VARCHAR(32)",
    fill_nfkc,
    "CREATE INDEX nfkc_of_users ON users (nfkc)",
    "CREATE INDEX nfkc_of_groups ON chat_groups (nfkc)",
    "ALTER TABLE users ADD COLUMN modern SMALLINT NOT NULL DEFAULT 0",
    "ALTER TABLE users ADD COLUMN seen BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE users ADD COLUMN hides_seen SMALLINT NOT NULL DEFAULT 0",
    "ALTER TABLE users ADD COLUMN hides_read SMALLINT NOT NULL DEFAULT 0",
    "ALTER TABLE users ADD COLUMN can_be_asked SMALLINT NOT NULL DEFAULT 0",
    "ALTER TABLE users ADD COLUMN asked_day BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE users ADD COLUMN asked_count SMALLINT NOT NULL DEFAULT 0",
    "ALTER TABLE friends ADD COLUMN standing SMALLINT NOT NULL DEFAULT 1",
    "ALTER TABLE friends ADD COLUMN asked BIGINT NOT NULL DEFAULT 0",
    "CREATE INDEX requests_of_friend ON friends (friend, standing, asked)",
    "ALTER TABLE users ADD COLUMN invited_day BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE users ADD COLUMN invited_count SMALLINT NOT NULL DEFAULT 0",
    "CREATE TABLE IF NOT EXISTS invitations (username VARCHAR(32) NOT NULL, group_name VARCHAR(32) NOT NULL, "
    "inviter VARCHAR(32) NOT NULL, asked BIGINT NOT NULL, PRIMARY KEY (username, group_name))",
    "CREATE INDEX invitations_of_group ON invitations (group_name)",
    "CREATE TABLE IF NOT EXISTS blocks (username VARCHAR(32) NOT NULL, person VARCHAR(32) NOT NULL, "
    "PRIMARY KEY (username, person))",
    "CREATE TABLE IF NOT EXISTS operator_commands (id VARCHAR(32) NOT NULL, action VARCHAR(16) NOT NULL, "
    "username VARCHAR(32) NOT NULL, password VARCHAR(255) NOT NULL, result VARCHAR(32) NOT NULL DEFAULT '', "
    "finished BIGINT NOT NULL DEFAULT 0, PRIMARY KEY (id))",
    "CREATE TABLE IF NOT EXISTS known_addresses (username VARCHAR(32) NOT NULL, network VARCHAR(64) NOT NULL, "
    "used BIGINT NOT NULL, PRIMARY KEY (username, network))",
    "CREATE INDEX known_addresses_by_use ON known_addresses (used)",
    "ALTER TABLE inbox ADD COLUMN size BIGINT NOT NULL DEFAULT 0",
    # In SQLite it is the number of characters, which is near enough for what waits already.
    "UPDATE inbox SET size = COALESCE((SELECT LENGTH(content) FROM messages WHERE id = message_id), 0)",
    "ALTER TABLE users ADD COLUMN disabled SMALLINT NOT NULL DEFAULT 0",
    "CREATE TABLE IF NOT EXISTS deleted_names (username VARCHAR(32) NOT NULL, nfkc VARCHAR(32) NOT NULL, "
    "since BIGINT NOT NULL, purged SMALLINT NOT NULL, PRIMARY KEY (username))",
    "CREATE INDEX nfkc_of_deleted_names ON deleted_names (nfkc)",
    "CREATE INDEX unpurged_names ON deleted_names (purged, since)",
    "ALTER TABLE tokens ADD COLUMN created BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE tokens ADD COLUMN network VARCHAR(64) NOT NULL DEFAULT ''",
    "ALTER TABLE tokens ADD COLUMN device VARCHAR(32) NOT NULL DEFAULT ''",
    "CREATE TABLE IF NOT EXISTS devices (username VARCHAR(32) NOT NULL, device VARCHAR(32) NOT NULL, "
    "delivered BIGINT NOT NULL, seen BIGINT NOT NULL, dropped SMALLINT NOT NULL DEFAULT 0, "
    "gap BIGINT NOT NULL DEFAULT 0, PRIMARY KEY (username, device))",
    "CREATE TABLE IF NOT EXISTS invites (code_hash CHAR(64) NOT NULL, creator VARCHAR(32) NOT NULL, "
    "group_name VARCHAR(32) NOT NULL, uses SMALLINT NOT NULL, expires BIGINT NOT NULL, PRIMARY KEY (code_hash))",
    "CREATE INDEX invites_of_user ON invites (creator)",
    "CREATE INDEX invites_by_end ON invites (expires)",
    "CREATE TABLE IF NOT EXISTS reports (id BIGINT NOT NULL, reporter VARCHAR(32) NOT NULL, "
    "person VARCHAR(32) NOT NULL, text VARCHAR(1024) NOT NULL, message_id BIGINT, receiver VARCHAR(32), "
    "is_group SMALLINT, content MEDIUMTEXT, time BIGINT NOT NULL, PRIMARY KEY (id))",
    "CREATE INDEX reports_of_reporter ON reports (reporter, time)",
    "ALTER TABLE inbox ADD COLUMN text MEDIUMTEXT",
    "ALTER TABLE messages ADD COLUMN replaces BIGINT",
    "ALTER TABLE messages ADD COLUMN edited BIGINT",
    "ALTER TABLE messages ADD COLUMN device VARCHAR(32)",
    "CREATE TABLE IF NOT EXISTS nodes (id SMALLINT NOT NULL PRIMARY KEY, incarnation BIGINT NOT NULL, "
    "address VARCHAR(255) NOT NULL, version VARCHAR(32) NOT NULL, state SMALLINT NOT NULL, "
    "renewed BIGINT NOT NULL, lease BIGINT NOT NULL, event BIGINT NOT NULL, hints SMALLINT NOT NULL, "
    "bus VARCHAR(255) NOT NULL, sender VARCHAR(16) NOT NULL, unheard VARCHAR(255) NOT NULL, "
    "host VARCHAR(255) NOT NULL, process BIGINT NOT NULL, started BIGINT NOT NULL, connections BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS sessions (username VARCHAR(32) NOT NULL, device VARCHAR(32) NOT NULL, "
    "node SMALLINT NOT NULL, epoch BIGINT NOT NULL, classic_token VARCHAR(64) NOT NULL DEFAULT '', "
    "PRIMARY KEY (username, device))",
    "CREATE INDEX sessions_of_node ON sessions (node)",
    "CREATE TABLE IF NOT EXISTS events (n BIGINT NOT NULL PRIMARY KEY, node SMALLINT NOT NULL, "
    "data MEDIUMTEXT NOT NULL)",
    "ALTER TABLE members ADD COLUMN role SMALLINT NOT NULL DEFAULT 0",
    "CREATE TABLE IF NOT EXISTS missed (username VARCHAR(32) NOT NULL, group_name VARCHAR(32) NOT NULL, "
    "since BIGINT NOT NULL, PRIMARY KEY (username, group_name))",
    "CREATE TABLE IF NOT EXISTS read_pointers (username VARCHAR(32) NOT NULL, is_group SMALLINT NOT NULL, "
    "partner VARCHAR(32) NOT NULL, message_id BIGINT NOT NULL, PRIMARY KEY (username, is_group, partner))",
    COUNT_AS_READ.format(
        conversations="SELECT one_side AS username, 0 AS is_group, other_side AS partner FROM history "
        "WHERE is_group = 0 UNION SELECT other_side, 0, one_side FROM history WHERE is_group = 0 "
        "UNION SELECT username, 1, group_name FROM members"
    ),
)
