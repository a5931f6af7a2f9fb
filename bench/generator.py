"""The load generator: `python -m bench.generator JOB`. JOB (see `Job`) and the output are JSON.

It is a separate process, so that it has an interpreter of its own.
"""

import gc
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.clients import EventLoop
from bench.meter import Meter
from bench.scenarios import LOCAL, Context, NotRun, parse, raise_file_limit
from bench.soak import soak
from bench.verify import summary


@dataclass(frozen=True)
class Job:
    """What to do: the name of a scenario, or `soak` with a number of operations."""

    scenario: str
    ports: Sequence[int]
    servers: Sequence[int]
    """The process ids of the servers."""
    database: int | None
    """The process id of the database server, if there is one."""
    seconds: float
    redis: int | None = None
    """The process id of the nodes' Redis, if there is one."""
    placement: str = LOCAL
    by_thread: bool = False
    operations: int = 0


def run(job: Job) -> Iterator[dict[str, Any]]:
    """Run a job.

    Yield its results one by one, and at the end `problems` (empty if there are none).
    """
    problems: list[str] = []
    meter = Meter(job.servers, job.database, job.redis, job.by_thread)
    context = Context(EventLoop(), job.ports, meter, job.seconds, problems, job.placement)
    try:
        if job.scenario == "soak":
            yield from (
                {"operations": done, "memory": memory} for done, memory in soak(job.ports[0], meter, job.operations)
            )
        else:
            for measurement in parse(job.scenario).run(context):
                yield measurement.to_json()
        yield {"problems": summary(problems)}
    except NotRun as reason:
        yield {"not_run": str(reason)}
    except (OSError, RuntimeError, EOFError) as error:
        problems.append(f"failed: {type(error).__name__}: {error}")
        yield {"problems": summary(problems)}
    finally:
        context.close()


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    raise_file_limit()
    if job.scenario != "soak":
        gc.disable()  # a pause of the generator would count as latency of the server
    for piece in run(job):
        print(json.dumps(piece), flush=True)


if __name__ == "__main__":
    main()
