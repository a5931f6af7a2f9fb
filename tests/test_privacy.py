"""What a stranger can learn, and do: every request by everybody who is not a friend, and every
notice to everybody who could get it.

The tables are the review. In the first, each column is what somebody is to alice: a stranger, who
has asked to be her friend, whom she has declined, blocked, removed from her group; a member of that
group; a friend. Each row is a request that is about her, and each cell what comes of it: an error
code, or one of WORDS. (The last two columns show that there is something to learn.)
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from harness import StartServer, ready_database
from wire import (
    ADD_FRIEND,
    ADD_MEMBER,
    ANSWER_FRIEND,
    ANSWER_GROUP,
    BLOCK,
    CONVERSATIONS,
    CREATE_GROUP,
    DELETE_ACCOUNT,
    DISBAND_GROUP,
    EDIT,
    GROUP_MESSAGE,
    HISTORY,
    INVITE,
    JOIN,
    LOGIN,
    LOGINS,
    NODES,
    OWN_GROUPS,
    OWN_PROFILE,
    PASSWORD,
    PERSON_MESSAGE,
    READ,
    RECONNECT,
    REGISTER,
    REMOVE_MEMBER,
    REPORT,
    SEARCH,
    SET_ROLE,
    SYSTEM,
    TYPING,
    UPDATE_PROFILE,
    Wire,
    logged_in,
    pack,
    register,
    to_json,
    wait_until,
)

from jelly import services
from jelly.codec import Type
from jelly.messages import Event
from jelly.server import JellyServer
from jelly.services import NEEDED_FEATURES
from jelly.session_lifecycle import FEATURES

ALL = list(FEATURES)
PHONE, SECRET, GROUP_SECRET = "phone 555-1234", "secret to bob", "secret of the team"

REQUESTS = """
what                                  | stranger | asked | declined | blocked | former | member | friend
-- pretending to be alice
LOGIN with a guessed password         | already_logged_in
RECONNECT with a guessed token        | already_logged_in
REGISTER as alice                     | already_logged_in
REGISTER as ａｌｉｃｅ                     | already_logged_in
LOGOUT alice                          | not_yourself
PERSON_MESSAGE to bob from alice      | not_yourself
GROUP_MESSAGE to team from alice      | not_yourself
UPDATE_PROFILE of alice               | not_yourself
OWN_PROFILE of alice                  | not_yourself
ALL_FRIENDS of alice                  | not_yourself
OWN_GROUPS of alice                   | not_yourself
HISTORY of alice with bob             | not_yourself
CONVERSATIONS of alice                | not_yourself
BLOCKED of alice                      | not_yourself
LOGINS of alice                       | not_yourself
END_LOGIN of alice, by its name       | invalid_token
DELETE_ACCOUNT alice                  | not_yourself
-- what can be learned
FRIEND_PROFILE alice                  | not_friends | the name | = | = | not_friends | = | the phone
FRIEND_PROFILE nobody-at-all          | not_friends
ALL_FRIENDS                           | no alice | offline | = | = | no alice | = | online
OWN_GROUPS                            | no team | = | = | = | = | the team | no team
HISTORY with alice                    | no messages
HISTORY of the team                   | not_a_member | = | = | = | = | team's message | not_a_member
SEARCH everywhere                     | no messages | = | = | = | = | team's message | no messages
SEARCH with alice                     | no messages
SEARCH in the team                    | not_a_member | = | = | = | = | team's message | not_a_member
CONVERSATIONS                         | none | = | = | = | = | the team's | none
LOGINS                                | own
FIND al                               | alice's name
REPORT a message of alice to bob      | no_such_message
REPORT a message to the team          | no_such_message | = | = | = | = | done | no_such_message
BLOCKED                               | done
-- what can be done
HEARTBEAT                             | silence
ACK a message to bob                  | silence
READ a message to bob                 | silence
READ a message to the team            | silence
TYPING to alice                       | silence
EDIT a message of alice to bob        | no_such_message
EDIT no message                       | no_such_message
JOIN with a guessed code              | invalid_invite
INVITE into the team                  | not_group_creator
CREATE_GROUP team                     | group_exists
DISBAND_GROUP team                    | not_group_creator
ADD_MEMBER oneself to the team        | not_group_creator
REMOVE_MEMBER alice of the team       | not_group_creator
REMOVE_MEMBER bob of the team         | not_group_creator
SET_ROLE of oneself in the team       | not_group_creator
SET_ROLE stepping down in the team    | not_a_member | = | = | = | = | done | not_a_member
GROUP_MESSAGE to the team             | not_a_member | = | = | = | = | done | not_a_member
ANSWER_GROUP team, without a question | not_asked
ANSWER_FRIEND alice, who has not asked| not_asked
-- what alice is asked, or may end by a block
ADD_MEMBER alice to one's own group   | asked | = | = | not_accepted | asked
OWN_GROUPS, with one's own            | alice is not in
PERSON_MESSAGE to nobody-at-all       | no_such_user
ADD_FRIEND nobody-at-all              | no_such_user
PERSON_MESSAGE to alice               | done | = | = | not_accepted | done
ADD_FRIEND alice                      | asked | already_friends | = | not_accepted | asked | = | already_friends
FRIEND_PROFILE alice, after that      | the name | = | = | = | = | = | the phone
BLOCK alice                           | done
REMOVE_FRIEND alice                   | done
"""
"""A cell `=` is as the one to the left of it, and so are cells that are missing. A line that begins
with -- is a headline. For a client without a feature, what needs the feature does not exist
(`unknown_type`).
"""
NOBODY = {
    "LOGIN with a guessed password": "wrong_credentials",
    "RECONNECT with a guessed token": "invalid_token",
    "REGISTER as alice": "username_taken",
    "REGISTER as ａｌｉｃｅ": "username_taken",
    "HEARTBEAT": "silence",
}
"""What a connection gets on which nobody has logged in; everything else is `not_logged_in`."""

HEARD_BY_ALICE = """
who      | alice hears
nobody   |
stranger | friend_request, group_invitation, message
asked    | group_invitation, message
declined | group_invitation, message
blocked  |
former   | friend_request, group_invitation, message
member   | friend_request, group_invitation, message, message to the team
friend   | group_invitation, message
"""

NOTICES = """
what alice does                    | what is told | to whom
goes away                          | presence | friend, mutual friend
comes back                         | presence | friend, mutual friend
types to this person               | typing | mutual friend
types to the team                  | typing | member
acknowledges a message from there  | delivered | mutual friend
reads it                           | read | mutual friend
reads what bob wrote to the team   | read | member
edits a message to bob             |  |
recalls a message to bob           |  |
edits a message to the team        | message to the team | member
recalls a message to the team      | message to the team | member
makes bob an admin                 | group_changed | member
removes bob from the team          | group_changed | member
adds bob to the team               | group_changed | member
changes her profile                |  |
asks bob to be a friend            |  |
blocks bob                         |  |
disbands the team                  | group_disbanded | member
says yes to this person            | friend_answer | asked, declined
adds this person to a group        | group_invitation | stranger, former, member, her friend
adds this person to a group ...    | group_changed | asked, declined, blocked, friend, mutual friend
asks this person                   | friend_request | stranger, former, member
"""
"""What others hear at a modern client with all features when alice does something; everybody else
hears nothing. (A mutual friend, and whom she has blocked, are on each other's lists; her friend is
on hers only. Who has her on the list is not asked. A line with ... goes on with the one before.)
"""
NOTICES_TO_ONESELF = {
    Event.TAKEN_OVER, Event.PASSWORD_CHANGED, Event.SHUTDOWN, Event.INBOX_FULL, Event.LOGGED_OUT, Event.GAP,
    Event.OWN_READ,
}  # fmt: skip
"""What is told to nobody but the user whom it is about."""

Body = Any
WORDS: dict[str, Callable[[Body], bool]] = {
    "done": lambda body: PHONE not in str(body),
    "asked": lambda body: body.get("pending", True) is True,
    "the name": lambda body: body == {"username": "alice"},
    "the phone": lambda body: body["phone"] == PHONE,
    "no alice": lambda body: body["friends"] == {} and not body.get("pending") and not body.get("requests"),
    "offline": lambda body: body["friends"] == {"alice": False},
    "online": lambda body: body["friends"] == {"alice": True},
    "no team": lambda body: "team" not in body["groups"] and not body.get("invited"),
    "the team": lambda body: body["groups"]["team"] == ["alice", "bob", "mallory"],
    "alice is not in": lambda body: body["groups"]["club"] == ["mallory"],
    "no messages": lambda body: body["messages"] == [] and body["more"] is False,
    "team's message": lambda body: [each["content"] for each in body["messages"]] == [GROUP_SECRET],
    "none": lambda body: body["conversations"] == [] and body["more"] is False,
    "the team's": lambda body: [each["groupName"] for each in body["conversations"]] == ["team"],
    "own": lambda body: body["username"] == "mallory" and all(each["created"] for each in body["logins"]),
    "alice's name": lambda body: body["found"] == ["alice"] and set(body) == {"username", "found", "more"},
}
"""What a cell says of the body of a SUCCESS."""


def table(text: str) -> dict[str, dict[str, str]]:
    """The cells of a table: for each row, those of each column."""
    head, *lines = [line for line in text.strip().splitlines() if not line.startswith("--")]
    columns = [name.strip() for name in head.split("|")][1:]
    rows = {}
    for line in lines:
        name, *cells = [cell.strip() for cell in line.split("|")]
        cells += ["="] * (len(columns) - len(cells))
        for place, cell in enumerate(cells):
            cells[place] = cells[place - 1] if cell == "=" else cell
        rows[name] = dict(zip(columns, cells, strict=True))
    return rows


ROWS, HEARD = table(REQUESTS), table(HEARD_BY_ALICE)
PEOPLE = list(HEARD)


class World:
    """Alice, her friend bob and her group, and mallory, who is one of PEOPLE to her."""

    def __init__(self, port: int, person: str, stack: ExitStack, features: list[str] | None = ALL) -> None:
        register(port, "alice", "bob", "mallory")
        self.port, self.person, self.features, self.stack = port, person, features, stack
        self.ids: dict[str, int] = {}
        self.alice, self.bob = self.login("alice"), self.login("bob", ["ack"])
        self.mallory = self.login("mallory")
        alice, mallory = self.alice, self.mallory
        alice.ok(UPDATE_PROFILE, phone=PHONE)
        alice.ok(CREATE_GROUP, groupName="team")
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        if person in ("asked", "declined", "blocked", "friend", "mutual friend"):
            mallory.ok(ADD_FRIEND, friend="alice")
        if person in ("declined", "blocked", "friend", "mutual friend"):
            alice.ok(ANSWER_FRIEND, friend="mallory", accept=person != "declined")
        if person in ("mutual friend", "blocked", "her friend"):
            alice.ok(ADD_FRIEND, friend="mallory")
        if person == "her friend":
            mallory.ok(ANSWER_FRIEND, friend="alice", accept=True)
        if person == "blocked":
            alice.ok(BLOCK, person="mallory", blocked=True)
        if person == "blocked":
            alice.ok(BLOCK, person="mallory", blocked=True)
        if person in ("member", "former"):
            alice.ok(ADD_MEMBER, groupName="team", member="mallory")
            mallory.ok(ANSWER_GROUP, groupName="team", accept=True)
        if person == "former":
            alice.ok(REMOVE_MEMBER, groupName="team", member="mallory")
        self.to_bob = int(alice.ok(PERSON_MESSAGE, receiver="bob", content=SECRET, time=1)["id"])
        self.to_team = int(alice.ok(GROUP_MESSAGE, receiver="team", content=GROUP_SECRET, time=1)["id"])
        self.login_of_alice = alice.ok(LOGINS)["logins"][0]["login"]
        alice.ok(INVITE, groupName="team", uses=1, hours=1)
        mallory = self.mallory = self.login("mallory", features)  # what is loaded then must be right, too
        if person == "member":
            while (notice := mallory.receive_notice()).type != GROUP_MESSAGE:
                pass
            if features == ALL:
                mallory.ack(notice.values["id"])
        self.settle()

    def login(self, user: str, features: list[str] | None = ALL) -> Wire:
        return self.stack.enter_context(logged_in(self.port, user, features=features))

    def settle(self) -> None:
        """Pass over what was told until now."""
        for wire in (self.alice, self.bob, self.mallory):
            if wire.socket.fileno() < 0:
                continue  # alice is away
            wire.ok(OWN_PROFILE)
            wire.notices.clear()

    def outcome(self, row: str, expected: str) -> str:
        """Make the request of a row; the cell that it should have."""
        type, values = self.request(row)
        wire = self.stack.enter_context(Wire(self.port)) if self.person == "nobody" else self.mallory
        before_login = wire is not self.mallory or type in (LOGIN, RECONNECT, REGISTER)
        if before_login or type in (Type.ACK, Type.READ, Type.TYPING, Type.HEARTBEAT):
            wire.send(pack(type, to_json(values) if values else b""))
        else:
            wire.send_request(type, **values)
        if expected == "silence":  # the answer to something else comes next
            wire.send_request(OWN_PROFILE)
            reply = wire.receive_response()
            return "silence" if reply.type == OWN_PROFILE else f"{reply}"
        reply = wire.receive_response()
        if reply.error:
            return reply.error
        return expected if expected in WORDS and WORDS[expected](reply.values) else f"{reply}"

    def request(self, row: str) -> tuple[int, dict[str, Any]]:
        """The type and the body of the request that a row describes."""
        name, _, rest = row.partition(" ")
        as_alice = {"username": "alice"}
        team, alice = {"groupName": "team"}, {"friend": "alice"}
        written = {"content": "x", "time": 1}
        values: dict[str, dict[str, Any]] = {
            "LOGIN with a guessed password": {**as_alice, "password": "guess"},
            "RECONNECT with a guessed token": {**as_alice, "token": 1},
            "REGISTER as alice": {**as_alice, "password": "x"},
            "REGISTER as ａｌｉｃｅ": {"username": "ａｌｉｃｅ", "password": "x"},
            "LOGOUT alice": {**as_alice, "token": 1},
            "PERSON_MESSAGE to bob from alice": {"sender": "alice", "receiver": "bob", **written},
            "GROUP_MESSAGE to team from alice": {"sender": "alice", "receiver": "team", **written},
            "UPDATE_PROFILE of alice": {**as_alice, "phone": "1"},
            "HISTORY of alice with bob": {**as_alice, "person": "bob"},
            "END_LOGIN of alice, by its name": {"login": self.login_of_alice},
            "DELETE_ACCOUNT alice": {**as_alice, "password": PASSWORD},
            "FRIEND_PROFILE nobody-at-all": {"friend": "nobody-at-all"},
            "ADD_FRIEND nobody-at-all": {"friend": "nobody-at-all"},
            "PERSON_MESSAGE to nobody-at-all": {"receiver": "nobody-at-all", **written},
            "HISTORY with alice": {"person": "alice"},
            "HISTORY of the team": team,
            "SEARCH everywhere": {"text": "secret"},
            "SEARCH with alice": {"text": "secret", "person": "alice"},
            "SEARCH in the team": {"text": "secret", **team},
            "FIND al": {"prefix": "al"},
            "REPORT a message of alice to bob": {"person": "alice", "text": "x", "id": self.to_bob},
            "REPORT a message to the team": {"person": "alice", "text": "x", "id": self.to_team},
            "ACK a message to bob": {"id": self.to_bob},
            "READ a message to bob": {"person": "alice", "id": self.to_bob},
            "READ a message to the team": {**team, "id": self.to_bob},
            "TYPING to alice": {"person": "alice"},
            "EDIT a message of alice to bob": {"id": self.to_bob, "content": "x"},
            "EDIT no message": {"id": 5, "content": "x"},
            "JOIN with a guessed code": {"code": "k7wq-3m2p-x5ha-9d4c"},
            "INVITE into the team": {"uses": 1, "hours": 1, **team},
            "CREATE_GROUP team": team,
            "DISBAND_GROUP team": team,
            "ADD_MEMBER oneself to the team": {"member": "mallory", **team},
            "ADD_MEMBER alice to one's own group": {"member": "alice", "groupName": "club"},
            "REMOVE_MEMBER alice of the team": {"member": "alice", **team},
            "REMOVE_MEMBER bob of the team": {"member": "bob", **team},
            "SET_ROLE of oneself in the team": {"member": "mallory", "role": "owner", **team},
            "SET_ROLE stepping down in the team": {"member": "mallory", "role": "member", **team},
            "GROUP_MESSAGE to the team": {"receiver": "team", **written},
            "ANSWER_GROUP team, without a question": {"accept": True, **team},
            "ANSWER_FRIEND alice, who has not asked": {"accept": True, **alice},
            "PERSON_MESSAGE to alice": {"receiver": "alice", **written},
            "BLOCK alice": {"person": "alice", "blocked": True},
        }
        default: dict[str, dict[str, Any]] = {"of alice": as_alice, "alice": alice, "alice, after that": alice}
        return Type[name.rstrip(",")], values.get(row, default.get(rest, {}))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def heard(wire: Wire) -> list[str]:
    """What was told on a connection until now, in the order of the alphabet."""
    wire.ok(OWN_PROFILE)
    told = [
        notice.values["event"]
        if notice.type == SYSTEM
        else "message to the team"
        if notice.type == GROUP_MESSAGE
        else "message"
        for notice in wire.notices
    ]
    wire.notices.clear()
    return sorted(told)


@pytest.fixture(params=["sqlite", "mariadb", "two nodes on mariadb"])
def port(request: pytest.FixtureRequest, start_server: StartServer) -> int:
    """The port of a server on each kind of database; or of one of two nodes, and a connection goes
    to any of them.
    """
    settings: dict[str, Any] = {"classic_gap": 0, "directory": "on"}
    if request.param == "sqlite":
        return start_server(**settings).port
    settings["database"] = ready_database(request.getfixturevalue("mariadb"), "jelly_test")
    if request.param == "mariadb":
        return start_server(**settings).port
    settings["cluster"] = request.getfixturevalue("redis_server").url
    ports = [start_server(**settings).port for _ in range(2)]
    NODES.update(dict.fromkeys(ports, ports))
    return ports[0]


@pytest.mark.parametrize("features", [ALL, None], ids=["modern", "classic"])
@pytest.mark.parametrize("person", PEOPLE)
def test_every_request(port: int, stack: ExitStack, person: str, features: list[str] | None) -> None:
    """Each cell of a column, one after the other; what alice hears of it; and nothing of hers has
    changed.
    """
    world = World(port, person, stack, features)
    if person != "nobody":
        world.mallory.ok(CREATE_GROUP, groupName="club")
    expected, found = {}, {}
    for row, cells in ROWS.items():
        expected[row] = NOBODY.get(row, "not_logged_in") if person == "nobody" else cells[person]
        needs_feature = world.request(row)[0] in NEEDED_FEATURES and person != "nobody"
        if needs_feature and features is None:
            expected[row] = "unknown_type"
        found[row] = world.outcome(row, expected[row])
    assert found == expected
    expected_words = HEARD[person]["alice hears"].split(", ") if HEARD[person]["alice hears"] else []
    told: list[str] = []

    def has_heard_all() -> bool:
        # (Whom she has blocked is on her own list, and blocks her in the end.)
        told.extend(each for each in heard(world.alice) if each != "presence")
        return len(told) >= len(expected_words)

    wait_until(has_heard_all)  # from another node it may take a moment
    assert sorted(told) == sorted(expected_words)
    assert world.alice.ok(OWN_PROFILE)["phone"] == PHONE
    members = ["alice", "bob", *(["mallory"] if person == "member" else [])]
    assert world.alice.ok(OWN_GROUPS)["groups"] == {"team": members}
    assert len(world.alice.ok(LOGINS)["logins"]) == 1


def test_every_request_has_its_rows() -> None:
    """A new type of request must be thought of here; only notices have no row."""
    types = {Type[row.partition(" ")[0].rstrip(",")] for row in ROWS}
    assert set(Type) - types == {Type.SYSTEM}


# --- notices --------------------------------------------------------------------------------------


def act(world: World, server: JellyServer, what: str) -> None:
    """Have alice do something; return when all that others are told of it is on its way."""
    alice, mallory, ids = world.alice, world.mallory, world.ids
    requests: dict[str, tuple[int, dict[str, Any]]] = {
        "edits a message to bob": (EDIT, {"id": world.to_bob, "content": "edited"}),
        "recalls a message to bob": (EDIT, {"id": world.to_bob, "content": ""}),
        "edits a message to the team": (EDIT, {"id": world.to_team, "content": "edited"}),
        "recalls a message to the team": (EDIT, {"id": world.to_team, "content": ""}),
        "makes bob an admin": (SET_ROLE, {"groupName": "team", "member": "bob", "role": "admin"}),
        "removes bob from the team": (REMOVE_MEMBER, {"groupName": "team", "member": "bob"}),
        "adds bob to the team": (ADD_MEMBER, {"groupName": "team", "member": "bob"}),
        "changes her profile": (UPDATE_PROFILE, {"phone": "other", "showSeen": False, "showRead": False}),
        "asks bob to be a friend": (ADD_FRIEND, {"friend": "bob"}),
        "blocks bob": (BLOCK, {"person": "bob", "blocked": True}),
        "disbands the team": (DISBAND_GROUP, {"groupName": "team"}),
        "says yes to this person": (ANSWER_FRIEND, {"friend": "mallory", "accept": True}),
        "adds this person to a group": (ADD_MEMBER, {"groupName": "second", "member": "mallory"}),
        "asks this person": (ADD_FRIEND, {"friend": "mallory"}),
    }
    if what in requests:
        type, values = requests[what]
        alice.call(type, **values)
    elif what == "goes away":
        alice.close()
        wait_until(lambda: not server.sessions.is_online("alice"))
    elif what == "comes back":
        world.alice = world.login("alice")
    elif what == "types to this person":
        alice.send(pack(TYPING, to_json({"person": "mallory"})))
    elif what == "types to the team":
        world.alice = world.login("alice")  # one notice in 3 s of a connection
        world.alice.send(pack(TYPING, to_json({"groupName": "team"})))
    elif what == "acknowledges a message from there":
        if not mallory.call(PERSON_MESSAGE, receiver="alice", content="hello", time=1).error:
            ids["hello"] = message(alice, "hello")
            alice.ack(ids["hello"])
    elif what == "reads it":
        alice.send(pack(READ, to_json({"id": ids.get("hello", 1), "person": "mallory"})))
    else:
        assert what == "reads what bob wrote to the team"
        world.bob.message("team", "hello team", GROUP_MESSAGE)
        id = message(alice, "hello team")
        if world.person == "member":
            message(mallory, "hello team")
        alice.send(pack(READ, to_json({"id": id, "groupName": "team"})))
    if what != "goes away":
        world.alice.ok(OWN_PROFILE)
    wait_until(lambda: not len(server.store.read_pointers) and not server.store._delivered)
    world.bob.ok(UPDATE_PROFILE, name="b")  # a turn of the store
    wait_until(lambda: not len(server.notifier))


def message(wire: Wire, content: str) -> int:
    """Wait for a message; its id."""
    while (notice := wire.receive_notice()).type == SYSTEM or notice.values["content"] != content:
        pass
    return int(notice.values["id"])


@pytest.mark.parametrize("person", [*PEOPLE[1:], "mutual friend", "her friend"])
def test_every_notice(start_server: StartServer, database_url: str, stack: ExitStack, person: str) -> None:
    """Each cell of a column, one after the other."""
    server = start_server(database=database_url, classic_gap=0)
    world = World(server.port, person, stack)
    world.alice.ok(CREATE_GROUP, groupName="second")
    world.alice.ack(world.to_team)
    expected, found = {}, {}
    rows = table(NOTICES)
    for what in rows:
        if what.endswith("..."):
            continue
        world.settle()
        act(world, server, what)
        told = heard(world.mallory)
        if what == "says yes to this person" and "presence" in told:
            told.remove("presence")  # who is seen from now on: it may come a moment later
        both = [rows[what], rows.get(f"{what} ...", rows[what])]
        expected[what] = list({row["what is told"]: None for row in both if person in row["to whom"].split(", ")})
        found[what] = told
    assert found == expected


def test_every_notice_has_its_row() -> None:
    """A new event must be thought of here."""
    told = {row["what is told"] for row in table(NOTICES).values()}
    assert set(Event) - NOTICES_TO_ONESELF == told - {"", "message to the team"}


# --- what a member could see, and when ------------------------------------------------------------


def test_before_and_after_a_membership(start_server: StartServer, database_url: str, stack: ExitStack) -> None:
    """A member sees what was written since joining; a former one nothing; one who comes back
    nothing of what was before, not even the own messages.
    """
    world = World(start_server(database=database_url, classic_gap=0).port, "stranger", stack)
    alice, mallory = world.alice, world.mallory
    ids = {}

    def write(content: str) -> None:
        ids[content] = alice.ok(GROUP_MESSAGE, receiver="team", content=content, time=1)["id"]

    def join() -> None:
        alice.ok(ADD_MEMBER, groupName="team", member="mallory")
        mallory.ok(ANSWER_GROUP, groupName="team", accept=True)

    def sees() -> dict[str, set[str]]:
        """What each request shows of the group's messages."""
        found: dict[str, set[str]] = {}
        for name, type, values in (("HISTORY", HISTORY, {"groupName": "team"}), ("SEARCH", SEARCH, {"text": "word"})):
            reply = mallory.call(type, **values).values
            found[name] = {each["content"] for each in reply.get("messages", ())}
        found["CONVERSATIONS"] = {each["last"]["content"] for each in mallory.ok(CONVERSATIONS)["conversations"]}
        reported = {word: mallory.call(REPORT, person="alice", text="x", id=id).error for word, id in ids.items()}
        found["REPORT"] = {word for word, error in reported.items() if error == ""}
        return found

    write("word before")
    join()
    write("word within")
    mallory.ack(message(mallory, "word within"))
    alice.ok(EDIT, id=ids["word before"], content="word before, edited")
    own = mallory.ok(GROUP_MESSAGE, receiver="team", content="word of mallory", time=1)["id"]
    assert sees() == {
        "HISTORY": {"word within", "word of mallory"},
        "SEARCH": {"word within", "word of mallory"},
        "CONVERSATIONS": {"word of mallory"},
        "REPORT": {"word within"},
    }
    assert "message to the team" not in heard(mallory)
    alice.ok(REMOVE_MEMBER, groupName="team", member="mallory")
    write("word after")
    nothing: dict[str, set[str]] = {"HISTORY": set(), "SEARCH": set(), "CONVERSATIONS": set(), "REPORT": set()}
    assert sees() == nothing
    assert mallory.refused(EDIT, id=own, content="x") == "not_a_member"
    join()
    assert sees() == nothing
    assert mallory.ok(OWN_GROUPS)["groups"] == {"team": ["alice", "bob", "mallory"]}


