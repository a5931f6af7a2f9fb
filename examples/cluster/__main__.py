"""Starts a cluster on this machine, to try it out. python -m examples.cluster [--port PORT]

MariaDB, Redis (or Valkey) and HAProxy are private ones, from the installed packages. Three nodes of
this checkout use them. Everything is in temporary directories, and is gone after Ctrl-C. For real
use there are the other files of this directory, and docs/nodes.md.
"""

import argparse
import contextlib
import importlib.util
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from faults.haproxy import HAProxyMissing, PrivateHAProxy
from faults.mariadb import MariaDBMissing, PrivateMariaDB
from faults.process import ROOT, clean_environment, free_port
from faults.redis import PrivateRedis, RedisMissing

NODES = 3
"""How many nodes there are: as many as haproxy.cfg has lines for."""
CONFIGURATION = Path(__file__).with_name("haproxy.cfg")
PATIENCE = 30.0
"""At most this many seconds until all nodes serve, and until all have stopped."""
RESTART_DELAY = 1.0
"""Seconds until a node that has died is started again."""
LOOK_INTERVAL = 0.1
"""Seconds from one look at the nodes to the next."""
REGISTERED = re.compile(rb": this is node (\d+);")
"""What the log of a node says as soon as the node has a number."""


class CannotStart(Exception):
    """The cluster cannot start; the text says why."""


class Stopped(Exception):
    """Somebody has pressed Ctrl-C."""


class Signals:
    """Ctrl-C, SIGTERM or the end of the terminal: noted, and acted upon between two steps.

    (An exception in the middle of a start could leave a program behind.)
    """

    def __init__(self) -> None:
        self.is_stopping = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)

    def _stop(self, *_: object) -> None:
        self.is_stopping = True

    def pause(self) -> None:
        """Wait a moment. Raises Stopped."""
        time.sleep(LOOK_INTERVAL)
        self.check()

    def check(self) -> None:
        """Raises Stopped if it is time to stop."""
        if self.is_stopping:
            raise Stopped


class Node:
    """One server of the cluster, which is started again when it dies."""

    def __init__(self, port: int, directory: Path, settings: Path) -> None:
        self.port = port
        self.number = 0
        """The number that it has in the table of nodes and in the logs; 0 until it has one."""
        self.log = directory / f"port-{port}.log"
        self._command = [sys.executable, str(ROOT / "jelly.py"), f"--port={port}", f"--config={settings}"]
        self._read_upto = 0
        self._restart_at = 0.0
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            # In a session of its own: Ctrl-C is for this program, which stops the nodes in order.
            return subprocess.Popen(
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                env=clean_environment(),
            )  # fmt: skip

    def __str__(self) -> str:
        return f"{self.name}   127.0.0.1:{self.port}, process {self.process.pid}, log {self.log}"

    @property
    def name(self) -> str:
        return f"node {self.number}" if self.number else f"the node on 127.0.0.1:{self.port}"

    @property
    def last_line(self) -> str:
        """The last line of its log."""
        return (self.log.read_text(errors="replace").splitlines() or ["it has no log"])[-1]

    def has_died(self) -> bool:
        return self.process.poll() is not None

    def look(self) -> None:
        """Say which node this is, when its log says so: nodes find their numbers themselves."""
        with self.log.open("rb") as log:
            log.seek(self._read_upto)
            text, newline, _ = log.read().rpartition(b"\n")
        self._read_upto += len(text + newline)
        if numbers := REGISTERED.findall(text):
            self.number = int(numbers[-1])
            say(str(self))

    def restart_if_dead(self) -> None:
        """Start it again a moment after its end, as systemd would."""
        if not self.has_died():
            return
        now = time.monotonic()
        if not self._restart_at:
            self._restart_at = now + RESTART_DELAY
            say(f"{self.name} has ended with {end_of(self.process.returncode)}, and is started again")
        elif now >= self._restart_at:
            self._restart_at, self.number = 0.0, 0
            self.process = self._start()


def say(line: str) -> None:
    # A terminal that is gone must not keep the cluster from stopping.
    with contextlib.suppress(OSError):
        print(line, flush=True)


