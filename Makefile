# Two commands matter: `make demo` and `make test`. Both set everything up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
READY := $(VENV)/.ready
TEST_PROCESSES ?= 3
FUZZ_S ?= 60
FUZZ ?= tar image part keys listing

# Bytecode is kept, whatever the shell says: without it each process compiles torch's sources again, for seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test fast-tests test-all ceph audit fuzz lint style types format reference lock clean

help:
	@echo "make demo      set up, then label the sample photographs"
	@echo "make test      set up, then run the checks and the fast tests"
	@echo "make test-all  the same with the slow proofs"
	@echo "make ceph      unpack Ceph for the tests on a real S3 store; nothing is installed"
	@echo "make audit     ask an advisory service about the pinned dependencies"
	@echo "make fuzz      attack what parses bytes from outside, FUZZ_S seconds each"
	@echo "make format    format the code"
	@echo "make reference renew pipeline/REFERENCE.md and pipeline/label.schema.json from the code"
	@echo "make lock      renew requirements.lock and deploy/requirements.lock from pyproject.toml"

ceph:
	.ci/ceph

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "uv==$(UV_VERSION)"
	$(BIN)/uv pip sync --quiet --require-hashes --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	touch $@

demo: $(READY)
	rm -rf demo-out
	$(BIN)/shardlabel demo --out demo-out

lint: style types

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

# The tests wait for Ray, servers and processes a quarter of their time: so there is one process more than CPUs, and the
# slow checks run beside them.
test: style
	$(MAKE) --no-print-directory --jobs=2 fast-tests types

fast-tests: $(READY)
	$(BIN)/python -m pytest -m "not slow" -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test-all: lint
	$(BIN)/python -m pytest

fuzz: $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --group fuzz
	set -e; for target in $(FUZZ); do \
		nice -n 19 $(BIN)/python tests/fuzz/run.py $$target -max_total_time=$(FUZZ_S); \
	done

audit: $(READY)
	@.ci/audit $(BIN)/uv

format: $(READY)
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .

reference: $(READY)
	$(BIN)/python -m pipeline.cli.reference > pipeline/REFERENCE.md
	$(BIN)/python -m pipeline config schema > pipeline/label.schema.json
	$(BIN)/python -m pipeline.cli.call_options > .options && mv .options pipeline/config/call_options.py

lock: $(READY)
	$(BIN)/uv pip compile --quiet --group dev --generate-hashes --no-emit-index-url --no-header \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28 --upgrade pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --extra cluster --constraint requirements.lock --generate-hashes --no-emit-index-url \
		--no-header --no-annotate --python-version 3.11 --python-platform x86_64-manylinux_2_28 --upgrade \
		pyproject.toml -o deploy/requirements.lock

clean:
	rm -rf $(VENV) demo-out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz .import_linter_cache
