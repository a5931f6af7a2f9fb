"""How a client is made: the constructor, URLs, and when it reconnects."""

import itertools
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from client_tools import QUICK, NewClient, Recorder, ScriptedServer, error, result
from wire import PERSON_MESSAGE

from client_api import (
    ConnectionLost,
    JellyClient,
    MessageEvent,
    Reason,
    Receiver,
    ReconnectPolicy,
    State,
    SystemEvent,
)

# --- the policy -----------------------------------------------------------------------------------


def take(policy: ReconnectPolicy, count: int, random: float = 0.0) -> list[float]:
    return list(itertools.islice(policy.pauses(lambda: random), count))


def test_the_first_try_is_made_at_once() -> None:
    """Then the pauses double, up to the maximum."""
    assert take(ReconnectPolicy(), 9) == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert take(ReconnectPolicy(pause=3, factor=3, maximum=30), 5) == [0, 3, 9, 27, 30]


def test_jitter_shortens_a_pause_by_a_random_part() -> None:
    """At most the part `jitter` of each pause is left out; the growth does not depend on it."""
    assert take(ReconnectPolicy(jitter=0.5), 4, random=1.0) == [0, 0.5, 1, 2]
    assert take(ReconnectPolicy(jitter=0.5), 4, random=0.5) == [0, 0.75, 1.5, 3]
    assert take(ReconnectPolicy(jitter=0), 4, random=1.0) == [0, 1, 2, 4]


@pytest.mark.parametrize("attempts", [0, 1, 3])
def test_attempts(attempts: int) -> None:
    """There are as many attempts as the policy allows."""
    assert len(take(ReconnectPolicy(attempts=attempts), 10)) == attempts


def test_usual_jitter_is_random() -> None:
    """By default, two clients do not reconnect at the same moments."""
    policy = ReconnectPolicy()
    first, second = (list(itertools.islice(policy.pauses(), 6)) for _ in range(2))
    assert first != second
    assert all(0.5 * 2**n <= pause <= 2**n for n, pause in enumerate(first[1:]))


def test_a_short_connection_does_not_start_the_pauses_again(
    new_client: NewClient, script: ScriptedServer, recorder: Recorder
) -> None:
    """A server that accepts the token and closes again and again is not hammered: these attempts
    count, too."""
    alice = new_client(script.port, recorder, reconnect=ReconnectPolicy(pause=0.01, attempts=4))
    script.log_in(alice).close()
    for _ in range(4):
        script.accept_login().close()
    assert recorder.wait_for_state(State.OFFLINE).reason is Reason.GAVE_UP


def test_a_policy_without_a_try(new_client: NewClient, script: ScriptedServer, recorder: Recorder) -> None:
    """A lost connection leads to GAVE_UP at once."""
    alice = new_client(script.port, recorder, reconnect=ReconnectPolicy(attempts=0))
    script.log_in(alice).close()
    assert recorder.wait_for_state(State.OFFLINE).reason is Reason.GAVE_UP


# --- the constructor ------------------------------------------------------------------------------


def test_the_constructor_does_no_io() -> None:
    """It starts no thread, opens nothing, and accepts an impossible host; so does a close after
    it."""
    threads = threading.active_count()
    with JellyClient("no.such.host.invalid", 1) as client:
        assert threading.active_count() == threads
    assert client.state is State.CLOSED


@pytest.mark.parametrize(
    ("url", "host", "port", "has_tls"),
    [
        ("jelly://example.org", "example.org", 20000, False),
        ("jelly://example.org:5/", "example.org", 5, False),
        ("jellys://[::1]:20001", "::1", 20001, True),
    ],
)
def test_from_url(url: str, host: str, port: int, has_tls: bool) -> None:
    """The scheme says whether there is TLS, and the port may be left out."""
    with JellyClient.from_url(url, reconnect=QUICK) as client:
        endpoint = client._manager._endpoint
    server = endpoint.addresses.current
    assert (server.host, server.port, endpoint.tls is not None) == (host, port, has_tls)


@pytest.mark.parametrize(
    "url",
    ["http://x", "jelly:", "jelly://", "x:1", "jelly://h:99999", "jelly://h/room", "jelly://h?a=b", "jelly://a:b@h"],
)
def test_from_another_url(url: str) -> None:
    """Another URL raises ValueError."""
    with pytest.raises(ValueError, match=r"jelly|[Pp]ort|user name"):
        JellyClient.from_url(url)


def test_a_receiver_that_is_empty(new_client: NewClient, script: ScriptedServer) -> None:
    """A receiver gets its events even if it counts as false, like an empty list."""

    class Inbox(Recorder, list[str]):
        pass

    inbox = Inbox()
    script.log_in(new_client(script.port, inbox))
    inbox.wait_for_state(State.ONLINE)


# --- wrong options --------------------------------------------------------------------------------


class Echo(Receiver):
    def on_message(self, event: MessageEvent) -> None:
        event.reply(event.content)


class Waits(Receiver):
    async def on_message(self, event: MessageEvent) -> None:  # type: ignore[override]
        event.reply(event.content)


class Yields(Receiver):
    async def on_system(self, event: SystemEvent) -> Any:
        yield event