def end_of(code: int) -> str:
    """How a process has ended, in words."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


@contextlib.contextmanager
def running_nodes(ports: Sequence[int], directory: Path, settings: Path) -> Iterator[list[Node]]:
    """Start a node on each port. In the end, stop all at the same time, and wait until they have
    stopped.
    """
    nodes: list[Node] = []
    try:
        nodes.extend(Node(port, directory, settings) for port in ports)
        yield nodes
    finally:
        for node in nodes:
            node.process.terminate()
        deadline = time.monotonic() + PATIENCE
        for node in nodes:
            try:
                node.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                say(f"{node.name} does not stop, and is killed")
                node.process.kill()
                node.process.wait()


def wait_until_up(proxy: PrivateHAProxy, nodes: Sequence[Node], signals: Signals) -> None:
    """Wait until HAProxy has an answer from each node. Raises Stopped, CannotStart."""
    deadline = time.monotonic() + PATIENCE
    while not all(backend.is_up for backend in proxy.backends().values()):
        for node in nodes:
            if node.has_died() or time.monotonic() > deadline:
                raise CannotStart(f"{node.name} did not start: {node.last_line}")
        signals.pause()
    for node in nodes:  # each has a number by now
        node.look()


def run(port: int, signals: Signals) -> None:
    """Start the cluster, and keep it until a signal comes. Raises Stopped, CannotStart."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jelly-cluster-")))
        mariadb = stack.enter_context(PrivateMariaDB())
        signals.check()
        say(f"MariaDB  127.0.0.1:{mariadb.port}")
        redis = stack.enter_context(PrivateRedis())
        signals.check()
        say(f"Redis    127.0.0.1:{redis.port}")
        ports = [free_port() for _ in range(NODES)]
        addresses = {f"JELLY_NODE_{number}": f"127.0.0.1:{port}" for number, port in enumerate(ports, 1)}
        proxy = stack.enter_context(PrivateHAProxy(CONFIGURATION.read_text(encoding="utf-8"), addresses, port))
        signals.check()
        say(f"HAProxy  127.0.0.1:{proxy.port}")
        settings = write_settings(directory, database=mariadb.fresh_database("jelly"), cluster=redis.url)
        # These come last, so they stop first, and can tell their clients through HAProxy.
        nodes = stack.enter_context(running_nodes(ports, directory, settings))
        wait_until_up(proxy, nodes, signals)
        explain(proxy.port, settings)
        while True:
            signals.pause()
            for node in nodes:
                node.look()
                node.restart_if_dead()


def write_settings(directory: Path, database: str, cluster: str) -> Path:
    """Write the settings of all nodes into a file, and return it. The URL of the database has a
    password, which everybody on the machine could read in a command.
    """
    file = directory / "jelly.toml"
    file.touch(mode=0o600)
    file.write_text(f'database = "{database}"\ncluster = "{cluster}"\nproxy_protocol = "127.0.0.1"\n')
    return file


def explain(port: int, settings: Path) -> None:
    server = f"--server jelly://127.0.0.1:{port}"
    python = shlex.quote(os.path.relpath(sys.executable))
    say(
        "\nThe cluster serves. Try it in two other terminals:\n"
        f"    {python} jelly.py chat alice {server}\n"
        f"    {python} jelly.py chat bob {server}\n"
        f"This prints the table of nodes:\n    {python} jelly.py nodes --config {settings}\n"
        "Clients reach the nodes through HAProxy only, whose header they expect.\n"
        "Kill a node (kill -9 and its process): its clients move, and it comes back. Ctrl-C stops all."
    )


def missing_package() -> str:
    """Which package for Python is missing, and how to get it; empty if none is."""
    for name, extra in (("mysql", "mysql"), ("redis", "cluster")):
        if importlib.util.find_spec(name) is None:
            return f"The package for {extra} is missing: run pip install '.[mysql,cluster]' in a virtual environment."
    return ""


def problem_with(port: int) -> str:
    """Why HAProxy could not listen on a port; empty if it can."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else "there is no such port"
        return f"Cannot listen on 127.0.0.1 port {port}: {reason}. Choose another one with --port."
    return ""


def main() -> int:
    parser = argparse.ArgumentParser("examples.cluster", description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=20000, help="where HAProxy listens; 0 picks a free port")
    port = parser.parse_args().port
    if sentence := missing_package() or problem_with(port):
        print(sentence, file=sys.stderr)
        return 1
    try:
        run(port, Signals())
    except Stopped:
        say("all has stopped")
    except (CannotStart, HAProxyMissing, MariaDBMissing, RedisMissing, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
