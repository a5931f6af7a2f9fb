"""Rows 4 to 7: the power fails, a sync fails, the disk is full, the disk is slow."""

import contextlib
import dataclasses
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from faults import trace
from faults.checker import Answer
from faults.context import Control, Finding, Row, RunContext, free_port
from faults.load import Load
from faults.process import Server, memory
from faults.rows.database import measure_recovery

SHADOW = Path(__file__).parent.parent / "shadow.c"
DISK = 8
"""Megabytes on the small disk. A ballast file takes half of them until it is deleted."""
PADDING = 4000
"""Bytes of each message that fills the small disk."""
SLOW_SYNC = 0.3
QUEUE = 64
HEARTBEATS = ("--heartbeat-interval=0.5", "--heartbeat-misses=4")
GROWTH = 16.0
"""At most this many megabytes may a server grow while its queue is full."""


def no_compiler() -> str:
    return (
        ""
        if shutil.which("gcc")
        else "gcc is not installed: it compiles the library that keeps the synced state of a file."
    )


def no_mount() -> str:
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", tempfile.gettempdir()]
    try:
        may = subprocess.run(probe, capture_output=True).returncode == 0
    except OSError:
        may = False
    return "" if may else "mounting a small disk needs root."


def lose_power(context: RunContext, finding: Finding) -> None:
    """Kill the server, and restart it on its files as they were at their last sync."""
    finding.trials = 3 if context.is_short else 30
    directory = Path(tempfile.mkdtemp(dir=context.directory))
    shim = context.directory / "shadow.so"
    if not shim.exists():
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", shim, SHADOW, "-ldl"], check=True)
    files, port = Path(tempfile.mkdtemp(dir=directory)), free_port()

    def serve() -> tuple[Server, Path]:
        """Start a server on `files`; return it and the directory with their synced state.

        What the files contain at the start counts as synced.
        """
        synced = Path(tempfile.mkdtemp(dir=directory))
        shutil.copytree(files, synced, dirs_exist_ok=True)
        environment = {"LD_PRELOAD": str(shim), "SHADOW_FROM": str(files), "SHADOW_TO": str(synced)}
        return context.serve(f"sqlite:///{files}/jelly.db", port, **environment), synced

    # The accounts are created on a server without a defect, which is stopped cleanly.
    server = dataclasses.replace(context, variants=()).serve(f"sqlite:///{files}/jelly.db", port)
    try:
        with Load(port) as load:
            server.stop()
            server.kill()
            server, synced = serve()
            load.start()
            most = 300 if context.is_short else 1000
            for _ in range(finding.trials):
                load.ledger.wait_for_more(Answer.STORED, context.random.randint(50, most), 30)
                server.kill()
                for part in synced.glob("*.part"):  # the copy of a sync that was under way
                    part.unlink()
                shutil.rmtree(files)
                files = synced
                server, synced = serve()
                finding.note_restart(server)
            load.finish()
            finding.add_verdict(load.ledger.verdict())
    finally:
        server.kill()


def fail_syncs(context: RunContext, finding: Finding) -> None:
    """Let every sync fail until the process is killed and restarted."""
    finding.trials = 1 if context.is_short else 10
    url, port = context.url(), free_port()
    server = context.serve(url, port)
    try:
        with Load(port) as load:
            load.start()
            for _ in range(finding.trials):
                load.ledger.wait_for_more(Answer.STORED, context.random.randint(50, 500), 30)
                with trace.inject_fault(_syncing(context, server), trace.FAIL):
                    since = time.monotonic()
                    load.ledger.wait_for_failures(20, 5)
                    stored = load.ledger.stored_between(since, time.monotonic())
                    if context.database == "sqlite":
                        server.kill()
                finding.expect(not stored, "success", f"{stored} messages got SUCCESS, though no sync succeeded")
                if context.database == "sqlite":
                    server = context.serve(url, port)
                    finding.note_restart(server)
                else:
                    context.db.kill()  # InnoDB has shut itself down, or should have
                    context.db.start()
                measure_recovery(load, finding)
            load.finish()
            finding.add_verdict(load.ledger.verdict())
    finally:
        server.kill()


def _syncing(context: RunContext, server: Server) -> int:
    """Return the id of the process that syncs the files."""
    return context.db.pid if context.database == "mariadb" else server.process.pid


@contextlib.contextmanager
def small_disk(context: RunContext) -> Iterator[Path]:
    """Mount a file system with room for a few megabytes."""
    directory = tempfile.mkdtemp(dir=context.directory)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", directory], check=True)
    try:
        yield Path(directory)
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def fill_disk(context: RunContext, finding: Finding) -> None:
    """Let the messages fill the disk; then make room again."""
    finding.trials = 1
    with small_disk(context) as disk:
        url, port = context.url(disk), free_port()
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * (DISK * 500_000))
        with context.serve(url, port, *HEARTBEATS) as _, Load(port, padding=PADDING, heartbeat=0.3) as load:
            load.start()
            failed = load.ledger.wait_for_failures(10, 30, enough=DISK * 1_000_000 // PADDING)
            finding.expect(failed, "no_error", "no SERVER_ERROR though the disk is full")
            time.sleep(0 if context.is_short else 5)
            ballast.unlink()
            load.ledger.wait_for_more(Answer.STORED, 20, 5)
            # Stop now: the disk is so small that it would soon be full again.
            load.finish()
            finding.expect(not load.disconnects, "disconnected", f"{load.disconnects} connections were lost meanwhile")
            finding.add_verdict(load.ledger.verdict())


def slow_disk(context: RunContext, finding: Finding) -> None:
    """Delay each sync by 300 ms: the queue fills, the rest gets SERVER_BUSY, nobody is dropped."""
    finding.trials = 1
    url, port = context.url(), free_port()
    with (
        context.serve(url, port, f"--queue-size={QUEUE}", *HEARTBEATS) as server,
        Load(port, under_way=60, padding=2000, heartbeat=0.3) as load,
    ):
        load.start()
        load.ledger.wait_for_more(Answer.STORED, 500, 30)
        with trace.inject_fault(_syncing(context, server), trace.delay(SLOW_SYNC)):
            load.ledger.wait_for_more(Answer.REFUSED, 20, 3)
            before = memory(server.process.pid)
            time.sleep(2 if context.is_short else 30)
            growth = memory(server.process.pid) - before
        finding.expect(load.ledger.counts[Answer.REFUSED] > 0, "no_busy", "no SERVER_BUSY though the queue is full")
        finding.expect(growth < GROWTH, "memory", f"the server grew by {growth:.0f} MB")
        measure_recovery(load, finding)
        finding.expect(not load.disconnects, "disconnected", f"{load.disconnects} connections were lost meanwhile")
        load.finish()
        finding.notes.append(f"{load.ledger.counts[Answer.REFUSED]:,} busy; server grew by {growth:.1f} MB")
        finding.add_verdict(load.ledger.verdict())


ROWS = [
    Row(
        4, "power loss: files as last synced", lose_power, (Control("synchronous-normal", "lost"),), ("sqlite",),
        no_compiler,
    ),
    Row(5, "fsync fails", fail_syncs, (Control("ignores-failures", "success"),), missing=trace.missing),
    Row(6, "disk full", fill_disk, (Control("ignores-failures", "lost"),), ("sqlite",), no_mount),
    Row(7, "slow disk", slow_disk, (Control("unbounded-queue", "no_busy"),), missing=trace.missing),
]  # fmt: skip
