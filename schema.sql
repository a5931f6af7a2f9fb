-- The tables of Jelly, in the SQL that SQLite, MySQL and MariaDB share. jelly/migrations runs this
-- file on an empty database. The engines add what only one of them needs: engine, character
-- set and collation, WITHOUT ROWID.
--
-- Names are compared character by character (Bob, bob and böb are three users). Times are
-- milliseconds since 1970. Ids come from the program, so that they grow in the order of the
-- commits. There are no foreign keys: one thread does all writing, checks before it writes, and
-- deletes a row only after the rows that refer to it.

-- schema_version: the version of these tables. next_id: ids below it may have been used; it is also
-- the mark, which grows with each transaction. first_dated: ids from this one on, divided by 1024,
-- are milliseconds since 1970; 0: there are none yet; 2^53: none now, as the clock is not believed.
-- certain_time: it is over for certain; trusted_time: what it was when the clock was trusted last, or
-- when the clock jumped after that. indexed: messages up to this id are indexed.
CREATE TABLE IF NOT EXISTS meta (
    name  VARCHAR(32) NOT NULL,
    value BIGINT NOT NULL,
    PRIMARY KEY (name)
);

-- password is "scrypt$log2(n)$r$p$salt$hash", never the password itself. nfkc is the form of the
-- name in which new names are compared with it; two old names may have the same. modern: whether
-- the user has ever logged in with a modern client (1) or not (0). seen: when the user was online
-- last, as far as that is noted; hides_seen: whether friends may not know it (1). hides_read: whether
-- the user sends no receipts, and gets none (1). can_be_asked: whether the client of the latest login
-- can answer friend requests. asked_count: how many requests the user has made on the day asked_day,
-- counted from 1970; invited_count, invited_day: the same of invitations to groups. disabled: the operator lets the user log in (0) or not (1).
CREATE TABLE IF NOT EXISTS users (
    username     VARCHAR(32) NOT NULL,
    password     VARCHAR(255) NOT NULL,
    name         VARCHAR(64),
    sex          VARCHAR(16),
    age          VARCHAR(16),
    phone        VARCHAR(32),
    address      VARCHAR(256),
    introduction VARCHAR(1024),
    nfkc         VARCHAR(32),
    modern       SMALLINT NOT NULL DEFAULT 0,
    seen         BIGINT NOT NULL DEFAULT 0,
    hides_seen   SMALLINT NOT NULL DEFAULT 0,
    hides_read   SMALLINT NOT NULL DEFAULT 0,
    can_be_asked SMALLINT NOT NULL DEFAULT 0,
    asked_day    BIGINT NOT NULL DEFAULT 0,
    asked_count  SMALLINT NOT NULL DEFAULT 0,
    disabled     SMALLINT NOT NULL DEFAULT 0,
    invited_day  BIGINT NOT NULL DEFAULT 0,
    invited_count SMALLINT NOT NULL DEFAULT 0,
    PRIMARY KEY (username)
);
CREATE INDEX nfkc_of_users ON users (nfkc);

-- The names of deleted users, which nobody gets again. purged: whether nothing else of them is left
-- (1), or something may be (0). since: when they were deleted.
CREATE TABLE IF NOT EXISTS deleted_names (
    username VARCHAR(32) NOT NULL,
    nfkc     VARCHAR(32) NOT NULL,
    since    BIGINT NOT NULL,
    purged   SMALLINT NOT NULL,
    PRIMARY KEY (username)
);
CREATE INDEX nfkc_of_deleted_names ON deleted_names (nfkc);
CREATE INDEX unpurged_names ON deleted_names (purged, since);

