"""The examples in the client library's documentation run, and each operation has one."""

import doctest
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from client_tools import NewClient, result
from harness import StartServer
from wire import ADD_FRIEND, ADD_MEMBER, CREATE_GROUP, INVITE, UPDATE_PROFILE, logged_in, register

import client_api
from client_api import FriendRequestEvent, JellyClient, Receiver

NO_LOGIN = {"register", "login", "resume", "from_url"}
"""The examples of these operations begin with a client that is offline."""
NO_OPERATION = {"close", "wait", "state", "reason", "token", "username", "address", "addresses"}


def members(cls: type) -> dict[str, Any]:
    """The public members of a class, with those of the project's classes that it is made of."""
    ours = [part for part in cls.__mro__ if part.__module__.startswith("jelly.")]
    return {name: value for part in ours for name, value in vars(part).items() if not name.startswith("_")}


OPERATIONS = members(JellyClient).keys() - NO_OPERATION
EXAMPLES = {
    test.name.rpartition(".")[2]: test
    for part in JellyClient.__mro__
    for test in doctest.DocTestFinder().find(part)
    if test.examples
}


class Asked(Receiver):
    """A receiver to whom friend requests go."""

    def on_friend_request(self, event: FriendRequestEvent) -> None:
        """Leave it open."""


@pytest.fixture
def port(start_server: StartServer, request: pytest.FixtureRequest) -> Iterator[int]:
    """A server with alice, bob and carol.

    Bob has a name and is alice's friend; alice and bob have a group each.
    """
    server = start_server(directory="on" if "find_users" in request.node.name else "off")
    port = server.port
    for number, name in enumerate(("alice", "bob", "carol"), start=1):
        register(port, name, password=f"secret{number}")
    with logged_in(port, "alice", "secret1") as alice, logged_in(port, "bob", "secret2") as bob:
        bob.ok(UPDATE_PROFILE, name="Robert")
        alice.ok(ADD_FRIEND, friend="bob")
        for creator, group, member in ((alice, "team", "bob"), (bob, "club", "alice")):
            creator.ok(CREATE_GROUP, groupName=group)
            creator.ok(ADD_MEMBER, groupName=group, member=member)
    yield port
    server.stop()


@pytest.fixture
def names(port: int, new_client: NewClient, request: pytest.FixtureRequest) -> dict[str, Any]:
    """The names that the example of an operation may use."""
    with logged_in(port, "alice", "secret1") as wire:
        saved_token = wire.token
    operation = request.node.callspec.params["operation"]
    takes_requests = operation in ("answer_friend", "friend_requests", "answer_group", "invitations")
    client = new_client(port, Asked() if takes_requests else None)
    if operation not in NO_LOGIN:
        result(client.login("alice", "secret1"))
    if takes_requests:
        with logged_in(port, "carol", "secret3") as carol:
            carol.ok(ADD_FRIEND, friend="alice")
            carol.ok(CREATE_GROUP, groupName="club2")
            carol.ok(ADD_MEMBER, groupName="club2", member="alice")
    code = ""
    if operation == "join":
        with logged_in(port, "carol", "secret3", features=["invites"]) as carol:
            carol.ok(CREATE_GROUP, groupName="crew")
            code = carol.ok(INVITE, groupName="crew", uses=1, hours=1)["code"]
    return {"JellyClient": JellyClient, "client": client, "saved_token": saved_token, "code": code}


@pytest.mark.parametrize("operation", sorted(EXAMPLES))
def test_example(operation: str, names: dict[str, Any]) -> None:
    """The example prints what it says."""
    test = EXAMPLES[operation]
    test.globs = names
    output: list[str] = []
    outcome = doctest.DocTestRunner(verbose=False).run(test, out=output.append, clear_globs=False)
    names["client"].close()
    assert outcome.attempted
    assert not outcome.failed, "".join(output)


def test_the_first_example_of_the_module(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """It runs as it is, except for the port; bob gets its message."""
    assert client_api.__doc__
    code = inspect.cleandoc(client_api.__doc__.split("\n\n", 1)[1].split("\n\n**")[0])
    assert "20000" in code
    exec(compile(code.replace("20000", str(port)), "client_api.py", "exec"), {})
    with logged_in(port, "bob", "secret2") as bob:
        assert bob.contents(1) == ["hello"]
    assert capsys.readouterr().out == ""


def test_every_operation_has_an_example() -> None:
    """And everything that has an example is an operation."""
    assert set(EXAMPLES) == OPERATIONS


def public() -> Iterator[Any]:
    """Yield everything public in the module, with the public members of its classes."""
    for name in client_api.__all__:
        thing = getattr(client_api, name)
        yield pytest.param(thing, id=name)
        for member, value in members(thing).items():
            if inspect.isfunction(value) or isinstance(value, property | classmethod):
                yield pytest.param(value, id=f"{name}.{member}")


@pytest.mark.parametrize("thing", list(public()))
def test_every_public_name_is_described(thing: Any) -> None:
    """It has a docstring of its own, which is a sentence."""
    described = thing.__doc__
    assert described
    assert described.strip()[0].isupper()
    # A dataclass without a docstring gets its signature for one.
    assert not described.startswith(f"{getattr(thing, '__name__', '')}(")
