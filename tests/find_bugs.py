"""Looks for the worlds in which the bugs of the simulation are found now.

    python tests/find_bugs.py             # those of simulated_bugs.py
    python tests/find_bugs.py --nodes     # those of simulated_bugs_nodes.py

Run it when the tests of these bugs take long: then the code has changed, and some are not found any
more in the worlds that FOUND_IN says. This prints other worlds for them, and what they violate. A
bug that is found by something else than what it breaks is not really found.
"""

import argparse
import logging
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # called by its name: as pytest does, look for the program in the directory above
    sys.path.insert(0, str(Path(__file__).parent.parent))

import simulated_bugs
import simulated_bugs_nodes
import simulation
import simulation_nodes
from worlds import put_in


def look_for(bug: str, of_nodes: bool, most: int) -> str:
    """Where a bug is found, if it is not where it is said to be; in one line."""
    logging.raiseExceptions = False
    bugs = simulated_bugs_nodes if of_nodes else simulated_bugs
    played = simulation_nodes.SIMULATION if of_nodes else simulation.SIMULATION
    likely = bugs.FOUND_IN.get(bug, 0)
    for seed in [likely, *range(most)]:
        with put_in(bugs.BUGS[bug]):
            failure = played.first_failure([seed])
        if failure is not None and played.first_failure([seed]) is None:
            return "" if seed == likely else f'"{bug}": {seed},  # {failure[1]}'
    return f'"{bug}" is not found in the first {most} worlds'


def main() -> int:
    """Look for what the command line asks for, and return the exit code."""
    parser = argparse.ArgumentParser(description="Look for the worlds in which bugs are found.")
    parser.add_argument("--nodes", action="store_true", help="the bugs of nodes")
    parser.add_argument("--seeds", type=int, default=3000, help="how many worlds to play at most (default: 3000)")
    parser.add_argument("bug", nargs="*", help="these only")
    arguments = parser.parse_args()
    names = arguments.bug or list((simulated_bugs_nodes if arguments.nodes else simulated_bugs).BUGS)
    look = partial(look_for, of_nodes=arguments.nodes, most=arguments.seeds)
    is_right = True
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as processes:
        for line in filter(None, processes.map(look, names)):
            is_right = False
            print(line, flush=True)
    if is_right:
        print(f"All {len(names)} are found where they are said to be.")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
