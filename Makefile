# One target per thing a person does here.  The work of setting up is in scripts/setup.py.

# The first of these that runs and is new enough.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# Where `make install` puts things, as everywhere: PREFIX on the system, DESTDIR in front of it all.
PREFIX ?= /usr/local
DESTDIR ?=
VENV ?= .venv

.DEFAULT_GOAL := help
.PHONY: help python setup demo test check lint bench man install uninstall clean distclean

help:
	@echo 'make demo       set up, then eight agents on one model, live: round robin, then FIFO'
	@echo 'make test       set up, then every test, the slow ones too'
	@echo 'make check      set up, then formatter, linters, types, layers and the quick tests'
	@echo 'make lint       the same without the tests'
	@echo 'make setup      .venv with everything pinned; .venv/bin/aiosd and .venv/bin/aiosctl'
	@echo 'make bench      the benchmarks (most of an hour; builds the peers first)'
	@echo 'make man        the man pages, into docs/man (make install makes its own)'
	@echo 'make install    put it into the system as a service (PREFIX, DESTDIR); needs root'
	@echo 'make uninstall  take it out again; what it keeps stays, unless PURGE=1'
	@echo 'make clean      remove caches and build output'
	@echo 'make distclean  remove .venv as well'

python:
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is missing; on Debian or Ubuntu:' \
		'sudo apt install python3 python3-venv' >&2; exit 1; }

setup: python
	@$(PYTHON) scripts/setup.py

demo: setup
	@.venv/bin/python -m aiosd.demo

test: setup
	@.venv/bin/python -m pytest

lint: setup
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy
	.venv/bin/lint-imports

check: lint
	.venv/bin/python -m pytest -m 'not slow'

bench: setup
	.venv/bin/python -m benchmarks

man:
	@.venv/bin/python scripts/manpages.py docs/man
	@echo 'man pages are in docs/man; read one with: man -l docs/man/aiosctl.1'

install uninstall: python
	@$(PYTHON) scripts/install.py $@ --prefix '$(PREFIX)' --destdir '$(DESTDIR)' \
		--venv '$(abspath $(VENV))' $(if $(filter 1,$(PURGE)),--purge)

clean:
	rm -rf build dist out docs/man *.egg-info sdk/build sdk/*.egg-info sdk/src/*.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find aiosd aiosctl sdk tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv
