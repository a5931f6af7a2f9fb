"""The process that loads a server: `python -m bench.generator JOB`. JOB is JSON (see `Job`), and so is what it prints.

It is a process of its own so that it does not share an interpreter with whatever starts the server and prints tables.
"""

import gc
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.clients import Loop
from bench.meter import Meter
from bench.scenarios import Field, NotRun, parse, raise_file_limit
from bench.soak import soak
from bench.verify import summary


@dataclass(frozen=True)
class Job:
    """What to do to which server: a scenario's name, or `soak` with a number of operations."""

    scenario: str
    port: int
    server: int
    """Its process id."""
    database: int | None
    """That of its database's, if there is one."""
    seconds: float
    by_thread: bool = False
    operations: int = 0


def run(job: Job) -> Iterator[dict[str, Any]]:
    """Do it; what came out, piece by piece, and in the end `problems` (empty: none)."""
    problems: list[str] = []
    field = Field(Loop(), job.port, Meter(job.server, job.database, job.by_thread), job.seconds, problems)
    try:
        if job.scenario == "soak":
            yield from (
                {"operations": done, "memory": memory} for done, memory in soak(field.port, field.meter, job.operations)
            )
        else:
            for figure in parse(job.scenario).run(field):
                yield figure.to_json()
        yield {"problems": summary(problems)}
    except NotRun as reason:
        yield {"not_run": str(reason)}
    except (OSError, RuntimeError, EOFError) as error:
        problems.append(f"failed: {type(error).__name__}: {error}")
        yield {"problems": summary(problems)}
    finally:
        field.close()


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    raise_file_limit()
    if job.scenario != "soak":
        gc.disable()  # a pause here would be a delay there
    for piece in run(job):
        print(json.dumps(piece), flush=True)


if __name__ == "__main__":
    main()
