"""Rows 13 and 14: half-open connections and packet loss. The server runs in a network namespace."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from faults.checker import Answer
from faults.context import Control, Finding, Row, RunContext, free_port, wait_until
from faults.load import PATIENCE, Load, User, register

LINKS = ("10.213.1", "10.213.2")
"""The subnets of the two links to the server: .1 is our end, .2 is the server's."""
SILENCE = {True: 2.0, False: 30.0}
"""Seconds until a silent connection is closed, in the short form and in the long one."""
TOLERANCE = 1.5
LOSSES = (5, 10, 30)
BLACKOUT = 3.0


class Network:
    """A network namespace with two links to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.within = ("ip", "netns", "exec", name)

    def host(self, link: int) -> str:
        """Return the server's address on a link."""
        return f"{LINKS[link]}.2"

    def set_link(self, link: int, is_up: bool) -> None:
        """Take a link down at the server's end, or bring it up again."""
        _run("ip", "-n", self.name, "link", "set", f"jf{link}", "up" if is_up else "down")

    def lose(self, percent: int) -> None:
        """Drop this percentage of packets from now on, in each direction."""
        rules = ["add table inet faults; delete table inet faults; add table inet faults"]
        some = f"numgen random mod 100 < {percent}" if percent < 100 else ""
        if percent:
            for hook, interface in (("input", "iifname"), ("output", "oifname")):
                rules.append(f"add chain inet faults {hook} {{ type filter hook {hook} priority 0; }}")
                rules.append(f"add rule inet faults {hook} {interface} != lo {some} drop")
        _run(*self.within, "nft", "; ".join(rules))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Within the block, a network namespace with two links exists."""
    made = Network(f"jelly-faults-{os.getpid()}")
    with contextlib.ExitStack() as stack:
        _run("ip", "netns", "add", made.name)
        stack.callback(_run, "ip", "netns", "delete", made.name)
        _run("ip", "-n", made.name, "link", "set", "lo", "up")
        for number, link in enumerate(LINKS):
            ours = f"jf{number}-{os.getpid()}"
            _run("ip", "link", "add", ours, "type", "veth", "peer", "name", f"jf{number}", "netns", made.name)
            stack.callback(
                _run, "ip", "link", "delete", ours
            )  # the namespace is deleted asynchronously, and its links with it
            _run("ip", "address", "add", f"{link}.1/24", "dev", ours)
            _run("ip", "link", "set", ours, "up")
            _run("ip", "-n", made.name, "address", "add", f"{link}.2/24", "dev", f"jf{number}")
            made.set_link(number, True)
        yield made


def no_network() -> str:
    if os.geteuid() != 0:
        return "a network namespace needs root."
    if not shutil.which("ip"):
        return "ip is not installed: apt-get install iproute2."
    made = subprocess.run(["unshare", "--net", "true"], capture_output=True)
    return "the kernel makes no network namespaces." if made.returncode else ""


def no_filter() -> str:
    if missing := no_network():
        return missing
    if not shutil.which("nft"):
        return "nft is not installed: apt-get install nftables."
    probe = subprocess.run(["unshare", "--net", "nft", "list", "tables"], capture_output=True)
    return "nft does not work in this kernel." if probe.returncode else ""


def half_open(context: RunContext, finding: Finding) -> None:
    """A receiver's link dies silently.

    The server closes the connection in time and delivers later.
    """
    finding.trials = 1 if context.is_short else 3
    silence, port = SILENCE[context.is_short], free_port()
    beats = ("--heartbeat-misses=4", f"--heartbeat-interval={silence / 4}")
    with network() as net, context.serve(context.url(), port, "--host=0.0.0.0", *beats, within=net.within):
        options = {"heartbeat": silence / 6, "request_timeout": silence / 2, "connect_timeout": 1.0}
        with Load(port, host=net.host(0), heartbeat=silence / 6) as load, contextlib.ExitStack() as stack:
            gus = User("gus", load.ledger, port, host=net.host(1), **options)
            stack.callback(gus.client.close)
            register(port, ["gus"], net.host(0))
            gus.log_in()
            load.start()
            watcher = load.senders[0]
            watcher.client.add_friend("gus").result(PATIENCE)
            for _ in range(finding.trials):
                net.set_link(1, False)
                started = time.monotonic()
                gus.client.own_profile()  # without an answer, the client gives up the connection, too
                futures = [watcher.write("gus") for _ in range(50)]
                gone = wait_until(lambda: watcher.presence.get("gus") is False, silence + TOLERANCE)
                took = time.monotonic() - started
                finding.expect(gone, "not_closed", f"the connection was not closed within {took:.1f} s")
                failed = sum(future.exception(PATIENCE) is not None for future in futures)
                finding.expect(not failed, "refused", f"{failed} messages to the lost receiver were refused")
                net.set_link(1, True)
                gus.client.wait_until_online(PATIENCE)
                wait_until(lambda: watcher.presence.get("gus") is True, 10)
                finding.notes = [f"closed after {took:.1f} s"]
            gus.catch_up()
            load.finish()
            finding.expect(not load.disconnects, "disconnected", f"{load.disconnects} other connections were lost")
            finding.add_verdict(load.ledger.verdict())


def lose_packets(context: RunContext, finding: Finding) -> None:
    """Lose 5, 10, 30 % and then all packets for a while, so that both sides give up connections."""
    rounds = 1 if context.is_short else 3
    finding.trials = rounds * len(LOSSES)
    port = free_port()
    beats = ("--heartbeat-misses=4", "--heartbeat-interval=0.5")
    options: dict[str, Any] = {"heartbeat": 0.3, "request_timeout": 1.0, "connect_timeout": 1.0}
    with (
        network() as net,
        context.serve(context.url(), port, "--host=0.0.0.0", *beats, within=net.within),
        Load(port, host=net.host(0), **options) as load,
    ):
        load.start()
        for percent in LOSSES * rounds:
            net.lose(percent)
            load.ledger.wait_for_more(Answer.STORED, 300, 2 if context.is_short else 10)
            net.lose(100)
            time.sleep(BLACKOUT)
        net.lose(0)
        disconnects = load.disconnects
        load.finish()
        finding.notes.append(f"{disconnects} connections given up")
        finding.add_verdict(load.ledger.verdict())


ROWS = [
    Row(
        13,
        "half-open line",
        half_open,
        (Control("no-watchdog", "not_closed"), Control("delivered-when-written", "lost")),
        ("sqlite",),
        no_network,
    ),
    Row(
        14,
        "packet loss of 5, 10, 30 and 100 %",
        lose_packets,
        (Control("delivered-when-written", "lost"),),
        ("sqlite",),
        no_filter,
    ),
]
