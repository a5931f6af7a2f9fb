"""Two and three nodes in simulated worlds: none of them violates a promise, and bugs that we put in
are found.
"""

import pytest
from simulated_bugs_nodes import BUGS, FOUND_IN
from simulation_nodes import SIMULATION

SEEDS = 100
FEW_SEEDS = 600
"""At most this many worlds until each bug is found."""
SLICE = 10
"""How many worlds one test plays, so that the tests on all cores share them."""


@pytest.mark.parametrize("first", range(0, SEEDS, SLICE))
def test_no_world_violates_a_promise(first: int) -> None:
    """A failure names the seed, and how to play that world again."""
    failure = SIMULATION.first_failure(range(first, first + SLICE))
    assert failure is None, failure[1]


def test_a_seed_gives_the_same_world_again() -> None:
    """Step by step, in this process and in others, whatever order their sets have."""
    SIMULATION.check_repeatable(12)


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_found(bug: str) -> None:
    """The simulation can fail: each of these, put into the real code, violates something in one of
    the first worlds.
    """
    SIMULATION.find(BUGS[bug], FOUND_IN.get(bug, 0), FEW_SEEDS)


def test_the_worlds_of_bugs_are_of_bugs() -> None:
    """No bug's number stays behind when the bug goes."""
    assert FOUND_IN.keys() <= BUGS.keys()