def test_guesses_of_codes_are_limited(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A code has 79 bits, and a user may try 20 a second."""
    monkeypatch.setattr(services, "CHANGE_BURST", 3)
    port = start_server(classic_gap=0, change_rate=20).port
    register(port, "mallory")
    with logged_in(port, "mallory", features=ALL) as mallory:
        for _ in range(100):
            mallory.send_request(JOIN, code="k7wq-3m2p-x5ha-9d4c")
        answers = [mallory.receive_response().error for _ in range(100)]
    assert set(answers) == {"invalid_invite", "rate_limited"}


def test_the_log_tells_nothing(start_server: StartServer, stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    """No text, password, token, code or profile is in it, also not of what was refused."""
    server = start_server(classic_gap=0, directory="on")
    world = World(server.port, "friend", stack)
    alice, mallory = world.alice, world.mallory
    code = alice.ok(INVITE, groupName="team", uses=1, hours=1)["code"]
    mallory.ok(JOIN, code=code)
    mallory.ok(REPORT, person="alice", text="secret of a report")
    alice.ok(SEARCH, text="secret of a search")
    alice.ok(EDIT, id=world.to_bob, content="secret of an edit")
    alice.ok(UPDATE_PROFILE, password="secret password", oldPassword=PASSWORD)
    with Wire(server.port) as wire:
        assert wire.login("alice", "secret guess").error == "wrong_credentials"
    with Wire(server.port) as wire:
        assert wire.refused(RECONNECT, username="alice", token=123456789123456789) == "invalid_token"
    mallory.refused(PERSON_MESSAGE, receiver="nobody", content="secret that is refused", time=1)
    mallory.send(pack(PERSON_MESSAGE, b'{"content":"secret that is malformed"'))
    assert mallory.receive_response().error == "malformed_body"
    with Wire(server.port) as wire:
        wire.send(b"GET /secret-path HTTP/1.1\r\n")
        assert wire.is_closed_by_server()
    mallory.ok(DELETE_ACCOUNT, password=PASSWORD)
    world.bob.reset()
    wait_until(lambda: caplog.records)  # something is in it
    server.stop()
    lines = "\n".join(record.getMessage() for record in caplog.records)
    for secret in ("secret", PHONE, code, code.replace("-", ""), str(alice.token), str(mallory.token), "123456789123"):
        assert secret not in lines, secret
