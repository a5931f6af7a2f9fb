"""What a row of the table is, and what it is given to work with."""

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faults.checker import Verdict
from faults.mariadb import PrivateMariaDB
from faults.process import Server, free_port

RESTART_LIMIT = 2.0
"""Seconds in which a server is to listen again."""


@dataclass
class Finding:
    """What came out of a row: the checker's numbers, and what else did not hold."""

    trials: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    restarts: list[float] = field(default_factory=list)
    """Seconds from each start of the server until it listened."""
    healed: list[float] = field(default_factory=list)
    """Seconds from the end of each fault until messages were stored again."""
    problems: dict[str, str] = field(default_factory=dict)
    """A kind of defect, and a sentence on where it was seen first."""
    notes: list[str] = field(default_factory=list)
    """What was measured, for the table."""

    def expect(self, holds: bool, kind: str, sentence: str) -> None:
        """Note a problem unless something holds."""
        if not holds:
            self.problems.setdefault(kind, sentence)

    def judge(self, verdict: Verdict) -> None:
        """Take in what the checker found."""
        self.verdict += verdict
        for name, count in verdict.defects.items():
            self.problems.setdefault(name, f"{count} {name.replace('_', ' ')}")

    def restarted(self, server: Server) -> None:
        """Note how long a start took."""
        self.restarts.append(server.start_seconds)
        self.expect(server.start_seconds < RESTART_LIMIT, "slow_restart", f"a start took {server.start_seconds:.1f} s")


@dataclass
class Bench:
    """Where a row runs. `is_short`: as short as it can be; `launch`: patches for the server, see server.py."""

    database: str
    directory: Path
    mariadb: PrivateMariaDB | None
    random: random.Random
    kills: int
    is_short: bool
    variants: Sequence[str] = ()

    @property
    def db(self) -> PrivateMariaDB:
        """The database server, of a row that runs on MariaDB."""
        assert self.mariadb is not None
        return self.mariadb

    def url(self, directory: Path | None = None) -> str:
        """An empty database."""
        if self.database == "mariadb":
            return self.db.fresh_database("faults")
        return f"sqlite:///{tempfile.mkdtemp(dir=directory or self.directory)}/jelly.db"

    def serve(
        self, url: str, port: int, *arguments: str, launch: Sequence[str] = (), within: Sequence[str] = (), **env: str
    ) -> Server:
        """Start a server, with this bench's variants; as `python jelly.py` if it has none."""
        patches = [*launch, *(f"--variant={name}" for name in self.variants)]
        options = {"launch": ("-m", "faults.server", *patches, "--")} if patches else {}
        return Server(url, f"--port={port}", *arguments, within=within, **options, **env)  # type: ignore[arg-type]


Run = Callable[[Bench, Finding], None]
"""Brings about a fault, and notes what comes out, as it goes along."""


@dataclass(frozen=True)
class Control:
    """A defect that the harness must find, by a problem of this kind."""

    variant: str
    """What server.py calls it; or, with `run`, a name for what is different."""
    kind: str
    run: Run | None = None
    """Instead of the row with that variant."""


@dataclass(frozen=True)
class Row:
    """One fault."""

    number: int
    fault: str
    run: Run
    controls: tuple[Control, ...]
    databases: tuple[str, ...] = ("sqlite", "mariadb")
    missing: Callable[[], str] = lambda: ""
    """A sentence on why it cannot run on this machine."""


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until something holds, at most some seconds; return whether it does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


__all__ = ["Bench", "Control", "Finding", "Row", "free_port", "wait_until"]
