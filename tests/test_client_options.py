"""How a client is made: the constructor, URLs, and when it reconnects."""

import itertools
import threading

import pytest
from client_tools import QUICK, NewClient, Recorder, ScriptedServer

from client_api import JellyClient, Reason, ReconnectPolicy, State

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
