"""The server, with a file that says which thread is which: `python -m bench.named JELLY'S ARGUMENTS`.

/proc knows what each thread costs, and Python what it is called.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

from jelly import cli

FILE = "BENCH_THREADS"
"""The variable of the environment with the file to write to."""
INTERVAL = 0.1


def _tell(path: Path) -> None:
    """Write down the name of each thread that there is or was, again and again."""
    names: dict[int, str] = {}
    while True:
        names |= {thread.native_id: thread.name for thread in threading.enumerate() if thread.native_id}
        part = path.with_suffix(".part")
        part.write_text(json.dumps(names))
        part.replace(path)
        time.sleep(INTERVAL)


if __name__ == "__main__":
    threading.Thread(target=_tell, args=(Path(os.environ[FILE]),), name="bench-names", daemon=True).start()
    sys.exit(cli.main())