-- A token lets its user come back without the password. Only its SHA-256 is stored. created, network:
-- when and from where its user logged in; 0 and empty if that is not known. device: on which device;
-- empty if the client did not say.
CREATE TABLE IF NOT EXISTS tokens (
    token_hash CHAR(64) NOT NULL,
    username   VARCHAR(32) NOT NULL,
    expires    BIGINT NOT NULL,
    created    BIGINT NOT NULL DEFAULT 0,
    network    VARCHAR(64) NOT NULL DEFAULT '',
    device     VARCHAR(32) NOT NULL DEFAULT '',
    PRIMARY KEY (token_hash)
);
CREATE INDEX tokens_of_user ON tokens (username);

-- The devices of users whose clients say on which one they are. device may be empty: that is all
-- other clients of the user together. delivered: the device has the messages up to this id. (It is
-- written while several devices wait. Else what has arrived is gone from the inbox.) seen: when it
-- was online last, to about a day. dropped: whether messages are kept for it (0) or not (1). gap: the
-- first id that it may have missed, until it knows; 0: it has missed nothing.
CREATE TABLE IF NOT EXISTS devices (
    username  VARCHAR(32) NOT NULL,
    device    VARCHAR(32) NOT NULL,
    delivered BIGINT NOT NULL,
    seen      BIGINT NOT NULL,
    dropped   SMALLINT NOT NULL DEFAULT 0,
    gap       BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (username, device)
);

-- The networks from which a user has logged in with the password: an IPv4 address, or the /64 of an
-- IPv6 address. used: when that was last noted.
CREATE TABLE IF NOT EXISTS known_addresses (
    username VARCHAR(32) NOT NULL,
    network  VARCHAR(64) NOT NULL,
    used     BIGINT NOT NULL,
    PRIMARY KEY (username, network)
);
CREATE INDEX known_addresses_by_use ON known_addresses (used);

-- One row for each friend on a user's list: being a friend is one-way. standing: what the friend
-- has said, nothing yet (0), yes, or was not asked (1), no (2). asked: when the friend was asked.
CREATE TABLE IF NOT EXISTS friends (
    username VARCHAR(32) NOT NULL,
    friend   VARCHAR(32) NOT NULL,
    standing SMALLINT NOT NULL DEFAULT 1,
    asked    BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (username, friend)
);
CREATE INDEX requests_of_friend ON friends (friend, standing, asked);

-- person may not write to username, ask, or see when username is online.
CREATE TABLE IF NOT EXISTS blocks (
    username VARCHAR(32) NOT NULL,
    person   VARCHAR(32) NOT NULL,
    PRIMARY KEY (username, person)
);

-- creator: who owns the group: the one who has created it, until it is passed on.
CREATE TABLE IF NOT EXISTS chat_groups (
    name    VARCHAR(32) NOT NULL,
    creator VARCHAR(32) NOT NULL,
    nfkc    VARCHAR(32),
    PRIMARY KEY (name)
);
CREATE INDEX nfkc_of_groups ON chat_groups (nfkc);
CREATE INDEX groups_of_creator ON chat_groups (creator);

-- Who was asked to become a member of a group, by whom and when, and has not answered.
CREATE TABLE IF NOT EXISTS invitations (
    username   VARCHAR(32) NOT NULL,
    group_name VARCHAR(32) NOT NULL,
    inviter    VARCHAR(32) NOT NULL,
    asked      BIGINT NOT NULL,
    PRIMARY KEY (username, group_name)
);
CREATE INDEX invitations_of_group ON invitations (group_name);

-- position grows with every added member; the owner has position 0. since: a member may read the
-- messages with this id and larger ones, so none that is older than the membership. role: an admin
-- (1) or a plain member (0); the owner has 0.
CREATE TABLE IF NOT EXISTS members (
    group_name VARCHAR(32) NOT NULL,
    username   VARCHAR(32) NOT NULL,
    position   BIGINT NOT NULL,
    since      BIGINT NOT NULL DEFAULT 0,
    role       SMALLINT NOT NULL DEFAULT 0,
    PRIMARY KEY (group_name, username)
);
CREATE INDEX groups_of_member ON members (username);

