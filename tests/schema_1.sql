-- The tables of Jelly, in the SQL that SQLite, MySQL and MariaDB share. jelly/database.py runs this file on an
-- empty database, and adds what only one of them needs: engine, character set and collation, WITHOUT ROWID.
--
-- Names are compared character by character (Bob, bob and böb are three users). Times are milliseconds since
-- 1970. Ids come from the program, so that they grow in the order of the commits. There are no foreign keys:
-- one thread does all writing, checks before it writes, and nothing that is referred to is ever deleted first.

-- schema_version: the version of these tables; next_id: ids below it may have been used.
CREATE TABLE IF NOT EXISTS meta (
    name  VARCHAR(32) NOT NULL,
    value BIGINT NOT NULL,
    PRIMARY KEY (name)
);

-- password is "scrypt$log2(n)$r$p$salt$hash", never the password itself.
CREATE TABLE IF NOT EXISTS users (
    username     VARCHAR(32) NOT NULL,
    password     VARCHAR(255) NOT NULL,
    name         VARCHAR(64),
    sex          VARCHAR(16),
    age          VARCHAR(16),
    phone        VARCHAR(32),
    address      VARCHAR(256),
    introduction VARCHAR(1024),
    PRIMARY KEY (username)
);

-- A token lets its user come back without the password. Only its SHA-256 is stored.
CREATE TABLE IF NOT EXISTS tokens (
    token_hash CHAR(64) NOT NULL,
    username   VARCHAR(32) NOT NULL,
    expires    BIGINT NOT NULL,
    PRIMARY KEY (token_hash)
);
CREATE INDEX tokens_of_user ON tokens (username);

-- One row for each name on somebody's list: being a friend is not mutual.
CREATE TABLE IF NOT EXISTS friends (
    username VARCHAR(32) NOT NULL,
    friend   VARCHAR(32) NOT NULL,
    PRIMARY KEY (username, friend)
);

CREATE TABLE IF NOT EXISTS chat_groups (
    name    VARCHAR(32) NOT NULL,
    creator VARCHAR(32) NOT NULL,
    PRIMARY KEY (name)
);
CREATE INDEX groups_of_creator ON chat_groups (creator);

-- The creator is a member, the first one: position grows with every member added.
CREATE TABLE IF NOT EXISTS members (
    group_name VARCHAR(32) NOT NULL,
    username   VARCHAR(32) NOT NULL,
    position   BIGINT NOT NULL,
    PRIMARY KEY (group_name, username)
);
CREATE INDEX groups_of_member ON members (username);

-- A message is stored once, and goes when no inbox refers to it any more. is_group says whether receiver is
-- a group's name (1) or a person's (0).
CREATE TABLE IF NOT EXISTS messages (
    id       BIGINT NOT NULL PRIMARY KEY,
    is_group SMALLINT NOT NULL,
    sender   VARCHAR(32) NOT NULL,
    receiver VARCHAR(32) NOT NULL,
    content  MEDIUMTEXT NOT NULL,
    time     BIGINT NOT NULL
);

-- What each person has still to get: one row a receiver, deleted when the message counts as delivered.
CREATE TABLE IF NOT EXISTS inbox (
    receiver   VARCHAR(32) NOT NULL,
    message_id BIGINT NOT NULL,
    PRIMARY KEY (receiver, message_id)
);
CREATE INDEX inbox_of_message ON inbox (message_id);
