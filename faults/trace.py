"""Faults between a process and the kernel, with strace: system calls that fail or are slow."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from faults.context import wait_until

SYNCS, WRITES = "fdatasync,fsync", "pwrite64"
DETACH_SECONDS = 2.0
FAIL = f"{SYNCS}:error=EIO"


def missing() -> str:
    """Return why strace cannot be used here, or an empty string."""
    if not shutil.which("strace"):
        return "strace is not installed: apt-get install strace."
    probe = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True)
    return "strace may not trace a process here." if probe.returncode else ""


def delay(seconds: float, calls: str = SYNCS) -> str:
    """Return the fault that makes each sync of a file, or other calls, take `seconds` longer."""
    return f"{calls}:delay_enter={int(seconds * 1_000_000)}"


@contextlib.contextmanager
def inject_fault(pid: int, fault: str) -> Iterator[None]:
    """Within the block, inject a fault into the calls of a process that it names."""
    with tempfile.TemporaryDirectory(prefix="jelly-faults-strace-") as directory:
        said = Path(directory) / "said"
        with said.open("wb") as errors:
            calls = fault.partition(":")[0]  # what is not traced is not changed either
            command = ["strace", "-f", "-p", str(pid), "-o", "/dev/null", "-e", f"trace={calls}", "-e"]
            strace = subprocess.Popen([*command, f"inject={fault}"], stderr=errors, stdin=subprocess.DEVNULL)
        try:
            if not wait_until(lambda: b" attached" in said.read_bytes(), 5):
                raise RuntimeError(f"strace could not attach: {said.read_text()}")
            yield
        finally:
            strace.terminate()
            try:
                strace.wait(DETACH_SECONDS)
            except subprocess.TimeoutExpired:  # strace may hang if the traced process has ended
                strace.kill()
                strace.wait()
