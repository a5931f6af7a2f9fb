"""The group cache and its sweeper, with the clock in the test's hand."""

import pytest
from clock import Clock
from harness import StartServer
from wire import ADD_MEMBER, CREATE_GROUP, GROUP_MESSAGE, logged_in, register, wait_until

from jelly.groups import GroupCache


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> GroupCache:
    """A cache with the usual times, and no sweeper running."""
    return GroupCache(300, 600, clock)


def team() -> list[str]:
    return ["alice", "bob"]


def must_not_load() -> None:
    raise AssertionError("it is in memory")


def test_a_group_is_loaded_once(cache: GroupCache) -> None:
    """The second time it comes from memory."""
    group = cache.get("team", team)
    assert group is not None
    assert group.members == ("alice", "bob")
    assert cache.get("team", must_not_load) is group


def test_what_does_not_exist_is_not_remembered(cache: GroupCache) -> None:
    """Somebody may create it the next moment."""
    assert cache.get("team", lambda: None) is None
    assert cache.get("team", team) is not None


def test_idle_groups_are_evicted(cache: GroupCache, clock: Clock) -> None:
    """After ten minutes without use a sweep forgets a group; use postpones that."""
    cache.get("old", team)
    cache.get("used", team)
    clock.now += 599
    cache.get("used", must_not_load)
    assert cache.sweep() == 0
    clock.now += 1
    assert cache.sweep() == 1
    assert cache.get("used", must_not_load) is not None
    assert len(cache) == 1


def test_a_change_is_seen_by_who_holds_the_group(cache: GroupCache) -> None:
    """Members are replaced in the group itself; a group without members is gone."""
    group = cache.get("team", team)
    assert group is not None
    cache.set_members("team", ("alice",))
    assert group.members == ("alice",)
    cache.set_members("team", ())
    assert len(cache) == 0
    cache.set_members("unknown", ("alice",))
    assert len(cache) == 0


def test_a_change_during_a_load_is_not_lost(cache: GroupCache) -> None:
    """What was read before a change that was committed meanwhile is read again."""
    answers = [["alice", "bob"], ["alice"]]

    def load() -> list[str]:
        if len(answers) == 2:
            cache.set_members("team", ("alice",))
        return answers.pop(0)

    group = cache.get("team", load)
    assert group is not None
    assert group.members == ("alice",)


def test_forgetting_all(cache: GroupCache) -> None:
    """After a commit whose outcome nobody knows, nothing in memory is trusted, nor what was being
    read.
    """
    cache.get("team", team)
    cache.forget_all()
    assert len(cache) == 0
    assert cache.get("team", lambda: None) is None


def test_the_sweeper_sweeps_and_goes_on(start_server: StartServer) -> None:
    """The timer evicts idle groups again and again, and the next message loads its group again."""
    server = start_server(group_check_interval=0.05, group_idle=0.05)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "bob") as bob:
        alice.ok(CREATE_GROUP, groupName="team")
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        for content in ("1", "2", "3"):
            alice.message("team", content, type=GROUP_MESSAGE)
            assert bob.contents(1) == [content]
            wait_until(lambda: len(server.groups) == 0)


def test_stop_without_start(cache: GroupCache) -> None:
    """A cache may be stopped at any time, and does not start again."""
    cache.stop()
    cache.start()
    cache.stop()


def members(count: int) -> list[str]:
    return [f"user{number}" for number in range(count)]


def test_so_many_members_at_most(clock: Clock) -> None:
    """Beyond that the groups that were used longest ago leave; a single one that is too large
    stays.
    """
    cache = GroupCache(300, 600, clock, most=10)
    for name in ("a", "b", "c"):
        cache.get(name, lambda: members(3))
    cache.get("a", must_not_load)
    cache.get("d", lambda: members(4))
    assert list(cache._groups) == ["c", "a", "d"]
    cache.set_members("a", tuple(members(6)))
    assert list(cache._groups) == ["a", "d"]
    assert cache.get("huge", lambda: members(11)) is not None
    assert (list(cache._groups), cache._size) == (["huge"], 11)
    cache.set_members("huge", ())
    assert (len(cache), cache._size) == (0, 0)


def test_a_group_that_has_left_while_somebody_holds_it(clock: Clock) -> None:
    """It sees every change, and it is the one that the next message finds."""
    cache = GroupCache(300, 600, clock, most=2)
    group = cache.get("team", team)
    cache.get("other", team)
    assert list(cache._groups) == ["other"]
    cache.set_members("team", ("alice",))
    assert group is not None
    assert group.members == ("alice",)
    assert cache.get("team", team) is group
    assert cache._size == 1
