"""Where the threads run: on one core, but for those that compute for long."""

import contextlib
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from wire import logged_in, register

from faults.process import Server
from jelly import scheduling
from jelly.scheduling import check_pin

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a thread choose its cores")


def serve(tmp_path: Path, *arguments: str) -> Server:
    return Server(f"sqlite:///{tmp_path}/j.db", *arguments)


def threads(server: Server) -> list[int]:
    return [int(task.name) for task in Path(f"/proc/{server.process.pid}/task").iterdir()]


def test_one_core_for_all_but_the_hashers(tmp_path: Path) -> None:
    """After a registration and a login there are threads of every kind; those that hash have all
    cores.
    """
    with serve(tmp_path) as server:
        register(server.port, "alice")
        with logged_in(server.port, "alice"):
            cores = [os.sched_getaffinity(thread) for thread in threads(server)]
            policies = {os.sched_getscheduler(thread) for thread in threads(server)}
    everywhere = os.sched_getaffinity(0)
    alone = min(cores, key=len)
    assert len(alone) == 1
    assert policies == {os.SCHED_BATCH}
    assert len(cores) > 8
    if len(everywhere) > 1:
        assert 1 <= cores.count(everywhere) <= 2
        assert cores.count(alone) == len(cores) - cores.count(everywhere)


@pytest.mark.parametrize("pin", ["off", str(max(os.sched_getaffinity(0)) if sys.platform == "linux" else 0)])
def test_another_wish(pin: str, tmp_path: Path) -> None:
    """`off` leaves everything as it was; a number is that core, and the log says so."""
    with serve(tmp_path, f"--pin={pin}") as server:
        wanted = os.sched_getaffinity(0) if pin == "off" else {int(pin)}
        assert os.sched_getaffinity(server.process.pid) == wanted
        assert (b"on all cores" if pin == "off" else b"on core %s of" % pin.encode()) in server.log


PINNED = """
import os, sys
from jelly import scheduling

scheduling.CLAIM_NAME = "\\0" + sys.argv[1]  # no other server of this machine uses it
os.sched_setaffinity(0, {int(sys.argv[3])})  # the system moves it there at once
os.sched_setaffinity(0, {int(core) for core in sys.argv[4].split(",")})
print(scheduling.pin_process(sys.argv[2]), *os.sched_getaffinity(0), sep="|", flush=True)
sys.stdin.read()
"""


class Pinned:
    """A process that is pinned, and lives until `end`. `core` is where it was put."""

    def __init__(self, name: str, pin: str, current: int, cores: set[int]) -> None:
        arguments = [name, pin, str(current), ",".join(map(str, cores))]
        self._process = subprocess.Popen(
            [sys.executable, "-c", PINNED, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        words, *on = self._process.stdout.readline().decode().split("|")
        [self.core] = map(int, on)
        assert words == f"on core {self.core} of {len(cores)}"

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def test_servers_of_one_machine_take_different_cores(tmp_path: Path) -> None:
    """Also processes that know nothing of each other, whatever core they begin on. A core is free
    again when its server was killed. If all are taken, they get further servers in turn.
    """
    cores = set(sorted(os.sched_getaffinity(0))[:2])
    if len(cores) < 2:
        pytest.skip("this machine has one core")
    start = functools.partial(Pinned, f"jelly test {tmp_path}", cores=cores)
    first, *_ = cores
    with contextlib.ExitStack() as stack:

        def begin(pin: str = "auto") -> Pinned:
            pinned = start(pin, first)
            stack.callback(pinned.end)
            return pinned

        servers = [begin() for _ in range(4)]
        assert {server.core for server in servers[:2]} == {server.core for server in servers[2:]} == cores
        servers[1].end()
        assert begin().core == servers[1].core
        for server in servers:
            server.end()
    with contextlib.ExitStack() as stack:  # one that was told its core has it, too
        assert [begin(str(first)).core, begin(str(first)).core] == [first] * 2
        assert first not in {begin().core, begin().core}


def test_no_sockets_to_take_a_core_with() -> None:
    """Where a sandbox allows none, the server is on the core that it began on."""
    without = WITHOUT_LEAVE.replace("os.{call} = refuse", "scheduling.socket.socket = refuse")
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, check=True, text=True)
    assert done.stdout.startswith("on core ")


@pytest.mark.parametrize("pin", ["yes", "-1", "4096", "1.0", "\u00b2", ""])
def test_no_core(pin: str) -> None:
    """What is none of the process's cores is refused with the list of them."""
    cores = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
    with pytest.raises(ValueError, match=f"^auto, off or the number of a core, one of {cores}$"):
        check_pin(pin)


WITHOUT_LEAVE = """
import os, sys
from jelly import scheduling

def refuse(*_):
    raise PermissionError(1, "Operation not permitted")

os.{call} = refuse
before = os.sched_getaffinity(0)
print(scheduling.pin_process("auto"), os.sched_getaffinity(0) == before, scheduling._all_cores, sep="|")
"""


@pytest.mark.parametrize("call", ["sched_setaffinity", "sched_setscheduler"])
def test_a_sandbox_that_refuses(call: str) -> None:
    """Whichever of the two calls is refused, the process stays on all cores, and says so."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_LEAVE.format(call=call)], capture_output=True, check=True)
    assert done.stdout == b"on all cores (Operation not permitted)|True|set()\n"


def test_no_proc_to_look_into(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where /proc is missing nobody knows the core that this is: no reason not to serve."""
    before = os.sched_getaffinity(0)
    monkeypatch.setattr(scheduling, "_STAT", tmp_path / "stat")
    assert scheduling.pin_process("auto") == "on all cores (No such file or directory)"
    assert os.sched_getaffinity(0) == before


def test_a_system_that_does_not_allow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server runs where it is, and says so; a thread that computes does so with the priority of
    all others.
    """

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    for name in ("sched_setscheduler", "sched_setaffinity", "setpriority"):
        monkeypatch.setattr(os, name, refuse)
    assert scheduling.pin_process("auto") == "on all cores (Operation not permitted)"
    monkeypatch.setattr(scheduling, "_all_cores", {0})
    scheduling.lower_priority()