-- A message is stored once. is_group says whether receiver is a group (1) or a person (0). The
-- message is kept while an inbox refers to it, and for as long as the operator wants history. Rows
-- are only appended here, which is the cheapest way to have them on the disk. The tables that find
-- a message by something else than its id follow a second later, for many messages at a time
-- (jelly/indexing.py). An edit is a row without a text: replaces is the message that it edits, whose
-- row has the last text, and in edited the id of the last edit. device: on which device it was
-- written, if it goes to others of its sender, too, so that an inbox of the sender has a row of it.
CREATE TABLE IF NOT EXISTS messages (
    id         BIGINT NOT NULL PRIMARY KEY,
    is_group   SMALLINT NOT NULL,
    sender     VARCHAR(32) NOT NULL,
    receiver   VARCHAR(32) NOT NULL,
    content    MEDIUMTEXT NOT NULL,
    time       BIGINT NOT NULL,
    request_id VARCHAR(36),
    digest     BIGINT,
    replaces   BIGINT,
    edited     BIGINT,
    device     VARCHAR(32)
);

-- The messages that wait for each person: one row for each receiver, deleted when the message
-- counts as delivered, on all devices of the receiver. size: the bytes of its text, so that what waits
-- can be added up without reading the messages (jelly/quotas.py); -1 if the receiver has written it on
-- another device. text: what this receiver was sent, if the message has been
-- edited since.
CREATE TABLE IF NOT EXISTS inbox (
    receiver   VARCHAR(32) NOT NULL,
    message_id BIGINT NOT NULL,
    size       BIGINT NOT NULL DEFAULT 0,
    text       MEDIUMTEXT,
    PRIMARY KEY (receiver, message_id)
);
CREATE INDEX inbox_of_message ON inbox (message_id);

-- The groups of which messages did not get into the full inbox of a member, until the member knows.
-- since: the first of them.
CREATE TABLE IF NOT EXISTS missed (
    username   VARCHAR(32) NOT NULL,
    group_name VARCHAR(32) NOT NULL,
    since      BIGINT NOT NULL,
    PRIMARY KEY (username, group_name)
);

-- Index of conversations. Of two persons, one_side is the smaller name and other_side the larger
-- one; of a group, one_side is its name and other_side is empty.
CREATE TABLE IF NOT EXISTS history (
    message_id BIGINT NOT NULL PRIMARY KEY,
    is_group   SMALLINT NOT NULL,
    one_side   VARCHAR(32) NOT NULL,
    other_side VARCHAR(32) NOT NULL
);
CREATE INDEX conversations ON history (is_group, one_side, other_side, message_id);

-- How far each user has read a conversation: up to the message message_id; 0: nothing yet. partner
-- is the other person, or the group if is_group is 1. With persons, each user has a row for everybody
-- with whom messages were exchanged.
CREATE TABLE IF NOT EXISTS read_pointers (
    username   VARCHAR(32) NOT NULL,
    is_group   SMALLINT NOT NULL,
    partner    VARCHAR(32) NOT NULL,
    message_id BIGINT NOT NULL,
    PRIMARY KEY (username, is_group, partner)
);

-- Index of idempotency keys (sender and request_id), so that a message that comes again is not
-- stored again. digest says whether it is the same message.
CREATE TABLE IF NOT EXISTS requests (
    message_id BIGINT NOT NULL PRIMARY KEY,
    sender     VARCHAR(32) NOT NULL,
    request_id VARCHAR(36) NOT NULL,
    digest     BIGINT NOT NULL
);
CREATE INDEX requests_of_sender ON requests (sender, request_id);

-- The next three are for several nodes (servers) on one database; a single server leaves them empty.
-- Then meta has more rows: event, the number of the last event; cluster_id, a random number; and for
-- each node N node.N, its incarnation (0 when it has ended), mark.N, its mark, and for.N, the id of
-- the last message that was written for a user who is online there.

