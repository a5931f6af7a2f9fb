"""Run scenarios: start a server on an empty database and a generator, and collect the results."""

import contextlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.meter import Thread, Usage
from bench.scenarios import Measurement, Scenario
from faults.mariadb import MariaDBMissing, PrivateMariaDB
from faults.mysql import PrivateMySQL, find_mysql
from faults.process import ROOT, Server, no_limits

DATABASES = ("sqlite", "mariadb", "memory")
SERVERS: dict[str, Callable[[], PrivateMariaDB]] = {
    "mariadb": PrivateMariaDB,
    "mysql": lambda: PrivateMySQL(find_mysql()),
    "mysql-skip-log-bin": lambda: PrivateMySQL(find_mysql(), has_binary_log=False),
}
"""The databases that are servers of their own."""


@dataclass
class Result:
    """The result of a scenario on a database: figures, or why it did not run, and problems."""

    scenario: str
    database: str
    measurements: list[Measurement] = field(default_factory=list)
    not_run: str = ""
    problems: str = ""


@dataclass
class Runner:
    """Runs scenarios.

    `servers`: the database servers that run. `missing`: why others of SERVERS do not. `root`: the
    checkout of the server.
    """

    servers: Mapping[str, PrivateMariaDB]
    missing: Mapping[str, str]
    directory: Path
    seconds: float
    root: Path = ROOT

    def run(self, scenario: Scenario, database: str) -> Result:
        """Run a scenario on a new server."""
        result = Result(scenario.name, database)
        if database in self.missing:
            result.not_run = self.missing[database]
            return result
        try:
            with self.serve(database, *scenario.server_arguments) as server:
                self.take(result, self.generate([server], database, scenario=scenario.name))
        except RuntimeError as error:
            if database == "memory" and "A database is named" in str(error):
                result.not_run = "this version has no memory:"
            else:
                result.problems = str(error)
        return result

    def serve(self, database: str, *arguments: str, launch: Sequence[str] = (), **environment: str) -> Server:
        """Start a server on an empty database. `launch`: what to start instead of jelly.py."""
        return self.start(self.fresh_url(database), *arguments, launch=launch, **environment)

    def start(self, url: str, *arguments: str, launch: Sequence[str] = (), **environment: str) -> Server:
        """Start a server on a database."""
        launch = launch or (str(self.root / "jelly.py"),)
        environment["TMPDIR"] = str(self.directory)  # a server that is killed cannot remove its files
        arguments = (*no_limits(self.root), *arguments)
        return Server(url, *arguments, cwd=self.root, launch=launch, **environment)  # type: ignore[arg-type]

    def generate(self, servers: Sequence[Server], database: str, **job: Any) -> Iterator[dict[str, Any]]:
        """Start a generator and yield its results. Raises RuntimeError if it fails."""
        whole = {
            "ports": [server.port for server in servers],
            "servers": [server.process.pid for server in servers],
            "database": self.servers[database].pid if database in self.servers else None,
            "seconds": self.seconds,
            **job,
        }
        command = [sys.executable, "-m", "bench.generator", json.dumps(whole)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
            assert process.stdout is not None
            try:
                yield from map(json.loads, process.stdout)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise RuntimeError(f"the generator ended with {process.returncode}")

    def take(self, result: Result, pieces: Iterator[dict[str, Any]]) -> None:
        for piece in pieces:
            if "name" in piece:
                result.measurements.append(measurement_of(piece))
            else:
                result.not_run = piece.get("not_run", "")
                result.problems = piece.get("problems", "")

    def fresh_url(self, database: str) -> str:
        """Return the URL of an empty database."""
        if database in self.servers:
            return self.servers[database].fresh_database("bench")
        if database == "memory":
            return "memory:"
        return f"sqlite:///{tempfile.mkdtemp(dir=self.directory)}/jelly.db"


def measurement_of(piece: dict[str, Any]) -> Measurement:
    """Return a figure from the JSON of a generator."""
    usage = Usage(**piece.pop("usage"))
    usage.threads = {int(number): Thread(**thread) for number, thread in usage.threads.items()}  # type: ignore[arg-type]
    return Measurement(**piece, usage=usage)


@contextlib.contextmanager
def open_runner(databases: Sequence[str], seconds: float) -> Iterator[Runner]:
    """Yield a Runner, with a private server for each of SERVERS that is wanted and installed."""
    servers: dict[str, PrivateMariaDB] = {}
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for database in databases:
            if database not in SERVERS:
                continue
            try:
                if importlib.util.find_spec("mysql") is None:
                    raise MariaDBMissing("run pip install '.[mysql]' and apt-get install mariadb-server")
                servers[database] = stack.enter_context(SERVERS[database]())
            except MariaDBMissing as error:
                missing[database] = f"{'MariaDB' if database == 'mariadb' else 'MySQL'} is left out: {error}"
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="jelly-bench-"))
        yield Runner(servers, missing, Path(directory), seconds)
