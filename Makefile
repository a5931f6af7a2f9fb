PYTHON ?= python3

# python3 gets its virtual environment in .venv, each other PYTHON one of its own, such as .venv-3.14.0 (3.14.0t if it
# is free-threaded), so that several of them stay ready.
VERSION := import sys, sysconfig; \
	print("%d.%d.%d" % sys.version_info[:3] + "t" * bool(sysconfig.get_config_var("Py_GIL_DISABLED")))
VENV    := .venv$(if $(filter-out python3,$(PYTHON)),-$(shell $(PYTHON) -c '$(VERSION)'))

# The linters and the tools of a release are for any Python, and not every Python has packages of them.
COMMA  := ,
EXTRAS := mysql,test$(if $(filter %t,$(VENV)),,$(COMMA)docs$(COMMA)lint$(COMMA)release)

# Three workers a core, because many tests wait for timers and for other processes. One that has nothing left to do takes
# tests from the others.
WORKERS := $(shell $(PYTHON) -c 'import os; print(3 * (os.cpu_count() or 1))')
PYTEST  := -m pytest -n $(WORKERS) --dist worksteal

# The tests start some hundred programs. Each of them would compile the project anew where this is set.
export PYTHONDONTWRITEBYTECODE :=

# Temporary files lie in memory if there is room for them, as on many systems all of /tmp does. Most tests sync what they
# store, and on a disk that takes a fifth of the CPU time and a third of the time. `make test TMPDIR=/tmp` uses the disk.
ifndef TMPDIR
TMPDIR := $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 4000000 { print $$6; found = 1 } \
	END { if (!found) print "/tmp" }')
endif
export TMPDIR

# What counts allocations means nothing where it is traced. The bugs that are put into the simulation run no more of
# the code than its worlds without them, and tracing makes them ten times slower.
TRACED := -m 'not allocations' --deselect tests/test_simulation.py::test_a_bug_is_found \
	--deselect tests/test_simulation_nodes.py::test_a_bug_is_found

.PHONY: docs test test-mysql test-freethreaded check lint coverage clean

test: $(VENV)/installed
	$(VENV)/bin/python $(PYTEST)

# The tests that need MariaDB, on MySQL: the server that JELLY_MYSQLD names, or one from Debian's unstable, which is
# fetched into ~/.cache/jelly once. (Its folder has `mysqldump`, too.)
test-mysql: $(VENV)/installed
	mysqld="$${JELLY_MYSQLD:-$$($(VENV)/bin/python -m faults.mysql)}" && \
	PATH="$$(dirname "$$mysqld"):$$PATH" JELLY_MYSQLD="$$mysqld" $(VENV)/bin/python $(PYTEST) -m mariadb

# All tests on a Python without the interpreter's lock: built from Debian's source into ~/.cache/jelly once. (Without
# PYTHON_GIL, a package that does not know of it could bring the lock back.)
test-freethreaded:
	python="$$($(PYTHON) -m faults.freethreaded)" && PYTHON_GIL=0 $(MAKE) test PYTHON="$$python"

check: lint coverage

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

coverage: $(VENV)/installed
	$(VENV)/bin/coverage erase
	$(VENV)/bin/coverage run $(PYTEST) $(TRACED)
	$(VENV)/bin/coverage combine --quiet
	$(VENV)/bin/coverage json --quiet
	$(VENV)/bin/python tests/coverage_gate.py coverage.json

# The site of all pages and the reference of the library, in build/docs. A warning is an error.
docs: $(VENV)/installed
	$(VENV)/bin/python -m sphinx --fail-on-warning --keep-going --quiet -c docs . build/docs

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --prefer-binary --editable '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf .venv .venv-* build dist .coverage coverage.json
