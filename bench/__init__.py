"""The benchmark: throughput, latency, and what each message costs the server.

    python -m bench --help

scenarios.py     what is done to the server
generator.py     the process that does it
clients.py       its clients
verify.py        checks every message
meter.py         measures what the server has used
runs.py          starts servers and generators
table.py         prints the results
nodes.py         what do several nodes cost?
compare.py       which of two versions is faster?
soak.py          does memory grow?
profile.py       where does the time go?
thread_names.py  starts the server for profile.py

docs/performance.md says how to read the numbers.
"""
