"""From version 1 to 2: history, idempotency keys (`requestId`), and since when a member is one."""

from jelly.migrations.step import Step, add_to_meta

STATEMENTS: tuple[Step, ...] = (
    "ALTER TABLE members ADD COLUMN since BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE messages ADD COLUMN request_id VARCHAR(36)",
    "ALTER TABLE messages ADD COLUMN digest BIGINT",
    "CREATE TABLE IF NOT EXISTS history (message_id BIGINT NOT NULL PRIMARY KEY, is_group SMALLINT NOT NULL, "
    "one_side VARCHAR(32) NOT NULL, other_side VARCHAR(32) NOT NULL)",
    "CREATE INDEX conversations ON history (is_group, one_side, other_side, message_id)",
    "CREATE TABLE IF NOT EXISTS requests (message_id BIGINT NOT NULL PRIMARY KEY, sender VARCHAR(32) NOT NULL, "
    "request_id VARCHAR(36) NOT NULL, digest BIGINT NOT NULL)",
    "CREATE INDEX requests_of_sender ON requests (sender, request_id)",
    "CREATE TABLE IF NOT EXISTS calendar (first_id BIGINT NOT NULL PRIMARY KEY, time BIGINT NOT NULL)",
    add_to_meta("filed", 0),
)
