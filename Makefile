# `make` prints the targets. Every recipe is one command; anything with logic is a Python module with tests.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
CTR := $(BIN)/ctr
PIP := $(PY) -m pip install --quiet --quiet --disable-pip-version-check
MEMBERS := proto access models services/uic services/rtp deploy cli
PROJECTS := $(MEMBERS:%=%/pyproject.toml)
EXTENSION := models/setup.py $(wildcard models/src/mimn/rows/*.[ch])
CODE := access models services deploy cli tests loadtest
PYTEST := $(PY) -m pytest --quiet --durations 10
CONFIG ?= models/configs/online_retail_default.toml
RUN ?= runs/online-retail
BUNDLES ?= models/bundles
NAME ?= online-retail-ledger
VERSION ?= 3
LOAD ?=
export OMP_NUM_THREADS ?= 1
# Tests start hundreds of processes: without the bytecode of earlier ones each takes more than twice as long to start.
unexport PYTHONDONTWRITEBYTECODE

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv $(VENV) || { echo "cannot make $(VENV): install your system's package for venv (Debian: python3-venv)"; exit 1; }

# Packages of other projects are checked against the hashes they were locked with; ours are installed from the tree.
$(VENV)/.installed: $(PROJECTS) $(EXTENSION) requirements-serving.txt | $(PY)
	@echo "installing into $(VENV) ..."
	@$(PIP) --require-hashes --requirement requirements-serving.txt
	@$(PIP) --no-deps --no-build-isolation $(MEMBERS:%=-e ./%)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed constraints.txt requirements-dev.txt loadtest/requirements.txt
	@echo "installing what development needs into $(VENV), torch included ..."
	@$(PIP) --constraint constraints.txt --no-build-isolation -e models[serve,train] --requirement requirements-dev.txt
	@$(PIP) --constraint constraints.txt --no-deps recbole # for the data set that it ships (mimn.data.movielens); it is never imported
	@touch $@ $(VENV)/.installed-load $(VENV)/.installed-docs

$(VENV)/.installed-load: $(VENV)/.installed constraints.txt loadtest/requirements.txt
	@$(PIP) --constraint constraints.txt --requirement loadtest/requirements.txt
	@touch $@

$(VENV)/.installed-docs: constraints.txt | $(PY)
	@$(PIP) --constraint constraints.txt mkdocs-material
	@touch $@

install: $(VENV)/.installed ## .venv for serving and the demo, every package checked by hash; no torch

install-load: $(VENV)/.installed-load ## .venv for the load generator as well; no torch

install-dev: $(VENV)/.installed-dev ## .venv with everything, torch included

demo: install ## real shop events through Kafka into scores, on this machine; nothing keeps running
	@$(CTR) demo

up: install ## start the stack and keep it running; prints addresses and commands to paste
	@$(CTR) up

down: install ## stop the stack by pid; its data stays in .stack
	@$(CTR) down

status: install ## what of the stack runs, and whether it is ready
	@$(CTR) status

doctor: install ## check the running stack, or the deployment that UIC_... variables name, and say what to fix
	@$(CTR) doctor

licenses: install ## list the license of every installed package
	@$(CTR) licenses

check: install-dev ## format, lint, types, import contracts, stubs; unit and contract tests that use no torch
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=line static quick

static: format lint types imports proto-drift

quick: install-dev
	@$(PYTEST) --numprocesses 3 --dist loadfile -m "not torch and not full" tests/unit tests/contract tests/parity

format: install-dev
	@$(BIN)/ruff format --check $(CODE)

lint: install-dev
	@$(BIN)/ruff check $(CODE)

types: install-dev
	@$(BIN)/mypy $(wildcard access/src models/src services/*/src deploy/localstack cli/src tests loadtest)

imports: install-dev
	@$(BIN)/lint-imports

proto-drift: install-dev
	@$(PY) -m localstack.checks.proto_drift

docs: $(VENV)/.installed-docs ## build docs/ as a site into site/; a broken link stops it; no torch
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet && echo "site/index.html"

pins: install-dev ## write the requirements files with hashes again, after a change of a dependency
	@$(PY) -m localstack.checks.pins

reference: install ## write docs/settings.md and docs/metrics.md again, after a change of a setting or a metric
	@$(PY) -m localstack.checks.reference

slim: install-dev ## install each service alone and prove that it imports without torch
	@$(PY) -m localstack.checks.slim

test: install-dev ## what CI runs: checks, and each promise at least once (25 minutes on 2 cores)
	@PYTHONPATH=tests $(PY) -m suite

test-full: install-dev ## every test, the torture in full included (well over an hour on 2 cores); writes the record and its pages
	@PYTHONPATH=tests $(PY) -m suite --full

proto: install-dev ## generate the stubs of proto/gen again
	@PYTHON=$(abspath $(PY)) PATH=$(abspath $(BIN)):$$PATH proto/generate.sh

train: install-dev ## train CONFIG into RUN
	@$(CTR) train --config $(CONFIG) --output $(RUN)

evaluate: install-dev ## evaluate RUN on the test part
	@$(CTR) evaluate --run $(RUN)

export: install-dev ## write RUN's bundle to BUNDLES/NAME/VERSION
	@$(CTR) export --run $(RUN) --output $(BUNDLES) --name $(NAME) --version $(VERSION)

auc: install-dev ## run a reduced table of models on Online Retail and print it; finished rows are not run again
	@$(PY) -m mimn.table.run --plan models/plans/reduced.toml --cpu-minutes 25
	@cat runs/auc/records/AUC.md

load: install-load ## latency against history length and rate, MIMN, DIN and DIEN: report and plots (LOAD=--reduced: under 5 minutes)
	@$(CTR) load $(LOAD)

fuzz: install-dev ## fuzz every decoder, ten minutes each (two hours, resumable)
	@PYTHONPATH=tests $(PY) -m fuzz

openapi: install-dev ## 20,000 requests generated from RTP's OpenAPI, every answer checked (about ten minutes)
	@PYTHONPATH=tests $(PY) -m fuzz.openapi

beside: install-dev ## p99 of healthy traffic with and without hostile clients, alternating (a minute or two)
	@PYTHONPATH=tests $(PY) -m fuzz.beside

budgets: install-load ## measure each latency and throughput budget; table and JSON
	@$(CTR) budgets

.PHONY: help install install-load install-dev demo up down status doctor licenses check format lint types imports proto-drift \
	docs static quick pins reference slim test test-full proto train evaluate export auc load fuzz openapi beside budgets
