"""The server, with its thread names in a file: `python -m bench.thread_names ARGUMENTS`.

/proc knows what each thread costs, but only Python knows its name.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

from jelly import cli

FILE = "BENCH_THREADS"
"""The environment variable with the path of the file to write."""
INTERVAL = 0.1
"""Seconds between two updates of the file."""


def _write_names(path: Path) -> None:
    """Keep writing the names of all threads, including ended ones, to a file."""
    names: dict[int, str] = {}
    while True:
        names |= {thread.native_id: thread.name for thread in threading.enumerate() if thread.native_id}
        part = path.with_suffix(".part")
        part.write_text(json.dumps(names))
        part.replace(path)
        time.sleep(INTERVAL)


if __name__ == "__main__":
    threading.Thread(target=_write_names, args=(Path(os.environ[FILE]),), name="bench-names", daemon=True).start()
    sys.exit(cli.main())