nan = float("nan")
WRONG: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (ValueError, "heartbeat must be from 0.01 to 3600, not 0", {"heartbeat": 0}),
    (ValueError, "heartbeat", {"heartbeat": -1}),
    (ValueError, "heartbeat", {"heartbeat": nan}),
    (ValueError, "heartbeat", {"heartbeat": float("inf")}),
    (TypeError, "heartbeat must be a number, not '5'", {"heartbeat": "5"}),
    (TypeError, "heartbeat", {"heartbeat": None}),
    (TypeError, "heartbeat", {"heartbeat": True}),
    (ValueError, "request_timeout must be more than 0 seconds", {"request_timeout": 0}),
    (ValueError, "request_timeout", {"request_timeout": -3}),
    (ValueError, "request_timeout", {"request_timeout": nan}),
    (TypeError, "request_timeout", {"request_timeout": None}),
    (ValueError, "connect_timeout", {"connect_timeout": 0}),
    (TypeError, "connect_timeout", {"connect_timeout": "soon"}),
    (ValueError, "max_body", {"max_body": 0}),
    (TypeError, "max_body must be a whole number, not 1.5", {"max_body": 1.5}),
    (TypeError, "features must be several names", {"features": "ack"}),
    (TypeError, "features", {"features": None}),
    (TypeError, "features must be names, and 5 is none", {"features": ["ack", 5]}),
    (TypeError, "accept_all", {"accept_all": "yes"}),
    (TypeError, "credentials must be a function, not a str", {"credentials": "secret"}),
    (TypeError, "credentials is 'async def'", {"credentials": Waits().on_message}),
    (TypeError, "reconnect must be True or False, or a ReconnectPolicy, not 5", {"reconnect": 5}),
    (TypeError, "reconnect", {"reconnect": ReconnectPolicy}),
    (TypeError, "tls must be True or False, or a SSLContext", {"tls": "cert.pem"}),
    (TypeError, "receiver is the class Echo: pass an object, Echo()", {"receiver": Echo}),
    (TypeError, "receiver must be a Receiver", {"receiver": print}),
    (TypeError, "on_message is 'async def'", {"receiver": Waits()}),
    (TypeError, "on_system is 'async def'", {"receiver": Yields()}),
    (ValueError, "the port must be from 1 to 65535, not 0", {"port": 0}),
    (ValueError, "the port", {"port": 65536}),
    (TypeError, "the port", {"port": "20000"}),
    (ValueError, "the host must not be empty", {"host": ""}),
    (TypeError, "the host", {"host": 5}),
    (ValueError, "the port", {"addresses": [("a", 20000), ("b", 0)]}),
    (TypeError, "the host", {"addresses": [(b"a", 20000)]}),
]


@pytest.mark.parametrize(("kind", "sentence", "options"), WRONG)
def test_a_wrong_option(kind: type[Exception], sentence: str, options: dict[str, Any]) -> None:
    """It is refused by the constructor, with a sentence that names it."""
    with pytest.raises(kind, match="^" + re.escape(sentence)):
        JellyClient(**options)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (ValueError, {"pause": 0}),
        (ValueError, {"pause": -1}),
        (ValueError, {"pause": nan}),
        (TypeError, {"pause": "1"}),
        (ValueError, {"factor": 0.5}),
        (ValueError, {"maximum": 0}),
        (ValueError, {"jitter": 1.5}),
        (ValueError, {"attempts": -1}),
        (TypeError, {"attempts": 1.5}),
        (TypeError, {"attempts": True}),
    ],
)
def test_a_wrong_policy(kind: type[Exception], values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(kind, match=f"^{name} must be"):
        ReconnectPolicy(**values)


def test_long_times_are_possible(new_client: NewClient, script: ScriptedServer) -> None:
    """Also longer than the system waits at once, and without an end."""
    for seconds in (1e9, float("inf")):
        times = {"request_timeout": seconds, "connect_timeout": seconds, "heartbeat": 3600}
        alice = new_client(script.port, reconnect=False, **times)
        with script.log_in(alice) as peer:
            future = alice.send_message("bob", "hello")
            peer.receive_request(PERSON_MESSAGE)
            peer.answer(PERSON_MESSAGE)
            assert result(future).receiver == "bob"


class Broken(ReconnectPolicy):
    """A policy that an application has written, with a fault."""

    kind: Any = None

    def pauses(self, random: Callable[[], float] = random.random) -> Iterator[float]:
        if self.kind == "raises":
            raise LookupError("at once")
        return self._later()

    def _later(self) -> Iterator[Any]:
        yield 0.0
        if self.kind == "raises later":
            raise LookupError("later")
        yield self.kind


@pytest.mark.parametrize("kind", ["raises", "raises later", "a text", -1, nan, None])
def test_a_fault_in_a_policy(new_client: NewClient, script: ScriptedServer, recorder: Recorder, kind: Any) -> None:
    """The client gives up, says why, and ends what waits."""
    policy = Broken()
    object.__setattr__(policy, "kind", kind)
    alice = new_client(script.port, recorder, reconnect=policy)
    peer = script.log_in(alice)
    future = alice.send_message("bob", "hello")
    peer.receive_request(PERSON_MESSAGE)
    script.close()
    peer.close()
    event = recorder.wait_for_state(State.OFFLINE, Reason.GAVE_UP)
    assert isinstance(event.error, LookupError | TypeError | ValueError)
    assert isinstance(error(future), ConnectionLost)
    assert alice.state is State.OFFLINE


def test_a_policy_without_pauses(new_client: NewClient, script: ScriptedServer) -> None:
    """It tries again at once, and not a thousand times a second."""

    class Hasty(ReconnectPolicy):
        def pauses(self, random: Callable[[], float] = random.random) -> Iterator[float]:
            return itertools.repeat(0.0, 21)

    recorder = Recorder()
    alice = new_client(script.port, recorder, reconnect=Hasty())
    peer = script.log_in(alice)
    script.close()
    began = time.monotonic()
    peer.close()
    recorder.wait_for_state(State.OFFLINE, Reason.GAVE_UP)
    assert time.monotonic() - began >= 0.2
