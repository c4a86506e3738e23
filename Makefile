# Thin on purpose: build/setup does the work and leaves alone what is up to date.

PYTHON ?= $(shell sh build/python.sh)
SETUP = $(or $(PYTHON),false) build/setup
ARGS ?=
# Four modules at a time, in order: two cores stand idle half of the time that tests wait for other processes.
# The browser's come first, the units last.
ALL = --numprocesses 4 --dist loadscope --no-loadscope-reorder
BIN = .venv/bin
BY_NIGHT = tests/browser/test_ports.py tests/interop/test_petals.py tests/pyodide tests/swarm tests/nightly
# Compiled modules are kept whatever the environment says: rewriting the tests' asserts is half of collecting them.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup run test nightly bench screenshots check format web wheel peers clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /    make \1\t/p' Makefile | expand -t 20

setup:  ## everything that running needs; leaves .venv/bin/kwaainet
	@$(SETUP) setup

run:  ## relay, page and one contributing tab that answers a prompt; flags: make run ARGS="--once"
	@$(SETUP) setup
	@$(BIN)/kwaainet up $(ARGS)

test:  ## every suite, against the real peers too; some tests only: make test ARGS="tests/unit -k wire"
	@$(SETUP) test
	@# What four workers would each compile is compiled once, beside the tests of the web's half.
	@$(if $(ARGS),,$(PYTEST) --collect-only > .cache/collected 2>&1 & PATH="$(CURDIR)/$(BIN):$$PATH" npm test --silent; \
	    failed=$$?; wait; exit $$failed)
	@$(PYTEST) $(or $(ARGS),$(ALL))

nightly:  ## the long proofs whole, hours of them: make nightly ARGS=tests/nightly/test_reloads.py; make test runs them short
	@$(SETUP) test
	@KWAAINET_NIGHTLY=1 $(PYTEST) $(or $(ARGS),$(BY_NIGHT))

bench:  ## the benchmarks of README's table; some only: make bench ARGS="relaying steps --rounds 3"
	@$(SETUP) test
	@PYTHONPATH=tests $(BIN)/python -m benchmarks $(ARGS)

screenshots:  ## the page in each of its states, as pictures in .cache/screenshots
	@$(SETUP) test
	@PYTHONPATH=tests $(BIN)/python -m browser.page_states

check:  ## formatting, lint, types, layers, layout, generated files
	@$(SETUP) check
	@sh build/check.sh

format:  ## let ruff format and fix
	@$(SETUP) python
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

web:  ## the page and its workers into web/dist
	@$(SETUP) setup

wheel:  ## the Python wheel, and that of the page for installed relays, into dist
	@$(SETUP) wheels

peers:  ## the environment of the real hivemind and petals
	@$(SETUP) python peers

clean:  ## remove what was built and installed in this clone; the downloads shared by clones stay
	rm -rf .venv node_modules dist web/dist .cache
