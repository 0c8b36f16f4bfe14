# What one does with this tree.  `make help` lists the targets.

PYTHON ?= $(shell tools/choose-python)
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.installed-runtime
DEVELOPMENT := $(VENV)/.installed-development

# Without compiled modules every start of a daemon would compile all of them again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run setup setup-dev test unit long system simulate mutants fuzz conformance bench bench-curves bench-failover bench-growth bench-failure bench-fio bench-rebuild bench-store soak nemesis proto lint types lock site wheel image clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

run: setup  ## set up, then serve a volume on 127.0.0.1:3260 until Ctrl-C
	@$(BIN)/cstor up

setup: $(RUNTIME)  ## make .venv with the three commands cstor, cstor-target, cstor-replica

setup-dev: $(DEVELOPMENT)  ## the same with the tools for tests, lint and types

test: setup-dev lint types  ## everything but what takes long; needs some system packages
	@tools/system-packages test
	@tools/run-tests $(BIN)/python

unit: setup-dev  ## the tests that need no system package
	@$(BIN)/python -m pytest -m "not long and not system"

long: setup-dev  ## all tests, also those that take long
	@tools/system-packages test
	@tools/system-packages image
	@$(BIN)/python -m pytest

system: setup-dev  ## only the tests that drive the finished product from outside
	@tools/system-packages test
	@$(BIN)/python -m pytest -m "system and not long" tests/system

conformance: setup-dev  ## libiscsi's suite over all profiles, and tshark over what the target sent
	@tools/system-packages test
	@$(BIN)/python -m tests.conformance

SEEDS ?= 1000
FIRST ?= 1
simulate: setup-dev  ## lives of simulated clusters: SEEDS=1000 FIRST=1
	@$(BIN)/python -m tests.simulation $(SEEDS) $(FIRST)

mutants: setup-dev  ## plant mistakes in the engine, and see each of them caught
	@$(BIN)/python -m tests.simulation.mutants

RUNS ?= 1000000
fuzz: setup-dev  ## fuzz the login, the full feature phase and the commands: RUNS=1000000 of each
	@for name in login full_feature commands; do \
		$(BIN)/python -m tests.fuzz $$name --runs $(RUNS) || exit 1; \
	done

bench: setup-dev  ## side by side with tgt: writes tables to benchmarks/results
	@tools/system-packages test
	@$(BIN)/python -m benchmarks.side_by_side
	@$(BIN)/python -m benchmarks.bounds || echo "benchmarks.bounds: not all goals are reached"

bench-curves: setup-dev  ## rates, CPU and latencies over the depth, beside tgt: to benchmarks/results
	@tools/system-packages test
	@$(BIN)/python -m benchmarks.curves

bench-growth: setup-dev  ## what a request costs as a volume grows: to benchmarks/results
	@tools/system-packages test
	@$(BIN)/python -m benchmarks.growth

bench-failover: setup-dev  ## how long initiators wait when a volume moves: to benchmarks/results; takes root
	@tools/system-packages test
	@$(BIN)/python -m benchmarks.failover

bench-failure: setup-dev  ## one replica killed, stopped or slow: writes tables to benchmarks/results
	@tools/system-packages test
	@$(BIN)/python -m benchmarks.one_slow_replica

bench-fio: setup-dev  ## fio's jobs beside tgt, by Linux' initiator and QEMU's: to benchmarks/results
	@tools/system-packages test
	@$(BIN)/python -m benchmarks.fio_jobs

bench-rebuild: setup-dev  ## a replica that was away: writes its figures to benchmarks/results
	@tools/system-packages test
	@$(BIN)/python -m benchmarks.rebuild

MINUTES ?= 60
SEED ?= 1
soak: setup-dev  ## a volume under load and faults for MINUTES=60, from a SEED=1
	@tools/system-packages test
	@$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) --seed $(SEED)

ROUNDS ?= 1
nemesis: setup-dev  ## hosts, networks, disks and clocks fail for MINUTES=60 and ROUNDS=1 of all kinds
	@tools/system-packages test
	@$(BIN)/python -m tests.nemesis --minutes $(MINUTES) --rounds $(ROUNDS) --seed $(SEED)

bench-store: setup-dev  ## the store alone: writes its figures to benchmarks/results
	@for name in store large snapshots map_shapes; do \
		$(BIN)/python -m benchmarks.$$name --output benchmarks/results/$$name.json \
			|| echo "benchmarks.$$name: not all goals are reached"; \
	done

proto: setup-dev  ## generate the stubs of cstor_core/generated from proto/
	@$(BIN)/python proto/generate.py

lint: setup-dev  ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .

types: setup-dev  ## mypy --strict
	@$(BIN)/mypy

lock: setup-dev  ## choose versions anew: requirements.lock and requirements-dev.lock
	@PATH="$(abspath $(BIN)):$$PATH" tools/lock

site: setup-dev  ## build the documentation as a site: build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

wheel: setup-dev  ## build dist/*.whl
	@$(BIN)/python -m build --wheel --no-isolation

image: wheel  ## build the container image: ARCH=amd64|arm64 BASE=IMAGE|FILE|debootstrap ENGINE=buildah
	@deploy/container/build "$$(ls -t dist/*.whl | head -n 1)"

clean:  ## remove what was built and cached; .venv and ./cstor-data stay
	@rm -rf dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(RUNTIME): requirements.lock pyproject.toml tools/make-venv
	@tools/make-venv $(PYTHON) $(VENV) requirements.lock
	@touch $@

$(DEVELOPMENT): requirements-dev.lock pyproject.toml tools/make-venv
	@tools/make-venv $(PYTHON) $(VENV) requirements-dev.lock
	@touch $(RUNTIME) $@
