"""What a row of the table is, and the context in which it runs."""

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faults.checker import Verdict
from faults.mariadb import PrivateMariaDB
from faults.process import Server, free_port, no_limits

RESTART_LIMIT = 2.0
"""At most this many seconds until a restarted server listens."""


@dataclass
class Finding:
    """The result of a row: the checker's numbers, measurements and problems."""

    trials: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    restarts: list[float] = field(default_factory=list)
    """Seconds from each start of the server until it listened."""
    recoveries: list[float] = field(default_factory=list)
    """Seconds from the end of each fault until messages were stored again."""
    problems: dict[str, str] = field(default_factory=dict)
    """For each kind of defect a sentence about its first occurrence."""
    notes: list[str] = field(default_factory=list)
    """Measurements to show in the table."""

    def expect(self, holds: bool, kind: str, sentence: str) -> None:
        """Note a problem unless a condition holds."""
        if not holds:
            self.problems.setdefault(kind, sentence)

    def add_verdict(self, verdict: Verdict) -> None:
        """Add the checker's numbers, and note each defect as a problem."""
        self.verdict += verdict
        for name, count in verdict.defects.items():
            self.problems.setdefault(name, f"{count} {name.replace('_', ' ')}")

    def note_restart(self, server: Server) -> None:
        """Note how long a start of the server took."""
        self.restarts.append(server.start_seconds)
        self.expect(server.start_seconds < RESTART_LIMIT, "slow_restart", f"a start took {server.start_seconds:.1f} s")


@dataclass
class RunContext:
    """The context in which a row runs.

    `is_short`: few trials. `variants`: defects of the server.
    """

    database: str
    directory: Path
    mariadb: PrivateMariaDB | None
    random: random.Random
    kills: int
    is_short: bool
    variants: Sequence[str] = ()

    @property
    def db(self) -> PrivateMariaDB:
        """The MariaDB server, for rows that run on MariaDB."""
        assert self.mariadb is not None
        return self.mariadb

    def url(self, directory: Path | None = None) -> str:
        """Create an empty database and return its URL."""
        if self.database == "mariadb":
            return self.db.fresh_database("faults")
        return f"sqlite:///{tempfile.mkdtemp(dir=directory or self.directory)}/jelly.db"

    def serve(
        self, url: str, port: int, *arguments: str, launch: Sequence[str] = (), within: Sequence[str] = (), **env: str
    ) -> Server:
        """Start a server with the variants of this context, or `python jelly.py` if there are
        none.
        """
        patches = [*launch, *(f"--variant={name}" for name in self.variants)]
        options = {"launch": ("-m", "faults.server", *patches, "--")} if patches else {}
        return Server(url, f"--port={port}", *no_limits(), *arguments, within=within, **options, **env)  # type: ignore[arg-type]


Run = Callable[[RunContext, Finding], None]
"""A function that causes a fault and notes the results in the Finding."""


@dataclass(frozen=True)
class Control:
    """A negative control: a defect that the harness must find, as a problem of this kind."""

    variant: str
    """The name of the defect in server.py or, with `run`, a description of it."""
    kind: str
    run: Run | None = None
    """The function to run instead of the row with that variant."""


@dataclass(frozen=True)
class Row:
    """One fault: a row of the table."""

    number: int
    fault: str
    run: Run
    controls: tuple[Control, ...]
    databases: tuple[str, ...] = ("sqlite", "mariadb")
    missing: Callable[[], str] = lambda: ""
    """Returns a sentence that says why the row cannot run on this machine, or an empty string."""


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait at most `seconds` until a condition holds; return whether it does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


__all__ = ["Control", "Finding", "Row", "RunContext", "free_port", "wait_until"]
