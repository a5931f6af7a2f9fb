"""Run scenarios: start a server on an empty database and a generator, and collect the results."""

import contextlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.meter import Thread, Usage
from bench.scenarios import Measurement, Scenario
from faults.mariadb import MariaDBMissing, PrivateMariaDB
from faults.process import ROOT, Server, no_limits

DATABASES = ("sqlite", "mariadb", "memory")


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
    """Runs scenarios. `root`: the checkout of the server."""

    mariadb: PrivateMariaDB | None
    no_mariadb: str
    directory: Path
    seconds: float
    root: Path = ROOT

    def run(self, scenario: Scenario, database: str) -> Result:
        """Run a scenario on a new server."""
        result = Result(scenario.name, database)
        if database == "mariadb" and self.mariadb is None:
            result.not_run = self.no_mariadb
            return result
        try:
            with self.serve(database, *scenario.server_arguments) as server:
                self._take(result, self.generate(server, database, scenario=scenario.name))
        except RuntimeError as error:
            if database == "memory" and "A database is named" in str(error):
                result.not_run = "this version has no memory:"
            else:
                result.problems = str(error)
        return result

    def serve(self, database: str, *arguments: str, launch: Sequence[str] = (), **environment: str) -> Server:
        """Start a server on an empty database. `launch`: what to start instead of jelly.py."""
        launch = launch or (str(self.root / "jelly.py"),)
        environment["TMPDIR"] = str(self.directory)  # a server that is killed cannot remove its files
        arguments = (*no_limits(self.root), *arguments)
        return Server(self._url(database), *arguments, cwd=self.root, launch=launch, **environment)  # type: ignore[arg-type]

    def generate(self, server: Server, database: str, **job: Any) -> Iterator[dict[str, Any]]:
        """Start a generator and yield its results. Raises RuntimeError if it fails."""
        pid = self.mariadb.pid if self.mariadb is not None and database == "mariadb" else None
        whole = {"port": server.port, "server": server.process.pid, "database": pid, "seconds": self.seconds, **job}
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

    def _take(self, result: Result, pieces: Iterator[dict[str, Any]]) -> None:
        for piece in pieces:
            if "name" in piece:
                result.measurements.append(measurement_of(piece))
            else:
                result.not_run = piece.get("not_run", "")
                result.problems = piece.get("problems", "")

    def _url(self, database: str) -> str:
        if database == "mariadb":
            assert self.mariadb is not None
            return self.mariadb.fresh_database("bench")
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
    """Yield a Runner, with a private MariaDB server if it is wanted and installed."""
    with contextlib.ExitStack() as stack:
        mariadb, missing = None, ""
        if "mariadb" in databases:
            try:
                if importlib.util.find_spec("mysql") is None:
                    raise MariaDBMissing("run pip install '.[mysql]' and apt-get install mariadb-server")
                mariadb = stack.enter_context(PrivateMariaDB())
            except MariaDBMissing as error:
                missing = f"MariaDB is left out: {error}"
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="jelly-bench-"))
        yield Runner(mariadb, missing, Path(directory), seconds)
