# What a person types. Needs Debian 12, git, make, Python >= 3.11; demo and e2e also root and Go >= 1.26.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
PINS := requirements/dev.lock requirements/models.lock
STAMP := .venv/.made-from-$(shell cat pyproject.toml $(PINS) | sha256sum | cut -c1-16)
UV := $(shell sed -n 's/^uv==\([0-9.]*\).*/uv==\1/p' requirements/dev.lock)
TYPED := octavo_engine octavo_operator octavo_router e2e images manifests
PURE := not model and not kernels and not apiserver and not cluster and not gpu and not servers and not browser
ARGS ?=

.PHONY: help setup demo demo-down test unit engine-test operator-test browser-test e2e e2e-gitops lint fmt types \
  contracts bench images manifests docs clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name what; do \
	  printf '  make %-14s %s\n' "$$name" "$$what"; done

setup: $(STAMP) ## the environment in .venv, from pinned and hashed locks

$(STAMP):
	@$(MAKE) python-is-there
	@echo "environment: .venv from the pinned locks"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check "$(UV)"
	@$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes --no-deps $(addprefix -r ,$(PINS))
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@rm -f .venv/.made-from-*
	@touch $@

.PHONY: python-is-there
python-is-there:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is missing: install Python >= 3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) -V) is too old: install Python >= 3.11, or name one by PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "environment: installing python3-venv"; apt-get update -q >/dev/null; \
	    apt-get install -q -y python3-venv >/dev/null; } || \
	  { echo "error: Python's venv module is missing: install python3-venv" >&2; exit 1; }

demo: setup ## a real cluster, Octavo on it, a real model and its streamed answer (CLUSTER=current: on your own)
	@$(BIN)/python -m e2e.demo

demo-down: setup ## remove all that the demo made
	@$(BIN)/python -m e2e.demo down

test: lint types contracts unit engine-test operator-test browser-test e2e ## everything

unit: setup ## unit tests of all parts
	$(BIN)/pytest tests -q -n 2 -m "$(PURE)" $(ARGS)

engine-test: setup ## kernels in the interpreter, the engine with the real model, sources on real servers
	OMP_NUM_THREADS=1 $(BIN)/pytest tests -q -n 2 -m "kernels and not gpu" $(ARGS)
	OMP_NUM_THREADS=2 $(BIN)/pytest tests -q -m model $(ARGS)
	@$(BIN)/python -m e2e.servers.processes
	$(BIN)/pytest tests -q -m servers $(ARGS)

operator-test: setup ## operator and chart on a real etcd and kube-apiserver
	@$(BIN)/python -m e2e.cluster binaries >/dev/null
	$(BIN)/pytest tests -q -m apiserver $(ARGS)

browser-test: setup ## the router's page in a headless Chromium from Debian
	$(BIN)/pytest tests -q -m browser $(ARGS)

e2e: setup ## the whole on a real two-node cluster, in a network namespace of its own
	@$(BIN)/python -m e2e.prepare
	unshare --net sh -c 'ip link set lo up && exec "$$0" "$$@"' $(BIN)/pytest e2e -q --ignore=e2e/gitops $(ARGS)

e2e-gitops: setup ## real Argo CD, which takes minutes to build, on the same cluster; not part of `make test`
	@$(BIN)/python -m e2e.prepare argocd
	unshare --net sh -c 'ip link set lo up && exec "$$0" "$$@"' $(BIN)/pytest e2e/gitops -q -s $(ARGS)

lint: setup ## linters, and generated files against what they are made from
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m manifests.render --check
	$(BIN)/python -m bench.render --check

fmt: setup ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: setup ## mypy, strict
	$(BIN)/mypy $(addprefix -p ,$(TYPED))

contracts: setup ## which part may import what
	$(BIN)/lint-imports

bench: setup ## measure router, operator and engine on this machine, into bench/results and docs/performance.md
	@$(BIN)/python -m e2e.cluster binaries >/dev/null
	$(BIN)/python -m bench.router --keep
	$(BIN)/python -m bench.control_plane
	$(BIN)/python -m bench.engine_cpu
	$(BIN)/python -m bench.parallel_cpu
	$(BIN)/python -m bench.render

images: setup ## OCI archives of operator, router and engine, without Docker; prints their paths
	@$(BIN)/python -m images.build $(ARGS)

manifests: setup ## what is rendered from the chart and the CRDs
	$(BIN)/python -m manifests.render

docs: setup ## the figures' tables in docs/performance.md and README.md
	$(BIN)/python -m bench.render

clean: ## the environment and tools' caches; programs and images stay in the cache folder
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "programs and images stay in $${OCTAVO_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/octavo}"