-- state is 1 (serving) or 2 (draining). The node lives while its lease is renewed: by the database's
-- clock, no longer than lease milliseconds ago. event: it has applied the events up to this one.
-- hints is 1 while it can tell the others when there is something for them. bus: what --cluster
-- names, without the password. sender: by this text the others know what it sends through the bus.
-- unheard: the numbers of the nodes that use another bus, as it has noticed. process: its number on
-- the machine `host`. started: when the node registered, by the database's clock.
CREATE TABLE IF NOT EXISTS nodes (
    id          SMALLINT NOT NULL PRIMARY KEY,
    incarnation BIGINT NOT NULL,
    address     VARCHAR(255) NOT NULL,
    version     VARCHAR(32) NOT NULL,
    state       SMALLINT NOT NULL,
    renewed     BIGINT NOT NULL,
    lease       BIGINT NOT NULL,
    event       BIGINT NOT NULL,
    hints       SMALLINT NOT NULL,
    bus         VARCHAR(255) NOT NULL,
    sender      VARCHAR(16) NOT NULL,
    unheard     VARCHAR(255) NOT NULL,
    host        VARCHAR(255) NOT NULL,
    process     BIGINT NOT NULL,
    started     BIGINT NOT NULL,
    connections BIGINT NOT NULL
);

-- Who is online, and where: a row for each device. epoch is the number of the event of the login. classic_token: the hash of the token of a classic client.
CREATE TABLE IF NOT EXISTS sessions (
    username      VARCHAR(32) NOT NULL,
    device        VARCHAR(32) NOT NULL,
    node          SMALLINT NOT NULL,
    epoch         BIGINT NOT NULL,
    classic_token VARCHAR(64) NOT NULL DEFAULT '',
    PRIMARY KEY (username, device)
);
CREATE INDEX sessions_of_node ON sessions (node);

-- What the nodes tell each other: logins, ends of sessions, changes of groups. data is JSON. A row
-- is dropped when all nodes have applied it.
CREATE TABLE IF NOT EXISTS events (
    n    BIGINT NOT NULL PRIMARY KEY,
    node SMALLINT NOT NULL,
    data MEDIUMTEXT NOT NULL
);

-- What `jelly user` asks of the running server, which alone changes the other tables. result is
-- empty while a command waits. Then it is "done" or an error code, and the password is emptied.
CREATE TABLE IF NOT EXISTS operator_commands (
    id       VARCHAR(32) NOT NULL,
    action   VARCHAR(16) NOT NULL,
    username VARCHAR(32) NOT NULL,
    password VARCHAR(255) NOT NULL,
    result   VARCHAR(32) NOT NULL DEFAULT '',
    finished BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (id)
);

-- What users tell the operator about each other (`jelly reports`). With message_id, the next three are
-- what that message was; content is its beginning.
CREATE TABLE IF NOT EXISTS reports (
    id         BIGINT NOT NULL,
    reporter   VARCHAR(32) NOT NULL,
    person     VARCHAR(32) NOT NULL,
    text       VARCHAR(1024) NOT NULL,
    message_id BIGINT,
    receiver   VARCHAR(32),
    is_group   SMALLINT,
    content    MEDIUMTEXT,
    time       BIGINT NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX reports_of_reporter ON reports (reporter, time);

-- Invitations: the SHA-256 of each code, who has made it, for which group (empty: for an account
-- only), how often it can still be used, and until when.
CREATE TABLE IF NOT EXISTS invites (
    code_hash  CHAR(64) NOT NULL,
    creator    VARCHAR(32) NOT NULL,
    group_name VARCHAR(32) NOT NULL,
    uses       SMALLINT NOT NULL,
    expires    BIGINT NOT NULL,
    PRIMARY KEY (code_hash)
);
CREATE INDEX invites_of_user ON invites (creator);
CREATE INDEX invites_by_end ON invites (expires);
