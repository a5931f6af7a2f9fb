-- The tables of Jelly, in the SQL that SQLite, MySQL and MariaDB share. jelly/database.py runs this file on an
-- empty database, and adds what only one of them needs: engine, character set and collation, WITHOUT ROWID.
--
-- Names are compared character by character (Bob, bob and böb are three users). Times are milliseconds since
-- 1970. Ids come from the program, so that they grow in the order of the commits. There are no foreign keys:
-- one thread does all writing, checks before it writes, and nothing that is referred to is ever deleted first.

-- schema_version: the version of these tables; next_id: ids below it may have been used; filed: messages up to this
-- id are filed.
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

-- The creator is a member, the first one: position grows with every member added. A member may read back the
-- messages with ids from since on: none from before its time.
CREATE TABLE IF NOT EXISTS members (
    group_name VARCHAR(32) NOT NULL,
    username   VARCHAR(32) NOT NULL,
    position   BIGINT NOT NULL,
    since      BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (group_name, username)
);
CREATE INDEX groups_of_member ON members (username);

-- A message is stored once. is_group says whether receiver is a group's name (1) or a person's (0). It is kept while
-- an inbox refers to it, and for as long as the operator wants history. A row is only ever appended here, which is
-- the cheapest way to have it on the disk; what must be found by something else than its id is filed a little later,
-- for many messages at a time (jelly/filing.py).
CREATE TABLE IF NOT EXISTS messages (
    id         BIGINT NOT NULL PRIMARY KEY,
    is_group   SMALLINT NOT NULL,
    sender     VARCHAR(32) NOT NULL,
    receiver   VARCHAR(32) NOT NULL,
    content    MEDIUMTEXT NOT NULL,
    time       BIGINT NOT NULL,
    request_id VARCHAR(36),
    digest     BIGINT
);

-- What each person has still to get: one row a receiver, deleted when the message counts as delivered.
CREATE TABLE IF NOT EXISTS inbox (
    receiver   VARCHAR(32) NOT NULL,
    message_id BIGINT NOT NULL,
    PRIMARY KEY (receiver, message_id)
);
CREATE INDEX inbox_of_message ON inbox (message_id);

-- Filed: which conversation a message belongs to. Of two persons one_side is the smaller name; of a group it is the
-- group's name, and other_side is empty.
CREATE TABLE IF NOT EXISTS history (
    message_id BIGINT NOT NULL PRIMARY KEY,
    is_group   SMALLINT NOT NULL,
    one_side   VARCHAR(32) NOT NULL,
    other_side VARCHAR(32) NOT NULL
);
CREATE INDEX conversations ON history (is_group, one_side, other_side, message_id);

-- Filed: under which id its sender sent a message, so that it is not stored again when it comes again. digest says
-- whether it is the same one.
CREATE TABLE IF NOT EXISTS requests (
    message_id BIGINT NOT NULL PRIMARY KEY,
    sender     VARCHAR(32) NOT NULL,
    request_id VARCHAR(36) NOT NULL,
    digest     BIGINT NOT NULL
);
CREATE INDEX requests_of_sender ON requests (sender, request_id);

-- How old an id is: at this time no id from first_id on had been given to a message yet.
CREATE TABLE IF NOT EXISTS calendar (
    first_id BIGINT NOT NULL PRIMARY KEY,
    time     BIGINT NOT NULL
);
