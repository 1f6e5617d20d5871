# Everything a person or CI runs. A fresh machine needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup.stamp

.PHONY: help setup demo test test-slow faults chaos check static lint types imports format reference clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP)  ## build .venv with .venv/bin/onerec

# A fitting torch that is already visible to $(PYTHON) is kept: the environment then sees the system's packages and the
# exact torch pin is left out of the constraints.
$(STAMP): pyproject.toml constraints.txt deploy/setup_environment.py
	$(PYTHON) deploy/setup_environment.py $(VENV)
	@touch $@

demo: setup  ## the whole loop on simulated sessions: about 7 minutes, ends with a report
	$(BIN)/onerec up --profile demo --report runs/demo-report.json

test: setup static  ## lint, types, import rules, then the test suite: what CI runs
	$(BIN)/pytest

check: test  ## the same as test

static: setup lint types imports  ## lint, types and import rules only

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

imports:
	$(BIN)/lint-imports

test-slow: setup  ## the tests that take minutes
	$(BIN)/pytest -m slow

faults: setup  ## kill, freeze, cut, fill, flip: every fault against its promise; more than an hour
	$(BIN)/pytest -m faults tests/faults

chaos: setup  ## half an hour of the loop in which a part dies or freezes every minute; ONEREC_CHAOS_SEED=N for another one
	ONEREC_CHAOS_FAULTS=30 ONEREC_CHAOS_EVERY_S=50 $(BIN)/pytest -m faults tests/faults/test_chaos.py

format: setup  ## rewrite the sources in the house's format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

reference: setup  ## write settings, messages and metrics into the documentation's pages
	$(BIN)/python -m deploy.reference

clean:  ## remove the environment and all runs
	rm -rf $(VENV) runs
